"""For people who work on the project.

- ``demo.sh``: from nothing to a chatting model; ``test.sh``: all checks (both need bash).
- ``clients.sh``: a file in other programs; ``arm.sh``: files in llama.cpp on ARM64.
- ``python -m tools.widen``: a model with wider rows and the same outputs, which 256-wide blocks fit.
- ``python -m tools.families_table``: the README's table of model families.
- ``dither`` and ``wrapped``: sources with changed weights, for ``widen`` and the benchmarks.
"""

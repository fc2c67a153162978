"""Files in llama.cpp on ARM64, which qemu emulates, beside the same files on this machine; see ``tools/arm.sh``.

- ``folder``: where the build is; ``run.cpp``: the program that runs there.
- ``files``: the files that are run; ``runs``: runs of them; ``check``: the comparison, a line for each.
"""

"""Run files in llama.cpp on ARM64 and on this machine, and compare what they predict.

PYTHONPATH=tests python -m tools.arm [demo | FILE.gguf ...]

Without a file tiny models are made. ``tools/arm.sh`` builds llama.cpp first. A line for each run says passed or failed;
the exit code is 1 if one failed.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from .check import Check, check_run, predicted_copies
from .files import demo_file, tiny_files
from .folder import program
from .runs import CPUS, RunError, run_here, run_on_arm


def checks(path: Path, binary: Path) -> Iterator[Check]:
    """Run a file on this machine and on all emulated processors, each with matrices in another layout and without."""
    reference, name = run_here(path), path.stem
    own = predicted_copies(path, reference.instructions)
    if own:
        # The same processor by its other kernels: how much rounding alone changes.
        plain = run_here(path, repack=False)
        yield check_run(f"{name}, here, --no-repack", reference, plain, instructions=reference.instructions, copies=0)
    for cpu in CPUS:
        copies = predicted_copies(path, cpu.instructions)
        for repack in (True, False) if copies else (True,):
            label = f"{name}, {cpu.name}{'' if repack else ', --no-repack'}"
            try:
                run = run_on_arm(binary, path, cpu, repack=repack)
            except RunError as error:
                yield Check(label, str(error))
                continue
            stored = copies if repack else 0
            yield check_run(label, reference, run, instructions=cpu.instructions, copies=stored)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", metavar="FILE", help="GGUF file, or demo")
    files = parser.parse_args(arguments).files
    failed = False
    with tempfile.TemporaryDirectory(prefix="lieq-arm-") as temporary:
        folder = Path(temporary)
        paths = [demo_file(folder) if file == "demo" else Path(file) for file in files] or tiny_files(folder)
        for path in paths:
            for check in checks(path, program()):
                print(check.line, flush=True)
                failed |= bool(check.fault)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())

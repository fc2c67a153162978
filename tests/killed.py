"""Run the command line in processes that are killed at chosen moments."""

from __future__ import annotations

import multiprocessing
import os
import signal
from pathlib import Path
from typing import Any

# Imported once, in the process that the others are forked from.
PRELOAD = [
    "lieq_edge.cli.program",
    "lieq_edge.pipeline.export",
    "lieq_edge.validate.parity",
    "lieq_edge.blockwise.sampling",
    "lieq_edge.evidence.importance.forward_pass",
    "lieq_edge.evidence.blocks.sweep",
    "lieq_edge.rounding.walk",
    "lieq_edge.gptq.refine",
    "lieq_edge.llama.engine",
    "transformers.models.llama.modeling_llama",
]


def start(
    arguments: list[str],
    folder: Path,
    *,
    renames: int | None = None,
    by: int = signal.SIGKILL,
    in_memory: bool = False,
) -> Any:
    """Start the command line in a process of its own.

    Args:
        arguments: of the command line.
        folder: for the notes of what has been interrupted.
        renames: the process is ended before so many files get their names; None lets it be.
        in_memory: hidden states wait in memory, not in files.
        by: the signal. With ``SIGKILL`` the process is also killed once while it writes, and once in the validation.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    process = context.Process(target=_run, args=(arguments, folder, renames, by, in_memory))
    process.start()
    return process


def _run(arguments: list[str], folder: Path, renames: int | None, by: int, in_memory: bool) -> None:
    import sys

    from lieq_edge import __main__
    from lieq_edge.blockwise import residual
    from lieq_edge.pipeline import write_stage
    from lieq_edge.system import checked

    sys.stdout = sys.stderr = (folder / "output.txt").open("a")
    residual.is_little_memory = lambda size: in_memory
    if renames is not None:
        left = [renames]
        own = os.replace

        def replace(*names: Any) -> None:
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), by)
            own(*names)

        os.replace = replace  # type: ignore[assignment]
        if by == signal.SIGKILL:
            _kill_once(folder / "writing", checked.CheckedFile, "write", 12)
            _kill_once(folder / "validating", write_stage, "validate_export", 1)
    sys.argv = ["lieq-edge", *arguments]
    __main__.main()


def _kill_once(note: Path, module: Any, name: str, count: int) -> None:
    own, left = getattr(module, name), [count]

    def replaced(*arguments: Any, **named: Any) -> Any:
        left[0] -= 1
        if left[0] == 0 and not note.exists():
            note.write_text("")
            os.kill(os.getpid(), signal.SIGKILL)
        return own(*arguments, **named)

    setattr(module, name, replaced)

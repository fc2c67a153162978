"""Run a lieq-edge command and report the kinds of work that its time goes to.

    python -m benchmarks.scale_profile profile.json -- export MODEL --budget 3.0bpw --out model.gguf

A thread looks at the Python stacks of all others a hundred times a second. A stack belongs to the kind of its innermost
function that ``RULES`` know. The time between two looks goes in equal parts to the threads that work, so that the kinds
add up to the time that passed; threads that wait count only when all do. The work itself is left as it is.
"""

from __future__ import annotations

import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import FrameType

from benchmarks.harness import command_line, write_json

INTERVAL = 0.01

RULES: tuple[tuple[str, str, str], ...] = (
    # Kind, the end of the file's path (or a folder in it, with / at its end), and the function; * is any.
    ("attention", "lieq_edge/blockwise/attention.py", "*"),
    ("backward", "torch/_tensor.py", "backward"),
    ("backward", "torch/autograd/", "*"),
    ("H", "lieq_edge/gptq/hessian.py", "*"),
    ("H", "lieq_edge/gptq/collect.py", "*"),
    ("rounding", "lieq_edge/gptq/", "*"),
    ("encode", "lieq_edge/rounding/importance.py", "*"),
    ("encode", "lieq_edge/llama/encoders.py", "*"),
    ("encode", "lieq_edge/llama/library.py", "*"),
    ("rounding", "lieq_edge/rounding/", "*"),
    ("rounding", "lieq_edge/evidence/loss/hessians.py", "*"),
    ("write", "lieq_edge/gguf/container.py", "*"),
    ("write", "lieq_edge/pipeline/write.py", "*"),
    ("write", "lieq_edge/sources/plain.py", "*"),
    ("residual stream stored", "lieq_edge/blockwise/residual.py", "*"),
    ("cache", "lieq_edge/store/", "*"),
    ("labels and gradients at the head", "lieq_edge/evidence/loss/weights.py", "head"),
    ("backward", "lieq_edge/evidence/loss/weights.py", "backward"),
    ("squares of gradients", "lieq_edge/evidence/loss/weights.py", "*"),
    ("spectra", "lieq_edge/evidence/blocks/geometry.py", "*"),
    ("spectra", "lieq_edge/evidence/blocks/spectral.py", "*"),
    ("spectra", "lieq_edge/evidence/blocks/untrained.py", "*"),
    ("importance", "lieq_edge/evidence/importance/", "*"),
    ("hash", "lieq_edge/sources/checks.py", "hash_files"),
    ("read", "lieq_edge/sources/weights/", "*"),
    ("read", "lieq_edge/sources/gguf_file.py", "read"),
    ("read", "lieq_edge/sources/huggingface.py", "read"),
    ("read", "lieq_edge/sources/huggingface.py", "_parameter"),
    ("read", "lieq_edge/sources/checks.py", "*"),
    ("read", "lieq_edge/blockwise/model.py", "_parameter"),
    ("read", "lieq_edge/blockwise/model.py", "parameter"),
    ("read", "lieq_edge/blockwise/model.py", "_load_block"),
    ("forward", "lieq_edge/blockwise/model.py", "*"),
    ("parity", "lieq_edge/validate/parity.py", "*"),
    ("llama.cpp", "lieq_edge/validate/", "*"),
    ("llama.cpp", "lieq_edge/llama/session.py", "*"),
    ("text and tokenizer", "lieq_edge/texts/", "*"),
    ("text and tokenizer", "lieq_edge/llama/vocabulary.py", "*"),
    ("text and tokenizer", "lieq_edge/sources/tokenizers/", "*"),
    ("allocate", "lieq_edge/allocation/", "*"),
    ("memory given back", "lieq_edge/system/memory.py", "*"),
    ("imports", "importlib._bootstrap>", "*"),
)

OUTER: tuple[tuple[str, str], ...] = (
    # Types are tried by rounding and encoding a sample of rows.
    ("predicting types", "predict_tensors"),
    # Scales are searched for by encoding.
    ("rounding", "_round_rows"),
    ("rounding", "round_by_factor"),
)
"""Kinds of work that include everything that their function calls; the first wins."""

WAITING: tuple[tuple[str, str], ...] = (
    ("threading.py", "*"),
    ("concurrent/futures/thread.py", "_worker"),
    ("concurrent/futures/_base.py", "*"),
    ("queue.py", "*"),
    ("selectors.py", "*"),
)
"""Innermost functions of threads that wait for others."""

Stack = list[tuple[str, str]]
"""Path of the file and name of the function, innermost first."""


def _matches(path: str, function: str, place: str, name: str) -> bool:
    return (place in path if place.endswith("/") else path.endswith(place)) and name in ("*", function)


def is_waiting(stack: Stack) -> bool:
    """The thread waits for another one."""
    return bool(stack) and any(_matches(*stack[0], place, name) for place, name in WAITING)


def kind_of(stack: Stack) -> str | None:
    """The kind of work of a stack; None when no rule knows it."""
    called = {function for _, function in stack}
    for kind, outer in OUTER:
        if outer in called:
            return kind
    for path, function in stack:
        if function == "<module>":
            # An import runs the code of any file.
            continue
        for kind, place, name in RULES:
            if _matches(path, function, place, name):
                return kind
    return None


class Sampler:
    """Looks at all threads except its own until it is stopped.

    Attributes:
        seconds: seconds by kind; ``waiting`` when no thread worked, ``other`` where no rule applies.
        unknown: seconds by function, for those without a rule.
    """

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.unknown: defaultdict[str, float] = defaultdict(float)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True, name="sampler")

    def __enter__(self) -> Sampler:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join()

    def _run(self) -> None:
        last = time.perf_counter()
        while not self._stopped.wait(INTERVAL):
            now = time.perf_counter()
            sampler = threading.get_ident()
            self.add([stack_of(f) for ident, f in sys._current_frames().items() if ident != sampler], now - last)
            last = now

    def add(self, stacks: Iterable[Stack], seconds: float) -> None:
        """Share ``seconds`` among the threads that work."""
        working = [stack for stack in stacks if not is_waiting(stack)]
        if not working:
            self.seconds["waiting"] += seconds
        for stack in working:
            kind = kind_of(stack)
            self.seconds[kind or "other"] += seconds / len(working)
            if kind is None and stack:
                path, function = stack[0]
                self.unknown[f"{'/'.join(Path(path).parts[-2:])}:{function}"] += seconds / len(working)


def stack_of(frame: FrameType | None) -> Stack:
    """A thread's functions, innermost first."""
    stack = []
    while frame is not None:
        stack.append((frame.f_code.co_filename, frame.f_code.co_name))
        frame = frame.f_back
    return stack


def _largest(seconds: dict[str, float], count: int) -> dict[str, float]:
    return dict(sorted(seconds.items(), key=lambda item: -item[1])[:count])


def main(arguments: Sequence[str] | None = None) -> int:
    words = list(sys.argv[1:] if arguments is None else arguments)
    end = words.index("--") if "--" in words else len(words)
    parser = command_line(__doc__)
    parser.add_argument("profile", type=Path, help="JSON file to write; a command of lieq-edge follows behind --")
    out = parser.parse_args(words[:end]).profile
    command = words[end + 1 :]
    if not command:
        parser.error("a command of lieq-edge is missing behind --")
    sys.argv = ["lieq-edge", *command]
    start = time.perf_counter()
    code: object = 0
    with Sampler() as sampler:
        # The command line, and not the program, which ends the process.
        from lieq_edge.cli import main as run

        try:
            run()
        except SystemExit as done:
            code = done.code
    profile = {
        "seconds": time.perf_counter() - start,
        "kinds": _largest(sampler.seconds, 100),
        "unknown": _largest(sampler.unknown, 12),
    }
    write_json(out, profile)
    return code if isinstance(code, int) else 0 if code is None else 1


if __name__ == "__main__":
    raise SystemExit(main())

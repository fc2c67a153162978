"""Run a lieq-edge command and tell which kind of work its time went to.

    python -m benchmarks.scale_profile profile.json -- export MODEL --budget 3.0bpw --out model.gguf

A thread looks at the Python stacks of all others a hundred times a second. A stack belongs to the kind of its innermost
function that ``RULES`` know. The time between two looks goes in equal parts to the threads that work, so that the kinds
add up to the time that passed; threads that wait count only when all do. The work itself is left as it is.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from types import FrameType

INTERVAL = 0.01

RULES: tuple[tuple[str, str, str], ...] = (
    # Kind, the end of the file's path (or a part of it that ends with /), and the function; * is any.
    ("attention", "measure/attention.py", "*"),
    ("backward", "torch/_tensor.py", "backward"),
    ("backward", "torch/autograd/", "*"),
    ("H", "quantize/statistics.py", "*"),
    ("rounding", "quantize/rounding/", "*"),
    ("rounding", "quantize/feedback.py", "*"),
    ("rounding", "quantize/drift.py", "*"),
    ("rounding", "quantize/kept_moments.py", "*"),
    ("rounding", "quantize/once.py", "*"),
    ("rounding", "quantize/q2_0.py", "*"),
    ("encode", "quantize/ggml.py", "*"),
    ("encode", "quantize/tensors.py", "*"),
    ("encode", "lieq_edge/ggml.py", "*"),
    ("write", "lieq_edge/container.py", "*"),
    ("write", "write/model.py", "*"),
    ("write", "write/plain.py", "*"),
    ("hidden states put away", "measure/residual.py", "*"),
    ("cache", "lieq_edge/cache", "*"),
    ("cache", "lieq_edge/cache/", "*"),
    ("labels and gradients at the head", "measure/loss_weights.py", "head"),
    ("backward", "measure/loss_weights.py", "backward"),
    ("squares of gradients", "measure/loss_weights.py", "*"),
    ("spectra", "measure/compactness.py", "*"),
    ("spectra", "measure/spectral.py", "*"),
    ("spectra", "measure/untrained.py", "*"),
    ("imatrix", "measure/importance.py", "*"),
    ("hash", "source/checks.py", "hash_files"),
    ("read", "source/safetensors_files.py", "*"),
    ("read", "source/gguf_source.py", "read"),
    ("read", "source/huggingface.py", "read"),
    ("read", "source/huggingface.py", "_parameter"),
    ("read", "source/checks.py", "*"),
    ("read", "measure/model.py", "_read"),
    ("read", "measure/model.py", "parameter"),
    ("read", "measure/model.py", "_load_block"),
    ("forward", "measure/model.py", "run_block"),
    ("forward", "measure/model.py", "*"),
    ("llama.cpp", "validate/", "*"),
    ("llama.cpp", "measure/llama_session.py", "*"),
    ("parity", "lieq_edge/parity.py", "*"),
    ("text and tokenizer", "measure/stdlib_text.py", "*"),
    ("text and tokenizer", "measure/texts.py", "*"),
    ("text and tokenizer", "measure/generate.py", "*"),
    ("text and tokenizer", "lieq_edge/llama.py", "*"),
    ("text and tokenizer", "source/trial.py", "*"),
    ("text and tokenizer", "source/tokenizer.py", "*"),
    ("text and tokenizer", "source/bpe.py", "*"),
    ("allocate", "lieq_edge/allocate/", "*"),
    ("imports", "importlib._bootstrap>", "*"),
)

OUTER: tuple[tuple[str, str], ...] = (
    # Types are tried out by rounding and encoding a sample of rows.
    ("predicting types", "predict_tensors"),
    # Scales are searched for by encoding.
    ("rounding", "_round_rows"),
    ("rounding", "round_by_factor"),
)
"""Kinds of work to which all belongs that their function calls; the first wins."""

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
    """Looks at all threads but its own until it is told to stop.

    Attributes:
        seconds: by kind; ``waiting`` when no thread worked, ``other`` where no rule applies.
        unknown: seconds by function that no rule applies to.
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
            own = threading.get_ident()
            self.add([stack_of(f) for ident, f in sys._current_frames().items() if ident != own], now - last)
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


def main() -> int:
    if len(sys.argv) < 4 or sys.argv[2] != "--":
        print(__doc__, file=sys.stderr)
        return 2
    out, sys.argv = Path(sys.argv[1]), ["lieq-edge", *sys.argv[3:]]
    start = time.perf_counter()
    code: object = 0
    with Sampler() as sampler:
        # Not of the program, which ends the process.
        from lieq_edge.cli import main as run

        try:
            run()
        except SystemExit as done:
            code = done.code
    found = {
        "seconds": time.perf_counter() - start,
        "kinds": _largest(sampler.seconds, 100),
        "unknown": _largest(sampler.unknown, 12),
    }
    out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return code if isinstance(code, int) else 0 if code is None else 1


if __name__ == "__main__":
    sys.exit(main())

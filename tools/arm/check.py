"""A file's run on ARM64 beside that on this machine: a line says whether it is the same but for rounding."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lieq_edge.device.memory import weight_memory
from lieq_edge.device.pace import read_work
from lieq_edge.device.repack import Instructions
from lieq_edge.validate.scores import compare

from .runs import Run

MOST_DIVERGENCE = 1e-2
"""Bound on the mean KL divergence in nats a token: what the order of sums and 8-bit activations may change. Two kernels
of x86 differ by half of it on the demo."""

# llama.cpp logs buffers to a hundredth of a MiB, and starts each tensor at a multiple of some bytes.
_LOGGED = 2**20 // 100


@dataclass(frozen=True)
class Check:
    """The result of one comparison.

    Attributes:
        name: file, processor and layout.
        fault: what is wrong; empty if nothing is.
        detail: figures.
    """

    name: str
    fault: str
    detail: str = ""

    @property
    def line(self) -> str:
        return f"{self.name}: failed ({self.fault})" if self.fault else f"{self.name}: passed ({self.detail})"


def predicted_copies(path: Path, instructions: Instructions) -> int:
    """Bytes that ``lieq-edge fit`` counts for matrices in another layout."""
    weights = weight_memory(*read_work(path), instructions)
    return weights.mapped - weights.plain


def check_run(name: str, reference: Run, run: Run, *, instructions: Instructions, copies: int) -> Check:
    """Compare a run with the reference.

    Args:
        name: name of the comparison.
        reference: run of the same file on this machine.
        run: run to check.
        instructions: those that the processor has.
        copies: bytes of matrices that are expected in another layout.
    """
    given = reference.given
    if run.given != given or not np.array_equal(run.ids[:given], reference.ids[:given]):
        return Check(name, "the text has other tokens")
    if run.instructions != instructions:
        return Check(name, f"llama.cpp saw {run.instructions} instructions, and not {instructions}")
    if abs(run.repacked - copies) > _LOGGED:
        return Check(name, f"{run.repacked:,} bytes are in another layout, and not {copies:,}")
    if not np.isfinite(run.logits).all():
        return Check(name, "some logits are not finite")
    differing = np.flatnonzero(run.ids != reference.ids)
    same = int(differing[0]) if differing.size else len(reference.ids)
    # Logits after a token are comparable if all tokens up to it are the same.
    rows = min(same, len(reference.logits))
    with ThreadPoolExecutor(1) as pool:
        scores = compare(reference.logits[:rows], run.logits[:rows], reference.ids[1 : rows + 1], pool)
    divergence = float(scores.kld.mean())
    difference = float(np.abs(reference.logits[:rows] - run.logits[:rows]).max())
    figures = f"KL divergence {divergence:.1e}, at most {scores.kld.max():.1e}, logits within {difference:.2g}"
    if not divergence <= MOST_DIVERGENCE:
        return Check(name, f"{figures}; {MOST_DIVERGENCE:.0e} is allowed")
    new, alike = len(reference.ids) - given, same - given
    figures += f"; {run.repacked / 1e6:.2f} MB in another layout"
    if alike == new:
        return Check(name, "", f"same {new} tokens; {figures}")
    # Noise may decide between two tokens only if they are as near to each other as logits differ elsewhere.
    best, second = np.sort(reference.logits[same - 1])[:-3:-1]
    noise = float(np.abs(reference.logits[: same - 1] - run.logits[: same - 1]).max())
    if best - second > noise:
        return Check(name, f"token {alike + 1} of the answer is another, {best - second:.2g} below; {figures}")
    return Check(name, "", f"same {alike} tokens, then a choice of two that are {best - second:.2g} apart; {figures}")

"""i-quants from the command line: chosen when asked for, rounded with feedback, and read by llama.cpp."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from llama_cpp import Llama
from runner import run
from tiny import cached_model, sample_text

from lieq_edge import inspect_file
from lieq_edge.gguf.types import CODEBOOK_TYPES
from lieq_edge.sources import open_source


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("work")
    (folder / "text.txt").write_text(sample_text(12000, seed=3), encoding="utf-8")
    return folder


def export(work: Path, name: str, *flags: str) -> tuple[Path, set[str]]:
    """The file, and the types of its blocks."""
    model, out = cached_model("llama", hidden=256, intermediate=512, blocks=2), work / f"{name}.gguf"
    common = ["--calibration", work / "text.txt", "--calibration-tokens", "1024", "--cache-dir", work / "cache"]
    done = run("export", model, "--out", out, *flags, *common, "--no-validate", "--no-parity", "--quiet", "--force")
    assert done.returncode == 0, done.stderr
    return out, {kind for block in inspect_file(out).blocks for kind in block.types.values()}


@pytest.mark.parametrize("rounding", ["feedback", "feedback-once"])
def test_a_file_smaller_than_any_k_quant_is_nearer_than_without_feedback(work: Path, rounding: str) -> None:
    flags = ("--types", "all", "--budget", "2.4bpw")
    out, types = export(work, rounding, *flags, "--rounding", rounding)
    plain, _ = export(work, f"{rounding}-imatrix", *flags, "--rounding", "imatrix")
    assert types & set(CODEBOOK_TYPES)
    original = open_source(str(cached_model("llama", hidden=256, intermediate=512, blocks=2)))
    tokens = original.tokenize(sample_text(2000, seed=9))[:128]

    def logits(path: Path) -> np.ndarray:
        llama = Llama(str(path), n_ctx=128, n_batch=128, n_threads=1, logits_all=True, verbose=False)
        llama.eval(tokens)
        found = np.array(llama.scores[: llama.n_tokens])
        llama.close()
        return found

    reference, _ = export(work, "reference", "--types", "Q8_0", "--budget", "8.5bpw")
    wanted = logits(reference)
    assert np.square(logits(out) - wanted).mean() < np.square(logits(plain) - wanted).mean()


def test_by_default_there_are_none(work: Path) -> None:
    _, types = export(work, "default", "--budget", "2.7bpw")
    assert not types & set(CODEBOOK_TYPES)

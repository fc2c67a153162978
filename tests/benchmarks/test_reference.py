"""Files are scored against logits that are computed once."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny

from benchmarks import reference
from benchmarks.peer import quantize_with_llama_cpp
from lieq_edge import open_source


def test_scores_are_against_the_reference(tmp_path: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    source = open_source(str(tiny.cached_model("llama", hidden=256, intermediate=256)))
    path, scorer = reference.reference_of(source, text, tmp_path / "work", context=64, chunks=2)
    perfect = scorer.score(path)
    assert perfect.kld == pytest.approx(0.0, abs=1e-9)
    assert perfect.top1 == 1.0
    assert perfect.decode_rate > 0
    coarse = tmp_path / "coarse.gguf"
    quantize_with_llama_cpp(path, coarse, "Q3_K_S")
    score = scorer.score(coarse)
    assert score.kld > 10 * abs(perfect.kld) + 1e-6
    assert score.kld_p99 > score.kld > score.kld_se > 0
    # The second time neither the file nor its logits are made again.
    monkeypatch.setattr(reference, "write_plain", lambda *_: pytest.fail("the file exists"))
    monkeypatch.setattr(reference, "stage", lambda *_: pytest.fail("the logits exist"))
    again = reference.reference_of(source, text, tmp_path / "work", context=64, chunks=2)[1]
    assert again.score(coarse).kld == pytest.approx(score.kld)

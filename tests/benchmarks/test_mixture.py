"""The comparison on a trained mixture: a model that opens, files of equal bytes, a run that resumes."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks import mixture
from benchmarks.mixture import METHODS, SIZES, File, render
from lieq_edge import open_source


def test_the_trained_model_opens(tmp_path: Path) -> None:
    mixture.train(tmp_path / "model", steps=2)
    source = open_source(str(tmp_path / "model"))
    assert source.n_blocks == 4
    shapes = {spec.name: spec.shape for spec in source.tensors()}
    assert shapes["blk.0.ffn_down_exps.weight"] == (8, 256, 256)
    assert shapes["token_embd.weight"] == (512, 256)
    assert not list(tmp_path.glob("*.part"))


def test_a_stopped_run_goes_on_with_equal_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, str, str]] = []

    def export(
        model: Path, work: Path, metric: str, rounding: str, threads: int | None, **more: Any
    ) -> SimpleNamespace:
        calls.append((metric, rounding, more["budget"]))
        if len(calls) == 3:
            raise KeyboardInterrupt
        score = SimpleNamespace(kld=0.1 * len(calls), kld_se=0.01, top1=0.9, ppl=5.0, reference_ppl=4.0)
        size = 1000 if metric == "geometry" else int(more["budget"][:-1])
        return SimpleNamespace(file_bytes=size, validation=score, seconds={"all": 1.0})

    monkeypatch.setattr(mixture, "export", export)
    monkeypatch.setattr(mixture, "train", lambda folder, steps: folder.mkdir())
    arguments = ["--work", str(tmp_path / "work"), "--out", str(tmp_path / "out")]
    with pytest.raises(KeyboardInterrupt):
        mixture.main(arguments)
    assert mixture.main(arguments) == 0
    # All but the interrupted one ran once, at the bytes of the first file of their size.
    assert len(calls) == len(SIZES) * (1 + len(METHODS)) + 1
    assert {budget for metric, _, budget in calls if metric == "loss"} == {"1000B"}
    assert "| ratio |" in (tmp_path / "out.md").read_text()


def test_the_table_has_a_ratio_to_the_geometry() -> None:
    klds = {("geometry", "imatrix"): 0.4, ("loss", "imatrix"): 0.3, ("loss", "feedback"): 0.1}
    files = [
        File(size, *method, 1_500_000, kld, 0.01, 0.9, 5.0, 4.0, 1.0)
        for size in ("a", "b")
        for method, kld in klds.items()
    ]
    rows = render(files).splitlines()
    assert rows[2] == "| a | 1.500 | 0.4000 ± 0.0100 | 0.3000 ± 0.0100 |  | 0.1000 ± 0.0100 |"
    assert rows[-1] == "| ratio |  | 1 | 0.75 |  | 0.25 |"

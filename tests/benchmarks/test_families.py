"""Tables of models: presets and ours at their sizes on two texts, made once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tiny

from benchmarks import families, sized
from benchmarks.families import Row, render


def test_rows_of_presets_and_ours_are_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny.cached_model("llama", hidden=256, intermediate=256, blocks=2)
    out, text = tmp_path / "out", tmp_path / "mine.txt"
    text.write_text(tiny.sample_text(2000, seed=5), encoding="utf-8")
    words = [str(model), "none/such-directory/x", "--work", str(tmp_path / "work"), "--out", str(out)]
    words += ["--text", str(text), "--context", "64", "--chunks", "2", "--threads", "1", "--sizes", "Q3_K_M"]
    assert families.main(words) == 1  # for the model that does not exist
    rows = [Row(**row) for row in json.loads(out.with_suffix(".json").read_text())]
    assert [(row.maker, row.size) for row in rows] == [("llama.cpp", "Q3_K_M")] * 2 + [("lieq-edge", "Q3_K_M")] * 2
    assert len({row.text for row in rows}) == 2
    theirs, ours = rows[0], rows[2]
    assert 0.9 * theirs.file_bytes < ours.file_bytes <= theirs.file_bytes
    assert all(row.kld > 0 and row.ppl > 1 and row.decode > 0 and 0 <= row.top1 <= 1 for row in rows)
    assert not list((tmp_path / "work").glob("*.gguf"))
    # A second run finds every row; a lost one is made again without the others.
    monkeypatch.setattr(families, "export_sizes", lambda *_: pytest.fail("the rows exist"))
    monkeypatch.setattr(families, "make_presets", lambda *_: pytest.fail("the rows exist"))
    assert families.main([words[0], *words[2:]]) == 0
    assert "Geometric mean of the ratios" in out.with_suffix(".md").read_text(encoding="utf-8")


def test_a_failed_export_is_named(tmp_path: Path) -> None:
    model = tiny.cached_model("llama", hidden=256, intermediate=256, blocks=2)
    with pytest.raises(sized.Failed, match="ended with 2"):
        sized.export_sizes(str(model), ["9kB"], tmp_path)


def test_a_table_has_ratios_where_both_files_are() -> None:
    def row(maker: str, size: str, kld: float, text: str = "wiki") -> Row:
        return Row("org/model", maker, size, text, 10**8, 20.0, kld, 0.01, 0.5, 30.0)

    rows = [row("llama.cpp", "Q2_K", 0.8), row("llama.cpp", "Q4_K_M", 0.1), row("lieq-edge", "Q2_K", 0.2)]
    shown = render([*rows, row("lieq-edge", "Q2_K", 0.3, "mine")])
    assert shown.count("## org/model") == 1
    assert "| Q2_K | 100.0 / 100.0 | 0.8000 ± 0.0100 | 0.2000 ± 0.0100 | 0.25 |" in shown
    assert "| Q4_K_M | 100.0 | 0.1000 ± 0.0100 |  |  |" in shown
    assert shown.count("Geometric mean of the ratios: 0.250") == 1
    assert "Text: mine" in shown

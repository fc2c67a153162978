"""Times of types: models of one type each, and what is subtracted."""

from __future__ import annotations

from pathlib import Path

import pytest

from lieq_edge.device import measure
from lieq_edge.device.measure import measure_profile, own_profile
from lieq_edge.device.profile import load_profile
from lieq_edge.device.synthetic import Shape, write_synthetic
from lieq_edge.gguf.header import read_header, type_name
from lieq_edge.llama.speed import Speed
from lieq_edge.store import Store, open_cache
from lieq_edge.system.jsonio import save_json

SMALL = Shape(hidden=256, inner=512, heads=4, blocks=2)


@pytest.mark.parametrize("kind", ["Q2_K", "IQ2_XXS", "Q2_0", "F16"])
def test_a_model_of_one_type_has_the_weights_that_are_counted(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    write_synthetic(path, kind, SMALL)
    stored = [t for t in read_header(path).tensors if type_name(t.type) == kind]
    assert sum(t.shape[0] * t.shape[1] for t in stored) == SMALL.weights


def test_a_measured_profile_is_saved_and_read(tmp_path: Path) -> None:
    made = measure_profile(types=["Q4_K", "IQ3_S"], threads=1, repeats=1, shape=SMALL, name="mine")
    assert set(made.types) == {"Q4_K", "IQ3_S"}
    assert not any(cost.estimated for cost in made.types.values())
    assert "bench --types" in made.conditions
    save_json(made, tmp_path / "profile.json")
    assert load_profile(tmp_path / "profile.json") == made


def test_what_is_not_matrices_is_subtracted(monkeypatch: pytest.MonkeyPatch) -> None:
    # 2 ms once, 1 ms a block, 4 ns a weight and 100 ns a row of the type: of a prompt a tenth.
    def speed(path: Path, **_: object) -> Speed:
        header = read_header(path)
        blocks = header.get("llama.block_count")
        matrices = [t.shape for t in header.tensors if type_name(t.type) == "Q4_K"]
        weights, rows = sum(shape[0] * shape[1] for shape in matrices), sum(shape[0] for shape in matrices)
        seconds = 2e-3 + 1e-3 * blocks + 4e-9 * weights + 1e-7 * rows
        return Speed(10 / seconds, 1 / seconds, 0.0, 0, 1, 1, 1)

    monkeypatch.setattr(measure, "measure_speed", speed)
    made = measure_profile(types=["Q4_K"], threads=1, repeats=1, shape=Shape(1024, 3072, 8, 2))
    cost = made.types["Q4_K"]
    assert (cost.prefill, cost.decode) == (pytest.approx(0.4), pytest.approx(4.0))
    assert (cost.row_prefill, cost.row_decode) == (pytest.approx(10.0), pytest.approx(100.0))
    assert (made.block.prefill, made.block.decode) == (pytest.approx(1e5), pytest.approx(1e6))


def test_what_was_measured_is_found_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = open_cache(tmp_path)
    monkeypatch.setattr(measure, "_WIDE", SMALL)
    calls: list[str] = []
    real = measure.measure_speed

    def counted(path: Path, **options: object) -> Speed:
        calls.append(path.stem)
        assert options["title"] == f"Measuring this machine ({path.stem})"
        return real(path, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(measure, "measure_speed", counted)
    first = own_profile(cache, ["Q4_K", "Q2_K"], threads=1)
    assert sorted(calls) == ["Q2_K", "Q2_K", "Q4_K", "Q4_K", "Q8_0", "Q8_0", "Q8_0", "Q8_0"]
    assert own_profile(cache, ["Q4_K"], threads=1).types["Q4_K"] == first.types["Q4_K"]
    assert len(calls) == 8
    assert set(Store(tmp_path).by_model()) == {"(this machine)"}

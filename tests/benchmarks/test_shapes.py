"""Models of real shapes: what is published, drawn the same every time, and opened by everything else here."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.shapes import SHAPES, Shape, build, configuration, count_parameters, parameters
from lieq_edge.errors import InputError
from lieq_edge.sources import open_source

SMALL = {
    "qwen3": Shape("qwen3", 64, 96, 2, (4, 2), 32, 4608, 512),
    "qwen2": Shape("qwen2", 64, 96, 2, (2, 1), 32, 4608, 512),
}


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("qwen3-0.6b", 596_049_920),
        ("qwen3-1.7b", 1_720_574_976),
        ("qwen3-4b", 4_022_468_096),
        ("qwen2.5-1.5b", 1_543_714_304),
    ],
)
def test_real_shapes_have_the_published_number_of_weights(name: str, count: int) -> None:
    assert count_parameters(SHAPES[name]) == count


@pytest.mark.parametrize("family", ["qwen3", "qwen2"])
def test_names_and_shapes_are_those_of_transformers(family: str) -> None:
    import torch
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM

    config = configuration(SMALL[family])
    fields = {key: value for key, value in config.items() if key not in ("model_type", "torch_dtype")}
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(CONFIG_MAPPING[family](**fields))
    assert {name: tuple(p.shape) for name, p in model.named_parameters()} == parameters(SMALL[family])


@pytest.mark.parametrize("family", ["qwen3", "qwen2"])
def test_a_model_is_opened(family: str, tmp_path: Path) -> None:
    build(SMALL[family], tmp_path / "model", shard_bytes=200_000)
    assert len(list((tmp_path / "model").glob("*.safetensors"))) > 1
    source = open_source(str(tmp_path / "model"))
    assert source.architecture == family
    matrix = source.read("blk.1.ffn_down.weight")
    assert matrix.std() == pytest.approx(0.02, rel=0.05)
    assert abs(matrix.mean()) < 0.002
    assert (source.read("blk.0.ffn_norm.weight") == 1).all()
    assert not np.array_equal(matrix, source.read("blk.0.ffn_down.weight"))
    text = "Return the sum of 12 numbers, as a float."
    assert source.detokenize(source.tokenize(text)) == text
    assert [note for note in source.warnings if "llama.cpp ends a reply" not in note] == []


def test_the_weights_depend_on_the_seed_alone(tmp_path: Path) -> None:
    for name, seed in (("one", 0), ("same", 0), ("other", 1)):
        build(SMALL["qwen3"], tmp_path / name, seed=seed)
    weights = {name: (tmp_path / name / "model.safetensors").read_bytes() for name in ("one", "same", "other")}
    assert weights["one"] == weights["same"] != weights["other"]
    with pytest.raises(InputError, match="exists"):
        build(SMALL["qwen3"], tmp_path / "one")
    assert not list(tmp_path.glob(".*"))

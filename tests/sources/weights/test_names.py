"""Weights under other names than a model's own: whatever transformers opens exactly gives the same file."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tiny import cached_model

from lieq_edge.errors import InputError
from lieq_edge.sources import open_source
from lieq_edge.sources.weights.names import fitted, unwrapped

Tensors = dict[str, Any]


def renamed(folder: Path, family: str, change: Callable[[str], str], **options: Any) -> tuple[Path, Path]:
    """A tiny model, and a copy with other names."""
    original = cached_model(family, **options)
    copy = Path(shutil.copytree(original, folder / "copy"))
    tensors = {change(name): array for name, array in load_file(original / "model.safetensors").items()}
    save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
    return original, copy


def assert_same(one: Path, other: Path) -> None:
    first, second = open_source(str(one)), open_source(str(other))
    assert [spec.name for spec in first.tensors()] == [spec.name for spec in second.tensors()]
    for spec in first.tensors():
        assert np.array_equal(first.read(spec.name), second.read(spec.name))


CHANGES: dict[str, Callable[[str], str]] = {
    "no model.": lambda name: name.removeprefix("model."),
    "model. twice": lambda name: "model." + name,
    "compiled": lambda name: "_orig_mod." + name,
    "blocks compiled": lambda name: name.replace("layers.0.", "layers.0._orig_mod."),
    "parallel": lambda name: "module." + name,
    "compiled in parallel": lambda name: "module._orig_mod." + name,
    "checkpointed": lambda name: name.replace("self_attn.", "_checkpoint_wrapped_module.self_attn."),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
@pytest.mark.parametrize(("family", "tied"), [("llama", True), ("qwen3", False)])
def test_names_that_wrappers_and_classes_leave(
    tmp_path: Path, change: Callable[[str], str], family: str, tied: bool
) -> None:
    assert_same(*renamed(tmp_path, family, change, tied=tied))


@pytest.mark.parametrize("name", ["no model.", "model. twice"])
def test_transformers_opens_them_too(tmp_path: Path, name: str) -> None:
    from transformers import AutoModelForCausalLM

    _, copy = renamed(tmp_path, "qwen3", CHANGES[name])
    model = AutoModelForCausalLM.from_pretrained(copy, dtype="float32")
    source = open_source(str(copy))
    for spec in source.tensors():
        theirs = model.get_parameter(str(source.hf_name(spec.name))).detach().numpy()
        assert np.array_equal(theirs, source.to_hf(spec.name, source.read(spec.name)))


def test_a_tied_model_of_which_only_the_head_was_saved(tmp_path: Path) -> None:
    assert_same(*renamed(tmp_path, "llama", lambda name: name.replace("model.embed_tokens", "lm_head")))


def test_a_tied_model_saved_by_its_body(tmp_path: Path) -> None:
    original, copy = renamed(tmp_path, "qwen3", CHANGES["no model."])
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "architectures": ["Qwen3Model"]}))
    assert_same(original, copy)


def test_a_body_without_its_head_is_refused(tmp_path: Path) -> None:
    _, copy = renamed(tmp_path, "qwen3", CHANGES["no model."], tied=False)
    tensors = load_file(copy / "model.safetensors")
    del tensors["lm_head.weight"]
    save_file(tensors, copy / "model.safetensors")
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "architectures": ["Qwen3Model"]}))
    with pytest.raises(InputError, match=r"saved as Qwen3Model, which has no output head .* embedding models"):
        open_source(str(copy))


def test_names_that_would_meet_stay_apart() -> None:
    assert unwrapped({"a._orig_mod.b": 1, "a.b": 2}) == {"a._orig_mod.b": 1, "a.b": 2}
    both = {"model.norm.weight": 1, "norm.weight": 2}
    assert fitted(both, {"model.norm.weight"}, "x", tied=False) == both
    assert unwrapped({}) == {}


def parts(folder: Path, *names: str) -> Path:
    """A model whose weights are in files of these names, each with the same tensors."""
    copy = Path(shutil.copytree(cached_model("llama"), folder / "copy"))
    data = (copy / "model.safetensors").read_bytes()
    (copy / "model.safetensors").unlink()
    for name in names:
        (copy / name).write_bytes(data)
    return copy


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("first.safetensors", "second.safetensors"), r"two sets .* \(first\.safetensors and second\.safetensors\)"),
        (
            ("a-00001-of-00001.safetensors", "b-00001-of-00001.safetensors"),
            r"two sets .* \(a-\*-of-00001\.safetensors and b-\*-of-00001\.safetensors\)",
        ),
        (("model-00001-of-00002.safetensors",), r"model-00002-of-00002\.safetensors is missing, though other parts"),
    ],
)
def test_sets_without_an_index_that_are_not_one_model(tmp_path: Path, names: tuple[str, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        open_source(str(parts(tmp_path, *names)))


def test_the_same_weights_under_other_names_are_passed_over(tmp_path: Path) -> None:
    """Mistral's consolidated file, and an adapter, beside the model."""
    copy = parts(tmp_path, "weights.safetensors", "consolidated.safetensors", "adapter_model.safetensors")
    (copy / "adapter_config.json").write_text("{}")
    source = open_source(str(copy))
    assert_same(cached_model("llama"), copy)
    assert any("adapter beside the model" in note for note in source.warnings)


def test_the_last_file_of_an_index_wins_as_in_transformers(tmp_path: Path) -> None:
    """An overlay: a file with new values for tensors that an older file holds as well."""
    from transformers import AutoModelForCausalLM

    copy = Path(shutil.copytree(cached_model("llama"), tmp_path / "copy"))
    tensors = load_file(copy / "model.safetensors")
    (copy / "model.safetensors").rename(copy / "base.safetensors")
    norm = "model.norm.weight"
    save_file({norm: tensors[norm] + 1}, copy / "overlay.safetensors", metadata={"format": "pt"})
    where = dict.fromkeys(tensors, "base.safetensors") | {norm: "overlay.safetensors"}
    (copy / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))
    theirs = AutoModelForCausalLM.from_pretrained(copy, dtype="float32").get_parameter(norm).detach().numpy()
    assert np.array_equal(open_source(str(copy)).read("output_norm.weight"), theirs)
    assert np.array_equal(theirs, tensors[norm] + 1)


@pytest.mark.parametrize("name", ["../elsewhere.safetensors", "/etc/hostname", "..", "", "a/b.safetensors", 3, "x\0y"])
def test_an_index_names_files_beside_it_only(tmp_path: Path, name: Any) -> None:
    copy = Path(shutil.copytree(cached_model("llama"), tmp_path / "copy"))
    shutil.copy(copy / "model.safetensors", tmp_path / "elsewhere.safetensors")
    (copy / "model.safetensors").rename(copy / "base.safetensors")
    (copy / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(InputError, match="which is not a file beside it"):
        open_source(str(copy))


def test_links_into_a_cache_are_followed(tmp_path: Path) -> None:
    original = cached_model("llama")
    (tmp_path / "links").mkdir()
    for path in original.iterdir():
        (tmp_path / "links" / path.name).symlink_to(path)
    assert_same(original, tmp_path / "links")

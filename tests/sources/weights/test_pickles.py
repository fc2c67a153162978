"""Pickled weights: only when asked for, and then nothing but tensors."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from runner import assert_refused, run
from tiny import cached_model

from lieq_edge.errors import InputError
from lieq_edge.sources import open_source


@pytest.fixture
def pickled(tmp_path: Path) -> Path:
    import torch
    from safetensors.torch import load_file

    source = cached_model("llama", tied=False, dtype="bfloat16")
    directory = Path(shutil.copytree(source, tmp_path / "model"))
    torch.save(load_file(directory / "model.safetensors"), directory / "pytorch_model.bin")
    (directory / "model.safetensors").unlink()
    return directory


def test_pickles_are_read_when_allowed(pickled: Path) -> None:
    original = open_source(str(cached_model("llama", tied=False, dtype="bfloat16")))
    source = open_source(str(pickled), allow_pickle=True)
    assert source.tensors() == original.tensors()
    for spec in original.tensors():
        assert np.array_equal(source.read(spec.name), original.read(spec.name))
    assert_refused(run("plan", pickled, "--budget", "4", "--metric", "first"), "--allow-pickle")
    assert run("plan", pickled, "--budget", "4", "--metric", "first", "--allow-pickle").returncode == 0


class Evil:
    def __reduce__(self) -> Any:
        return (print, ("code ran",))


@pytest.mark.parametrize("content", ["code", "list", "noise", "legacy"])
def test_other_pickles_are_refused(pickled: Path, content: str, capsys: pytest.CaptureFixture[str]) -> None:
    import torch

    path = pickled / "pytorch_model.bin"
    if content == "code":
        torch.save({"x": Evil()}, path)
    elif content == "list":
        torch.save([torch.zeros(2)], path)
    elif content == "legacy":
        torch.save({"x": torch.zeros(2)}, path, _use_new_zipfile_serialization=False)
    else:
        path.write_bytes(pickle.dumps({"x": 1})[:-3])
    with pytest.raises(InputError, match="save the model as safetensors") as caught:
        open_source(str(pickled), allow_pickle=True)
    assert "\n" not in str(caught.value)
    assert "code ran" not in capsys.readouterr().out


def test_parameters_are_read_as_tensors(pickled: Path) -> None:
    """As ``torch.save(dict(model.named_parameters()))`` writes them: they want gradients."""
    import torch

    path = pickled / "pytorch_model.bin"
    weights = torch.load(path)
    torch.save({name: torch.nn.Parameter(tensor) for name, tensor in weights.items()}, path)
    original = open_source(str(cached_model("llama", tied=False, dtype="bfloat16")))
    source = open_source(str(pickled), allow_pickle=True)
    for spec in original.tensors():
        assert np.array_equal(source.read(spec.name), original.read(spec.name))


@pytest.mark.parametrize(("kind", "message"), [("sparse", "a sparse layout"), ("meta", r"on the meta device")])
def test_tensors_without_plain_values_are_refused_by_name(pickled: Path, kind: str, message: str) -> None:
    import torch

    path = pickled / "pytorch_model.bin"
    weights = torch.load(path)
    name = "model.norm.weight"
    weights[name] = weights[name].to_sparse() if kind == "sparse" else weights[name].to("meta")
    torch.save(weights, path)
    with pytest.raises(InputError, match=rf"The tensor model\.norm\.weight of .* has .*{message}"):
        open_source(str(pickled), allow_pickle=True)


@pytest.mark.parametrize("name", ["../pytorch_model.bin", "/etc/hostname"])
def test_an_index_of_pickles_names_files_beside_it_only(pickled: Path, name: str) -> None:
    import json

    (pickled / "pytorch_model.bin").rename(pickled.parent / "pytorch_model.bin")
    (pickled / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(InputError, match="which is not a file beside it"):
        open_source(str(pickled), allow_pickle=True)

"""llama.cpp's own quantiser."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest

from benchmarks import peer
from benchmarks.peer import quantize_with_llama_cpp
from lieq_edge.errors import InputError
from lieq_edge.gguf.inspect import inspect_file

MakeGguf = Callable[..., Path]
WIDE = {"hidden": 256, "intermediate": 256, "heads": (4, 2)}


def values(path: Path, name: str) -> np.ndarray:
    tensor = next(t for t in gguf.GGUFReader(path).tensors if t.name == name)
    return gguf.dequantize(tensor.data, tensor.tensor_type)


@pytest.fixture
def model(tiny_gguf: MakeGguf) -> Path:
    return tiny_gguf("llama", **WIDE)


def importance(model: Path) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    names = [t.name for t in gguf.GGUFReader(model).tensors if t.name.startswith("blk.") and len(t.shape) == 2]
    return {name: (rng.random(256) ** 4 + 1e-3).astype(np.float32) for name in names}


def test_presets_have_their_names() -> None:
    assert {"Q2_K", "Q2_K_S", "IQ2_XS", "IQ2_M", "IQ3_XXS", "Q3_K_M", "IQ4_XS", "Q4_K_S", "Q4_0", "Q8_0", "F16"} <= set(
        peer.presets()
    )


def test_a_preset_is_written(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.gguf"
    size = quantize_with_llama_cpp(model, out, "Q3_K_S", threads=1)
    report = inspect_file(out)
    assert size == out.stat().st_size < model.stat().st_size / 4
    assert set(report.blocks[0].types.values()) == {"Q3_K"}


def test_the_importance_is_used(model: Path, tmp_path: Path) -> None:
    weights = importance(model)
    plain, weighted = tmp_path / "plain.gguf", tmp_path / "weighted.gguf"
    quantize_with_llama_cpp(model, plain, "Q2_K_S", imatrix={name: np.ones(256, np.float32) for name in weights})
    quantize_with_llama_cpp(model, weighted, "Q2_K_S", imatrix=weights)
    for name, emphasis in weights.items():
        true = values(model, name)
        errors = [(emphasis * (values(path, name) - true) ** 2).sum() for path in (plain, weighted)]
        assert errors[1] < 0.9 * errors[0], name


def test_types_can_be_set(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.gguf"
    quantize_with_llama_cpp(
        model, out, "Q4_0", tensor_types={r"blk\.1\.attn_q": "Q8_0", "attn_q": "Q5_0"}, token_embedding_type="F16"
    )
    report = inspect_file(out)
    assert report.others == {"token_embd.weight": "F16"}
    assert report.blocks[0].types["attn_q"] == "Q5_0"
    assert report.blocks[1].types["attn_q"] == "Q8_0"
    assert report.blocks[1].types["attn_k"] == "Q4_0"


def test_refusals_leave_no_file_and_a_living_process(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.gguf"
    bad = tmp_path / "bad.gguf"
    bad.write_bytes(b"NOPE" * 100)
    cases: list[tuple[str, dict[str, object]]] = [
        ("no preset Q9", {"preset": "Q9"}),
        ("requires an imatrix", {"preset": "IQ2_XS"}),
        ("not a GGUF file", {"source": bad}),
        ("Cannot read .*none.gguf", {"source": tmp_path / "none.gguf"}),
        ("imatrix size 5 is different", {"imatrix": {"blk.0.attn_q.weight": np.ones(5, np.float32)}}),
        ("non-finite", {"imatrix": {"blk.0.attn_q.weight": np.full(256, np.nan, np.float32)}}),
        ("regular expression|regex", {"tensor_types": {"(": "Q8_0"}}),
        ("no ggml type Q9", {"output_type": "Q9"}),
    ]
    for message, options in cases:
        with pytest.raises(InputError, match=message):
            quantize_with_llama_cpp(**({"source": model, "out": out, "preset": "Q4_0"} | options))  # type: ignore[arg-type]
        assert {path.name for path in tmp_path.iterdir()} == {"bad.gguf"}
    quantize_with_llama_cpp(model, out, "Q4_0")
    assert out.exists()


def test_command_line(model: Path, tmp_path: Path) -> None:
    out, archive = tmp_path / "out.gguf", tmp_path / "imatrix.npz"
    np.savez(archive, **importance(model))
    command = [sys.executable, "-m", peer.__name__, str(model), str(out), "IQ2_XS", "--imatrix", str(archive)]
    done = subprocess.run([*command, "--token-embedding-type", "Q6_K"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert inspect_file(out).others == {"token_embd.weight": "Q6_K"}
    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert again.returncode == 2
    assert "--force" in again.stderr

"""Widened models compute what the originals compute; dithered ones stay within half a step."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from gguf import GGUFReader, dequantize

from benchmarks.peer import quantize_with_llama_cpp
from lieq_edge.errors import InputError
from lieq_edge.gguf.header import read_header
from lieq_edge.sources import open_source
from lieq_edge.sources.plain import write_plain
from lieq_edge.validate.perplexity import validate
from tools import widen
from tools.dither import Dithered, steps
from tools.widen import Sizes, Widened, save_directory, widened_sizes

MakeGguf = Callable[..., Path]


def logits(directory: Path) -> torch.Tensor:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    ids = torch.tensor(np.random.default_rng(0).integers(0, 400, (2, 40)))
    with torch.no_grad():
        result: torch.Tensor = model(ids).logits
    return result


@pytest.mark.parametrize(
    ("family", "options", "hidden"),
    [
        ("llama", {"hidden": 96, "heads": (6, 2), "rope_scaling": tiny.LLAMA3_ROPE}, 192),
        ("llama", {"hidden": 96, "heads": (6, 2), "tied": False}, 128),
        ("qwen2", {"hidden": 96, "heads": (6, 2)}, 128),
        ("qwen3", {"hidden": 96, "heads": (4, 2), "head_dim": 32}, 112),
    ],
)
def test_logits_do_not_change(family: str, options: dict[str, object], hidden: int, tmp_path: Path) -> None:
    directory = tiny.cached_model(family, **options)
    source = Widened(open_source(str(directory)), hidden, 200)
    out = tmp_path / "wide"
    save_directory(source, out, tokenizer=directory)
    before, after = logits(directory), logits(out)
    assert before.std() > 0.5
    assert torch.allclose(before, after, atol=1e-4)
    reopened = open_source(str(out))
    assert reopened.config()["hidden_size"] == hidden
    assert reopened.tokenize("The quick brown fox") == source.tokenize("The quick brown fox")
    for spec in source.tensors():
        assert source.read(spec.name).shape == spec.shape
        assert np.array_equal(reopened.read(spec.name), source.read(spec.name)), spec.name


@pytest.mark.parametrize(("family", "hidden"), [("llama", 96), ("qwen2", 128)])
def test_llama_cpp_sees_the_same_model(
    family: str, hidden: int, tiny_gguf: MakeGguf, text: str, tmp_path: Path
) -> None:
    path, wide = tiny_gguf(family), tmp_path / "wide.gguf"
    write_plain(wide, Widened(open_source(str(path)), hidden, 256), "F32")
    result = validate(wide, text, text_name="sample", context=64, reference=path)
    assert result.kld is not None
    assert result.kld < 1e-4
    assert result.ppl == pytest.approx(result.reference_ppl, rel=1e-3)


def test_sizes_keep_query_heads_with_their_keys() -> None:
    smol = Sizes(576, 1536, 9, 3, 64)
    assert widened_sizes(smol, 768) == Sizes(768, 1536, 12, 4, 64)
    qwen = Sizes(896, 4864, 14, 2, 64)
    assert widened_sizes(qwen, 1024) == Sizes(1024, 4864, 16, 2, 64)
    free = Sizes(1000, 3000, 16, 8, 128)
    assert widened_sizes(free, 1024, 3072) == Sizes(1024, 3072, 16, 8, 128)
    with pytest.raises(InputError, match="give larger sizes"):
        widened_sizes(smol, 512)
    with pytest.raises(InputError, match="multiple of 192"):
        widened_sizes(smol, 640)


@pytest.mark.parametrize("preset", ["Q4_0", "Q4_1", "Q5_0", "Q8_0", "Q4_K_S", "Q6_K"])
def test_noise_stays_within_half_a_step(preset: str, tiny_gguf: MakeGguf, tmp_path: Path) -> None:
    path = tmp_path / "small.gguf"
    quantize_with_llama_cpp(tiny_gguf("llama", hidden=256, intermediate=256), path, preset, pure=True)
    base = open_source(str(path))
    source, again, other = (Dithered(base, path, seed) for seed in (1, 1, 2))
    for tensor in read_header(path).tensors:
        noise = source.read(tensor.name) - base.read(tensor.name)
        if len(tensor.shape) == 1:
            assert not noise.any()
            continue
        step = steps(path, tensor)
        assert (np.abs(noise) <= 0.5001 * step + 1e-7).all()
        # Uniform over the step: standard deviation 1 / sqrt(12) of it.
        relative = noise[step > 0] / step[step > 0]
        assert relative.std() == pytest.approx(12**-0.5, rel=0.02)
        assert abs(relative.mean()) < 0.01
        assert np.array_equal(source.read(tensor.name), again.read(tensor.name))
        assert not np.array_equal(source.read(tensor.name), other.read(tensor.name))
    assert len({source.content_hash, other.content_hash, base.content_hash}) == 3
    assert source.content_hash == again.content_hash


@pytest.mark.parametrize("preset", ["Q4_1", "Q4_K_S"])
def test_steps_are_the_gaps_between_values(preset: str, tiny_gguf: MakeGguf, tmp_path: Path) -> None:
    path = tmp_path / "small.gguf"
    quantize_with_llama_cpp(tiny_gguf("llama", hidden=256, intermediate=256), path, preset, pure=True)
    name = "blk.0.ffn_up.weight"
    stored = next(t for t in GGUFReader(path).tensors if t.name == name)
    values = dequantize(stored.data, stored.tensor_type)
    step = steps(path, next(t for t in read_header(path).tensors if t.name == name))
    for row in range(3):
        block = np.unique(values[row, :32])
        gaps = np.diff(block) / step[row, 0]
        assert gaps == pytest.approx(np.round(gaps), abs=1e-2)
        assert gaps.min() == pytest.approx(1, abs=1e-2)


def test_padding_stays_zero_under_dither(tiny_gguf: MakeGguf, tmp_path: Path) -> None:
    path = tmp_path / "small.gguf"
    quantize_with_llama_cpp(tiny_gguf("llama"), path, "Q8_0", pure=True)
    source = Widened(Dithered(open_source(str(path)), path, 0), 96)
    query = source.read("blk.0.attn_q.weight")
    assert query[:64, :64].all()
    assert not query[:, 64:].any()
    assert not query[64:].any()


def test_dither_needs_even_steps(tiny_gguf: MakeGguf, tmp_path: Path) -> None:
    path = tmp_path / "small.gguf"
    quantize_with_llama_cpp(tiny_gguf("llama"), path, "IQ4_NL", pure=True)
    with pytest.raises(InputError, match="uneven"):
        Dithered(open_source(str(path)), path, 0).read("blk.0.attn_q.weight")


def test_command_line(tiny_gguf: MakeGguf, text: str, tmp_path: Path) -> None:
    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", widen.__name__, *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    small = tmp_path / "small.gguf"
    quantize_with_llama_cpp(tiny_gguf("qwen2"), small, "Q8_0", pure=True)
    out = tmp_path / "wide"
    done = run(small, out, "--hidden", 128, "--dither", 0, "--dtype", "bfloat16")
    assert done.returncode == 0, done.stderr
    reopened = open_source(str(out))
    assert reopened.config()["hidden_size"] == 128
    assert reopened.tokenize(text) == open_source(str(small)).tokenize(text)
    assert {spec.stored for spec in reopened.tensors()} == {"BF16", "F32"}
    again = run(small, out, "--hidden", 128)
    assert again.returncode == 2
    assert run(small, tmp_path / "narrow", "--hidden", 32).returncode == 2
    assert "no grid" in run(tiny.cached_model("qwen2"), tmp_path / "narrow", "--dither", 0).stderr
    assert not (tmp_path / "narrow").exists()

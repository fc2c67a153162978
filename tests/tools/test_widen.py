"""Widened models have the outputs of the originals."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch

from benchmarks.peer import quantize_with_llama_cpp
from lieq_edge.errors import InputError
from lieq_edge.sources import open_source
from lieq_edge.sources.plain import write_plain
from lieq_edge.validate.perplexity import validate
from tools import widen
from tools.dither import Dithered
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


def test_padding_stays_zero_under_dither(tiny_gguf: MakeGguf, tmp_path: Path) -> None:
    path = tmp_path / "small.gguf"
    quantize_with_llama_cpp(tiny_gguf("llama"), path, "Q8_0", pure=True)
    source = Widened(Dithered(open_source(str(path)), path, 0), 96)
    query = source.read("blk.0.attn_q.weight")
    assert query[:64, :64].all()
    assert not query[:, 64:].any()
    assert not query[64:].any()


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

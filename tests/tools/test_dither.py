"""Dithered weights stay within half a step of the file's grid."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFReader, dequantize

from benchmarks.peer import quantize_with_llama_cpp
from lieq_edge import InputError, open_source
from lieq_edge.gguf.header import read_header
from tools.dither import Dithered, steps

MakeGguf = Callable[..., Path]


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


def test_dither_needs_even_steps(tiny_gguf: MakeGguf, tmp_path: Path) -> None:
    path = tmp_path / "small.gguf"
    quantize_with_llama_cpp(tiny_gguf("llama"), path, "IQ4_NL", pure=True)
    with pytest.raises(InputError, match="uneven"):
        Dithered(open_source(str(path)), path, 0).read("blk.0.attn_q.weight")

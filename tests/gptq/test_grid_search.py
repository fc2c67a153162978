"""First scales of feedback: as good as those of ggml's encoders, and finite for any weights."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch

from lieq_edge.gguf.blocks import LAYOUTS, Grid, unpack
from lieq_edge.gptq.grid_search import search, searches
from lieq_edge.gptq.scales import Fields
from lieq_edge.llama import encoders as ggml

Floats = npt.NDArray[np.float32]

TYPE_NAMES = [name for name, layout in LAYOUTS.items() if searches(layout)]


def effective(fields: Fields, sub: int, block: int, min_sign: int) -> tuple[Floats, Floats]:
    """Scale and min of each column and row."""
    per_block = block // sub
    d = fields.d.repeat_interleave(per_block, 0)
    scales = d if fields.scale_codes is None else d * fields.scale_codes
    mins = torch.zeros_like(scales)
    if fields.m is not None:
        m = fields.m.repeat_interleave(per_block, 0)
        mins = m * min_sign if fields.min_codes is None else m * fields.min_codes
    return scales.repeat_interleave(sub, 0).numpy(), mins.repeat_interleave(sub, 0).numpy()


def nearest_error(weights: Floats, importance: Floats, type_name: str, fields: Fields) -> float:
    """Importance times squared error of ``(columns, rows)``, each weight rounded to its nearest value."""
    layout = LAYOUTS[type_name]
    scales, mins = effective(fields, layout.sub, layout.block, layout.min_sign)
    safe = np.where(scales == 0, np.float32(1), scales)
    levels = np.clip(np.rint((weights + mins) / safe), layout.levels[0], layout.levels[-1]) * (scales != 0)
    return float(np.sum(importance[:, None] * np.square(weights - (levels * scales - mins), dtype=np.float64)))


def by_ggml(weights: Floats, importance: Floats, type_name: str) -> Grid:
    return unpack(ggml.encode(np.ascontiguousarray(weights.T), type_name, importance), type_name)


@pytest.mark.parametrize("type_name", TYPE_NAMES)
def test_scales_are_as_good_as_those_of_ggml(type_name: str) -> None:
    rng = np.random.default_rng(0)
    # More rows than are searched together, and not a multiple of them.
    weights = (rng.standard_t(5, (512, 300)) * 0.05).astype(np.float32)
    importance = rng.lognormal(0, 1.5, 512).astype(np.float32)
    fields = search(LAYOUTS[type_name], torch.from_numpy(weights), importance)
    theirs = Fields.of(by_ggml(weights, importance, type_name))
    ours, others = (nearest_error(weights, importance, type_name, each) for each in (fields, theirs))
    assert ours < 1.01 * others


@pytest.mark.parametrize("type_name", TYPE_NAMES)
@pytest.mark.parametrize("case", ["zeros", "constant", "positive", "negative", "one large", "tiny"])
def test_any_weights_have_finite_scales(type_name: str, case: str) -> None:
    rng = np.random.default_rng(1)
    weights = rng.normal(size=(256, 5)).astype(np.float32)
    weights = {
        "zeros": np.zeros_like(weights),
        "constant": np.full_like(weights, 0.3),
        "positive": np.abs(weights),
        "negative": -np.abs(weights),
        "one large": np.where(np.arange(256)[:, None] == 17, np.float32(900), weights * np.float32(1e-3)),
        "tiny": weights * np.float32(1e-30),
    }[case]
    importance = np.ones(256, np.float32)
    fields = search(LAYOUTS[type_name], torch.from_numpy(weights), importance)
    for field in (fields.d, fields.m, fields.scale_codes, fields.min_codes):
        assert field is None or bool(torch.isfinite(field).all())
    if fields.scale_codes is not None:
        bits = LAYOUTS[type_name].scales
        assert bits is not None
        codes = torch.cat([fields.scale_codes, *([fields.min_codes] if fields.min_codes is not None else [])])
        assert bits.lowest <= codes.min()
        assert codes.max() <= bits.highest
    assert nearest_error(weights, importance, type_name, fields) <= float(np.square(weights, dtype=np.float64).sum())


def test_a_row_does_not_depend_on_the_rows_beside_it() -> None:
    rng = np.random.default_rng(2)
    weights = torch.from_numpy(rng.normal(size=(256, 600)).astype(np.float32))
    importance = np.ones(256, np.float32)
    for name in ("Q2_K", "Q3_K"):
        together = search(LAYOUTS[name], weights, importance)
        alone = search(LAYOUTS[name], weights[:, 290:291].contiguous(), importance)
        assert torch.equal(together.d[:, 290:291], alone.d)
        assert together.scale_codes is not None
        assert alone.scale_codes is not None
        assert torch.equal(together.scale_codes[:, 290:291], alone.scale_codes)

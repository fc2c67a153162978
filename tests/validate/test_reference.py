"""The original as a reference, run block by block."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch

from lieq_edge.blockwise.model import BlockModel
from lieq_edge.errors import InputError
from lieq_edge.sources import open_source
from lieq_edge.validate.perplexity import validate
from lieq_edge.validate.reference import StreamedReference


@pytest.mark.parametrize("family", ["llama", "qwen3"])
@pytest.mark.parametrize("context", [40, 200])
def test_a_file_in_full_precision_is_its_own_reference(
    family: str, context: int, tiny_gguf: Callable[..., Path], text: str
) -> None:
    path = tiny_gguf(family)
    source = open_source(str(tiny.cached_model(family)))
    streamed = validate(path, text, text_name="sample", context=context, chunks=4, reference=source)
    in_lock_step = validate(path, text, text_name="sample", context=context, chunks=4, reference=path)
    assert streamed.ppl == in_lock_step.ppl
    assert streamed.reference_ppl == pytest.approx(in_lock_step.reference_ppl, rel=2e-3)
    # llama.cpp keeps keys and values in 16 bits.
    assert streamed.kld is not None
    assert streamed.kld < 1e-4
    assert streamed.top1 is not None
    assert streamed.top1 > 0.97


def test_another_model_is_refused_as_reference(tiny_gguf: Callable[..., Path], text: str) -> None:
    source = open_source(str(tiny.cached_model("qwen3")))
    with pytest.raises(InputError, match=r"different tokens|vocabulary"):
        validate(tiny_gguf("llama"), text, text_name="sample", context=40, chunks=2, reference=source)


@pytest.mark.parametrize(("family", "dtype"), [("llama", "float16"), ("qwen3", "bfloat16")])
def test_a_head_of_16_bits_is_read_when_needed_and_never_held(family: str, dtype: str, tmp_path: Path) -> None:
    source = open_source(str(tiny.make_model(tmp_path / "model", family, dtype=dtype)))
    windows = np.random.default_rng(0).integers(0, 300, (2, 24)).astype(np.int32)
    reference = StreamedReference(source)
    reference.run(windows, slice(8, 24))
    model = reference._model.causal_lm
    assert model.get_output_embeddings().weight.is_meta
    assert model.get_input_embeddings().weight.is_meta
    given = np.concatenate([logits for _, logits in reference.logits(slice(0, 2))])
    whole = BlockModel(source)
    with torch.no_grad():
        expected = whole.logits(reference._hidden.flatten(0, 1))
    np.testing.assert_array_equal(given, expected.numpy())

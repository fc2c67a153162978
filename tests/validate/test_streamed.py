"""The original as a reference, run block by block."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import tiny

from lieq_edge.errors import InputError
from lieq_edge.source import open_source
from lieq_edge.validate.perplexity import validate


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

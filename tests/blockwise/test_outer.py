"""Embedding and head are released and read again."""

from __future__ import annotations

import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import make_model

from lieq_edge.blockwise.model import BlockModel
from lieq_edge.errors import InputError
from lieq_edge.sources import open_source
from lieq_edge.system.timing import Stopwatch

TOKENS = torch.randint(0, 300, (2, 16), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma3_text", "gpt2"])
def test_released_weights_are_read_again_when_needed(tmp_path: Path, family: str, dtype: str) -> None:
    model = BlockModel(open_source(str(make_model(tmp_path / "model", family, dtype=dtype))))
    with torch.no_grad():
        hidden = model.embed(TOKENS)
        logits = model.logits(hidden)
        tables = [model.causal_lm.get_input_embeddings(), model.causal_lm.get_output_embeddings()]
        for use, expected in ((lambda: model.embed(TOKENS), hidden), (lambda: model.logits(hidden), logits)):
            model.release_outer()
            assert all(table.weight.is_meta for table in tables)
            torch.testing.assert_close(use(), expected, rtol=0, atol=0)
            assert not any(table.weight.is_meta for table in tables)


def test_an_embedding_of_16_bits_that_is_not_finite_is_refused(tmp_path: Path) -> None:
    folder = make_model(tmp_path / "model", "llama", dtype="bfloat16")
    source = open_source(str(folder))
    rows = source.read_rows("token_embd.weight", slice(0, 2))
    assert rows is not None
    (file,) = folder.glob("*.safetensors")
    data = file.read_bytes()
    place = data.index(rows.tobytes())
    file.write_bytes(data[:place] + np.uint16(0x7F80).tobytes() + data[place + 2 :])
    with pytest.raises(InputError, match="infinite"):
        BlockModel(open_source(str(folder)))


def test_a_model_without_references_is_freed_after_the_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lieq_edge.system.timing._SHORT", 0.0)
    source = open_source(str(make_model(tmp_path / "model", "llama", dtype="bfloat16")))
    with Stopwatch().measure("stage"):
        head = weakref.ref(BlockModel(source).causal_lm.get_output_embeddings())
    assert head() is None

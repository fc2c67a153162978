"""Calibration text that a model writes: openings, the ids that end a text, and the record of it."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from gguf import GGUFValueType, Keys
from memory_source import MemorySource, tiny_lm

from lieq_edge.sources.base import KeyValue
from lieq_edge.texts.info import Windows
from lieq_edge.texts.self_written import PROMPTS, end_of_text_ids, self_windows


def test_the_writer_receives_openings_length_seed_and_ends() -> None:
    source = MemorySource(tiny_lm(eos_token_id=[2, 5]))
    calls: list[tuple[Any, ...]] = []

    def write(openings: list[list[int]], length: int, seed: int, stop: frozenset[int]) -> Windows:
        calls.append((openings, length, seed, stop))
        return np.full((len(openings), length), 7, np.int64)

    windows, info = self_windows(source, tokens=130, context=32, seed=3, write=write)
    [(openings, length, seed, stop)] = calls
    assert (length, seed, stop) == (32, 3, {2, 5})
    assert openings[::2] == [[1], [1]]
    assert openings[1] == [1, *source.tokenize(PROMPTS[0])][:31]
    assert windows.shape == (4, 32)
    text = "\n".join(source.detokenize(row) for row in windows.tolist())
    assert info.sha256 == hashlib.sha256(text.encode()).hexdigest()
    assert info.tokens == 128


@pytest.mark.parametrize(("setting", "ids"), [(2, {2}), ([2, 5], {2, 5}), (None, set())])
def test_ends_of_a_text_in_the_configuration(setting: object, ids: set[int]) -> None:
    assert end_of_text_ids(MemorySource(tiny_lm(eos_token_id=setting))) == ids


def test_ends_of_a_text_in_gguf() -> None:
    class LlamaOnly(MemorySource):
        in_transformers = False

        def metadata(self) -> list[KeyValue]:
            return [KeyValue(Keys.Tokenizer.EOS_ID, 9, GGUFValueType.UINT32)]

    assert end_of_text_ids(LlamaOnly(tiny_lm())) == {9}


def test_texts_need_no_torch() -> None:
    code = "import sys, lieq_edge.texts.windows; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

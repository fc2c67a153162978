"""Several files are scored with one run of the reference."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tiny

from lieq_edge.llama.engine import Engine, Tokens
from lieq_edge.presets.make import make_preset
from lieq_edge.sources import open_source
from lieq_edge.validate import perplexity
from lieq_edge.validate.perplexity import Validation, validate, validate_files
from lieq_edge.validate.reference import StreamedReference

MakeGguf = Callable[..., Path]


@pytest.fixture
def files(tmp_path: Path, tiny_gguf: MakeGguf) -> list[Path]:
    """Two quantised files of the tiny Llama, and the original."""
    source = open_source(str(tiny_gguf("llama")))
    paths = [tmp_path / "q8.gguf", tmp_path / "q4.gguf"]
    for path, preset in zip(paths, ("Q8_0", "Q4_0"), strict=True):
        make_preset(source, preset, path, None, threads=1)
    return [*paths, tiny_gguf("llama")]


def one_by_one(files: list[Path], text: str, reference: object) -> list[Validation]:
    options = {"text_name": "sample", "context": 40, "chunks": 14, "reference": reference}
    return [validate(path, text, **options) for path in files]  # type: ignore[arg-type]


@pytest.mark.parametrize("room", ["plenty", "none"])
def test_a_gguf_reference_runs_once_where_there_is_room(
    room: str, files: list[Path], text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference = files[-1]
    expected = one_by_one(files, text, reference)
    runs: Counter[str] = Counter()
    run = Engine.run

    def counted(self: Engine, windows: Tokens) -> None:
        runs[self.label] += len(windows)
        run(self, windows)

    monkeypatch.setattr(Engine, "run", counted)
    if room == "none":
        monkeypatch.setattr(perplexity, "most_beside", lambda: 0)
    scores = validate_files(
        files, text, text_name="sample", context=40, chunks=14, reference=reference, reference_name="original"
    )
    assert scores == expected
    assert scores[0].kld is not None
    assert scores[1].kld is not None
    assert scores[2].kld == 0 < scores[0].kld < scores[1].kld
    assert runs["original"] == 14 * (1 if room == "plenty" else len(files))
    assert all(runs[str(path)] == 14 for path in files)


def test_the_original_runs_once(files: list[Path], text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    source = open_source(str(tiny.cached_model("llama")))
    expected = one_by_one(files, text, source)
    runs = []
    through = StreamedReference._through_blocks
    monkeypatch.setattr(
        StreamedReference, "_through_blocks", lambda self, *args: (runs.append(1), through(self, *args))[1]
    )
    scores = validate_files(files, text, text_name="sample", context=40, chunks=14, reference=source)
    assert scores == expected
    assert len(runs) == 1


def test_files_without_a_reference_may_be_of_different_models(tiny_gguf: MakeGguf, text: str) -> None:
    paths = [tiny_gguf("llama"), tiny_gguf("qwen3")]
    assert validate_files(paths, text, text_name="sample", context=40) == one_by_one_alone(paths, text)


def one_by_one_alone(files: list[Path], text: str) -> list[Validation]:
    return [validate(path, text, text_name="sample", context=40) for path in files]


@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_special_tokens_of_a_rendered_conversation_count_as_tokens(family: str, tiny_gguf: MakeGguf) -> None:
    from transformers import AutoTokenizer

    directory, path = tiny.cached_model(family), tiny_gguf(family)
    start, end = ("<|start_header_id|>", "<|eot_id|>") if family == "llama" else ("<|im_start|>", "<|im_end|>")
    text = "".join(f"{start}user\n{tiny.sample_text(200, seed)}{end}\n" for seed in range(12))
    source = open_source(str(directory))
    with Engine(path, context=40, threads=1) as engine:
        parsed, plain = (engine.tokenize(text, parse_special=flag).tolist() for flag in (True, False))
    assert parsed == source.tokenize(text, add_bos=source.adds_bos, parse_special=True)
    assert parsed == AutoTokenizer.from_pretrained(directory)(text).input_ids
    assert len(parsed) < len(plain) - 50
    scores = [
        validate(path, text, text_name="chats", context=40, parse_special=flag, reference=source)
        for flag in (True, False)
    ]
    for score in scores:
        assert score.kld is not None
        # llama.cpp keeps keys and values in 16 bits.
        assert score.kld < 1e-4
    assert scores[0].chunks == len(parsed) // 40 < scores[1].chunks
    in_lock_step = validate(path, text, text_name="chats", context=40, parse_special=True, reference=path)
    assert in_lock_step.ppl == scores[0].ppl
    assert np.isfinite(in_lock_step.ppl)

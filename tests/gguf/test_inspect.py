"""What ``inspect`` says of small files."""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import llama_cpp
import pytest
from changed import changed_file
from gguf import GGUFValueType
from runner import run
from tiny import cached_model

from lieq_edge.cli.inspection import show
from lieq_edge.cli.printing import Printer
from lieq_edge.errors import InputError
from lieq_edge.gguf.container import KeyValue, write_container
from lieq_edge.gguf.inspect import FileReport, inspect_file
from lieq_edge.gguf.types import TYPES
from lieq_edge.presets.names import FILE_TYPES
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
    shown = rendered(report)
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


@pytest.mark.parametrize(
    "changes",
    [
        {"tokenizer.ggml.tokens": 5, "tokenizer.ggml.model": "gpt2"},
        {"tokenizer.ggml.tokens": "abc", "tokenizer.ggml.pre": 7, "tokenizer.ggml.add_bos_token": 3},
        {"tokenizer.ggml.model": [1, 2], "general.name": 5, "lieq.metric": [0.5], "lieq.bpw": "three"},
        {"tokenizer.ggml.bos_token_id": "x", "tokenizer.ggml.eos_token_id": [1.0], "tokenizer.chat_template": 1},
        {"general.name": "[/x] \udcff\x1b[31m", "lieq.budget": "\udcfe[b]\n", "lieq.QQ": ["\udcff"]},
    ],
)
def test_any_metadata_is_described(changes: dict[str, Any], path: Path, tmp_path: Path) -> None:
    odd = changed_file(tmp_path / "odd.gguf", path, changes)
    odd.write_bytes(odd.read_bytes().replace(b"lieq.QQ", b"lieq.\xff\x1b"))
    report = inspect_file(odd)
    assert report.block_bpw == inspect_file(path).block_bpw
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        json.dumps(to_json(report)).encode("utf-8")
    shown = rendered(report)
    assert "\x1b" not in shown
    shown.encode("utf-8")
    if "tokenizer.ggml.tokens" in changes:
        assert report.tokenizer is not None
        assert (report.tokenizer.tokens, report.tokenizer.pre, report.tokenizer.add_bos) == (0, None, None)
    if isinstance(changes.get("general.name"), str):
        assert "[/x]" in shown
        assert "lieq.budget: \ufffd[b]" in shown
        assert "lieq.\ufffd : \ufffd" in shown


def test_names_that_are_no_block_names_are_described(path: Path, tmp_path: Path) -> None:
    names = {"blk.0.attn_q.weight": f"blk.{'1' * 5000}.attn_q.weight", "blk.1.attn_q.weight": "blk.[/x].weight"}
    report = inspect_file(changed_file(tmp_path / "odd.gguf", path, {}, names))
    assert set(report.others) == {"token_embd.weight", *names.values()}
    assert [block.types for block in report.blocks] == [{"ffn_down": "Q2_0"}, {"ffn_down": "Q4_K"}]
    shown = rendered(report)
    assert "blk.[/x].weight: Q4_K" in shown
    assert len(shown) < 5000


def test_a_file_that_was_changed_later_is_noticed(path: Path, tmp_path: Path) -> None:
    counted = inspect_file(path).block_bpw
    assert counted is not None
    right = inspect_file(changed_file(tmp_path / "right.gguf", path, {"lieq.bpw": counted + 1e-7}))
    assert right.warnings == ()
    wrong = inspect_file(changed_file(tmp_path / "wrong.gguf", path, {"lieq.bpw": counted + 0.01}))
    assert "was changed after lieq-edge wrote it" in wrong.warnings[0]
    assert "Note: lieq.bpw is" in rendered(wrong)
    names = {name: name.replace("blk", "part") for name in SHAPES if name.startswith("blk")}
    empty = inspect_file(changed_file(tmp_path / "empty.gguf", path, {"lieq.bpw": counted}, names))
    assert "no block weights" in empty.warnings[0]


def test_types_that_some_programs_refuse_are_told(path: Path, tiny_gguf: Callable[..., Path]) -> None:
    (note,) = inspect_file(path).notes
    assert "read Q2_0, mistral.rs does not" in note
    assert f"Note: {note}" in rendered(inspect_file(path))
    assert inspect_file(tiny_gguf("qwen2")).notes == ()


@pytest.mark.parametrize("preset", ["Q4_K_M", "IQ4_NL"])
def test_a_file_that_llama_cpp_quantised_again_is_noticed(tmp_path: Path, preset: str) -> None:
    """llama-quantize carries over the keys of a file that it quantises again."""
    ours, again = tmp_path / "out.gguf", tmp_path / "again.gguf"
    flags = ("--budget", "8", "--levels", "8", "--metric", "first", "--calibration", "none")
    done = run("export", cached_model("llama", hidden=256, intermediate=256), *flags, "--no-validate", "--out", ours)
    assert done.returncode == 0, done.stderr
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = FILE_TYPES[preset]
    params.allow_requantize = True
    assert llama_cpp.llama_model_quantize(str(ours).encode(), str(again).encode(), params) == 0
    assert inspect_file(ours).warnings == ()
    assert inspect_file(again).lieq == inspect_file(ours).lieq
    (warning,) = inspect_file(again).warnings
    assert "was changed after lieq-edge wrote it" in warning
    shown = run("inspect", again)
    assert "changed after lieq-edge wrote it" in " ".join(shown.stdout.split())


def test_a_written_file_agrees_with_itself(tmp_path: Path) -> None:
    out = tmp_path / "out.gguf"
    flags = ("--budget", "4", "--metric", "first", "--calibration", "none", "--no-validate", "--no-parity")
    done = run("export", cached_model("llama", hidden=256, intermediate=256), *flags, "--out", out)
    assert done.returncode == 0, done.stderr
    report = inspect_file(out)
    assert report.lieq["bpw"] == pytest.approx(report.block_bpw)
    assert report.warnings == ()


def rendered(report: FileReport) -> str:
    stream = io.StringIO()
    show(report, Printer(stream, width=250))
    return stream.getvalue()


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

"""Importance matrices in the two forms that llama-imatrix writes."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from foreign import EXPERTS, foreign_model
from gguf import GGUFWriter
from runner import assert_refused, run

from lieq_edge.errors import InputError
from lieq_edge.evidence.importance.imatrix_file import read_imatrix
from lieq_edge.gguf.header import read_header, type_name
from lieq_edge.llama.encoders import encode
from lieq_edge.sources import Source, open_source

Sums = dict[str, tuple[np.ndarray, np.ndarray]]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return foreign_model(tmp_path_factory.mktemp("imatrix") / "mixture.gguf", "llama")


@pytest.fixture(scope="module")
def source(path: Path) -> Source:
    return open_source(str(path))


def made_up(source: Source) -> Sums:
    """Sums of squares (matrices, columns) over 100 inputs of each matrix, for all matrices of the blocks."""
    rng = np.random.default_rng(0)
    found = {}
    for spec in source.tensors():
        if not spec.kept and spec.name.startswith("blk."):
            n = EXPERTS if len(spec.shape) == 3 else 1
            sums = rng.random((n, spec.shape[-1]), dtype=np.float32) * 50 + 1
            found[spec.name] = sums, np.full(n, 100.0, np.float32)
    return found


def write_new(path: Path, sums: Sums) -> Path:
    """As ``IMatrixCollector::save_imatrix`` does."""
    writer = GGUFWriter(path, "none")
    writer.add_string("general.type", "imatrix")
    writer.add_array("imatrix.datasets", ["text.txt"])
    writer.add_uint32("imatrix.chunk_count", 3)
    writer.add_uint32("imatrix.chunk_size", 512)
    for name, (values, counts) in sums.items():
        writer.add_tensor(f"{name}.in_sum2", np.ascontiguousarray(values))
        writer.add_tensor(f"{name}.counts", counts[:, None])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def write_old(path: Path, sums: Sums, *, calls: int = 3) -> Path:
    """As ``IMatrixCollector::save_imatrix_legacy`` does."""
    data = struct.pack("<i", len(sums))
    for name, (values, counts) in sums.items():
        means = (values / np.maximum(counts, 1)[:, None] * calls).astype("<f4")
        data += struct.pack("<i", len(name)) + name.encode() + struct.pack("<ii", calls, means.size) + means.tobytes()
    path.write_bytes(data + struct.pack("<ii", 3, 8) + b"text.txt")
    return path


@pytest.mark.parametrize("write", [write_new, write_old])
def test_both_forms_give_the_mean_squares(tmp_path: Path, source: Source, write) -> None:
    sums = made_up(source)
    found, info = read_imatrix(write(tmp_path / "some.imatrix", sums), source)
    assert found.keys() == sums.keys()
    for name, (values, counts) in sums.items():
        means = values / counts[:, None]
        assert np.allclose(found[name], means if "exps" in name else means[0], rtol=1e-6)
    assert info.name == "some.imatrix"
    assert info.tokens == (1536 if write is write_new else 0)


def test_an_expert_without_inputs_gets_the_mean_of_the_others(tmp_path: Path, source: Source) -> None:
    sums = made_up(source)
    values, counts = sums["blk.0.ffn_up_exps.weight"]
    values[2], counts[2] = 0, 0
    found, _ = read_imatrix(write_new(tmp_path / "x.gguf", sums), source)
    assert np.allclose(found["blk.0.ffn_up_exps.weight"][2], values.sum(0) / counts.sum(), rtol=1e-6)


def test_a_file_of_another_model_or_a_damaged_one_is_refused(tmp_path: Path, path: Path, source: Source) -> None:
    sums = made_up(source)
    values, counts = sums["blk.1.attn_q.weight"]
    other = write_new(tmp_path / "other.gguf", sums | {"blk.1.attn_q.weight": (values[:, :64], counts)})
    with pytest.raises(InputError, match=r"blk\.1\.attn_q\.weight.*another model"):
        read_imatrix(other, source)
    partial = {name: entry for name, entry in sums.items() if "blk.2.ffn_down" not in name}
    with pytest.raises(InputError, match=r"no values for blk\.2\.ffn_down"):
        read_imatrix(write_old(tmp_path / "partial.dat", partial), source)
    broken = write_new(tmp_path / "broken.gguf", sums | {"blk.1.attn_q.weight": (values * np.nan, counts)})
    with pytest.raises(InputError, match="no valid values"):
        read_imatrix(broken, source)
    with pytest.raises(InputError, match="not an importance matrix"):
        read_imatrix(path, source)
    with pytest.raises(InputError, match="check the path"):
        read_imatrix(tmp_path / "none.dat", source)


def test_an_old_file_cut_anywhere_is_refused(tmp_path: Path, source: Source) -> None:
    whole = write_old(tmp_path / "whole.dat", made_up(source)).read_bytes()[:-16]
    for cut in (0, 3, 6, 20, 100, 2000, len(whole) - 1):
        part = tmp_path / "part.dat"
        part.write_bytes(whole[:cut])
        with pytest.raises(InputError, match=r"damaged|not an importance matrix"):
            read_imatrix(part, source)


def test_an_export_takes_it_in_the_place_of_a_text(tmp_path: Path, path: Path, source: Source) -> None:
    imatrix, out = write_new(tmp_path / "mine.gguf", made_up(source)), tmp_path / "out.gguf"
    export = ("export", path, "--budget", "2.5", "--metric", "first", "--no-validate", "--out")
    done = run(*export, out, "--imatrix", imatrix)
    assert done.returncode == 0, done.stderr
    written = {kv.key: kv.value for kv in read_header(out).metadata}
    assert written["lieq.calibration.name"] == "mine.gguf"
    assert written["lieq.rounding"] == "imatrix"
    name = "blk.2.ffn_up_exps.weight"
    tensor = next(tensor for tensor in read_header(out).tensors if tensor.name == name)
    importance, _ = read_imatrix(imatrix, source)
    each = [
        encode(matrix, type_name(tensor.type), vector)
        for matrix, vector in zip(source.read(name), importance[name], strict=True)
    ]
    assert out.read_bytes()[tensor.offset : tensor.offset + tensor.nbytes] == np.concatenate(each).tobytes()
    without = tmp_path / "without.gguf"
    assert_refused(run(*export, without, "--imatrix", imatrix, "--calibration", "docs", "--force"), "--calibration")
    assert_refused(run(*export, without, "--imatrix", imatrix, "--rounding", "nearest", "--force"), "--imatrix")

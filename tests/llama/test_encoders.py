"""ggml's encoders and decoders as they are called here."""

from __future__ import annotations

import numpy as np
import pytest
from gguf import GGMLQuantizationType
from gguf.quants import dequantize as gguf_dequantize
from records import make_diagnostics

from lieq_edge.allocation.plan import PlanOptions, make_plan
from lieq_edge.errors import InputError
from lieq_edge.gguf.types import TYPES
from lieq_edge.llama.encoders import NEVER_WITHOUT_IMPORTANCE, dequantize, encode, supports
from lieq_edge.rounding.encode import check_importance


@pytest.fixture(scope="module")
def weights() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((640, 512), dtype=np.float32)


@pytest.fixture(scope="module")
def importance() -> np.ndarray:
    return np.random.default_rng(1).random(512, dtype=np.float32) + 0.01


@pytest.mark.parametrize("name", TYPES)
def test_the_loaded_ggml_knows_every_type_with_the_sizes_assumed(name: str) -> None:
    assert supports(name)


@pytest.mark.parametrize("name", ["Q4_0", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "F16", "F32"])
def test_bytes_decode_as_gguf_reads_them_and_do_not_depend_on_threads(name, weights, importance) -> None:
    packed = encode(weights, name, importance, threads=1)
    assert np.array_equal(packed, encode(weights, name, importance, threads=3))
    assert packed.nbytes == TYPES[name].nbytes(weights.shape)
    decoded = dequantize(packed, name, weights.shape)
    assert np.array_equal(decoded, gguf_dequantize(packed, GGMLQuantizationType[name]).reshape(weights.shape))
    # A uniform grid of b bits over +-4 sigma has a relative error of about 64/12 * 4^-b.
    assert np.mean((decoded - weights) ** 2) < 64 / 12 * 4.0 ** -min(TYPES[name].bits, 10)


@pytest.mark.parametrize("name", ["Q2_K", "Q3_K", "Q4_K", "IQ4_NL"])
def test_importance_lowers_the_weighted_error(name, weights, importance) -> None:
    def weighted_error(vector: np.ndarray | None) -> float:
        decoded = dequantize(encode(weights, name, vector), name, weights.shape)
        return float((importance * (decoded - weights) ** 2).mean())

    assert weighted_error(importance) < weighted_error(None)


def test_a_type_that_does_not_fit_is_refused() -> None:
    with pytest.raises(InputError, match="256"):
        encode(np.zeros((2, 288), np.float32), "Q4_K")


def test_an_importance_vector_of_the_wrong_length_is_refused(weights) -> None:
    with pytest.raises(ValueError, match="importance"):
        encode(weights, "Q4_K", np.ones(7, np.float32))


@pytest.mark.parametrize("name", sorted(NEVER_WITHOUT_IMPORTANCE))
def test_types_for_which_ggml_would_end_the_process_are_refused(name, weights, importance) -> None:
    with pytest.raises(InputError, match="importance"):
        encode(weights, name)
    assert encode(weights, name, importance).nbytes == TYPES[name].nbytes(weights.shape)


def test_plans_are_refused_before_writing_where_importance_is_lacking() -> None:
    two_bits = make_plan(make_diagnostics([0.1, 0.2]), "2")
    measured = {t.name: np.ones(t.shape[-1], np.float32) for t in two_bits.tensors if len(t.shape) == 2}
    check_importance(two_bits, measured)
    check_importance(two_bits, {}, allow_none=True)
    with pytest.raises(InputError, match=r"take --rounding imatrix, .*--calibration none"):
        check_importance(two_bits, {})
    embedding = make_plan(make_diagnostics([0.1, 0.2]), "4", PlanOptions(token_embedding_type="IQ2_XS"))
    with pytest.raises(InputError, match=r"IQ2_XS.*take --rounding imatrix or"):
        check_importance(embedding, {})
    with pytest.raises(InputError, match=r"IQ2_XS.*leave out --calibration none or"):
        check_importance(embedding, {}, allow_none=True)
    looked_up = {name: vector for name, vector in measured.items() if name != "token_embd.weight"}
    with pytest.raises(InputError, match="looked up"):
        check_importance(embedding, looked_up)

"""Weighted errors of types fall with their bits, and the file keeps to its budget."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tiny

from benchmarks.internals import candidate_types, describe, write_plain
from benchmarks.lagrange import weighted_errors, write_lagrange
from lieq_edge import inspect_file, open_source


def test_types_follow_the_weighted_errors(tmp_path: Path) -> None:
    source = open_source(str(tiny.cached_model("llama", hidden=256, intermediate=256, blocks=2)))
    diagnostics = describe(source)
    candidates = candidate_types(diagnostics.tensors, "k")
    errors = weighted_errors(source, {}, candidates)
    by_type = errors["blk.0.ffn_down.weight"]
    assert by_type["Q2_K"] > by_type["Q3_K"] > by_type["Q4_K"] > by_type["Q6_K"] > 0
    # A column without weight does not count.
    weights = np.ones(256, np.float32)
    weights[:128] = 1e-12
    name = "blk.0.ffn_down.weight"
    assert weighted_errors(source, {name: weights}, {name: ["Q3_K"]})[name]["Q3_K"] != by_type["Q3_K"]
    plain, out = tmp_path / "plain.gguf", tmp_path / "out.gguf"
    write_plain(plain, source, "F32")
    importance = {name: np.ones(256, np.float32) for name in candidates}
    errors[name] = {kind: 1e6 * error for kind, error in errors[name].items()}
    plan = write_lagrange(plain, out, diagnostics, errors, importance, "4.0bpw")
    types = inspect_file(out).blocks[0].types
    assert types == {
        t.name.split(".")[2]: t.type for t in plan.tensors if t.name.startswith("blk.0.") and len(t.shape) == 2
    }
    assert types["ffn_down"] == min(by_type, key=lambda kind: by_type[kind])

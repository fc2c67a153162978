"""A file as a model: it predicts what llama.cpp predicts from the file, in every layout."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from logits import llama_run
from runner import run
from tiny import cached_model, sample_text

from lieq_edge.blockwise import precision
from lieq_edge.sources import open_source
from lieq_edge.tuning import student as students
from lieq_edge.tuning.student import Student
from lieq_edge.tuning.teacher import Predictions
from lieq_edge.tuning.tune import tensor_reader


def written(family: str, folder: Path) -> tuple[Path, Path]:
    model = cached_model(family, hidden=256, intermediate=512, blocks=2)
    text = folder / "text.txt"
    text.write_text(sample_text(20_000), encoding="utf-8")
    arguments = ["--metric", "loss", "--types", "Q4_K,Q5_K,Q6_K", "--budget", "5.5bpw", "--calibration", text]
    arguments += ["--calibration-tokens", 1024, "--no-validate", "--no-parity", "--quiet", "--threads", 1]
    out = folder / "out.gguf"
    done = run("export", model, "--out", out, *arguments)
    assert done.returncode == 0, done.stderr
    return model, out


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "gemma3_text", "phi3", "gpt2", "smollm3"])
def test_it_predicts_what_the_file_predicts(family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "has_bfloat16", lambda: False)
    model, out = written(family, tmp_path)
    student = Student(open_source(str(model)), tensor_reader(out), threads=1)
    assert len(student.matrices) >= 8
    assert student.vectors
    tokens = np.random.default_rng(0).integers(3, 200, (1, 48))
    logits = llama_run(out, [tokens[0].tolist()]).logits[0]
    logs, ids = torch.log_softmax(torch.from_numpy(logits), -1).topk(64)
    given = Predictions(tokens, ids[None].int().numpy(), logs[None].half().numpy())
    # llama.cpp rounds the inputs of products to 8 bits.
    spread = float(logits.std())
    assert student.loss(given, train=False) < 2e-3 * max(spread, 1.0)


def test_blocks_that_are_run_twice_give_the_same_slopes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "has_bfloat16", lambda: False)
    model, out = written("qwen2", tmp_path)
    tokens = np.random.default_rng(0).integers(3, 200, (2, 32))
    rng = np.random.default_rng(1)
    ids = np.argsort(rng.random((2, 32, 256)))[..., :8].astype(np.int32)
    given = Predictions(tokens, ids, np.full(ids.shape, np.log(0.1), np.float16))
    found = []
    for limit in (10**12, 0):
        monkeypatch.setattr(students, "_GRAPH_BYTES", limit)
        student = Student(open_source(str(model)), tensor_reader(out), threads=1)
        loss = student.loss(given, train=True)
        found.append((loss, dict(student.slopes())))
    assert found[0][0] == found[1][0]
    names = {name for name, _ in student.parameters()}
    assert found[0][1].keys() == found[1][1].keys() == names
    for name, slope in found[0][1].items():
        assert torch.equal(slope, found[1][1][name])
        assert slope.any(), name

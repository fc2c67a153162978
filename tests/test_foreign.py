"""GGUF files of architectures that only llama.cpp runs, and files in several parts: the whole way."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from foreign import ARCHITECTURES, BLOCKS, CONTEXT, foreign_model
from logits import llama_logits, mean_kl
from runner import assert_refused, run

from lieq_edge.gguf.header import read_header, type_name

FAST = ("--calibration-tokens", "256", "--probe-tokens", "64", "--context", "64", "--chunks", "2", "--threads", "1")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("foreign")


@pytest.fixture(scope="module", params=ARCHITECTURES)
def model(request: pytest.FixtureRequest, folder: Path) -> Path:
    return foreign_model(folder / f"{request.param}.gguf", request.param)


def test_analyze_plan_export_and_validate(tmp_path: Path, model: Path) -> None:
    saved, out = tmp_path / "d.json", tmp_path / "out.gguf"
    done = run("analyze", model, "--metric", "geometry", "--out", saved, "--probe-tokens", "64", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["inputs"] == "llama.cpp"
    blocks = json.loads(done.stdout)["blocks"]
    assert len({block["compactness_gain"] for block in blocks}) == BLOCKS

    planned = run("plan", saved, "--budget", "3", "--json")
    assert planned.returncode == 0, planned.stderr
    done = run("export", model, "--budget", "3", "--out", out, "--diagnostics", saved, *FAST, "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert [layer["bits"] for layer in report["layers"]] == [b["bits"] for b in json.loads(planned.stdout)["blocks"]]
    assert report["calibration"]["name"].startswith("built-in text")
    assert report["geometry_inputs"] == "llama.cpp"
    assert report["validation"]["kld"] > 0

    scored = run("validate", out, "--reference", model, "--context", "64", "--chunks", "2", "--json")
    assert json.loads(scored.stdout)["kld"] == pytest.approx(report["validation"]["kld"], rel=1e-5)


def test_what_is_not_quantised_is_carried_over_byte_for_byte(tmp_path: Path, model: Path) -> None:
    out = tmp_path / "out.gguf"
    done = run("export", model, "--budget", "3", "--out", out, "--metric", "first", "--calibration", "docs", *FAST)
    assert done.returncode == 0, done.stderr
    before, after = read_header(model), read_header(out)
    assert [t.name for t in after.tensors] == [t.name for t in before.tensors]
    old, new = model.read_bytes(), out.read_bytes()
    kept = []
    for one, other in zip(before.tensors, after.tensors, strict=True):
        if len(one.shape) == 1 or "ffn_gate_inp" in one.name or one.name == "position_embd.weight":
            kept.append(one.name)
            assert other.type == one.type
            assert new[other.offset : other.offset + other.nbytes] == old[one.offset : one.offset + one.nbytes]
        else:
            assert type_name(other.type) in {"Q2_K", "Q3_K", "Q4_K", "Q6_K"}, other.name
    assert len(kept) > BLOCKS
    written = {kv.key: kv for kv in after.metadata}
    for kv in before.metadata:
        assert written[kv.key] == kv


def test_importance_brings_the_model_closer(tmp_path: Path, model: Path) -> None:
    """Inputs that differ in size make the importance count; without llama.cpp's there would be none."""
    divergence = []
    ids = np.random.default_rng(1).integers(5, 300, 64).tolist()
    for calibration in ("none", "docs"):
        out = tmp_path / f"{calibration}.gguf"
        flags = ("--metric", "last", "--calibration", calibration, "--no-validate", "--calibration-tokens", "2048")
        done = run("export", model, "--budget", "2.5", "--out", out, *flags)
        assert done.returncode == 0, done.stderr
        divergence.append(mean_kl(llama_logits(model, ids), llama_logits(out, ids)))
    assert divergence[1] < divergence[0]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--metric", "loss"), "gives no gradients"),
        (("--rounding", "feedback"), "gives no gradients"),
        (("--rounding", "feedback-once"), "gives no gradients"),
        (("--metric", "saliency"), "--metric geometry"),
        (("--metric", "composite"), "--metric geometry"),
        (("--baseline", "network"), "--baseline projection"),
    ],
)
def test_what_needs_pytorch_is_refused_before_any_work(folder: Path, flags: tuple[str, ...], message: str) -> None:
    model = foreign_model(folder / "refused.gguf", "internlm2")
    out = folder / "refused-out.gguf"
    assert_refused(run("export", model, "--budget", "3", "--out", out, *flags), message)
    assert not out.exists()


def test_windows_longer_than_the_learned_positions_are_told(tmp_path: Path, folder: Path) -> None:
    """llama.cpp would end the process."""
    model = foreign_model(folder / "starcoder.gguf", "starcoder")
    out = tmp_path / "out.gguf"
    done = run("export", model, "--budget", "3", "--out", out, "--metric", "first", "--context", CONTEXT + 1)
    assert_refused(done, f"positions for {CONTEXT} tokens only")
    assert_refused(run("validate", model, "--context", CONTEXT + 1), f"positions for {CONTEXT} tokens only")
    flags = ("--metric", "geometry", "--probe-tokens", CONTEXT + 1)
    assert_refused(run("analyze", model, *flags), f"--probe-tokens {CONTEXT}")


def test_an_export_on_the_weights_alone_says_so(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When what the projections receive cannot be seen in llama.cpp."""
    model, out = foreign_model(folder / "white.gguf", "internlm2"), tmp_path / "out.gguf"
    monkeypatch.setattr("lieq_edge.llama.layout._checked", False)
    monkeypatch.setattr("lieq_edge.llama.layout.prod", lambda _: -1)
    flags = ("--budget", "3.5", "--levels", "3,4", "--out", out, "--no-validate", "--verbose")
    assert_refused(run("export", model, *flags), "another layout", "--calibration none")
    done = run("export", model, *flags, "--calibration", "none")
    assert done.returncode == 0, done.stderr
    assert "Geometry: of the weights alone (white inputs)." in done.stdout
    assert "Note: What the projections" in done.stderr
    assert "lieq.probe.name" not in {kv.key for kv in read_header(out).metadata}

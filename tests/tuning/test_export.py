"""Tuned exports: better on held-out text or untouched, reproducible, and resumed where they were stopped."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from runner import assert_refused, run
from tiny import cached_model, sample_text

from lieq_edge import Settings, export_model
from lieq_edge.gguf.header import read_header
from lieq_edge.system.units import size_text
from lieq_edge.tuning import train, tune


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text(sample_text(60_000), encoding="utf-8")
    return path


def model() -> Path:
    return cached_model("llama", hidden=256, intermediate=512, blocks=2)


def arguments(text: Path, cache: Path) -> list[object]:
    common = ["--metric", "loss", "--types", "Q2_K,Q3_K", "--budget", "3.1bpw", "--calibration", text]
    common += ["--calibration-tokens", 2048, "--no-validate", "--no-parity"]
    return [*common, "--threads", 1, "--cache-dir", cache, "--force"]


def export(out: Path, text: Path, cache: Path, *more: object) -> dict[str, Any]:
    done = run("export", model(), "--out", out, *arguments(text, cache), "--json", *more)
    assert done.returncode == 0, done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    return report


TUNED = ("--tune-tokens", 16384, "--tune-steps")


def test_a_tuned_file_is_better_and_changes_scales_and_norms_only(text: Path, tmp_path: Path) -> None:
    plain, out = tmp_path / "plain.gguf", tmp_path / "tuned.gguf"
    export(plain, text, tmp_path / "cache")
    assert read_header(plain).get("lieq.tuning_steps") is None
    report = export(out, text, tmp_path / "cache", *TUNED, 30)["tuned"]
    assert report["held_out"][1] < 0.95 * report["held_out"][0]
    assert report["other"][1] <= report["other"][0]
    assert read_header(out).get("lieq.tuning_steps") == report["best_step"] > 0
    before, after = read_header(plain), read_header(out)
    assert [(t.name, t.type, t.shape) for t in before.tensors] == [(t.name, t.type, t.shape) for t in after.tensors]
    for one, other in zip(before.tensors, after.tensors, strict=True):
        if one.name in ("token_embd.weight", "output.weight"):
            same = [np.fromfile(p, np.uint8, t.nbytes, offset=t.offset) for p, t in ((plain, one), (out, other))]
            assert np.array_equal(*same)


def test_the_same_steps_give_the_same_bytes_also_after_a_stop(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    once, twice = tmp_path / "once.gguf", tmp_path / "twice.gguf"
    export(once, text, tmp_path / "one", *TUNED, 20)
    step, taken = train.Training.step, []

    def stopped(self: train.Training, texts: object) -> float:
        taken.append(self.steps)
        if self.steps == 15:
            raise KeyboardInterrupt
        return step(self, texts)

    monkeypatch.setattr(tune, "_SAVE_SECONDS", 0.0)
    monkeypatch.setattr(train.Training, "step", stopped)
    with pytest.raises(KeyboardInterrupt):
        run("export", model(), "--out", twice, *arguments(text, tmp_path / "two"), *TUNED, 20)
    assert read_header(twice).get("lieq.tuning_steps") == 0  # the rounded file is there, whole
    monkeypatch.setattr(train.Training, "step", lambda self, texts: (taken.append(self.steps), step(self, texts))[1])
    export(twice, text, tmp_path / "two", *TUNED, 20)
    assert taken[16] == 10  # the last judgement before the stop was stored
    assert once.read_bytes() == twice.read_bytes()


def test_the_same_steps_give_the_same_bytes_whatever_was_tuned_before(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Every judgement sends training back, and step 15 is between two of them.
    monkeypatch.setattr(tune, "_ENOUGH", 1.0)
    caches = {"fresh": [25], "after fewer": [15, 25], "after more": [45, 25], "again": [25, 25]}
    contents = []
    for name, steps in caches.items():
        for count in steps:
            report = export(tmp_path / f"{name}.gguf", text, tmp_path / name, *TUNED, count)["tuned"]
            assert report["steps"] == count
        contents.append((tmp_path / f"{name}.gguf").read_bytes())
    assert contents == [contents[0]] * len(caches)
    more = export(tmp_path / "more.gguf", text, tmp_path / "after more", *TUNED, 45)["tuned"]
    assert more["steps"] == 45


def test_a_file_that_gets_worse_elsewhere_stays(text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, out = tmp_path / "plain.gguf", tmp_path / "out.gguf"
    monkeypatch.setattr(train, "RATES", dict.fromkeys(train.RATES, 0.0))
    report = export(out, text, tmp_path / "cache", *TUNED, 10)
    assert report["tuned"]["best_step"] == 0
    export(plain, text, tmp_path / "cache")
    stored = [
        {t.name: np.fromfile(p, np.uint8, t.nbytes, offset=t.offset) for t in read_header(p).tensors}
        for p in (plain, out)
    ]
    assert all(np.array_equal(stored[0][name], stored[1][name]) for name in stored[0])


def test_training_ends_when_nothing_gets_better(text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train, "RATES", dict.fromkeys(train.RATES, 0.0))
    report = export(tmp_path / "out.gguf", text, tmp_path / "cache", *TUNED, 400)["tuned"]
    assert report["steps"] == 50  # each of five judgements halves the rate
    assert report["best_step"] == 0


def test_tuning_needs_room_for_a_second_file(text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, out = tmp_path / "plain.gguf", tmp_path / "out.gguf"
    size = export(plain, text, tmp_path / "cache")["file_bytes"]
    usage = shutil.disk_usage(tmp_path)._replace(free=size * 3 // 2)
    monkeypatch.setattr("lieq_edge.system.files.shutil.disk_usage", lambda _: usage)
    done = run("export", model(), "--out", out, *arguments(text, tmp_path / "cache"), *TUNED, 10)
    assert_refused(done, "The disk of", f"{size_text(2 * size)} are needed")
    # The rounded file takes the place of an older one, which leaves room for the tuned one.
    export(plain, text, tmp_path / "cache", *TUNED, 1)


def test_minutes_end_the_training(text: Path, tmp_path: Path) -> None:
    settings = Settings(
        budget="3.1bpw",
        types="Q2_K,Q3_K",
        calibration=text,
        calibration_tokens=2048,
        tune=0.02,
        tune_tokens=16384,
        validation=False,
        parity=False,
        threads=1,
        cache_dir=tmp_path / "cache",
    )
    report = export_model(model(), tmp_path / "out.gguf", settings)
    assert report.tuned is not None
    assert 1.2 <= report.tuned.seconds < 60


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (
            ["--calibration", "none", "--rounding", "nearest", "--metric", "geometry", "--tune", 5],
            ["no calibration text"],
        ),
        (["--tune", 0, "--tune-steps", 5], ["--tune 0"]),
        (["--tune-tokens", 8192], ["--tune-tokens is for tuning only"]),
        (["--tune", 1, "--tune-tokens", 5000], ["5000 tokens are fewer than 16 windows of 512", "--tune-tokens 8192"]),
    ],
)
def test_what_cannot_be_tuned_is_refused(flags: list[object], words: list[str], tmp_path: Path) -> None:
    done = run("export", model(), "--out", tmp_path / "out.gguf", "--budget", "3", "--no-validate", *flags)
    assert_refused(done, *words)
    assert not (tmp_path / "out.gguf").exists()


def test_a_short_text_is_noticed_before_the_work(tmp_path: Path) -> None:
    short, out = tmp_path / "short.txt", tmp_path / "out.gguf"
    short.write_text(sample_text(12_000), encoding="utf-8")
    common = ["export", model(), "--out", out, "--budget", "3.1bpw", "--calibration", short, "--no-parity"]
    common += ["--no-validate", "--rounding", "imatrix", "--metric", "geometry", "--cache-dir", tmp_path / "cache"]
    assert_refused(run(*common, "--tune", 1), "short.txt has", "16 are needed", "longer text")
    assert not out.exists()
    done = run(*common, "--effort", "best")
    assert done.returncode == 0, done.stderr
    assert "goes without tuning, because short.txt has" in " ".join(done.stderr.split())


def test_mixtures_are_refused(tmp_path: Path) -> None:
    done = run("export", cached_model("qwen3_moe"), "--out", tmp_path / "o.gguf", "--budget", "4.5bpw", "--tune", 1)
    assert_refused(done, "mixtures of experts")

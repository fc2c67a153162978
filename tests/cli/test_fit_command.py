"""``fit`` as a table and as JSON, and ``bench --types``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from runner import assert_refused, run
from tiny import cached_model

from lieq_edge.device import measure
from lieq_edge.device.profile import load_profile
from lieq_edge.device.synthetic import Shape


@pytest.fixture(scope="module")
def model() -> Path:
    return cached_model("llama", hidden=256, intermediate=512, blocks=2)


def test_the_table_has_sizes_flags_and_where_the_numbers_are_from(model: Path) -> None:
    done = run("fit", model, "--device", "pi5-4gb", "--context", "1024", "--kv", "q8_0")
    assert done.returncode == 0, done.stderr
    for words in ("on pi5-4gb, context of 1024 tokens", "Q4_K_M", "are estimates", "(q8_0)"):
        assert words in " ".join(done.stdout.split())
    text = " ".join(done.stdout.split())
    assert "Largest that fits: Q8_0. On the device: llama-server -m FILE --ctx-size 1024" in text
    assert "--cache-type-k q8_0 --cache-type-v q8_0" in text


def test_json_has_everything(model: Path) -> None:
    done = run("fit", model, "--device", "pi4-2gb", "--min-tps", "1", "--json", "--quiet")
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout)
    assert found["device"]["name"] == "pi4-2gb"
    assert (found["best"], found["min_tps"], found["context"]["tokens"]) == ("Q8_0", 1, 4096)
    assert {"name", "file_bytes", "bpw", "weights", "loading", "memory", "missing", "pace", "fast_enough"} == set(
        found["sizes"][0]
    )
    assert found["flags"][0] == "--ctx-size 4096"


def test_bad_input_is_one_sentence(model: Path, tmp_path: Path) -> None:
    assert_refused(run("fit", model, "--device", "pi6"), "Known are")
    assert_refused(run("fit", model), "--device with one of m2-max")
    assert_refused(run("fit", model, "--device", "pi5-4gb", "--memory", "lots"), "--memory 'lots'")
    assert_refused(run("fit", tmp_path / "none", "--device", "pi5-4gb"), "does not exist")
    assert_refused(run("fit", model, "--device", "pi5-4gb", "--kv", "q3_k"), "q3_k")
    impossible = run("fit", model, "--device", "pi5-4gb", "--memory", "610MB", "--context", "32768")
    assert_refused(impossible, "does not fit pi5-4gb with a context of 32768 tokens", "would.")


def test_the_speed_of_types_is_measured_and_taken(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "_WIDE", Shape(hidden=256, inner=256, heads=4, blocks=2))
    monkeypatch.setattr(measure, "TYPE_NAMES", ("Q4_K", "Q8_0"))
    out = tmp_path / "profile.json"
    done = run("bench", "--types", "--out", out, "--repeats", "1", "--threads", "1", "--name", "mine")
    assert done.returncode == 0, done.stderr
    assert "nanoseconds a weight" in " ".join(done.stdout.split())
    assert set(load_profile(out).types) == {"Q4_K", "Q8_0"}
    fitted = run("fit", model, "--device", out, "--json", "--quiet")
    assert json.loads(fitted.stdout)["device"]["name"] == "mine"
    assert_refused(run("bench", "--types", "--out", out), "--force")


def test_a_file_or_types_are_measured(tmp_path: Path) -> None:
    assert_refused(run("bench"), "The file is missing")
    assert_refused(run("bench", tmp_path / "a.gguf", "--types"), "leave the file or --types out")
    assert_refused(run("bench", tmp_path / "a.gguf", "--name", "x"), "--types only")

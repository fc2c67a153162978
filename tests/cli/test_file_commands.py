"""``validate`` on one file and on several."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path

import pytest
import tiny
from runner import assert_refused, run

from lieq_edge.validate.perplexity import Validation

SHORT = ("--context", "64", "--chunks", "4", "--threads", "1")


@pytest.fixture
def files(preset_files: list[Path]) -> list[Path]:
    return preset_files


def test_several_files_are_compared_in_one_table(files: list[Path]) -> None:
    model = tiny.cached_model("llama")
    done = run("validate", *files, "--reference", model, *SHORT)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert "124 tokens of" in lines[0]  # half of each window is scored
    assert "perplexity of the original" in lines[0]
    for column in ("file", "MB", "PPL", "KL divergence", "median", "99.9 %", "same top token"):
        assert column in done.stdout
    assert "tokens/s" not in done.stdout
    rows = [line.split("│")[1].strip() for line in lines if "gguf" in line]
    assert rows == ["q8.gguf", "q4.gguf"]


def test_one_file_has_the_document_of_one_and_several_have_a_list(files: list[Path]) -> None:
    one = json.loads(run("validate", files[0], "--reference", files[1], *SHORT, "--json").stdout)
    assert list(one) == [field.name for field in fields(Validation)]
    timed = json.loads(run("validate", files[0], "--reference", files[1], *SHORT, "--speed", "--json").stdout)
    assert timed["prefill"] > 0 < timed["decode"]
    assert {key: value for key, value in timed.items() if key not in ("prefill", "decode")} == one
    several = json.loads(run("validate", *files, "--reference", files[1], *SHORT, "--json").stdout)
    assert [row["name"] for row in several] == ["q8.gguf", "q4.gguf"]
    assert several[0] == {
        "name": "q8.gguf",
        "file_bytes": files[0].stat().st_size,
        "validation": one,
        "prefill": None,
        "decode": None,
    }
    assert several[1]["validation"]["kld"] == 0


def test_the_text_says_that_llama_cpp_runs_the_file_as_it_does_by_default(files: list[Path]) -> None:
    done = run("validate", files[0], *SHORT)
    assert "run with llama.cpp's defaults; flash attention is on by them" in " ".join(done.stdout.split())


def test_speed_is_measured_when_asked_for(files: list[Path]) -> None:
    table = run("validate", *files, *SHORT, "--speed").stdout
    assert "prompt, tokens/s" in table
    assert "KL divergence" not in table
    assert "tokens a second:" in run("validate", files[0], *SHORT, "--speed").stdout


def test_the_gate_holds_for_every_file(files: list[Path]) -> None:
    flags = ("--reference", tiny.cached_model("llama"), *SHORT)
    scores = json.loads(run("validate", *files, *flags, "--json").stdout)
    ratios = [row["validation"]["ppl"] / row["validation"]["reference_ppl"] for row in scores]
    limits = {max(ratios) + 0.01: (0, []), sum(ratios) / 2: (1, [max(ratios)]), min(ratios) - 0.01: (1, ratios)}
    for limit, (code, beyond) in limits.items():
        done = run("validate", *files, *flags, "--max-ppl-ratio", limit)
        assert done.returncode == code, done.stderr
        assert done.stderr.count("times the unquantised model's") == len(beyond)
        for row, ratio in zip(scores, ratios, strict=True):
            assert (f"of {row['name']} is {ratio:.3f} times" in done.stderr) == (ratio in beyond)
        assert "q4.gguf" in done.stdout


def test_rendered_conversations_are_scored_with_their_special_tokens(files: list[Path], tmp_path: Path) -> None:
    chats = "".join(f"<|start_header_id|>user\n{tiny.sample_text(300, seed)}<|eot_id|>" for seed in range(9))
    text = tmp_path / "chats.txt"
    text.write_text(chats, encoding="utf-8")
    flags = ("--reference", tiny.cached_model("llama"), "--text", text, "--context", "64", "--threads", "1", "--json")
    plain, parsed = (json.loads(run("validate", files[0], *flags, *more).stdout) for more in ((), ("--parse-special",)))
    assert parsed["chunks"] < plain["chunks"]
    assert 0 < parsed["kld"] < 0.1


def test_a_missing_file_among_several_is_named(files: list[Path], tmp_path: Path) -> None:
    missing = tmp_path / "none.gguf"
    assert_refused(run("validate", files[0], missing, *SHORT), str(missing), "does not exist")
    assert_refused(run("validate", files[0], missing, "--reference", files[1], *SHORT), str(missing), "does not exist")
    assert run("validate", *SHORT).returncode == 2


@pytest.mark.parametrize("end", [-1000, 4, 300])
def test_a_file_that_is_cut_off_is_refused_before_others_are_scored(
    files: list[Path], tmp_path: Path, end: int
) -> None:
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(files[1].read_bytes()[:end])
    done = run("validate", files[0], cut, *SHORT)
    assert_refused(done, str(cut), "is truncated")
    assert "Scoring" not in done.stderr

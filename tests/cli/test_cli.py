"""What the command line promises beside its results: exit codes, one sentence, one JSON document."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from records import make_diagnostics
from runner import assert_refused, run, run_installed, started
from tiny import make_model

import lieq_edge
from lieq_edge.__main__ import main as program
from lieq_edge.evidence.blocks.records import TextInfo
from lieq_edge.sources.plain import write_plain
from lieq_edge.system import jsonio


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("model"), "qwen2", tied=False)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "d.json"
    found = replace(make_diagnostics([0.1, 0.9, 0.5, 0.3]), probe=TextInfo("probe.txt", "0" * 64, 512))
    jsonio.save_json(found, path)
    return path


def test_every_name_of_the_package_can_be_imported() -> None:
    for name in lieq_edge.__all__:
        assert getattr(lieq_edge, name) is not None
    with pytest.raises(AttributeError, match="nothing"):
        _ = lieq_edge.nothing


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("export", "--budget", "3", "--out", "x.gguf"), "model"),
        (("export", "m", "--budget", "3", "--budget", "4", "--out", "x.gguf"), "{budget}"),
        (("export", "m", "--budget", "3", "--out", "{bits}.gguf"), "{bits}"),
        (("export", "m", "--budget", "3", "--out", "x{.gguf"), "--out"),
        (("export", "m", "--budget", "100", "--out", "x.gguf"), "100MB"),
        (("export", "m", "--budget", "3", "--effort", "much", "--out", "x.gguf"), "'quick', 'normal', 'best'"),
        (("export", "m", "--budget", "3", "--out", "x.gguf", "--threads", "0"), "--threads"),
        (("export", "m", "--budget", "3", "--out", "x.gguf", "--seed", "4294967296"), "--seed"),
        (("export", "m", "--budget", "3", "--out", "x.gguf", "--bogus"), "--bogus"),
        (("export", "m", "--budget", "3", "--out", "x.gguf", "--recipe", "none.yaml"), "none.yaml"),
        (("export", "m", "--budget", "3", "--out", "x.gguf", "--max-ppl-ratio", "nan"), "--max-ppl-ratio"),
        (("export", "m", "--budget", "3", "--out", "x.gguf", "--max-ppl-ratio", "2", "--no-validate"), "--no-validate"),
        (("export", "m", "--budget", "3", "--max-ppl-ratio", "2", "--no-reference"), "or --no-reference"),
        (("analyze", "m", "--metric", "random"), "--metric"),
        (("analyze", "m", "--out", "same", "--plot", "same"), "--plot"),
        (("analyze", "m", "--plot", "p.svg"), "--plot writes a PNG, and p.svg ends in .svg"),
        (("export", "m", "--budget", "3", "--plot", "p.jpg"), "a name that ends in .png"),
        (("plan", "none.json", "--budget", "3"), "none.json"),
        (("validate", "."), "folder"),
        (("validate", "x.gguf", "--max-ppl-ratio", "2"), "--reference"),
        (("inspect", "."), "directory"),
        (("export", "m", "--budget", "3", "--compare", "Q4_KM"), "no preset Q4_KM; choose one of"),
        (("export", "m", "--compare", "nearst", "--budget", "3"), "no preset nearst; choose one of"),
        (("export", "m", "--compare", "nearst", "--budget", "3", "--dry-run"), "no preset nearst; choose one of"),
        (("export", "--budget", "3", "--compare", "Q4_K_M,Q5_K_M", "m"), "no preset Q4_K_M,Q5_K_M; choose one of"),
        (("export", "m", "--budget", "3", "--effort", "much"), "'--effort': 'much' is not"),
        (("exprt",), "No such command 'exprt'. Did you mean 'export'? See lieq-edge --help."),
        (("nonsense",), "'nonsense'; see lieq-edge --help."),
    ],
)
def test_wrong_use_is_one_sentence_and_one_json_document(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    done = run(*arguments, "--json")
    assert_refused(done, words)
    assert len(done.stderr.splitlines()) == 1
    if arguments[0] not in ("exprt", "nonsense"):
        assert json.loads(done.stdout)["error"] in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_word_after_compare_can_be_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for model in ("q3-of-mine", "other"):
        (tmp_path / model).mkdir()
        done = run("export", "--budget", "3", "--no-reference", "--compare", model)
        assert_refused(done, "leave out --compare or --no-reference")
    assert_refused(run("export", "--budget", "3", "--no-reference", "--compare", "org/Q4"), "leave out --compare")


def test_a_home_folder_in_the_name_of_an_output_is_found(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert run("plan", saved, "--budget", "2.5", "--out=~/plan.json").returncode == 0
    assert (tmp_path / "plan.json").is_file()
    model = make_model(tmp_path / "model", "llama", hidden=256, intermediate=256)
    flags = ("--metric", "first", "--calibration", "none", "--no-validate", "--no-parity")
    done = run("export", model, "--budget", "4", "--out=~/o.gguf", "--report=~/r.html", "--dry-run", *flags)
    assert done.returncode == 0, done.stderr


def test_saved_measurements_are_planned_as_the_model_would_be(saved: Path) -> None:
    assert_refused(run("plan", saved, "--budget", "2.5", "--budget", "2.50"), "is given twice")
    done = run("plan", saved, "--budget", "9")
    assert_refused(done, "9")
    assert "more than this model can use" not in done.stderr


def test_nothing_to_make_is_refused() -> None:
    with pytest.raises(lieq_edge.InputError, match="no file to make"):
        lieq_edge.export_models("m", [])
    with pytest.raises(lieq_edge.InputError, match="nothing to plan"):
        lieq_edge.plan_models("m", [])


def test_debug_adds_a_traceback_to_what_is_reported(tmp_path: Path) -> None:
    wrong = ("plan", tmp_path / "none.json", "--budget", "3", "--json")
    plain, debug = run(*wrong), run(*wrong, "--debug")
    assert (debug.returncode, debug.stdout) == (2, plain.stdout)
    assert "none.json" in json.loads(debug.stdout)["error"]
    assert debug.stderr.count("Traceback") >= 1
    assert debug.stderr.endswith(plain.stderr)


def test_a_mistake_of_our_own_has_one_traceback_with_debug(monkeypatch: pytest.MonkeyPatch, saved: Path) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("lieq_edge.allocation.by_levels.make_plan", fail)
    done = run("plan", saved, "--budget", "2.5", "--debug")
    assert done.returncode == 70
    assert done.stderr.count("Traceback") == 1


def test_no_arguments_show_the_help() -> None:
    done = run()
    assert done.returncode == 0
    assert "export" in done.stdout


def test_a_budget_out_of_range_is_told_before_the_model_is_run(tmp_path: Path, model: Path) -> None:
    for arguments in (("--budget", "9"), ("--budget", "1kB"), ("--budget", "4", "--strict-types")):
        done = run("export", model, "--out", tmp_path / "o.gguf", *arguments)
        assert_refused(done)
        assert "Measuring" not in done.stderr


@pytest.mark.parametrize("rounding", ["feedback", "feedback-once"])
def test_feedback_without_calibration_is_refused(tmp_path: Path, model: Path, rounding: str) -> None:
    flags = ("--calibration", "none", "--rounding", rounding, "--metric", "first")
    done = run("export", model, "--budget", "4", "--out", tmp_path / "o.gguf", *flags)
    assert_refused(done, f"--rounding {rounding} follows a calibration text")
    assert list(tmp_path.iterdir()) == []


def test_the_model_itself_is_not_written_over(tmp_path: Path, model: Path) -> None:
    path = tmp_path / "m.gguf"
    done = run("export", model, "--budget", "4", "--out", path, "--calibration", "none", "--no-validate")
    assert done.returncode == 0, done.stderr
    before = path.read_bytes()
    assert_refused(run("export", path, "--budget", "4", "--out", path, "--force"), "model itself")
    assert path.read_bytes() == before
    weights = model / "model.safetensors"
    assert_refused(run("export", model, "--budget", "4", "--out", weights, "--force"), "model itself")
    assert weights.stat().st_size > 100_000


def test_saved_measurements_must_be_what_is_asked_for(tmp_path: Path, model: Path, saved: Path) -> None:
    budget = ("--budget", "2.5")
    assert_refused(run("plan", saved, *budget, "--projections", "all"), "--projections")
    assert_refused(run("plan", saved, *budget, "--baseline", "network"), "--baseline")
    assert_refused(run("plan", saved, *budget, "--probe-tokens", "64"), "--probe-tokens")
    assert_refused(run("plan", saved, *budget, "--probe-text", "other.txt"), "--probe-text")
    same = ("--projections", "qkv", "--baseline", "projection", "--probe-tokens", "512", "--probe-text", "a/probe.txt")
    assert run("plan", saved, *budget, *same).returncode == 0
    assert_refused(run("plan", saved, *budget, "--metric", "loss"), "needs the model itself")
    out = ("--out", tmp_path / "o.gguf", "--dry-run")
    assert_refused(run("export", model, *budget, *out, "--diagnostics", saved), "another model")


def test_a_text_that_tokenizers_cut_differently_names_the_reference(tmp_path: Path, model: Path) -> None:
    out = tmp_path / "o.gguf"
    done = run("export", model, "--budget", "4", "--out", out, "--calibration", "none", "--no-validate")
    assert done.returncode == 0, done.stderr
    other = make_model(tmp_path / "other", "llama")
    done = run("validate", out, "--reference", other, "--context", "64", "--chunks", "1")
    assert_refused(done, str(other), "different tokens")


def test_a_mistake_of_our_own_is_told_apart_from_a_missed_gate(monkeypatch: pytest.MonkeyPatch, saved: Path) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("lieq_edge.allocation.by_levels.make_plan", fail)
    done = run("plan", saved, "--budget", "2.5", "--json")
    assert done.returncode == 70
    assert "ZeroDivisionError" in json.loads(done.stdout)["error"]
    assert "Traceback" in done.stderr


def test_a_full_memory_is_no_mistake_of_our_own(monkeypatch: pytest.MonkeyPatch, saved: Path) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:117] . DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr("lieq_edge.allocation.by_levels.make_plan", fail)
    assert_refused(run("plan", saved, "--budget", "2.5"), "memory is full", "smaller model")


def test_damaged_weights_are_named_without_a_measurement_too(tmp_path: Path) -> None:
    bad = np.zeros((128, 64), np.float32)
    bad[3, 5] = np.inf
    model = make_model(tmp_path / "model", "llama", tensors={"model.layers.1.mlp.up_proj.weight": bad})
    flags = ("--metric", "first", "--calibration", "none")
    done = run("export", model, "--budget", "4", "--out", tmp_path / "o.gguf", *flags)
    assert_refused(done, "up_proj", "infinite")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.skipif(sys.platform == "win32", reason="needs a shell of Unix")
@pytest.mark.parametrize(
    ("closed", "arguments", "code"),
    [
        (">&-", ("--version",), 0),
        (">&-", ("cache", "size"), 0),
        ("<&- >&- 2>&-", ("--version",), 0),
        (">&-", ("inspect", "none.gguf"), 2),
        (">&- 2>&-", ("inspect", "none.gguf", "--json"), 2),
    ],
)
def test_closed_streams_change_no_exit_code(closed: str, arguments: tuple[str, ...], code: int) -> None:
    words = shlex.join([sys.executable, "-m", "lieq_edge", *arguments])
    done = subprocess.run(["sh", "-c", f"{words} {closed}"], capture_output=True, text=True)
    assert done.returncode == code
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert (done.stderr != "") == (code == 2 and "2>&-" not in closed)


@pytest.mark.skipif(sys.platform == "win32", reason="a folder in use is not removed there")
def test_a_current_folder_that_has_been_removed_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model(tmp_path / "model", "llama")
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    flags = ("--metric", "first", "--calibration", "none", "--no-validate", "--no-parity")
    assert_refused(run("export", model, "-b", "4", "-o", "o.gguf", *flags), "The current folder has been removed")


@pytest.mark.skipif(sys.platform == "win32", reason="needs pipes and devices of Unix")
def test_a_closed_pipe_and_a_full_disk_end_quietly(saved: Path) -> None:
    command = [str(Path(sys.executable).parent / "lieq-edge"), "plan", str(saved), "--budget", "2.5", "--json"]
    with started(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == ""
        assert process.wait() == 141
    if os.path.exists("/dev/full"):
        with open("/dev/full", "w") as full:
            done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
        assert_refused(done, "No space left")


def test_an_interrupt_before_the_command_line_is_there_ends_quietly(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    class EndedError(Exception):
        """The process ended."""

    def end(code: int) -> None:
        raise EndedError(code)

    monkeypatch.setattr("lieq_edge.cli.main", interrupt)
    monkeypatch.setattr("lieq_edge.__main__.interrupt.watch", lambda leave: None)
    monkeypatch.setattr("os._exit", end)
    monkeypatch.setattr("lieq_edge.__main__._leaving", threading.Lock())
    with pytest.raises(EndedError) as ended:
        program()
    assert ended.value.args == (130,)


def test_the_installed_program_tells_its_version() -> None:
    assert run_installed("--version").stdout == f"lieq-edge {lieq_edge.__version__}\n"


def test_flags_of_another_metric_are_refused(tmp_path: Path) -> None:
    out = ("--out", tmp_path / "o.gguf", "--budget", "3")
    assert_refused(run("export", "none", *out, "--metric", "loss", "--levels", "2,4"), "--levels")
    paper = ("--metric", "geometry")
    assert_refused(run("export", "none", *out, *paper, "--types", "all"), "--types")
    assert_refused(run("export", "none", *out, *paper, "--granularity", "tensor"), "--granularity")


def test_a_plan_takes_what_an_export_takes(tmp_path: Path, model: Path) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text("description: by type\nbudget: 5\nmetric: loss\ntypes: Q4_0,Q8_0\n")
    calibration = ("--calibration", "docs", "--calibration-tokens", "1024")
    flags = ("--recipe", recipe, "--granularity", "block", *calibration, "--json")
    planned = run("plan", model, *flags)
    assert planned.returncode == 0, planned.stderr
    types = {tensor["type"] for tensor in json.loads(planned.stdout)["tensors"] if tensor["name"].startswith("blk.")}
    assert types <= {"Q4_0", "Q8_0", "F32"}
    assert len(types) > 1
    dry = run("export", model, *flags, "--dry-run")
    assert dry.stdout == planned.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["r.yaml"]
    assert_refused(run("plan", model), "--budget")


def test_several_budgets_are_planned_together(tmp_path: Path, model: Path, saved: Path) -> None:
    budgets = ("-b", "2.5", "-b", "3")
    plans = json.loads(run("plan", saved, *budgets, "--json").stdout)
    assert [plan["budget"] for plan in plans] == ["2.5", "3"]
    assert plans[0] == json.loads(run("plan", saved, "-b", "2.5", "--json").stdout)
    assert run("plan", saved, *budgets).stdout.count("nominal bits, ") == 2
    out = tmp_path / "plan.json"
    assert_refused(run("plan", saved, *budgets, "--out", out), "--out holds one plan", "one --budget")
    assert not out.exists()
    for command in (("plan",), ("export", "--dry-run")):
        done = run(*command, model, *budgets, "--probe-tokens", 64, "--no-cache", "--json")
        assert [plan["budget"] for plan in json.loads(done.stdout)] == ["2.5", "3"]
        assert done.stderr.count("Measuring geometry: done") == 1
    for command in (("plan",), ("export", "--dry-run")):
        assert_refused(run(*command, model, "-b", "3", "-b", "3.0"), "is given twice")


def test_saved_measurements_are_known_by_their_content(tmp_path: Path, saved: Path) -> None:
    nameless = saved.rename(tmp_path / "measurements")
    nameless.write_text("\n " + nameless.read_text())
    assert run("plan", nameless, "--budget", "2.5").returncode == 0
    nameless.write_text("{}")
    assert_refused(run("plan", nameless, "--budget", "2.5"), f"{nameless} holds no saved measurements: ")


def test_inspect_can_be_quiet(tmp_path: Path, model: Path) -> None:
    path = tmp_path / "m.gguf"
    write_plain(path, lieq_edge.open_source(str(model)))
    done = run("inspect", path, "--quiet")
    assert (done.returncode, done.stderr) == (0, "")

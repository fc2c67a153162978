"""Whatever ends an export, the same command goes on to the same bytes; other commands reuse what was measured."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from killed import start
from runner import assert_refused, run
from safetensors.numpy import load_file, save_file
from tiny import make_model

from lieq_edge.store import contents as store_module

FAST = ("--calibration-tokens", "1024", "--probe-tokens", "64", "--context", "64", "--chunks", "2", "--threads", "1")
LOSS = (*FAST, "--calibration", "docs", "--metric", "loss", "--budget", "700kB", "--types", "Q2_K,Q4_K")
BY_LOSS = (*LOSS, "--rounding", "feedback")
ONCE = (*LOSS, "--rounding", "feedback-once")
BY_GEOMETRY = (*FAST, "--calibration", "self", "--rounding", "imatrix", "--budget", "2.5")

needs_kill = pytest.mark.skipif(sys.platform == "win32", reason="sends SIGKILL")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("model"), "llama", hidden=256, intermediate=256, blocks=2)


def _export(model: Path, out: Path, flags: tuple[Any, ...], *more: object) -> Any:
    done = run("export", model, "--out", out, *flags, *more)
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def undisturbed(model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, ...], bytes]:
    """What each command writes without a cache."""
    out = tmp_path_factory.mktemp("undisturbed") / "o.gguf"
    found = {}
    for flags in (BY_LOSS, ONCE, BY_GEOMETRY):
        _export(model, out, flags, "--no-cache", "--no-validate", "--force")
        found[flags] = out.read_bytes()
    return found


@needs_kill
@pytest.mark.parametrize("flags", [BY_LOSS, ONCE, BY_GEOMETRY], ids=["loss", "once", "geometry"])
def test_kill_9_at_any_moment_and_the_same_command_goes_on(
    tmp_path: Path, model: Path, undisturbed: dict[tuple[str, ...], bytes], flags: tuple[str, ...]
) -> None:
    out, cache = tmp_path / "out" / "o.gguf", tmp_path / "cache"
    out.parent.mkdir()
    command = ["export", str(model), "--out", str(out), "--cache-dir", str(cache), *flags]
    codes = []
    while not codes or codes[-1] not in (0, 2):
        # The first is interrupted as by Ctrl-C, the others are killed.
        by = signal.SIGKILL if codes else signal.SIGINT
        # A process may find files that it would not have written, and miss those that it would have.
        process = start(command, tmp_path, renames=4, by=by, in_memory=len(codes) % 3 == 2)
        process.join(300)
        codes.append(process.exitcode)
        assert len(codes) < 30
    output = (tmp_path / "output.txt").read_text()
    assert codes[0] == 130, output
    assert set(codes[1:-1]) == {-9}, output
    assert codes[-1] == 0, output
    assert "Traceback" not in output
    assert len(codes) >= 5
    assert (tmp_path / "writing").exists()
    assert (tmp_path / "validating").exists()
    assert out.read_bytes() == undisturbed[flags]
    assert [path.name for path in out.parent.iterdir()] == ["o.gguf"]
    assert [path.name for path in (cache / "runs").iterdir() if not path.name.startswith("hessians.")] == []


@needs_kill
@pytest.mark.parametrize("flags", [BY_LOSS, ONCE], ids=["loss", "once"])
def test_two_at_once_write_the_same(
    tmp_path: Path, model: Path, undisturbed: dict[tuple[str, ...], bytes], flags: tuple[str, ...]
) -> None:
    outs = [tmp_path / "a.gguf", tmp_path / "b.gguf"]
    shared = ["--cache-dir", str(tmp_path / "cache"), "--no-validate", *flags]
    processes = [start(["export", str(model), "--out", str(out), *shared], tmp_path) for out in outs]
    for process in processes:
        process.join(300)
    assert [process.exitcode for process in processes] == [0, 0], (tmp_path / "output.txt").read_text()
    assert [out.read_bytes() for out in outs] == [undisturbed[flags]] * 2


def test_another_budget_measures_nothing_again(
    tmp_path: Path, model: Path, undisturbed: dict[tuple[str, ...], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    import lieq_edge.evidence.loss.passes
    import lieq_edge.evidence.loss.weights

    out = tmp_path / "o.gguf"
    _export(model, out, BY_LOSS)
    assert out.read_bytes() == undisturbed[BY_LOSS]
    smaller = tuple("650kB" if flag == "700kB" else flag for flag in BY_LOSS)
    scores = json.loads(_export(model, out, smaller, "--no-cache", "--force", "--json").stdout)["validation"]
    expected = out.read_bytes()

    def refuse(*_: object, **__: object) -> Any:
        raise AssertionError("measured again")

    monkeypatch.setattr(lieq_edge.evidence.loss.weights, "measure_loss_weights", refuse)
    monkeypatch.setattr(lieq_edge.evidence.loss.passes, "predict_outer", refuse)
    monkeypatch.setattr("lieq_edge.validate.parity.check_parity", refuse)
    monkeypatch.setattr("lieq_edge.validate.reference.StreamedReference._through_blocks", refuse)
    assert json.loads(_export(model, out, smaller, "--force", "--json").stdout)["validation"] == scores
    assert out.read_bytes() == expected != undisturbed[BY_LOSS]


@pytest.mark.parametrize(
    ("flags", "budgets", "package"),
    [(BY_GEOMETRY, ("2.5", "3"), "torch"), (ONCE, ("700kB", "650kB"), "transformers")],
    ids=["geometry", "once"],
)
def test_another_budget_runs_no_model(
    tmp_path: Path, model: Path, flags: tuple[str, ...], budgets: tuple[str, str], package: str
) -> None:
    out = tmp_path / "o.gguf"
    at = flags.index("--budget")
    common = ["export", str(model), *flags[:at], *flags[at + 2 :], "--out", str(out), "--force", "--no-validate"]
    program = (
        "import sys; from lieq_edge.cli import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code\n"
        f"print({package!r} in sys.modules)"
    )
    imported = []
    for budget in budgets:
        command = [sys.executable, "-c", program, *common, "--budget", budget, "--cache-dir", str(tmp_path / "cache")]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        imported.append(done.stdout.split()[-1])
    assert imported == ["True", "False"]
    from_cache = out.read_bytes()
    _export(
        model, out, (*flags[:at], *flags[at + 2 :]), "--budget", budgets[1], "--force", "--no-validate", "--no-cache"
    )
    assert out.read_bytes() == from_cache


@pytest.mark.parametrize("trouble", ["damaged", "gone"])
def test_hessians_that_are_lost_are_measured_again(
    tmp_path: Path, model: Path, undisturbed: dict[tuple[str, ...], bytes], own_cache: Path, trouble: str
) -> None:
    out = tmp_path / "o.gguf"
    _export(model, out, ONCE, "--no-validate")
    lost = sorted(own_cache.glob("runs/hessians.*/block.*"))[1]
    if trouble == "damaged":
        lost.write_bytes(lost.read_bytes()[:-10])
    else:
        lost.unlink()
    done = _export(model, out, ONCE, "--no-validate", "--force")
    assert ("is damaged" in done.stderr) == (trouble == "damaged")
    assert out.read_bytes() == undisturbed[ONCE]
    assert len(list(own_cache.glob("runs/hessians.*/block.*"))) == 2


def test_hessians_that_are_lost_while_work_was_interrupted_are_measured_again(
    tmp_path: Path, model: Path, undisturbed: dict[tuple[str, ...], bytes], own_cache: Path
) -> None:
    out = tmp_path / "o.gguf"
    _stop_at("lieq_edge.evidence.loss.passes.outer_hessians", model, out, ONCE)
    for lost in own_cache.glob("runs/hessians.*/block.*"):
        lost.unlink()
    _export(model, out, ONCE, "--no-validate")
    assert out.read_bytes() == undisturbed[ONCE]


def test_moments_beyond_half_of_the_limit_are_measured_for_each_budget(
    tmp_path: Path, model: Path, undisturbed: dict[tuple[str, ...], bytes], own_cache: Path
) -> None:
    out = tmp_path / "o.gguf"
    done = _export(model, out, ONCE, "--no-validate", "--cache-limit", "2MB")
    assert done.stderr.count("cannot be used in full") == 1
    assert out.read_bytes() == undisturbed[ONCE]
    assert not list(own_cache.glob("runs/hessians.*/block.*"))
    assert list(own_cache.glob("entries/loss-weights.*"))


def test_a_changed_model_is_measured_anew(tmp_path: Path) -> None:
    model = make_model(tmp_path / "model", "llama", hidden=256, intermediate=256, blocks=2)
    outs = [tmp_path / f"{name}.gguf" for name in "abc"]
    _export(model, outs[0], BY_GEOMETRY, "--no-validate")
    [weights] = model.glob("*.safetensors")
    times, tensors = weights.stat(), load_file(weights)
    name = "model.layers.1.mlp.up_proj.weight"
    tensors[name] = np.roll(tensors[name], 1, 0)
    save_file(tensors, weights, {"format": "pt"})
    os.utime(weights, ns=(times.st_atime_ns, times.st_mtime_ns))
    _export(model, outs[1], BY_GEOMETRY, "--no-validate")
    _export(model, outs[2], BY_GEOMETRY, "--no-validate", "--no-cache")
    first, second, expected = (out.read_bytes() for out in outs)
    assert second == expected != first


class _Stopped(BaseException):
    """Ends the work as a kill would, but for what finalisers do."""


def _stop_at(function: str, model: Path, out: Path, flags: tuple[Any, ...]) -> None:
    """An export that ends where it calls ``function``."""

    def stop(*_: object, **__: object) -> Any:
        raise _Stopped

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(function, stop)
        with pytest.raises(_Stopped):
            run("export", model, "--out", out, *flags, "--no-validate")


def test_damaged_states_cost_time_only(
    tmp_path: Path, model: Path, undisturbed: dict[tuple[str, ...], bytes], own_cache: Path
) -> None:
    out = tmp_path / "o.gguf"
    _stop_at("lieq_edge.pipeline.write_stage._remember", model, out, BY_LOSS)
    [rounded] = own_cache.glob("runs/rounding.*/step.1.safetensors")
    rounded.write_bytes(rounded.read_bytes()[:-10])
    [losses] = own_cache.glob("entries/loss-weights.*")
    changed = bytearray(losses.read_bytes())
    changed[len(changed) // 2] ^= 1
    losses.write_bytes(changed)
    done = _export(model, out, BY_LOSS, "--no-validate")
    assert done.stderr.count("is damaged") == 2
    assert out.read_bytes() == undisturbed[BY_LOSS]


@pytest.mark.parametrize("trouble", ["full", "a file"])
def test_a_cache_that_cannot_be_written_is_told_once(
    tmp_path: Path,
    model: Path,
    undisturbed: dict[tuple[str, ...], bytes],
    monkeypatch: pytest.MonkeyPatch,
    trouble: str,
) -> None:
    out, cache = tmp_path / "o.gguf", tmp_path / "cache"
    if trouble == "a file":
        cache.write_text("no folder")
    own, left = store_module.write_entry, [3]

    def write(path: Path, *rest: Any) -> int:
        left[0] -= 1
        if left[0] < 0 and cache in path.parents:
            path.write_bytes(b"half of it")
            raise OSError(errno.ENOSPC, "No space left on device")
        return own(path, *rest)

    monkeypatch.setattr(store_module, "write_entry", write)
    flags = BY_GEOMETRY if trouble == "full" else BY_LOSS
    done = _export(model, out, flags, "--no-validate", "--cache-dir", cache)
    assert done.stderr.count("cannot be used in full") == 1
    assert out.read_bytes() == undisturbed[flags]


def test_a_disk_that_is_full_at_the_end_is_told_and_nothing_is_lost(
    tmp_path: Path, model: Path, undisturbed: dict[tuple[str, ...], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "o.gguf"

    def write(path: Path, architecture: str, metadata: Any, shapes: Any, tensors: Any) -> None:
        for packed in tensors:
            path.write_bytes(packed.tobytes())
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("lieq_edge.pipeline.write.write_container", write)
        assert_refused(run("export", model, "--out", out, *BY_LOSS, "--no-validate"), "No space left")
    assert list(tmp_path.iterdir()) == []

    def refuse(*_: object, **__: object) -> Any:
        raise AssertionError("rounded again")

    monkeypatch.setattr("lieq_edge.rounding.following.Following.block", refuse)
    _export(model, out, BY_LOSS, "--no-validate")
    assert out.read_bytes() == undisturbed[BY_LOSS]


def test_a_finished_file_is_not_taken_for_ones_own(tmp_path: Path, model: Path) -> None:
    out = tmp_path / "o.gguf"
    _export(model, out, BY_GEOMETRY, "--no-validate")
    assert_refused(run("export", model, "--out", out, *BY_GEOMETRY, "--no-validate"), "--force")

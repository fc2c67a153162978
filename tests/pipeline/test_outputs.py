"""Names of written files, and several budgets in one run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from gguf import GGUFValueType
from runner import assert_refused, run
from tiny import cached_model, short_settings

import lieq_edge
from lieq_edge import Event, InputError, Settings, resolve
from lieq_edge.gguf.header import read_header
from lieq_edge.pipeline.outputs import output_paths, plain_name
from lieq_edge.presets.labels import LABEL_FILE_TYPES, label_of
from lieq_edge.sources import open_source


def settings(*budgets: str) -> list[Settings]:
    return [Settings(budget=budget) for budget in budgets]


def test_fields_of_a_path_are_filled_in() -> None:
    paths = output_paths("org/Tiny-1B", "{name}-{budget}.gguf", settings("90MB", "Q4_K_M", "3.0bpw"))
    assert list(map(str, paths)) == ["Tiny-1B-90MB.gguf", "Tiny-1B-Q4_K_M.gguf", "Tiny-1B-3.0bpw.gguf"]
    assert output_paths("m", "{size}.gguf", settings("90 MB")) == [Path("90-MB.gguf")]
    assert output_paths("m", "x.gguf", settings("3")) == [Path("x.gguf")]
    assert output_paths("m", None, settings("3", "4")) == [None, None]


@pytest.mark.parametrize(
    ("out", "words"),
    [
        ("x.gguf", "{budget}"),
        ("{bits}.gguf", "unknown"),
        ("{.gguf", "brace"),
        ("{name}.gguf", "{budget}"),
        ("m-{budget:Z}.gguf", "takes no format"),
        ("m-{budget!x}.gguf", "takes no format"),
        ("m-{budget:{foo}}.gguf", "takes no format"),
        ("m-{budget!}.gguf", "brace"),
    ],
)
def test_a_path_that_does_not_serve_is_refused(out: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        output_paths("m", out, settings("3", "4"))


@pytest.mark.parametrize("out", [None, "m-{budget}.gguf"])
@pytest.mark.parametrize("budgets", [("90MB", "3", "90 MB"), ("q4_k_m", "Q4_K"), ("3bpw", "3.0bpw")])
def test_a_budget_that_is_given_twice_is_refused(out: str | None, budgets: tuple[str, ...]) -> None:
    with pytest.raises(InputError, match="is given twice; leave one out"):
        output_paths("m", out, settings(*budgets))
    assert len(output_paths("m", out, settings("Q4_K_M", "Q4_K_S", "4", "4bpw"))) == 4


@pytest.mark.parametrize(
    ("model", "name"),
    [("org/Tiny-1B", "Tiny-1B"), ("a/b.gguf", "b"), ("dir with spaces/", "dir-with-spaces"), ("demo", "demo")],
)
def test_the_name_of_a_model_for_files(model: str, name: str) -> None:
    assert plain_name(model) == name


@pytest.fixture
def quick(tmp_path: Path) -> dict[str, Any]:
    return short_settings(tmp_path)


def test_several_files_have_the_bytes_of_single_exports_and_measure_once(tmp_path: Path, quick: dict[str, Any]) -> None:
    model = cached_model("llama", hidden=256, intermediate=512)
    budgets = ("1000kB", "3.5bpw")
    alone = []
    for budget in budgets:
        out = tmp_path / f"alone-{budget}.gguf"
        lieq_edge.export_model(model, out, Settings(budget=budget, cache=False, **quick))
        alone.append(out.read_bytes())
    events: list[Event] = []
    files = [(tmp_path / f"{budget}.gguf", Settings(budget=budget, cache=False, **quick)) for budget in budgets]
    reports = lieq_edge.export_models(model, files, progress=events.append)
    assert [Path(report.out).read_bytes() for report in reports] == alone
    stages = [event.stage for event in events if event.done == 0 and event.stage and not event.message]
    assert stages.count("Measuring loss weights") == 1
    assert stages.count("Comparing llama.cpp with transformers") == 1
    assert stages.count("Quantise and write") == 2
    announced = next(event.message for event in events if " steps, about " in event.message)
    assert announced.count("round and write") == 2
    assert {event.steps for event in events if event.step} == {int(announced.split()[0])}


def test_all_budgets_are_checked_before_any_work(tmp_path: Path, quick: dict[str, Any]) -> None:
    model = cached_model("llama", hidden=256, intermediate=512)
    files = [
        (tmp_path / "a.gguf", Settings(budget="4bpw", **quick)),
        (tmp_path / "b.gguf", Settings(budget="9kB", **quick)),
    ]
    with pytest.raises(InputError, match="out of reach"):
        lieq_edge.export_models(model, files)
    assert not list(tmp_path.glob("*.gguf"))
    with pytest.raises(InputError, match="Two budgets would write"):
        lieq_edge.export_models(model, [files[0], files[0]])


def test_the_command_line_takes_several_budgets(tmp_path: Path, quick: dict[str, Any]) -> None:
    model = cached_model("llama", hidden=256, intermediate=512)
    flags = [part for name, value in quick.items() for part in (f"--{name.replace('_', '-')}", value)]
    plot = tmp_path / "sizes.png"
    done = run("export", model, "-b", "1000kB", "-b", "5bpw", "-o", tmp_path / "{budget}.gguf", *flags, "--plot", plot)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "1000kB.gguf").is_file()
    assert (tmp_path / "5bpw.gguf").is_file()
    assert "Size against quality" in done.stdout
    assert "quantise and write " in done.stdout
    assert "quantize" not in done.stdout
    assert "Scoring 1000kB.gguf: done" in done.stderr
    assert "Scoring 5bpw.gguf: done" in done.stderr
    assert plot.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(("flag", "out"), [("--plot", "o.png"), ("--report", None), ("--report", "o.gguf")])
def test_no_other_output_takes_the_place_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flag: str, out: str | None
) -> None:
    model = cached_model("llama", hidden=256, intermediate=512)
    monkeypatch.chdir(tmp_path)
    where = [] if out is None else ["--out", out]
    (name,) = [out] if out else [resolve(model, Settings(budget="5bpw"), name_file=True).out.name]  # type: ignore[union-attr]
    done = run("export", model, "-b", "5bpw", *where, flag, tmp_path / "." / name)
    assert_refused(done, name, "choose another path")
    assert list(tmp_path.iterdir()) == []
    assert_refused(run("export", model, "-b", "5bpw", "-o", "same.png", "--plot", "same.png"), "Another output")
    assert_refused(run("export", model, "-b", "5bpw", "--plot", "same", "--report", "same"), "same")


@pytest.mark.parametrize("flag", ["--no-reference", "--no-validate"])
def test_a_picture_of_distances_needs_them(tmp_path: Path, flag: str) -> None:
    done = run("export", "none", "-b", "5bpw", "-o", tmp_path / "o.gguf", "--plot", tmp_path / "p.png", flag)
    assert_refused(done, f"leave out --plot or {flag}")


def test_a_dry_run_refuses_what_the_export_would(tmp_path: Path) -> None:
    flags = ("export", "none", "-b", "5bpw", "--dry-run")
    assert_refused(run(*flags, "-o", tmp_path / "no" / "o.gguf"), "does not exist")
    assert_refused(run(*flags, "-o", "{bits}.gguf"), "unknown")


def test_a_file_without_a_name_takes_the_label_of_its_size(tmp_path: Path, quick: dict[str, Any]) -> None:
    model = cached_model("llama", hidden=256, intermediate=512)
    source = open_source(str(model))
    quick = {**quick, "validation": False, "parity": False, "rounding": "imatrix", "cache_dir": tmp_path / "cache"}
    budgets: dict[str, dict[str, Any]] = {
        "q5_k_m": {},
        "1000kB": {},
        "4.6bpw": {"metric": "first", "levels": (3, 4, 5)},
        "5": {"metric": "first", "levels": (4, 5, 6)},
    }
    for budget, flags in budgets.items():
        settings = Settings(budget=budget, **quick, **flags)
        job = resolve(model, settings, name_file=True)
        assert job.out is not None
        report = lieq_edge.export_model(model, tmp_path / job.out.name, settings, force=True)
        header = read_header(Path(report.out))
        label = label_of(source, report.file_bpw, budget)
        assert job.out.name.endswith(f"-{label}.gguf"), budget
        assert header.get("general.file_type") == LABEL_FILE_TYPES[label]
        # Predicted losses have no levels.
        assert ("lieq.levels" in {kv.key for kv in header.metadata}) == (header.get("lieq.metric") != "loss")


def test_no_number_of_a_file_has_64_bits(tmp_path: Path, quick: dict[str, Any]) -> None:
    """JavaScript reads such a number as a BigInt, which its JSON refuses."""
    model = cached_model("llama", hidden=256, intermediate=512)
    out = tmp_path / "o.gguf"
    settings = Settings(budget="3", metric="geometry", seed=4294967295, cache=False, **quick)
    lieq_edge.export_model(model, out, settings)
    header = read_header(out)
    kinds = {kv.key: kv.item_type if kv.type == GGUFValueType.ARRAY else kv.type for kv in header.metadata}
    assert "lieq.calibration.tokens" in kinds
    assert header.get("lieq.seed") == 4294967295
    large = {GGUFValueType.UINT64, GGUFValueType.INT64, GGUFValueType.FLOAT64}
    assert not {key for key, kind in kinds.items() if kind in large}

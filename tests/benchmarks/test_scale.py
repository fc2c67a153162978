"""The benchmark's own logic: turns, resuming, fits and tables. The measuring itself is in ``test_process_tree``."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.process_tree import Phase
from benchmarks.scale import QUICK_SIZES, SIZES, Bench, Failed
from benchmarks.scale_profile import RULES, Sampler, kind_of, stack_of
from benchmarks.scale_report import render
from benchmarks.scale_rows import ROWS, Command, Setup, exponent, groups, results
from benchmarks.scale_samples import Sample, Samples
from benchmarks.shapes import SHAPES, count_parameters

GB = 10**9


@pytest.fixture
def setup(tmp_path: Path) -> Setup:
    work = tmp_path / "work"
    work.mkdir()
    (work / "size-Q3_K_M").write_text("12345\n")
    return Setup(work, QUICK_SIZES, repeats=3, quick=True, cache=frozenset({"export", "analyze"}))


@pytest.fixture
def samples(tmp_path: Path) -> Samples:
    return Samples(tmp_path / "out.json")


def sample(seconds: float, rss: float = 1.0, **report: object) -> Sample:
    phases = (
        Phase("Quantise and write", seconds / 2, int(rss * 0.8 * GB), int(rss * 0.4 * GB)),
        Phase("end", seconds / 2, int(rss * GB), int(rss * 0.3 * GB)),
    )
    return Sample("python", "abc", 0.1, seconds, int(rss * GB), int(rss * 0.5 * GB), phases, dict(report))


def note(order: Path, name: str, repeats: int = 3, after: str | None = None) -> Command:
    program = f"open({str(order)!r}, 'a').write('{name} '); print('{{\"work_seconds\": 0.5}}')"
    return Command(name, ("-S", "-c", program), repeats, after)


@pytest.mark.parametrize("power", [0.0, 0.37, 1.0, 1.5])
def test_the_exponent_is_found(power: float) -> None:
    assert exponent([(x, 3.0 * x**power) for x in (0.6, 1.5, 4.0)]) == pytest.approx(power)


def test_an_exponent_needs_two_sizes() -> None:
    assert exponent([]) is None
    assert exponent([(1.0, 2.0), (1.0, 3.0)]) is None


def test_commands_take_turns_and_samples_are_kept(setup: Setup, samples: Samples, tmp_path: Path) -> None:
    order = tmp_path / "order"
    ours, peer, once = note(order, "ours"), note(order, "peer"), note(order, "once", 1)
    Bench(setup, samples, 0).run([ours, peer, once])
    assert order.read_text().split() == ["ours", "peer", "once", "ours", "peer", "ours", "peer"]
    assert samples.of("ours")[0].work_seconds == 0.5 < samples.of("ours")[0].seconds + 0.5
    # A second run of the tool finds them all; a command that became another one is measured again.
    again = Samples(tmp_path / "out.json")
    assert again.of("peer") == samples.of("peer")
    changed = Command("peer", (*peer.arguments, "other"), 2)
    Bench(setup, again, 0).run([ours, changed, once])
    assert order.read_text().split()[7:] == ["peer", "peer"]
    assert len(again.of("peer")) == 2


def test_what_follows_runs_right_behind_the_first(setup: Setup, samples: Samples, tmp_path: Path) -> None:
    order = tmp_path / "order"
    pair = [note(order, "first", 2), note(order, "second", 2, after="first")]
    Bench(setup, samples, 0).run(pair)
    assert order.read_text().split() == ["first", "second"] * 2
    samples.forget("second", 1)
    order.unlink()
    Bench(setup, samples, 0).run(pair)
    # What the first had left in the cache is gone, so it runs again.
    assert order.read_text().split() == ["first", "second"]
    assert len(samples.of("first")) == len(samples.of("second")) == 2


def test_a_command_that_fails_is_told(setup: Setup, samples: Samples) -> None:
    command = Command("bad", ("-S", "-c", "raise SystemExit('no such thing')"))
    with pytest.raises(Failed, match="no such thing"):
        Bench(setup, samples, 0).run([command])
    assert samples.names() == []


def test_rows_that_share_a_peer_are_made_together(setup: Setup) -> None:
    found = [[command.name for command in group] for group in groups(list(ROWS), setup)]
    assert ["wide/peer", "wide/torch-imatrix", "wide/quality", "wide/once", "wide/geometry"] in found
    names = [name for group in found for name in group]
    assert len(names) == len(set(names))
    assert "cache/quality/second" in names


def test_without_a_cache_its_row_says_so(samples: Samples, tmp_path: Path) -> None:
    setup = Setup(tmp_path, SIZES)
    assert groups(["cache"], setup) == [[]]
    notes = [result.note for result in results(setup, samples) if result.row == "cache"]
    assert len(notes) == 3
    assert all("not available" in note for note in notes)


def test_results_and_tables(setup: Setup, samples: Samples) -> None:
    assert all(result.value is None for result in results(setup, samples))
    assert "not measured" in render(setup, samples)
    for seconds in (10.0, 12.0, 50.0):
        report = {"seconds": {"loss weights": seconds / 2, "quantize and write": 1.0}}
        samples.add("wide/quality", replace(sample(seconds), report=report))
        samples.add("wide/peer", sample(9.0, work_seconds=8.0, file_bytes=5_000_000))
    for size, shape in setup.shapes.items():
        samples.add(f"memory/geometry/{size}", sample(5.0, rss=2e-4 * count_parameters(SHAPES[shape]) ** 0.5))
    drops = {"work_seconds": 1.0, "drops": [1.0, 2.0]}
    samples.add("saliency/ours", sample(3.0, **drops))
    samples.add("saliency/naive", sample(4.0, **{**drops, "work_seconds": 2.0}))
    for name in ("ours", "peer"):
        samples.add(f"quantize/{name}", sample(3.0, work_seconds=2.0, weights="digest"))
    samples.add("hardware", sample(1.0, **{"float32": 100.0, "bfloat16": 400.0, "float32 X^T X": 50.0}))
    gflop = {"blocks": 200.0, "attention": 10.0, "head": 40.0, "H": 100.0}
    samples.add("where/operations", sample(1.0, tokens=64, gflop=gflop))
    profile = {"kinds": {"forward": 8.0, "H": 4.0}, "unknown": {"a.py:f": 0.7}}
    samples.add("where/quality", sample(12.0, profile=profile))

    found = {result.what: result for result in results(setup, samples)}
    quality = found["quality export over llama.cpp's imatrix + preset"]
    assert quality.value == pytest.approx(12.0 / 8.0)
    assert quality.met is True
    assert found["exponent of peak memory over parameters"].value == pytest.approx(0.5)
    assert found["perplexity drop of all blocks over naive runs"].value == pytest.approx(0.5)
    assert "the same bytes" in next(result.note for result in found.values() if result.row == "quantize")
    assert found["geometry analysis, 1.5B"].met is None
    text = render(setup, samples)
    assert "| wide/quality | 12.0 | 10.0, 12.0, 50.0 |" in text
    assert "| loss weights | 6.0 |" in text
    assert "| forward | 8.0 | 66.7 % | 4.0 at float32, 16.0 at bfloat16 |" in text
    assert "| H | 4.0 | 33.3 % | 2.0 at float32 X^T X |" in text
    assert "a.py:f 0.7" in text
    assert "Memory by stage: memory/geometry/4b" in text


def test_rules_name_files_that_exist() -> None:
    root = Path(__file__).parents[2] / "lieq_edge"
    files = [f"lieq_edge/{path.relative_to(root).as_posix()}" for path in root.rglob("*.py")]
    own = [place for kind, place, _ in RULES if not place.startswith(("torch/", "importlib")) and kind != "cache"]
    for place in own:
        assert any(place in file if place.endswith("/") else file.endswith(place) for file in files), place


def test_stacks_are_told_apart() -> None:
    backward = ("x/torch/_tensor.py", "backward")
    block = ("x/lieq_edge/measure/model.py", "run_block")
    collect = ("x/lieq_edge/quantize/statistics.py", "add")
    encode = ("x/lieq_edge/quantize/ggml.py", "encode")
    predict = ("x/lieq_edge/quantize/sensitivity.py", "predict_tensors")
    imported = [("x/lieq_edge/quantize/ggml.py", "<module>"), ("<frozen importlib._bootstrap>", "_load"), block]
    assert kind_of([("numpy.py", "f"), backward, block]) == "backward"
    assert kind_of([collect, backward]) == "H"
    assert kind_of([encode]) == "encode"
    assert kind_of([encode, predict]) == "predicting types"
    assert kind_of(imported) == "imports"
    assert kind_of([("a.py", "f")]) is None


def test_time_goes_to_threads_that_work() -> None:
    sampler = Sampler()
    waits = [("lib/python3.11/threading.py", "wait"), ("x/lieq_edge/quantize/ggml.py", "encode")]
    forward, unknown = [("x/lieq_edge/measure/model.py", "run_block")], [("some/where.py", "f")]
    sampler.add([waits, forward], 1.0)
    sampler.add([forward, unknown], 0.5)
    sampler.add([waits], 0.25)
    assert sampler.seconds == {"forward": 1.25, "other": 0.25, "waiting": 0.25}
    assert sampler.unknown == {"some/where.py:f": 0.25}


def test_the_sampler_sees_threads_that_work_and_those_that_wait() -> None:
    stop = threading.Event()
    waiting = threading.Thread(target=stop.wait)
    waiting.start()
    with Sampler() as sampler:
        until = time.perf_counter() + 0.4
        while time.perf_counter() < until:
            stack_of(None)
    stop.set()
    waiting.join()
    assert any("test_bench_scale" in place for place in sampler.unknown)
    assert not any("threading.py:wait" in place for place in sampler.unknown)

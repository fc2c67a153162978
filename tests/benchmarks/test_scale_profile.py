"""The sampler of stacks: rules for the files that exist, kinds, and time shared among threads that work."""

from __future__ import annotations

import ast
import threading
import time
from pathlib import Path

import pytest

from benchmarks.scale_profile import OUTER, RULES, Sampler, kind_of, main, stack_of
from benchmarks.turns import ROOT

OURS = sorted({(place, function) for _, place, function in RULES if place.startswith("lieq_edge/")})


def functions(path: Path) -> set[str]:
    """Names of all functions in a file."""
    nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    return {node.name for node in nodes if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize(("place", "function"), OURS)
def test_rules_name_files_and_functions_that_exist(place: str, function: str) -> None:
    path = ROOT / place
    assert path.is_dir() if place.endswith("/") else path.is_file()
    assert function == "*" or function in functions(path)


@pytest.mark.parametrize("function", [function for _, function in OUTER])
def test_outer_functions_exist(function: str) -> None:
    assert any(function in functions(path) for path in (ROOT / "lieq_edge").rglob("*.py"))


def test_stacks_are_told_apart() -> None:
    backward = ("x/torch/_tensor.py", "backward")
    block = ("x/lieq_edge/blockwise/model.py", "run_block")
    collect = ("x/lieq_edge/gptq/hessian.py", "add")
    encode = ("x/lieq_edge/llama/encoders.py", "encode")
    predict = ("x/lieq_edge/evidence/loss/predictions.py", "predict_tensors")
    imported = [("x/lieq_edge/llama/encoders.py", "<module>"), ("<frozen importlib._bootstrap>", "_load"), block]
    assert kind_of([("numpy.py", "f"), backward, block]) == "backward"
    assert kind_of([collect, backward]) == "H"
    assert kind_of([("x/lieq_edge/gptq/refine.py", "sweep")]) == "rounding"
    assert kind_of([encode]) == "encode"
    assert kind_of([encode, predict]) == "predicting types"
    assert kind_of(imported) == "imports"
    assert kind_of([("a.py", "f")]) is None


def test_time_goes_to_threads_that_work() -> None:
    sampler = Sampler()
    waits = [("lib/python3.11/threading.py", "wait"), ("x/lieq_edge/llama/encoders.py", "encode")]
    forward, unknown = [("x/lieq_edge/blockwise/model.py", "run_block")], [("some/where.py", "f")]
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
    assert any("test_scale_profile" in place for place in sampler.unknown)
    assert not any("threading.py:wait" in place for place in sampler.unknown)


def test_a_command_is_needed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([str(tmp_path / "profile.json")])
    assert "a command of lieq-edge is missing" in capsys.readouterr().err

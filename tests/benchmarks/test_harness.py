"""Arguments, records, tables and means that benchmarks share."""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from benchmarks.harness import (
    Records,
    command_line,
    describe_machine,
    exit_code,
    geometric_mean,
    gigabytes,
    machine_line,
    mean_and_error,
    median_or_none,
    number,
    plus_minus,
    table,
    timed,
)
from lieq_edge import InputError


@dataclass(frozen=True)
class Point:
    name: str
    value: float | None


def test_common_arguments_can_have_other_defaults() -> None:
    options = command_line("Words.", "model", "--chunks", "--threads", chunks=3).parse_args(["demo"])
    assert options == argparse.Namespace(model="demo", chunks=3, threads=None)
    help_text = command_line("Words.", "--chunks", "--threads", chunks=3).format_help()
    assert "(default: 3)" in help_text
    assert "None" not in help_text


def test_records_are_resumed(tmp_path: Path) -> None:
    path = tmp_path / "records.json"
    records = Records(path, Point)
    records.add(Point("a", 1.5))
    records.add(Point("b", None), Point("c", 2.0))
    assert [*Records(path, Point)] == [*records] == [Point("a", 1.5), Point("b", None), Point("c", 2.0)]
    assert json.loads(path.read_text())[0] == {"name": "a", "value": 1.5}
    assert [file.name for file in tmp_path.iterdir()] == ["records.json"]


def test_refused_input_ends_with_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    def refuse() -> None:
        raise InputError("The text is too short.")

    assert exit_code(refuse) == 2
    assert capsys.readouterr().err == "Error: The text is too short.\n"
    assert exit_code(lambda: 3) == 3
    assert exit_code(lambda: None) == 0


def test_tables_and_cells() -> None:
    assert table(("a", "b"), [("1", "2")]) == "| a | b |\n| --- | --- |\n| 1 | 2 |"
    assert table(("a", "b"), []) == ""
    assert (number(1.25, 1), number(None, 1)) == ("1.2", "")
    assert (plus_minus(1.0, 0.25, 2), plus_minus(1.0, None, 2)) == ("1.00 ± 0.25", "")
    assert (gigabytes(2_340_000_000), gigabytes(None)) == ("2.34", "")


def test_means_have_their_standard_errors() -> None:
    values = np.random.default_rng(0).normal(3.0, 2.0, 400)
    mean, error = mean_and_error(values)
    assert mean == pytest.approx(3.0, abs=0.3)
    assert error == pytest.approx(values.std(ddof=1) / 20)
    assert mean_and_error([5.0]) == (5.0, 0.0)
    assert geometric_mean([0.5, 2.0, 8.0]) == pytest.approx(2.0)
    assert median_or_none([None, 3.0, 1.0, 9.0]) == 3.0
    assert median_or_none([None]) is None


def test_seconds_are_put_under_their_name() -> None:
    seconds: dict[str, float] = {}
    with timed(seconds, "sum"):
        sum(range(1000))
    assert 0 < seconds["sum"] < 5


def test_the_machine_is_described() -> None:
    line = machine_line(describe_machine())
    assert np.__version__ in line
    assert " cores, " in line
    assert "GB" in line

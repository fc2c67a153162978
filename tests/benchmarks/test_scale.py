"""The command line of the benchmark, and the profile in its samples."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.scale import QUICK_SIZES, ScaleBench, main
from benchmarks.scale_rows import Setup
from benchmarks.turns import Command, Samples


def test_a_profile_goes_into_the_sample_of_its_command(tmp_path: Path) -> None:
    setup = Setup(tmp_path, QUICK_SIZES)
    setup.profile.write_text(json.dumps({"kinds": {"stale": 1.0}}))
    samples = Samples(tmp_path / "out.json")
    program = f"open({str(setup.profile)!r}, 'w').write('{{\"kinds\": {{\"forward\": 2.0}}}}')"
    commands = [Command("plain", ("-S", "-c", "")), Command("where", ("-S", "-c", program))]
    ScaleBench(setup, samples, 0).run(commands)
    assert "profile" not in samples.of("plain")[0].report
    assert samples.of("where")[0].report["profile"] == {"kinds": {"forward": 2.0}}


def test_the_report_is_written_without_measuring(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--work", str(tmp_path), "--out", str(tmp_path / "scale"), "--report"]) == 0
    assert "not measured" in (tmp_path / "scale.md").read_text(encoding="utf-8")
    with pytest.raises(SystemExit):
        main(["--work", str(tmp_path), "--out", str(tmp_path / "scale"), "--rows", "nonsense"])
    assert "there is no row nonsense" in capsys.readouterr().err

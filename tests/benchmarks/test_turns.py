"""Commands take turns, follow each other and are resumed; the measuring itself is in ``test_process_tree``."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from benchmarks.process_tree import Phase
from benchmarks.turns import Bench, Command, Failed, Sample, Samples


@pytest.fixture
def samples(tmp_path: Path) -> Samples:
    return Samples(tmp_path / "out.json")


def note(order: Path, name: str, repeats: int = 3, after: str | None = None) -> Command:
    """A command that appends its name to a file."""
    program = f"open({str(order)!r}, 'a').write('{name} '); print('{{\"work_seconds\": 0.5}}')"
    return Command(name, ("-S", "-c", program), repeats, after)


def test_commands_take_turns_and_samples_are_kept(samples: Samples, tmp_path: Path) -> None:
    order = tmp_path / "order"
    ours, peer, once = note(order, "ours"), note(order, "peer"), note(order, "once", 1)
    Bench(tmp_path, samples, 0).run([ours, peer, once])
    assert order.read_text().split() == ["ours", "peer", "once", "ours", "peer", "ours", "peer"]
    assert samples.of("ours")[0].work_seconds == 0.5 != samples.of("ours")[0].seconds
    # A second run finds them all; a command with other arguments is measured again.
    again = Samples(tmp_path / "out.json")
    assert again.of("peer") == samples.of("peer")
    changed = Command("peer", (*peer.arguments, "other"), 2)
    Bench(tmp_path, again, 0).run([ours, changed, once])
    assert order.read_text().split()[7:] == ["peer", "peer"]
    assert len(again.of("peer")) == 2


def test_a_chain_runs_again_from_its_start(samples: Samples, tmp_path: Path) -> None:
    order = tmp_path / "order"
    chain = [note(order, "first", 2), note(order, "second", 2, "first"), note(order, "third", 2, "second")]
    Bench(tmp_path, samples, 0).run(chain)
    assert order.read_text().split() == ["first", "second", "third"] * 2
    samples.forget("third", 1)
    order.unlink()
    # The cache of the first two is gone, so both run again.
    Bench(tmp_path, samples, 0).run(chain)
    assert order.read_text().split() == ["first", "second", "third"]
    assert [len(samples.of(command.name)) for command in chain] == [2, 2, 2]


def test_a_chain_shares_a_cache_that_others_do_not_see(samples: Samples, tmp_path: Path) -> None:
    program = (
        "import os, pathlib, json; folder = pathlib.Path(os.environ['LIEQ_CACHE_DIR']); folder.mkdir(parents=True, "
        "exist_ok=True); before = len(list(folder.iterdir())); (folder / str(before)).touch(); "
        "print(json.dumps({'before': before}))"
    )
    names = (("a", None), ("b", "a"), ("c", "b"), ("d", None))
    commands = [Command(name, ("-c", program), after=after) for name, after in names]
    Bench(tmp_path, samples, 0).run(commands)
    assert [samples.of(name)[0].report["before"] for name, _ in names] == [0, 1, 2, 0]
    assert not (tmp_path / "cache").exists()


def test_an_output_is_hashed_and_removed(samples: Samples, tmp_path: Path) -> None:
    out = tmp_path / "file"
    program = f"open({str(out)!r}, 'w').write('bytes')"
    Bench(tmp_path, samples, 0).run([Command("write", ("-S", "-c", program), output=out)])
    assert samples.of("write")[0].sha256 == hashlib.sha256(b"bytes").hexdigest()
    assert not out.exists()


def test_a_checkout_comes_before_all_others(samples: Samples, tmp_path: Path) -> None:
    for name in ("one", "two"):
        package = tmp_path / name / "lieq_edge"
        package.mkdir(parents=True)
        (package / "__init__.py").write_text("")
        (package / "__main__.py").write_text(f'print(\'{{"checkout": "{name}"}}\')')
    commands = [Command(name, ("-m", "lieq_edge"), checkout=tmp_path / name) for name in ("one", "two")]
    Bench(tmp_path, samples, 0).run(commands)
    assert [samples.of(name)[0].report["checkout"] for name in ("one", "two")] == ["one", "two"]
    assert samples.of("one")[0].code != samples.of("two")[0].code


def test_a_command_that_fails_is_reported(samples: Samples, tmp_path: Path) -> None:
    command = Command("bad", ("-S", "-c", "raise SystemExit('no such thing')"))
    with pytest.raises(Failed, match="no such thing"):
        Bench(tmp_path, samples, 0).run([command])
    assert samples.names() == []


def test_peaks_before_the_validation() -> None:
    phases = (Phase("Measuring", 1.0, 5, 3), Phase("Quantise and write", 1.0, 4, None), Phase("Validate", 1.0, 9, 8))
    sample = Sample("python", "abc", 0.0, 3.0, 9, 8, phases)
    assert sample.before_validation() == (5, 3)
    assert Sample("python", "abc", 0.0, 3.0, 9, 8).before_validation() is None

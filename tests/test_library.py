"""lieq-edge as a library: public names, paths as text, nothing printed, several threads."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest
from tiny import make_model

import lieq_edge
from lieq_edge import Event, InputError, Settings

FAST = {"calibration_tokens": 512, "calibration": "docs", "probe_tokens": 64, "context": 64, "chunks": 2, "threads": 1}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("library") / "model", hidden=256, intermediate=256, blocks=3)


def test_the_public_names_are_shown_and_there() -> None:
    assert dir(lieq_edge) == sorted([*lieq_edge.__all__, "__version__"])
    for name in lieq_edge.__all__:
        assert getattr(lieq_edge, name) is not None
    with pytest.raises(AttributeError, match="magic"):
        lieq_edge.magic  # noqa: B018


def test_paths_may_be_text_and_nothing_is_printed(model: Path, tmp_path: Path) -> None:
    program = (
        "import sys, lieq_edge\n"
        "settings = lieq_edge.Settings(budget=3, calibration='docs', calibration_tokens=512, probe_tokens=64,\n"
        "                              context=64, chunks=2, threads=1)\n"
        f"report = lieq_edge.export_model({str(model)!r}, {str(tmp_path / 'o.gguf')!r}, settings)\n"
        f"lieq_edge.validate_against({str(tmp_path / 'o.gguf')!r}, context=64, chunks=2)\n"
        "assert report.validation.kld > 0\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert (tmp_path / "o.gguf").is_file()


def test_progress_is_received(model: Path, tmp_path: Path) -> None:
    events: list[Event] = []
    settings = Settings(budget="3", rounding="imatrix", **FAST)
    lieq_edge.export_model(model, tmp_path / "o.gguf", settings, progress=events.append)
    stages = {event.stage: event for event in events if event.stage}
    assert "Quantise and write" in stages
    assert all(event.done == event.total for event in stages.values())


def test_the_four_lines(model: Path, tmp_path: Path) -> None:
    """As in docs/architecture.md; the file is the one that ``export_model`` writes."""
    settings = Settings(budget="3", rounding="imatrix", validation=False, **FAST)
    job = lieq_edge.resolve(model, settings, out=tmp_path / "a.gguf")
    with lieq_edge.gather(job) as evidence:
        plan = lieq_edge.allocate(job, evidence)
        report = lieq_edge.write(job, evidence, plan)
    assert report.file_bytes == (tmp_path / "a.gguf").stat().st_size
    lieq_edge.export_model(str(model), tmp_path / "b.gguf", settings)
    assert (tmp_path / "a.gguf").read_bytes() == (tmp_path / "b.gguf").read_bytes()


def test_a_wrong_value_is_the_sentence_of_the_command_line() -> None:
    with pytest.raises(InputError, match=r"^--threads got 0: "):
        Settings(budget="3", threads=0)


THREADS = """
import sys, threading
import lieq_edge
from pathlib import Path
model, folder = sys.argv[1:]
common = dict(calibration="docs", calibration_tokens=1024, probe_tokens=64, validation=False, cache=False)
kinds = {
    "a": lieq_edge.Settings(budget="3", threads=1, **common),
    "b": lieq_edge.Settings(budget="3", threads=2, metric="loss", rounding="feedback-once", **common),
}
notes, errors = [], []
def work(name):
    try:
        lieq_edge.export_model(model, f"{folder}/{name}.gguf", kinds[name], progress=lambda e: notes.append(e.message))
    except BaseException as error:
        errors.append(error)
threads = [threading.Thread(target=work, args=(name,)) for name in kinds]
for thread in threads: thread.start()
for thread in threads: thread.join()
assert not errors, errors
assert any("waits for it" in note for note in notes)
for name in kinds:
    lieq_edge.export_model(model, f"{folder}/{name}-alone.gguf", kinds[name])
"""


def test_two_threads_of_a_fresh_process_write_the_bytes_of_each_alone(model: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", THREADS, str(model), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    for name in ("a", "b"):
        together, alone = (tmp_path / f"{name}{end}.gguf" for end in ("", "-alone"))
        assert hashlib.sha256(together.read_bytes()).digest() == hashlib.sha256(alone.read_bytes()).digest()

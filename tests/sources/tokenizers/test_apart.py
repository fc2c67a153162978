"""Tokenizers are loaded and tried in a process of their own; this one goes on when that dies or hangs."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
from runner import assert_refused, run, started
from tiny import make_model

from lieq_edge.errors import InputError
from lieq_edge.sources import open_source
from lieq_edge.sources.huggingface import HASHED_FILES
from lieq_edge.sources.tokenizers import apart
from lieq_edge.sources.tokenizers.original import FILES
from lieq_edge.sources.tokenizers.tokenizer import key_values, read_pieces
from lieq_edge.sources.tokenizers.trial import settle, to_entry
from lieq_edge.store import open_cache

PLAN = ("--budget", "4", "--metric", "first", "--no-cache")
LOOPS = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"

posix = pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return make_model(tmp_path / "model", "llama")


def edited(model: Path, **parts: Any) -> None:
    path = model / "tokenizer.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **parts}))


def growing(letter: str) -> dict[str, Any]:
    """A normalizer that makes a gigabyte of a letter."""
    grow = {"type": "Replace", "pattern": {"String": letter}, "content": letter * 10}
    return {"type": "Sequence", "normalizers": [grow] * 9}


def prepending(count: int) -> dict[str, Any]:
    return {"type": "Prepend", "prepend": "x" * count}


def test_threads_read_one_after_the_other(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apart, "_end", apart.Reader.kill)  # as it is outside of tests
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda label: apart.settle_apart(model, 512, "llama", label), ["a label"] * 2)
    assert first == second


def test_it_gives_what_the_same_functions_give_here(model: Path) -> None:
    entry = apart.settle_apart(model, 512, "llama", "a label")
    pieces = read_pieces(model, 512)
    assert entry == to_entry(settle(pieces, key_values(model, pieces), "llama", "a label"))


@pytest.mark.parametrize(
    ("normalizer", "words"),
    [
        (growing("a"), ("tokenizer.json", "asks for more memory", "fetch it again")),
        (growing("e"), ("tokenizer.json", "asks for more memory", "fetch it again")),
        (prepending(10**7), ("tokenizer.json", "asks for more memory")),
        (prepending(10**4), ("tokenizer.json", "tokens of one letter")),
    ],
    ids=["a", "another letter", "10 MB before a text", "10 kB before a text"],
)
def test_a_tokenizer_that_grows_is_refused_in_one_sentence(
    normalizer: dict[str, Any], words: tuple[str, ...], model: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    edited(model, normalizer=normalizer)
    assert_refused(run("plan", model, *PLAN), *words)
    assert capfd.readouterr() == ("", "")


def test_a_template_that_never_ends_is_stopped(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apart, "_SECONDS", 1.0)
    (model / "chat_template.jinja").write_text(LOOPS)
    assert_refused(run("plan", model, *PLAN), "tokenizer.json", "with its chat template, after 1 s of computing")


def test_waiting_has_a_limit_too(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apart, "_WAITING_SECONDS", 0.0)
    monkeypatch.setattr(apart, "_WAITING", 0.05)
    (model / "chat_template.jinja").write_text(LOOPS)
    assert_refused(run("plan", model, *PLAN), "had not loaded and tried")


@pytest.mark.parametrize("file", ["tekken.json", "vocab.txt", "spiece.model"])
def test_other_files_of_the_folder_are_not_opened(file: str, model: Path) -> None:
    if not hasattr(os, "mkfifo"):
        pytest.skip("no pipes with names")
    os.mkfifo(model / file)
    assert run("plan", model, *PLAN).returncode == 0


def test_files_that_count_are_hashed() -> None:
    assert set(FILES) <= set(HASHED_FILES)


def test_errors_do_not_name_temporary_folders(model: Path) -> None:
    (model / "tokenizer.json").write_text("{")
    with pytest.raises(InputError) as caught:
        apart.settle_apart(model, 512, "llama", "a label")
    assert str(model / "tokenizer.json") in str(caught.value)
    assert "lieq-" not in str(caught.value).replace(str(model), "")


def test_errors_of_the_system_stay_what_they_are(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = apart._shared()
    arguments = str(model), str(model), 512, "llama", "x", "", str(model / "nowhere")
    with pytest.raises(FileNotFoundError) as caught:
        reader.call("settle", *arguments, label="x", seconds=60.0)
    assert (caught.value.errno, str(model / "nowhere") in str(caught.value.filename)) == (errno.ENOENT, True)


def test_a_settled_tokenizer_needs_no_process(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = open_source(str(model))
    first.use_cache(open_cache(tmp_path / "cache").about(model=first.content_hash))
    values = first.metadata()
    monkeypatch.setattr(apart, "settle_apart", lambda *_: pytest.fail("it was asked again"))
    again = open_source(str(model))
    again.use_cache(open_cache(tmp_path / "cache").about(model=again.content_hash))
    assert again.metadata() == values
    assert again.tokenize("The quick") == first.tokenize("The quick")


def test_a_process_that_does_not_start_is_not_the_fault_of_the_model(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    apart._shared().kill()
    monkeypatch.setattr("lieq_edge.system.child._START", "raise ImportError('no such library')")
    with pytest.raises(InputError, match=r"could not be started .*no such library"):
        apart.settle_apart(model, 512, "llama", "x")
    monkeypatch.undo()
    assert apart.settle_apart(model, 512, "llama", "x").record["values"]


def test_neither_end_imports_pytorch(model: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from lieq_edge.sources.tokenizers import apart\n"
        f"apart.settle_apart(Path({str(model)!r}), 512, 'llama', 'x')\n"
        "print({'torch', 'transformers', 'jinja2'} & set(sys.modules))\n"
        "from lieq_edge.sources.tokenizers import serve; serve.import_libraries()\n"
        "print(sys.modules['torch'], 'transformers' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\nNone True\n"


def test_it_ends_with_its_work(model: Path) -> None:
    script = (
        "from pathlib import Path; from lieq_edge.sources.tokenizers import apart; import psutil\n"
        f"apart.settle_apart(Path({str(model)!r}), 512, 'llama', 'x')\n"
        "print(psutil.Process().children(recursive=True), apart._reader.alive)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "[] False\n"


@posix
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_signals_act_at_once_and_leave_nothing(number: signal.Signals, model: Path, tmp_path: Path) -> None:
    (model / "chat_template.jinja").write_text(LOOPS)
    (tmp_path / "temporary").mkdir()
    program = [sys.executable, "-m", "lieq_edge", "plan", str(model), *PLAN]
    environment = {**os.environ, "TMPDIR": str(tmp_path / "temporary")}
    with started(program, stderr=subprocess.PIPE, env=environment) as process:
        readers = _busy(psutil.Process(process.pid))
        start = time.monotonic()
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
        assert psutil.wait_procs(readers, timeout=10)[1] == []
    assert time.monotonic() - start < 5
    assert "Traceback" not in errors
    assert process.returncode == (-number if number == signal.SIGKILL else 128 + number)
    assert number == signal.SIGKILL or list((tmp_path / "temporary").iterdir()) == []


def _busy(program: psutil.Process) -> list[psutil.Process]:
    """All processes below a program, once one of them is at work for a while."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with contextlib.suppress(psutil.NoSuchProcess):
            children = program.children(recursive=True)
            if any(child.cpu_times().user > 3 for child in children):
                return children
        time.sleep(0.05)
    raise AssertionError("none came to work")

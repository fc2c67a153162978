"""``chat`` from a pipe and in a terminal."""

from __future__ import annotations

import io
import os
import select
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from changed import changed_file
from runner import assert_refused, run, started

from lieq_edge.llama.chat import open_chat
from lieq_edge.system.terminal import clean_text

Make = Callable[..., Path]
ROOT = Path(__file__).parents[2]


def expected(path: Path, *messages: str, tokens: int) -> list[str]:
    with open_chat(path, max_tokens=tokens, temperature=0, threads=1) as conversation:
        return [clean_text("".join(conversation.say(message))) for message in messages]


def piped(monkeypatch: pytest.MonkeyPatch, text: bytes, *words: object) -> subprocess.CompletedProcess[str]:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text), encoding="utf-8"))
    return run("chat", *words, "--temperature", "0", "--threads", "1")


def test_lines_of_a_pipe_are_messages(tiny_gguf: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tiny_gguf("qwen2")
    done = piped(monkeypatch, "Où?\n\nAnd \udce9?\n".encode("utf-8", "surrogateescape"), path, "--max-tokens", "6")
    assert (done.returncode, done.stderr) == (0, "")
    answers = expected(path, "Où?", "And \ufffd?", tokens=6)
    assert done.stdout == "".join(f"{answer}\n" for answer in answers)


def test_commands_work_in_a_pipe(tiny_gguf: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tiny_gguf("qwen2")
    done = piped(monkeypatch, b"Hello\n/reset\nHello\n/help\n/exit\nHello\n", path, "--max-tokens", "6")
    (answer,) = expected(path, "Hello", tokens=6)
    assert done.stdout == f"{answer}\n" * 2
    assert "/reset" in done.stderr


def test_a_system_prompt_counts(tiny_gguf: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tiny_gguf("qwen2")
    without, system = (
        piped(monkeypatch, b"Hello\n", path, "--max-tokens", "6", *words).stdout
        for words in ((), ("--system", "You are a cat."))
    )
    with open_chat(path, max_tokens=6, temperature=0, threads=1, system="You are a cat.") as conversation:
        assert system == clean_text("".join(conversation.say("Hello"))) + "\n" != without


def test_a_file_without_a_template_is_named(tiny_gguf: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = changed_file(tmp_path / "plain.gguf", tiny_gguf("qwen2"), {"tokenizer.chat_template": None})
    done = piped(monkeypatch, b"It is\n", path, "--max-tokens", "4")
    assert "no chat template" in done.stderr
    assert len(done.stdout.strip()) > 0
    assert piped(monkeypatch, b"It is\n", path, "--max-tokens", "4", "--quiet").stderr == ""
    assert_refused(piped(monkeypatch, b"", path, "--system", "x"), "no chat template")


def test_control_characters_of_an_answer_are_text(tiny_gguf: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    from lieq_edge.llama.chat import Chat

    monkeypatch.setattr(Chat, "say", lambda *_, **__: (piece for piece in ["\x1b[31m", "red\r\x07", "\n\ta\u200db"]))
    done = piped(monkeypatch, b"Hello\n", tiny_gguf("qwen2"))
    assert done.stdout == " [31mred  \n\ta\u200db\n"


def test_what_does_not_fit_is_one_sentence(tiny_gguf: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    done = piped(monkeypatch, b"word " * 400 + b"\n", tiny_gguf("qwen2"), "--context", "64")
    assert_refused(done, "larger context")
    assert_refused(piped(monkeypatch, b"", "missing.gguf"), "does not exist")


@pytest.mark.parametrize(
    "words", [["chat", "--max-tokens", "2"], ["bench", "--repeats", "1"], ["card", "--out", "c.md", "--no-modelfile"]]
)
def test_neither_pytorch_nor_transformers_is_imported(words: list[str], tiny_gguf: Make, tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "from lieq_edge.cli import main\n"
        "main()\n"
        "print(sorted({'torch', 'transformers', 'llama_cpp', 'numba'} & set(sys.modules)), file=sys.stderr)\n"
    )
    command = [sys.executable, "-c", program, words[0], str(tiny_gguf("qwen2")), *words[1:], "--quiet"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUTF8": "1"}
    done = subprocess.run(
        command, input="Hi\n", capture_output=True, text=True, env=environment, cwd=tmp_path, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "[]\n")


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
@pytest.mark.parametrize(("end", "code"), [(b"\x04", 0), (b"/exit\n", 0), (b"\x03", 130)])
def test_a_terminal(tiny_gguf: Make, end: bytes, code: int) -> None:
    """Ctrl-C stops an answer and not the conversation; Ctrl-D, /exit, and Ctrl-C at the prompt end it."""
    import pty

    path = tiny_gguf("qwen2")
    controller, terminal = pty.openpty()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TERM": "dumb"}
    words = ["chat", str(path), "--temperature", "0", "--threads", "1", "--context", "200000"]
    command = [sys.executable, "-m", "lieq_edge", *words]
    streams = {"stdin": terminal, "stdout": terminal, "stderr": terminal}
    with started(command, **streams, env=environment, start_new_session=True, preexec_fn=_own_terminal) as process:
        os.close(terminal)
        shown = _until(controller, "> ")
        assert "/help shows what you can do" in shown
        os.write(controller, b"Hello\n")
        # Without an end token and a limit, the answer would go on for minutes.
        _until(controller, "\n", more=40)
        os.write(controller, b"\x03")
        _until(controller, "\n> ")
        # Longer than the moment after which an interrupt ends the program.
        time.sleep(1)
        assert process.poll() is None
        os.write(controller, b"/reset\n")
        _until(controller, "> ")
        os.write(controller, end)
        assert process.wait(20) == code
    os.close(controller)


def _own_terminal() -> None:
    import fcntl
    import termios

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def _until(controller: int, words: str, *, more: int = 0) -> str:
    """What the terminal shows up to ``words``, and then ``more`` characters at least."""
    shown, deadline = "", time.monotonic() + 60
    while (place := shown.find(words)) < 0 or len(shown) < place + more:
        assert time.monotonic() < deadline, shown
        if select.select([controller], [], [], 1)[0]:
            shown += os.read(controller, 4096).decode("utf-8", "replace")
    return shown

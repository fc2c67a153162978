"""``chat``: talk to a file."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import lieq_edge as api

from ..system import interrupt
from ..system.progress import set_quiet
from ..system.terminal import say, stream_text
from .flags import DebugFlag, QuietFlag, ThreadsFlag

if TYPE_CHECKING:
    from ..llama.chat import Chat

_PROMPT = "> "
_HELP = (
    "/exit ends the conversation (so does Ctrl-D, or Ctrl-C at the prompt)",
    "/reset begins a new one",
    "/help shows these lines",
    "Ctrl-C while an answer is written stops it",
)


def chat(
    file: Annotated[Path, typer.Argument(help="GGUF file to talk to.")],
    system: Annotated[str | None, typer.Option(help="System prompt.")] = None,
    max_tokens: Annotated[
        int | None,
        typer.Option(min=1, help="Maximum length of an answer in tokens; default: what the context has room for."),
    ] = None,
    temperature: Annotated[
        float | None, typer.Option(help="0 = always the likeliest token; default: the file's value, or 0.8.")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, max=2**32 - 1, help="Seed for sampling; default: different each time.")
    ] = None,
    context: Annotated[
        int | None, typer.Option(min=8, help="Tokens in the conversation; default 4096, or the model's if shorter.")
    ] = None,
    threads: ThreadsFlag = None,
    quiet: QuietFlag = False,
    debug: DebugFlag = False,
) -> None:
    """Talk to a GGUF file, using its own chat template. From a pipe, each line is a message."""
    set_quiet(quiet)
    with api.open_chat(
        file,
        system=system,
        max_tokens=max_tokens,
        temperature=temperature,
        seed=seed,
        context=context,
        threads=threads,
    ) as conversation:
        if hasattr(sys.stdin, "reconfigure"):
            sys.stdin.reconfigure(errors="replace")
        with_user = _is_terminal(sys.stdin) and _is_terminal(sys.stdout)
        if not quiet:
            if conversation.template is None:
                say(f"{file} has no chat template: each message is continued as a text of its own.")
            if with_user:
                say(f"{file.name}, a context of {conversation.context:,} tokens. /help shows what you can do.")
        for message in _typed() if with_user else _piped():
            command = message.strip()
            if command == "/exit":
                break
            if command == "/reset":
                conversation.reset()
            elif command == "/help":
                for line in _HELP:
                    say(line)
            elif command:
                _answer(conversation, message, stoppable=with_user)


def _answer(conversation: Chat, message: str, *, stoppable: bool) -> None:
    """Print the answer while it is written, up to Ctrl-C if it is ``stoppable``."""
    with interrupt.caught() if stoppable else contextlib.nullcontext(lambda: False) as stopped:
        pieces = conversation.say(message, stop=stopped)
        try:
            for piece in pieces:
                stream_text(piece, sys.stdout)
        except api.InputError as error:
            # On Windows Ctrl-C ends llama.cpp; it starts again with the next message.
            if not stopped():
                if not stoppable:
                    raise
                say(f"Error: {error}")
        finally:
            pieces.close()
    stream_text("\n", sys.stdout)


def _typed() -> Iterator[str]:
    """Messages that a user types."""
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  (input() then edits lines and remembers them)
    while True:
        try:
            yield input(_PROMPT)
        except EOFError:
            stream_text("\n", sys.stdout)
            return


def _piped() -> Iterator[str]:
    """Lines of stdin, without their ends."""
    if sys.stdin is None:  # as it is where the caller has closed it
        return
    for line in sys.stdin:
        yield line.rstrip("\r\n")


def _is_terminal(stream: object) -> bool:
    return stream is not None and getattr(stream, "isatty", lambda: False)()

"""Attacks on the place of the output: links, pipes, devices, folders, and files that appear meanwhile."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

from attack import models
from attack.harness import DONE_OR_REFUSED, Case, Ended, Place, Run, seeded

EXPORT = ("export", "model", "--budget", "4", *models.PLAIN)
REFUSED = frozenset({2})
DONE = frozenset({0})
OTHERS = b"a file of somebody else"


def case(number: int) -> Case:
    """Kinds of places in turn, with each command that writes a file."""
    rng = seeded("outputs", number)
    names = list(PLACES)
    name = names[number % len(names)]
    command = rng.choice(("plan", "plan", "export", "analyze")) if name not in ONLY_EXPORT else "export"
    return place_case(name, command, force=rng.random() < 0.5)


def place_case(name: str, command: str, *, force: bool) -> Case:
    """An output at a place of the kind ``name``."""

    def prepare(place: Place) -> list[Run]:
        (place.work / "model").symlink_to(models.directory("llama"))
        (place.work / "saved.json").symlink_to(models.saved())
        out, around, codes = PLACES[name](place, force)
        arguments: tuple[str, ...] = (*EXPORT, "--out", out)
        if command == "plan":
            arguments = ("plan", "saved.json", "--budget", "3", "--out", out)
        if command == "analyze":
            measured = ("--metric", "geometry", "--probe-tokens", "32", "--threads", "1")
            arguments = ("analyze", "model", *measured, "--out", out)
        return [Run((*arguments, *(["--force"] if force else [])), codes=codes, around=around)]

    def check(place: Place, runs: list[Ended]) -> str:
        others = place.work / "others"
        if runs[0].code == 2 and others.exists() and others.read_bytes() != OTHERS:
            return "a file of somebody else was changed by a refused command"
        link = place.work / "link"
        return "a link was replaced" if name.startswith("link") and not link.is_symlink() else ""

    flag = " --force" if force else ""
    made = frozenset({"out.gguf", "others", "folder/out.gguf", "out-2.gguf"})
    # What the attack itself does meanwhile.
    appears = made | {"folder"} if name in MEANWHILE else frozenset[str]()
    return Case(f"{name}, {command}{flag}", prepare, outputs=made, anyway=appears, check=check)


Answer = tuple[str, Callable[[Place], None] | None, frozenset[int]]


def _ordinary(place: Place, force: bool) -> Answer:
    (place.work / "others").write_bytes(OTHERS)
    return "others", None, DONE if force else REFUSED


def _link(place: Place, force: bool) -> Answer:
    (place.work / "others").write_bytes(OTHERS)
    (place.work / "link").symlink_to("others")
    return "link", None, DONE if force else REFUSED


def _dangling(place: Place, force: bool) -> Answer:
    (place.work / "link").symlink_to("out.gguf")
    return "link", None, DONE


def _circle(place: Place, force: bool) -> Answer:
    (place.work / "link").symlink_to("link")
    return "link", None, REFUSED


def _link_to(goal: str) -> Callable[[Place, bool], Answer]:
    def make(place: Place, force: bool) -> Answer:
        (place.work / "link").symlink_to(goal)
        return "link", None, REFUSED

    return make


def _path(path: str) -> Callable[[Place, bool], Answer]:
    return lambda place, force: (path, None, REFUSED)


def _pipe(place: Place, force: bool) -> Answer:
    os.mkfifo(place.work / "pipe")
    return "pipe", None, REFUSED


def _socket(place: Place, force: bool) -> Answer:
    here = Path.cwd()
    os.chdir(place.work)  # names of sockets are short
    try:
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind("socket")
    finally:
        os.chdir(here)
    return "socket", None, REFUSED


def _folder(place: Place, force: bool) -> Answer:
    (place.work / "folder").mkdir()
    return "folder", None, REFUSED


def _linked_folder(place: Place, force: bool) -> Answer:
    (place.work / "folder").mkdir()
    (place.work / "short").symlink_to("folder")
    return "short/out.gguf", None, DONE


def _hard_link(place: Place, force: bool) -> Answer:
    (place.work / "first").write_bytes(OTHERS)
    os.link(place.work / "first", place.work / "others")
    return "others", None, DONE if force else REFUSED


def _appears(place: Place, force: bool) -> Answer:
    """A file appears at the output when the finished file is about to get its name."""

    def around(place: Place) -> None:
        from lieq_edge.system import files

        own, owner = files.sync_file, os.getpid()

        def appear(path: Path) -> None:
            own(path)
            if os.getpid() == owner:
                (place.work / "out.gguf").write_bytes(OTHERS)

        files.sync_file = appear

    return "out.gguf", around, DONE if force else REFUSED


def _becomes_pipe(place: Place, force: bool) -> Answer:
    """A pipe appears at the output."""

    def around(place: Place) -> None:
        from lieq_edge.system import files

        own, owner = files.sync_file, os.getpid()

        def appear(path: Path) -> None:
            own(path)
            if os.getpid() == owner:
                os.mkfifo(place.work / "out.gguf")

        files.sync_file = appear

    return "out.gguf", around, REFUSED


def _folder_goes(place: Place, force: bool) -> Answer:
    """The folder of the output is removed meanwhile."""
    (place.work / "folder").mkdir()

    def around(place: Place) -> None:
        from lieq_edge.pipeline import export

        own = export.resolve

        def resolve(*arguments: object, **named: object) -> object:
            (place.work / "folder").rmdir()
            return own(*arguments, **named)  # type: ignore[arg-type]

        export.resolve = resolve  # type: ignore[assignment]

    return "folder/out.gguf", around, REFUSED


def _itself(place: Place, force: bool) -> Answer:
    """The output lies within the model."""
    return "model/config.json", None, REFUSED


PLACES: dict[str, Callable[[Place, bool], Answer]] = {
    "ordinary file": _ordinary,
    "link": _link,
    "link to nothing": _dangling,
    "link to itself": _circle,
    "link to stdout": _link_to("/proc/self/fd/1"),
    "link to a device": _link_to("/dev/null"),
    "link to a folder": _link_to("/"),
    "pipe": _pipe,
    "socket": _socket,
    "folder": _folder,
    "folder behind a link": _linked_folder,
    "hard link": _hard_link,
    "device": _path("/dev/null"),
    "open file of a process": _path("/proc/self/fd/1"),
    "no such folder": _path("nowhere/out.gguf"),
    "below a file": _path("saved.json/out.gguf"),
    "long name": _path("x" * 256),
    "long path": _path("x/" * 3000 + "out"),
    "empty": _path(""),
    "current folder": _path("."),
    "with a slash": lambda place, force: ("out.gguf/", None, DONE_OR_REFUSED),
    "system's folder": _path("/sys/out.gguf"),
    "appears meanwhile": _appears,
    "pipe appears": _becomes_pipe,
    "folder goes": _folder_goes,
    "no such user": lambda place, force: ("~nobody-of-this-name/out.gguf", None, DONE_OR_REFUSED),
}

MEANWHILE = ("appears meanwhile", "pipe appears", "folder goes")
ONLY_EXPORT = (*MEANWHILE, "long path")

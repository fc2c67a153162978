"""Attacks on the terminal: markup, control characters and bytes that are not UTF-8, wherever something is named."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable

from attack import models
from attack.harness import Case, Place, Run, seeded
from changed import changed_file

from lieq_edge.gguf.header import read_header

PARTS = (
    "[b]", "[/x]", "[/]", "[link=file:///x]y[/link]", "[red on blue]", "[[", "]", "\\[", ":smile:",
    "\x1b[2J", "\x1b]0;t\x07",
    "\x1b[31m", "\x9b31m", "\r", "\n", "\t", "\x7f", "\x00", "\x08\x08", "\u202e", "\u200b", "\u2028", "\ufeff",
    "é", "日本",
    "\udcff", "\udc80\udcfe", "name", "%s", "{x}", "%(x)s", "\U000e0001", "\x85", "'", '"', "Error: ", "  ", "a" * 300,
)  # fmt: skip
KEYS = (
    *("general.name", "general.architecture", "tokenizer.ggml.model", "tokenizer.ggml.pre", "tokenizer.chat_template"),
    *("lieq.metric", "lieq.budget", "lieq.other", "general.description", "llama.rope.scaling.type"),
)


def case(number: int) -> Case:
    """A name in a file, in saved measurements, of a file, or in arguments."""
    rng = seeded("terminal", number)
    text = "".join(rng.choice(PARTS) for _ in range(rng.randrange(1, 5)))
    ways: tuple[Callable[[random.Random, str], Case], ...] = (_value, _value, _tensor, _saved, _path, _argument)
    return ways[number % len(ways)](rng, text)


def shown(text: str) -> str:
    """A name in a line of ASCII."""
    return text[:60].encode("unicode_escape", "surrogatepass").decode()


def value_case(key: str, text: str, command: tuple[str, ...] = ("inspect", "in.gguf")) -> Case:
    """A GGUF file with a key-value of this text."""

    def prepare(place: Place) -> list[Run]:
        changed_file(place.work / "in.gguf", models.gguf("llama"), {key: text})
        return [Run(command)]

    return Case(f"{key} = {shown(text)}, {command[0]}", prepare, outputs=frozenset({"out.gguf"}))


def tensor_case(text: str, command: tuple[str, ...] = ("inspect", "in.gguf")) -> Case:
    """A GGUF file with tensors of this name."""

    def prepare(place: Place) -> list[Run]:
        names = [tensor.name for tensor in read_header(models.gguf("llama")).tensors if len(tensor.shape) == 2]
        renamed = {name: f"{text}{i}.weight" for i, name in enumerate(names[:2])}
        changed_file(place.work / "in.gguf", models.gguf("llama"), {}, renamed)
        return [Run(command)]

    return Case(f"tensor {shown(text)}, {command[0]}", prepare)


def path_case(name: str, command: str) -> Case:
    """An input or output of this name."""

    def prepare(place: Place) -> list[Run]:
        given = os.fsencode(place.work) + b"/" + os.fsencode(name)
        if command == "inspect":
            shutil.copyfile(models.gguf("llama"), given)
            return [Run(("inspect", name))]
        if command == "missing":
            return [Run(("inspect", name))]
        shutil.copyfile(models.saved(), place.work / "saved.json")
        if command == "plan":
            return [Run(("plan", "saved.json", "--budget", "3", "--out", name))]
        if command == "cache":
            return [Run(("cache", "clear", "--cache-dir", name))]
        (place.work / "model").symlink_to(models.directory("llama"))
        return [Run(("export", "model", "--budget", "4", *models.PLAIN, "--out", name))]

    return Case(f"path {shown(name)}, {command}", prepare, outputs=frozenset({name, f"{name}/entries", f"{name}/runs"}))


def _value(rng: random.Random, text: str) -> Case:
    commands: list[tuple[str, ...]] = [("inspect", "in.gguf")] * 6
    commands += [("inspect", "in.gguf", "--json"), ("plan", "in.gguf", "--budget", "4", "--metric", "first")]
    return value_case(rng.choice(KEYS), text, rng.choice(commands))


def _tensor(rng: random.Random, text: str) -> Case:
    name = rng.choice((text, f"blk.0.{text}", f"blk.1.attn_q.{text}", f"blk.{text}.ffn_down"))
    plan = ("plan", "in.gguf", "--budget", "4", "--metric", "first")
    return tensor_case(name, rng.choice((("inspect", "in.gguf"), ("inspect", "in.gguf", "--json"), plan)))


def _saved(rng: random.Random, text: str) -> Case:
    readable = text.encode("utf-8", "replace").decode()
    document = json.loads(models.saved().read_bytes())
    where = rng.choice(("model", "architecture", "tensor", "projection", "version", "text"))
    if where == "tensor":
        tensor = rng.choice(document["tensors"])
        tensor["name"] += readable
    elif where == "projection":
        for block in document["blocks"]:
            block["projections"] = {f"{readable}{name}": value for name, value in block["projections"].items()}
    elif where == "version":
        document["versions"][readable] = readable
    elif where == "text":
        document["probe"]["name"] = readable
    else:
        document[where] = readable

    def prepare(place: Place) -> list[Run]:
        (place.work / "saved.json").write_text(json.dumps(document))
        return [Run(("plan", "saved.json", "--budget", "3", *(["--json"] if rng.random() < 0.3 else [])))]

    return Case(f"{where} of saved measurements {shown(readable)}", prepare)


def _path(rng: random.Random, text: str) -> Case:
    name = text.replace("\0", "").replace("/", "_")[:80] or "x"
    name = "x" + os.fsdecode(name.encode("utf-8", "surrogateescape")[:200])
    return path_case(name, rng.choice(("inspect", "inspect", "missing", "plan", "plan", "cache", "export")))


def _argument(rng: random.Random, text: str) -> Case:
    word = text.replace("\0", "")
    flag = rng.choice(
        ("--budget", "--metric", "--levels", "--types", "--recipe", f"--{word}", "--seed", "--cache-limit")
    )

    def prepare(place: Place) -> list[Run]:
        shutil.copyfile(models.saved(), place.work / "saved.json")
        return [Run(("plan", rng.choice(("saved.json", word)), "--budget", "3", flag, word))]

    return Case(f"{flag[:20].encode('ascii', 'backslashreplace').decode()} {shown(word)}", prepare)

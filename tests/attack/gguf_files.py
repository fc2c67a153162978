"""Attacks by GGUF files: cut, flipped, with other counts, key-values, tokens and parts."""

from __future__ import annotations

import os
import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from attack import models
from attack.harness import Case, Place, Run, seeded
from changed import changed_file
from damage import damage_bytes
from gguf import GGUFValueType

from lieq_edge.gguf.container import KeyValue, write_container
from lieq_edge.gguf.header import read_header
from lieq_edge.gguf.types import TYPES_BY_ID

INSPECT = ("inspect", "in.gguf")
PLAN = ("plan", "in.gguf", "--budget", "4", "--metric", "first")
EXPORT = ("export", "in.gguf", "--budget", "4", *models.PLAIN, "--out", "out.gguf")
VALIDATE = ("validate", "in.gguf", "--chunks", "1", "--context", "16", "--threads", "1")

NUMBERS = (0, 1, 2, 3, 7, 255, 1 << 16, 10**9, (1 << 31) - 1, (1 << 32) - 1)
KEYS = (
    *("block_count", "embedding_length", "feed_forward_length", "context_length", "vocab_size", "expert_count"),
    *("attention.head_count", "attention.head_count_kv", "attention.key_length", "rope.dimension_count"),
    *("expert_used_count", "attention.sliding_window"),
)
FLOATS = ("attention.layer_norm_rms_epsilon", "rope.freq_base", "attention.scale", "logit_scale", "rope.scaling.factor")


def case(number: int) -> Case:
    """Most files are only inspected; some are planned for, exported or scored."""
    rng = seeded("gguf", number)
    ways: tuple[Callable[[random.Random], Case], ...] = (_flipped, _cut, _header, _value, _tokens, _split, _built)
    return ways[number % len(ways)](rng)


def command(rng: random.Random, *, cheap: float = 0.75) -> tuple[str, ...]:
    """What is done with a file; with the probability ``cheap`` it is inspected."""
    if rng.random() < cheap:
        return rng.choice((INSPECT, INSPECT, (*INSPECT, "--json")))
    return rng.choice((PLAN, PLAN, PLAN, EXPORT, VALIDATE))


def file_case(name: str, make: Callable[[Path], object], arguments: tuple[str, ...], **options: Any) -> Case:
    """A file ``in.gguf`` that ``make`` writes."""

    def prepare(place: Place) -> list[Run]:
        make(place.work / "in.gguf")
        return [Run(arguments, **options)]

    return Case(f"{name}, {arguments[0]}", prepare)


def value_case(changes: dict[str, Any], arguments: tuple[str, ...], *, model: str = "llama", **options: Any) -> Case:
    """A file with other key-values."""
    shown = ", ".join(f"{key}={str(value)[:40]!r}" for key, value in changes.items())
    return file_case(shown, lambda path: changed_file(path, models.gguf(model), changes), arguments, **options)


def _flipped(rng: random.Random) -> Case:
    model, seed = rng.choice(models.FILES), rng.randrange(1 << 30)
    content = damage_bytes(models.gguf(model).read_bytes(), seed)
    return file_case(f"{model} damaged by seed {seed}", lambda path: path.write_bytes(content), command(rng))


def _cut(rng: random.Random) -> Case:
    content = models.gguf("llama").read_bytes()
    start = min(tensor.offset for tensor in read_header(models.gguf("llama")).tensors)
    end = rng.choice((rng.randrange(64), rng.randrange(start), rng.randrange(start, len(content)), len(content) - 1))
    more = rng.choice((b"", b"", b"\0" * 100))
    return file_case(
        f"{end} bytes and {len(more)} zeros", lambda path: path.write_bytes(content[:end] + more), command(rng)
    )


def _header(rng: random.Random) -> Case:
    """Counts, lengths and types: little-endian numbers within the header are replaced."""
    content = bytearray(models.gguf("llama").read_bytes())
    start = min(tensor.offset for tensor in read_header(models.gguf("llama")).tensors)
    for _ in range(rng.choice((1, 1, 2))):
        at = rng.choice((4, 8, 16, 24, rng.randrange(4, start - 8), rng.randrange(4, 400)))
        code, value = rng.choice((("<I", rng.choice(NUMBERS)), ("<Q", rng.choice((*NUMBERS, 1 << 40, (1 << 64) - 1)))))
        struct.pack_into(code, content, at, value)
    return file_case(f"a number at byte {at} is {value}", lambda path: path.write_bytes(content), command(rng))


def _value(rng: random.Random) -> Case:
    changes: dict[str, Any] = {}
    for _ in range(rng.choice((1, 1, 2))):
        if rng.random() < 0.6:
            changes[f"llama.{rng.choice(KEYS)}"] = rng.choice((*NUMBERS, "x", 0.5, [1, 2], True, None))
        else:
            changes[f"llama.{rng.choice(FLOATS)}"] = rng.choice(
                (float("nan"), -1.0, 0.0, 1e38, float("inf"), 3, "x", None)
            )
    if rng.random() < 0.2:
        changes["general.alignment"] = rng.choice((0, 1, 3, 8, 64, 1 << 20))
    return value_case(changes, command(rng, cheap=0.3))


def _tokens(rng: random.Random) -> Case:
    prefix = "tokenizer.ggml."
    model = rng.choice(("llama", "pieces"))
    header = read_header(models.gguf(model))
    tokens = list(header.get(f"{prefix}tokens"))
    count = len(tokens)
    way = rng.randrange(8)
    changes: dict[str, Any]
    if way == 0:
        changes = {
            f"{prefix}model": rng.choice(("bert", "rwkv", "t5", "plamo2", "gpt2", "llama", "none", "", "x" * 9999))
        }
    elif way == 1:
        changes = {f"{prefix}pre": rng.choice(("default", "llama-bpe", "qwen2", "deepseek-llm", "x", "", 5))}
    elif way == 2:
        changes = {f"{prefix}token_type": [rng.randrange(-1, 8) for _ in range(count + rng.choice((0, 0, -1, 5)))]}
    elif way == 3:
        changes = {f"{prefix}{rng.choice(('bos', 'eos', 'unknown', 'padding', 'eot'))}_token_id": rng.choice(NUMBERS)}
    elif way == 4:
        place = rng.randrange(count)
        odd = ("", tokens[0], "\0", "\udcff", "x" * 120_000, "\n", " ", "[/x]", "\U0010ffff")
        changes = {f"{prefix}tokens": [*tokens[:place], rng.choice(odd), *tokens[place + 1 :]]}
    elif way == 5:
        changes = {f"{prefix}tokens": rng.choice((tokens[:-1], tokens[:1], [*tokens, "more"], 5, "x", [1, 2]))}
    elif way == 6:
        changes = {f"{prefix}scores": [rng.choice((float("nan"), float("inf"), -1e38, 0.0)) for _ in range(count)]}
    else:
        changes = {f"{prefix}merges": rng.choice((["a b"], ["ab"], [" "], ["a b c"] * 100, ["\udcff \udcff"], 5))}
    return value_case(changes, command(rng, cheap=0.4), model=model)


def _split(rng: random.Random) -> Case:
    count, kind = rng.randrange(2, 5), rng.randrange(6)
    seed = rng.randrange(1 << 30)

    def make(place: Place) -> list[Run]:
        paths = split(models.gguf("llama"), place.work, count)
        chosen = paths[seed % count]
        if kind == 0:
            chosen.unlink()
        elif kind == 1:
            chosen.write_bytes(damage_bytes(chosen.read_bytes(), seed))
        elif kind == 2:
            chosen.write_bytes(paths[0].read_bytes())
        elif kind == 3:
            chosen.unlink()
            os.mkfifo(chosen)
        elif kind == 4:
            chosen.unlink()
            chosen.mkdir()
        else:
            chosen.rename(place.work / "other.gguf")
        return [Run(("inspect", paths[0].name))]

    return Case(f"part {seed % count + 1} of {count}, way {kind}", make)


def split(whole: Path, folder: Path, count: int) -> list[Path]:
    """A file in ``count`` parts."""
    header, data = read_header(whole), whole.read_bytes()
    paths = []
    for number in range(count):
        own = [kv for kv in header.metadata if number == 0 or kv.key == "general.architecture"]
        keys = [
            KeyValue("split.no", number, int(GGUFValueType.UINT16)),
            KeyValue("split.count", count, int(GGUFValueType.UINT16)),
            KeyValue("split.tensors.count", len(header.tensors), int(GGUFValueType.INT32)),
        ]
        mine = header.tensors[number::count]
        path = folder / f"model-{number + 1:05d}-of-{count:05d}.gguf"
        entries = [(t.name, t.shape, TYPES_BY_ID[t.type]) for t in mine]
        write_container(path, "llama", [*own, *keys], entries, (data[t.offset : t.offset + t.nbytes] for t in mine))
        paths.append(path)
    return paths


def _built(rng: random.Random) -> Case:
    """A header made from nothing: any number of keys and tensors with any sizes."""

    def text(value: bytes) -> bytes:
        return struct.pack("<Q", len(value)) + value

    keys, tensors = [], []
    for i in range(rng.randrange(4)):
        kind = rng.randrange(14)
        body = {8: text(b"x"), 9: struct.pack("<IQ", rng.randrange(14), rng.choice((0, 1, 1 << 40)))}.get(
            kind, bytes(8)
        )
        keys.append(text(rng.choice((b"k%d" % i, b"general.architecture", b""))) + struct.pack("<I", kind) + body)
    for i in range(rng.randrange(4)):
        sizes = [rng.choice((0, 1, 32, 256, 1 << 20, 1 << 40, 1 << 63)) for _ in range(rng.choice((0, 1, 2, 2, 4, 5)))]
        name = rng.choice((b"blk.%d.attn_q.weight" % i, b"", b"blk." + b"9" * 5000 + b".x", b"t"))
        described = struct.pack(f"<I{len(sizes)}Q", len(sizes), *sizes)
        tensors.append(text(name) + described + struct.pack("<IQ", rng.randrange(45), rng.choice((0, 32, 1 << 62))))
    head = b"GGUF" + struct.pack("<IQQ", rng.choice((2, 3, 3, 3, 4, 1 << 24)), len(tensors), len(keys))
    content = head + b"".join(keys) + b"".join(tensors) + bytes(rng.choice((0, 64, 100_000)))
    return file_case(
        f"{len(keys)} keys and {len(tensors)} tensors from nothing", lambda p: p.write_bytes(content), INSPECT
    )

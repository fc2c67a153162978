"""Attacks by what the user passes: recipes, flags, and saved measurements."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

from attack import models
from attack.harness import Case, Place, Run, seeded
from damage import damage_bytes, damage_json

from lieq_edge.settings import Settings

RECIPE = 'description: "a recipe"\nbudget: 3.0\nmetric: first\nlevels: 2,4\ncalibration: none\n'
PLAN = ("plan", "saved.json", "--budget", "3")

VALUES: tuple[Any, ...] = (
    "", "0", "-1", "1", "2.5", "3bpw", "90MB", "1e308", "-inf", "nan", "inf", "9" * 400, "0x10", "1_000", "2,3,4", ",",
    "4,3", "first", "loss", "FIRST", "k", "all", "Q4_K", "q4_k,Q8_0", "none", "self", "~", "null", "true", "no", "yes",
    "nearest", "evil", "../x", "/dev/null", "/", "/proc/self/mem", "\x1b[2J", "[/x]", "é", "\udcff", "\u202e", " ",
    "2147483648", "4294967296", "-9223372036854775809", "18446744073709551616", "10GB", "1e400GB", "-1GB", "% s", "{}",
    "'", '"', "a" * 5000, "None", "0.0000001", "block", "tensor", "16", "64",
)  # fmt: skip

YAML: tuple[str, ...] = (
    "2020-13-45", "!!int abc", "!!float x", "!!bool x", "!!timestamp x", "!!binary ?", "!!python/object:os.system x",
    "!!python/object/apply:os.system [echo]", "&a [*a]", "[" * 3000, "{a: " * 200, "*nothing", "1" * 5000, "!!null x",
    "|\n  text\n", ">\n  text", "? x", "- a\n- b", "{x: 1}", "[1, 2]", "<<: {a: 1}", "'", '"\\ud800"', '"\\0"', "\t",
    "!<tag:yaml.org,2002:int> 1", "%YAML 9.9", "---\n---", "0o17", "1:30", ".nan", "-.inf", "=", "<<", "!", "@x", "`x",
)  # fmt: skip

FLAGS = [
    *(f"--{name.replace('_', '-')}" for name in Settings.model_fields if name not in ("validation", "reference")),
    *("--out", "--recipe", "--diagnostics", "--context", "--no-such-flag", "--json", "--quiet", "--dry-run", "-", "--"),
]


def case(number: int) -> Case:
    """A recipe, flags, or saved measurements by turns."""
    rng = seeded("requests", number)
    way: Callable[[random.Random], Case] = (_recipe, _recipe, _flags, _saved, _saved)[number % 5]
    return way(rng)


def recipe_case(name: str, content: bytes, **options: Any) -> Case:
    """A plan by a recipe of these bytes."""

    def prepare(place: Place) -> list[Run]:
        (place.work / "recipe.yaml").write_bytes(content)
        (place.work / "saved.json").write_bytes(models.saved().read_bytes())
        return [Run(("plan", "saved.json", "--recipe", "recipe.yaml"), **options)]

    return Case(f"recipe: {name}", prepare)


def saved_case(name: str, content: bytes, *more: str, **options: Any) -> Case:
    """A plan from saved measurements of these bytes."""

    def prepare(place: Place) -> list[Run]:
        (place.work / "saved.json").write_bytes(content)
        return [Run((*PLAN, *more), **options)]

    return Case(f"saved measurements: {name}", prepare)


def flags_case(name: str, arguments: list[str], **options: Any) -> Case:
    """A call with these arguments, in a folder that has saved measurements and a link to a model."""

    def prepare(place: Place) -> list[Run]:
        (place.work / "saved.json").write_bytes(models.saved().read_bytes())
        (place.work / "model").symlink_to(models.directory("llama"))
        (place.work / "file.gguf").symlink_to(models.gguf("llama"))
        return [Run(arguments, **options)]

    return Case(f"flags: {name}", prepare, outputs=frozenset({"out.gguf", "out.json", *arguments}))


def _recipe(rng: random.Random) -> Case:
    way = rng.randrange(6)
    if way == 0:
        content = damage_bytes(RECIPE.encode(), rng.randrange(1 << 30))
    elif way == 1:
        content = (RECIPE + f"{rng.choice(list(Settings.model_fields))}: {rng.choice(YAML)}\n").encode()
    elif way == 2:
        content = f"description: x\nbudget: 3\nnotes: {rng.choice(YAML)}\n".encode()
    elif way == 3:
        key, count = rng.choice(("k{}: 1\n", "levels{}: 2\n", "  - {}\n", "{{[{}")), 10 ** rng.randrange(1, 6)
        content = (RECIPE + "".join(key.format(i) for i in range(count))).encode()
    elif way == 4:
        lines = [f"{rng.choice(list(Settings.model_fields))}: {json.dumps(rng.choice(VALUES))}" for _ in range(3)]
        content = ("description: x\nbudget: 3\n" + "\n".join(lines) + "\n").encode("utf-8", "surrogatepass")
    else:
        content = rng.choice((b"", b"\0" * 100, b"\xff\xfe", b"[1]", b"x", b"# only\n", RECIPE.encode("utf-16"))) * 2
    return recipe_case(f"{content[:60]!r}, {len(content)} bytes", content)


def _flags(rng: random.Random) -> Case:
    command = rng.choice(("plan", "plan", "plan", "export", "analyze", "validate", "inspect", "cache", "nothing", ""))
    target = rng.choice(("saved.json", "saved.json", "file.gguf", "model", *map(str, VALUES)))
    words = [command, target]
    for _ in range(rng.randrange(1, 4)):
        words.append(rng.choice(FLAGS))
        if rng.random() < 0.8:
            words.append(str(rng.choice(VALUES)))
    if command in ("export", "analyze", "validate"):
        words += ["--threads", "1", "--no-such-thing"]  # ends before anything takes long
    if rng.random() < 0.7 and command in ("plan", "export"):
        words += ["--budget", "3"]
    words = [word.replace("\0", "") for word in words]
    shown = " ".join(words)[:100].encode("ascii", "backslashreplace").decode()
    return flags_case(shown, words)


def _saved(rng: random.Random) -> Case:
    content = models.saved().read_bytes()
    way = rng.randrange(5)
    if way == 0:
        return saved_case("damaged bytes", damage_bytes(content, rng.randrange(1 << 30)))
    if way < 4:
        return saved_case("damaged values", damage_json(content, rng.randrange(1 << 30)))
    document = json.loads(content)
    tensor, block = rng.choice(document["tensors"]), rng.choice(document["blocks"])
    value: Any = rng.choice((0, -1, 1, 255, 2**31, 2**62, 2**64, 1e300, "x", "F16", "Q4_K", None, [], {}))
    change = rng.choice(("shape", "kept", "name", "score", "block", "twice", "hash", "metadata"))
    if change == "shape":
        tensor["shape"] = [value, *tensor["shape"][1:]]
    elif change == "kept":
        tensor["kept"] = value
    elif change == "name":
        tensor["name"] = f"blk.{value}.{rng.choice(('attn_q', '', '[/x]'))}.weight"
    elif change == "score":
        block[rng.choice(("delta_ppl", "compactness_gain", "energy_gain"))] = value
    elif change == "block":
        block["index"] = value
    elif change == "twice":
        document["tensors"] *= 2
    else:
        document[{"hash": "model_hash", "metadata": "metadata_bytes"}[change]] = value
    return saved_case(f"{change} {value!r}", json.dumps(document).encode())

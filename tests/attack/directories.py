"""Attacks by model directories: configuration, tokenizers, weights, indexes, adapters and pickles."""

from __future__ import annotations

import json
import os
import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from attack import models
from attack.harness import Case, Place, Run, seeded
from damage import damage_bytes, damaged

PLAN = ("plan", "model", "--budget", "4", "--metric", "first")
EXPORT = ("export", "model", "--budget", "4", *models.PLAIN, "--out", "out.gguf")

BASES = ("llama", "qwen", "shards", "pieces", "pieces-json", "gemma", "experts", "gpt2")
SIZES = (0, -1, 1, 3, 10**6, 10**9, 2**31, 2**63, 1e300, 0.5, "2", None, True, [], [2], {}, "x" * 10000)


def case(number: int) -> Case:
    """Parts of a directory in turn."""
    rng = seeded("directories", number)
    ways: tuple[Callable[[random.Random], Case], ...] = (
        *(_damaged, _config, _weights, _tokenizer, _damaged, _adapter, _pickle, _index, _special),
    )
    return ways[number % len(ways)](rng)


def directory_case(
    name: str, change: Callable[[Path], object], *more: str, base: str = "llama", **options: Any
) -> Case:
    """A plan for a copy of a directory after ``change``."""

    def prepare(place: Place) -> list[Run]:
        change(models.copy(base, place))
        return [Run((*PLAN, *more), **options)]

    return Case(f"{base}: {name}", prepare)


def edited(file: str, change: Callable[[Any], object]) -> Callable[[Path], object]:
    """A change of a JSON file; what ``change`` returns replaces it, unless that is None."""

    def apply(folder: Path) -> None:
        document = json.loads((folder / file).read_bytes())
        changed = change(document)
        (folder / file).write_text(json.dumps(document if changed is None else changed))

    return apply


def replaced(file: str, make: Callable[[Path], object]) -> Callable[[Path], object]:
    """A change that puts something else in the place of a file."""

    def apply(folder: Path) -> None:
        (folder / file).unlink(missing_ok=True)
        make(folder / file)

    return apply


def _damaged(rng: random.Random) -> Case:
    base, seed = rng.choice(BASES), rng.randrange(1 << 30)

    def change(folder: Path) -> None:
        files = sorted(path for path in folder.iterdir() if path.is_file())
        path = files[seed % len(files)]
        path.write_bytes(damaged(path, seed))

    return directory_case(f"a file damaged by seed {seed}", change, base=base)


def _config(rng: random.Random) -> Case:
    base, value = rng.choice(BASES), rng.choice(SIZES)
    further = ("num_labels", "return_dict", "auto_map", "attn_implementation", "quantization_config", "rope_scaling")
    pick = rng.randrange(1 << 30)

    def change(document: dict[str, Any]) -> None:
        keys = [*sorted(document), *further]
        document[keys[pick % len(keys)]] = value

    return directory_case(f"key {pick} of config.json is {str(value)[:20]!r}", edited("config.json", change), base=base)


def header_of(content: bytes) -> tuple[dict[str, Any], bytes]:
    """The header of safetensors bytes and the data after it."""
    length = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def with_header(header: Any, data: bytes) -> bytes:
    """Safetensors bytes."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def _weights(rng: random.Random) -> Case:
    """A header with other types, shapes, offsets or names, or another length."""
    way = rng.randrange(8)
    seed = rng.randrange(1 << 30)

    def change(folder: Path) -> None:
        path = folder / "model.safetensors"
        header, data = header_of(path.read_bytes())
        names = [name for name in header if name != "__metadata__"]
        entry = header[names[seed % len(names)]]
        if way == 0:
            entry["dtype"] = ("F64", "I8", "F8_E4M3", "BF16", "F16", "", 5, None)[seed % 8]
        elif way == 1:
            entry["shape"] = ([], [0], [1 << 40, 1 << 40], [-1, 5], entry["shape"][::-1], [2, 3, 4], "x", [1.5])[
                seed % 8
            ]
        elif way == 2:
            entry["data_offsets"] = ([0, 0], [-4, 4], [0, 1 << 62], [4, 0], [], [0], "x", [0.5, 1])[seed % 8]
        elif way == 3:
            header[("\x1b[2J", "[/x]", "", "model.x" * 1000, "lm_head.weight", "\ud800")[seed % 6]] = entry
        elif way == 4:
            del header[names[seed % len(names)]]
        elif way == 5:
            header = (b"{" * 100_000, b"[" * 1_000_000, b"{}", b"\xff" * 100, b"[]", b"null", b'{"a": 1}', b"")[
                seed % 8
            ]
        elif way == 6:
            data = damage_bytes(data, seed)
        else:
            data = struct.pack("<f", float("nan")) * (len(data) // 4)
        content = with_header(header, data)
        if seed % 11 == 0:
            content = struct.pack("<Q", (0, 1, 1 << 40, (1 << 64) - 1)[seed % 4]) + content[8:]
        path.write_bytes(content)

    return directory_case(f"safetensors way {way} seed {seed}", change)


def _tokenizer(rng: random.Random) -> Case:
    """tokenizer.json with other parts, large ones too."""
    base = rng.choice(("llama", "qwen", "pieces-json", "gemma", "gpt2"))
    way, seed = rng.randrange(10), rng.randrange(1 << 30)

    def change(document: dict[str, Any]) -> None:
        model = document["model"]
        vocabulary = model["vocab"]
        if way == 0:
            document["normalizer"] = (
                {"type": "Prepend", "prepend": "x" * 10**5},
                {"type": "Replace", "pattern": {"Regex": "(a+)+$"}, "content": "b"},
                {"type": "Sequence", "normalizers": [{"type": "NFKC"}] * 100},
                {"type": "Precompiled", "precompiled_charsmap": "AAAA"},
                {"type": "Nothing"},
            )[seed % 5]
        elif way == 1:
            document["pre_tokenizer"] = (
                {"type": "Split", "pattern": {"Regex": "(?:"}, "behavior": "Isolated", "invert": False},
                {"type": "Split", "pattern": {"Regex": "(x*)*y"}, "behavior": "Removed", "invert": True},
                {"type": "Metaspace", "replacement": "xx", "prepend_scheme": "always"},
                {"type": "ByteLevel"},
                None,
            )[seed % 5]
        elif way == 2:
            model["merges"] = (*([["a"]], [["zz", "qq"]], "x", [], model["merges"] * 20),)[seed % 5]
        elif way == 3:
            model["vocab"] = ({}, {**vocabulary, "x": 10**9}, dict.fromkeys(vocabulary, 0), [], {"a": -1})[seed % 5]
        elif way == 4:
            token = {
                "id": 10**9,
                "content": "x",
                "special": True,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
            }
            token |= {
                "normalized": False,
                **({}, {"content": ""}, {"id": 0}, {"id": -1}, {"content": "y" * 10**5})[seed % 5],
            }
            document["added_tokens"] = [*document["added_tokens"], token]
        elif way == 5:
            document["decoder"] = ({"type": "Fuse"}, None, {"type": "Strip", "content": "x", "start": 9, "stop": 9})[
                seed % 3
            ]
        elif way == 6:
            document["post_processor"] = ({"type": "TemplateProcessing", "single": [], "pair": []}, None, {})[seed % 3]
        elif way == 7:
            model["type"] = ("WordPiece", "Unigram", "WordLevel", "BPE", "x")[seed % 5]
        elif way == 8:
            model[("continuing_subword_prefix", "end_of_word_suffix", "unk_token")[seed % 3]] = "#" * (seed % 3000)
        else:
            document[("truncation", "padding")[seed % 2]] = {"max_length": 2, "strategy": "LongestFirst", "stride": 0}

    return directory_case(f"tokenizer.json way {way} seed {seed}", edited("tokenizer.json", change), base=base)


def _index(rng: random.Random) -> Case:
    """The list of shards names other files."""
    seed = rng.randrange(1 << 30)
    names = (
        *("../outside/x.safetensors", "/etc/passwd", "model.safetensors.index.json", ".", "", "nothing.safetensors"),
        *("\x1b[2J", "x" * 5000, "config.json", "pipe.safetensors"),
    )
    name: Any = (*names, 5, None, ["x"])[seed % (len(names) + 3)]

    def change(document: dict[str, Any]) -> None:
        weights = document["weight_map"]
        weights[sorted(weights)[seed % len(weights)]] = name

    def apply(folder: Path) -> None:
        edited("model.safetensors.index.json", change)(folder)
        if name == "pipe.safetensors":
            os.mkfifo(folder / name)

    return directory_case(f"index names {str(name)[:30]!r}", apply, base="shards")


ADAPTER: dict[str, Any] = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"]}


def adapter_case(name: str, config: dict[str, Any], *, size: int = 32, **options: Any) -> Case:
    """An adapter of the first block's queries, with this configuration."""

    def change(folder: Path) -> None:
        import numpy as np
        from safetensors.numpy import save_file

        adapter = folder.parent / "adapter"
        adapter.mkdir()
        (adapter / "adapter_config.json").write_text(json.dumps({**ADAPTER, **config}))
        key = "base_model.model.model.layers.0.self_attn.q_proj.lora_"
        pair = {f"{key}A.weight": np.ones((2, size), np.float32), f"{key}B.weight": np.ones((32, 2), np.float32)}
        save_file(pair, adapter / "adapter_model.safetensors")

    return directory_case(f"adapter {name}", change, "--lora", "adapter", **options)


def _adapter(rng: random.Random) -> Case:
    key = rng.choice(
        ("r", "lora_alpha", "rank_pattern", "alpha_pattern", "base_model_name_or_path", "peft_type", "use_dora", "bias")
    )
    values = (*SIZES, "\x1b[2J[/x]", {"(": 1}, {".*": 2}, {"q_proj": -1}, {"q_proj": "x"}, "NaN", float("nan"))
    value = rng.choice(values)
    return adapter_case(f"{key}={str(value)[:30]!r}", {key: value}, size=rng.choice((32, 32, 31)))


def pickle_case(name: str, make: Callable[[dict[str, Any]], object], *, allowed: bool = True, **options: Any) -> Case:
    """Weights in a pickle; ``make`` gets the tensors and returns what is pickled, or bytes."""

    def change(folder: Path) -> None:
        import torch
        from safetensors.torch import load_file

        content = make(load_file(folder / "model.safetensors"))
        (folder / "model.safetensors").unlink()
        if isinstance(content, bytes):
            (folder / "pytorch_model.bin").write_bytes(content)
        else:
            torch.save(content, folder / "pytorch_model.bin")

    return directory_case(f"pickle {name}", change, *(["--allow-pickle"] if allowed else []), **options)


class Touching:
    """An object whose unpickling makes a file, which no reader of weights may let it do."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch run-by-a-pickle",)


def _pickle(rng: random.Random) -> Case:
    import io

    import torch

    seed = rng.randrange(1 << 30)

    def saved(value: Any) -> bytes:
        stream = io.BytesIO()
        torch.save(value, stream)
        return stream.getvalue()

    def one(tensors: dict[str, Any], change: Callable[[Any], Any]) -> dict[str, Any]:
        name = sorted(tensors)[seed % len(tensors)]
        return {**tensors, name: change(tensors[name])}

    ways: dict[str, Callable[[dict[str, Any]], object]] = {
        "parameters": lambda t: {name: torch.nn.Parameter(value) for name, value in t.items()},
        "sparse": lambda t: one(t, lambda value: value.to_sparse()),
        "meta": lambda t: one(t, lambda value: value.to("meta")),
        "claims": lambda t: one(t, lambda value: torch.zeros(1).expand(10**9, 64)),
        "code": lambda t: {**t, "x": Touching()},
        "list": lambda t: list(t.values()),
        "nested": lambda t: {"state_dict": t},
        "numbers": lambda t: one(t, lambda value: 5),
        "double": lambda t: one(t, lambda value: value.double()),
        "complex": lambda t: one(t, lambda value: value.to(torch.complex64)),
        "view": lambda t: one(t, lambda value: torch.cat([value, value])[: len(value)]),
        "empty": lambda t: b"",
        "damaged": lambda t: damage_bytes(saved(t), seed),
    }
    name = rng.choice(list(ways))
    return pickle_case(f"{name} {seed}", ways[name], allowed=rng.random() < 0.8)


def _special(rng: random.Random) -> Case:
    """A pipe, a folder, a link or nothing in the place of a file."""
    base = rng.choice(("llama", "shards", "pieces"))
    names = {"llama": "model.safetensors", "shards": "model-00002-of-00002.safetensors", "pieces": "tokenizer.model"}
    file = rng.choice((names[base], "config.json", "tokenizer_config.json", "generation_config.json"))
    ways: dict[str, Callable[[Path], object]] = {
        "pipe": os.mkfifo,
        "folder": Path.mkdir,
        "nothing": lambda path: None,
        "empty": lambda path: path.write_bytes(b""),
        "link to itself": lambda path: path.symlink_to(path.name),
        "device": lambda path: path.symlink_to("/dev/zero"),
        "zeros": lambda path: path.write_bytes(bytes(100_000)),
    }
    way = rng.choice(list(ways))
    return directory_case(f"{file} is {way}", replaced(file, ways[way]), base=base, wall=40.0)

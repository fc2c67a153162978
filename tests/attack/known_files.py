"""Known attacks: files that end llama.cpp, take much time or memory, or lead elsewhere."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path

from attack import directories, gguf_files, models, requests
from attack.harness import Case, Ended, Place, Run
from attack.listed import REFUSED, SHORT, known, lazily

# 4. llama.cpp ends its process.
PREFIX = "tokenizer.ggml."
known(
    "tokenizer-bert-export",
    lazily("bert", lambda: gguf_files.value_case({f"{PREFIX}model": "bert"}, gguf_files.EXPORT, model="pieces")),
)
known(
    "tokenizer-bert-validate",
    lazily("bert", lambda: gguf_files.value_case({f"{PREFIX}model": "bert"}, gguf_files.VALIDATE, model="pieces")),
)


def _long_token(model: str, arguments: tuple[str, ...]) -> Case:
    from lieq_edge.gguf.header import read_header

    tokens = list(read_header(models.gguf("pieces")).get(f"{PREFIX}tokens"))
    changes = {f"{PREFIX}model": model, f"{PREFIX}tokens": [*tokens[:-1], "x" * 120_000]}
    # llama.cpp computes until its memory is full.
    return gguf_files.value_case(changes, arguments, model="pieces", cpu=60.0, memory=4 << 30)


for kind in ("rwkv", "t5", "plamo2"):
    known(f"long-token-{kind}", lazily("one token of 120 kB", lambda kind=kind: _long_token(kind, gguf_files.VALIDATE)))
for key, value in (
    *(("block_count", 0), ("block_count", 10**9), ("block_count", 2**32 - 1), ("expert_count", 1), ("expert_count", 8)),
    *(("expert_count", 2**32 - 1), ("expert_used_count", 9), ("expert_used_count", [1, 2])),
    *(("attention.layer_norm_rms_epsilon", float("nan")), ("attention.layer_norm_rms_epsilon", -1.0)),
):
    known(
        f"{key}-{value}",
        lazily(
            "hyper-parameter",
            lambda key=key, value=value: gguf_files.value_case({f"llama.{key}": value}, gguf_files.VALIDATE),
        ),
    )


# 9. Much time or memory.
def _normalizers(folder: Path, letter: str = "a", count: int = 9) -> None:
    grow = {"type": "Replace", "pattern": {"String": letter}, "content": letter * 10}
    directories.edited(
        "tokenizer.json", lambda d: d.update(normalizer={"type": "Sequence", "normalizers": [grow] * count})
    )(folder)


known(
    "normalizers-that-grow", directories.directory_case("nine normalizers make one letter ten", _normalizers, **SHORT)
)
known(
    "normalizer-prepends-10MB",
    directories.directory_case(
        "prepend",
        directories.edited(
            "tokenizer.json", lambda d: d.update(normalizer={"type": "Prepend", "prepend": "x" * 10**7})
        ),
        **SHORT,
    ),
)
for name, letter, count in (("grow-another-letter", "e", 9), ("triple-a-space", " ", 3)):
    known(
        f"normalizers-that-{name}",
        directories.directory_case(
            f"{count} normalizers make {letter!r} ten",
            lambda folder, letter=letter, count=count: _normalizers(folder, letter, count),
            codes=REFUSED,
            **SHORT,
        ),
    )
TEMPLATES = {
    "loops": "{% for a in range(99999) %}{% for b in range(99999) %}{% for c in range(99999) %}{% endfor %}{% endfor %}"
    "{% endfor %}",
    "grows": "{% set n = namespace(x='x' * 9999) %}{% for a in range(9999) %}{% set n.x = n.x + n.x %}{% endfor %}",
    "prints": "{% for a in range(99999) %}{{ 'x' * 99999 }}{% endfor %}",
}
for name, template in TEMPLATES.items():
    known(
        f"template-{name}",
        directories.directory_case(
            f"a chat template that {name}",
            lambda folder, template=template: (folder / "chat_template.jinja").write_text(template),
            **SHORT,
        ),
    )
for file in ("tekken.json", "vocab.txt", "spiece.model", "preprocessor_config.json", "added_tokens.json"):
    known(
        f"pipe-{file}",
        directories.directory_case(
            f"{file} is a pipe", directories.replaced(file, os.mkfifo), base="pieces-json", **SHORT
        ),
    )
known(
    "million-tokens",
    directories.directory_case(
        "a million tokens",
        directories.edited(
            "tokenizer.json", lambda d: d["model"]["vocab"].update({f"t{i}": 1000 + i for i in range(10**6)})
        ),
        **SHORT,
    ),
)
known(
    "million-merges",
    directories.directory_case(
        "a million merges",
        directories.edited("tokenizer.json", lambda d: d["model"].update(merges=d["model"]["merges"] * 10000)),
        **SHORT,
    ),
)
known(
    "added-token-10MB",
    directories.directory_case(
        "an added token of 10 MB",
        directories.edited(
            "tokenizer.json",
            lambda d: d["added_tokens"].append({**d["added_tokens"][0], "content": "y" * 10**7, "id": 384}),
        ),
        **SHORT,
    ),
)
known(
    "prefix-1MB",
    directories.directory_case(
        "continuing_subword_prefix of 1 MB",
        directories.edited("tokenizer.json", lambda d: d["model"].update(continuing_subword_prefix="#" * 10**6)),
        **SHORT,
    ),
)
known(
    "adapter-rank-pattern",
    directories.adapter_case("rank_pattern", {"rank_pattern": {"(a+)+": 2, "(([a-z0-9_.]+)+)+X": 3}}, **SHORT),
)
known(
    "adapter-alpha-pattern",
    directories.adapter_case("alpha_pattern", {"alpha_pattern": {"(([a-z0-9_.]+)+)+X": 3}}, **SHORT),
)
for file in ("model.safetensors", "config.json", "tokenizer.json"):
    known(
        f"pipe-{file}", directories.directory_case(f"{file} is a pipe", directories.replaced(file, os.mkfifo), **SHORT)
    )
known("pipe-inspect", gguf_files.file_case("a pipe", os.mkfifo, gguf_files.INSPECT, **SHORT))
known("pipe-plan", gguf_files.file_case("a pipe", os.mkfifo, gguf_files.PLAN, **SHORT))


def _pipe_part(place: Place) -> list[Run]:
    paths = gguf_files.split(models.gguf("llama"), place.work, 2)
    paths[1].unlink()
    os.mkfifo(paths[1])
    return [Run(("inspect", paths[0].name), codes=REFUSED, wall=25.0)]


known("pipe-part", Case("a part is a pipe", _pipe_part))


def _pipe_shard(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin.index.json").write_text('{"weight_map": {"model.norm.weight": "shard.bin"}}')
    os.mkfifo(folder / "shard.bin")


known(
    "pipe-pickle-shard",
    directories.directory_case("a shard of pickles is a pipe", _pipe_shard, "--allow-pickle", **SHORT),
)
known(
    "pipe-imatrix",
    requests.flags_case(
        "--imatrix of a pipe",
        ["export", "model", "--budget", "4", "--imatrix", "/dev/zero", "--no-parity", "--out", "out.gguf"],
        codes=REFUSED,
    ),
)
known(
    "pipe-recipe",
    requests.flags_case("--recipe of a device", ["plan", "saved.json", "--recipe", "/dev/zero"], codes=REFUSED),
)


# 12. Indexes that lead out of the folder.


def _outside(absolute: bool, pickled: bool) -> Case:
    def prepare(place: Place) -> list[Run]:
        folder = models.copy("llama", place)
        outside = place.work / "outside"
        outside.mkdir()
        name = "x.bin" if pickled else "x.safetensors"
        index = "pytorch_model.bin.index.json" if pickled else "model.safetensors.index.json"
        source = folder / "model.safetensors"
        names = list(directories.header_of(source.read_bytes())[0])
        if pickled:
            import torch
            from safetensors.torch import load_file

            torch.save(load_file(source), outside / name)
            source.unlink()
        else:
            source.rename(outside / name)
        goal = str(outside / name) if absolute else f"../outside/{name}"
        weights = {key: goal for key in names if key != "__metadata__"}
        (folder / index).write_text(json.dumps({"metadata": {}, "weight_map": weights}))
        return [Run((*directories.PLAN, *(["--allow-pickle"] if pickled else [])), codes=REFUSED)]

    return Case("an index that leads out of the folder", prepare)


for absolute in (False, True):
    for pickled in (False, True):
        known(f"index-{'absolute' if absolute else 'above'}{'-pickle' if pickled else ''}", _outside(absolute, pickled))

# Code in pickles never ran; it stays so.


def _ran(place: Place, ended: list[Ended]) -> str:
    return "the pickle's code ran" if any(place.root.rglob("run-by-a-pickle")) else ""


for allowed in (False, True):
    case_with_code = directories.pickle_case(
        "with code", lambda t: {**t, "x": directories.Touching()}, allowed=allowed, codes=REFUSED
    )
    case_with_code.check = _ran
    known(f"pickle-code{'-allowed' if allowed else ''}", case_with_code)

# A header that claims more than there is.
known(
    "header-of-2^62-bytes",
    directories.directory_case(
        "length",
        lambda folder: (folder / "model.safetensors").write_bytes(struct.pack("<Q", 1 << 62) + b"{}"),
        codes=REFUSED,
    ),
)

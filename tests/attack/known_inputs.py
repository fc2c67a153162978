"""Known attacks: input that ended in a traceback."""

from __future__ import annotations

import json
from typing import Any

from attack import directories, faults, gguf_files, models, requests, terminal
from attack.harness import Case, Place, Run
from attack.listed import DONE, REFUSED, SHORT, known, lazily


def _saved(change: Any) -> bytes:
    document = json.loads(models.saved().read_bytes())
    change(document)
    return json.dumps(document).encode()


# 8. Tracebacks.
for key in ("general.name", "general.architecture", "tokenizer.ggml.model"):
    for text_name, text in (("markup", "[/x]"), ("escape", "\x1b[2J"), ("bytes", "\udcff")):
        command = ("inspect", "in.gguf")
        known(f"{key}-{text_name}", lazily("name", lambda key=key, text=text: terminal.value_case(key, text)))
for text_name, text in (("markup", "[/x]"), ("escape", "\x1b[2J"), ("bytes", "\udcff")):
    known(f"tensor-{text_name}", lazily("tensor", lambda text=text: terminal.tensor_case(f"blk.0.{text}")))
    known(f"output-{text_name}", terminal.path_case(f"out{text}.gguf", "export"))
    known(f"plan-output-{text_name}", terminal.path_case(f"out{text}.json", "plan"))
    known(f"cache-{text_name}", terminal.path_case(f"cache{text}", "cache"))
    known(
        f"adapter-{text_name}",
        lazily("adapter", lambda text=text: directories.adapter_case("of another", {"base_model_name_or_path": text})),
    )
known(
    "saved-name-markup",
    lazily("name", lambda: requests.saved_case("model [/x]", _saved(lambda d: d.update(model="[/x]")))),
)
known(
    "tokens-a-number", lazily("tokens", lambda: gguf_files.value_case({"tokenizer.ggml.tokens": 5}, gguf_files.INSPECT))
)
known("block-of-5000-digits", lazily("tensor", lambda: terminal.tensor_case("blk." + "1" * 5000)))
known(
    "wrong-types-as-json",
    lazily(
        "types",
        lambda: gguf_files.value_case(
            {"tokenizer.ggml.tokens": 5, "general.name": 7, "tokenizer.ggml.bos_token_id": "x"},
            (*gguf_files.INSPECT, "--json"),
        ),
    ),
)
RECIPES = {
    "brackets": "[" * 3000,
    "indents": "\n".join(" " * i + "- " for i in range(1500)),
    "date": "2020-13-45",
    "int": "!!int abc",
    "float": "!!float x",
    "bool": "!!bool x",
    "timestamp": "!!timestamp x",
    "digits": "9" * 5000,
}
for name, text in RECIPES.items():
    known(f"recipe-{name}", requests.recipe_case(name, f"description: x\nbudget: 3\nnotes: {text}\n".encode()))
for name, line in {
    "threads-0": "threads: 0", "threads--1": "threads: -1", "probe-0": "probe_tokens: 0",
    "probe--5": "probe_tokens: -5",
    "probe-1": "probe_tokens: 1", "seed--1": "seed: -1", "seed-large": f"seed: {2**63}",
    "ratio-nan": "max_ppl_ratio: .nan",
    "ratio--1": "max_ppl_ratio: -1", "twice": "seed: 1\nseed: 2", "calibration-0": "calibration_tokens: 0",
}.items():  # fmt: skip
    known(f"recipe-{name}", requests.recipe_case(name, f"description: x\nbudget: 3\n{line}\n".encode(), codes=REFUSED))
known(
    "recipe-100000-keys",
    requests.recipe_case(
        "keys", requests.RECIPE.encode() + b"".join(b"k%d: 1\n" % i for i in range(100_000)), codes=REFUSED
    ),
)
known(
    "recipe-100000-levels",
    requests.recipe_case("levels", b"description: x\nbudget: 3\nlevels: [" + b"2, " * 100_000 + b"3]\n", codes=REFUSED),
)
for threads in (100_000, 2**40):
    known(
        f"flag-threads-{threads}",
        requests.flags_case(
            f"--threads {threads}", ["plan", "saved.json", "--budget", "3", "--threads", str(threads)], codes=REFUSED
        ),
    )


def _library(name: str, statement: str) -> None:
    """A value that the library must refuse with its own error."""

    def body(place: Place) -> int:
        import lieq_edge

        try:
            exec(f"lieq_edge.{statement}", {"lieq_edge": lieq_edge, "model": str(models.directory("llama"))})
        except lieq_edge.InputError:
            return 0
        raise AssertionError("it was not refused")

    known(f"library-{name}", Case(statement, lambda place: [Run(body=body, codes=DONE)]))


for field, wrong in (
    ("rounding", "evil"),
    ("granularity", "evil"),
    ("metric", "evil"),
    ("calibration_tokens", 0),
    ("threads", 0),
):
    _library(f"{field}-{wrong}", f"Settings(budget='3', {field}={wrong!r})")
_library(
    "text-missing",
    "export_model(model, 'out.gguf', lieq_edge.Settings(budget='3', text='nothing', calibration='none'))",
)

# Pickles, config.json, saved measurements, cache entries, memory.
known(
    "pickle-parameters",
    directories.pickle_case(
        "of parameters",
        lambda t: (
            __import__("torch").nn.ParameterDict({k.replace(".", "-"): v for k, v in t.items()}).state_dict()
            and {k: __import__("torch").nn.Parameter(v) for k, v in t.items()}
        ),
        codes=DONE,
    ),
)
known("pickle-sparse", directories.pickle_case("sparse", lambda t: {k: v.to_sparse() for k, v in t.items()}))
known("pickle-meta", directories.pickle_case("meta", lambda t: {k: v.to("meta") for k, v in t.items()}))
known(
    "pickle-claims",
    directories.pickle_case(
        "that claims 10^9 x 64 weights",
        lambda t: {**t, "model.embed_tokens.weight": __import__("torch").zeros(1).expand(10**9, 64)},
        **SHORT,
    ),
)


def _config_export(name: str, key: str, value: Any, codes: frozenset[int] = frozenset({0, 2})) -> Case:
    def prepare(place: Place) -> list[Run]:
        folder = models.copy("llama", place)
        directories.edited("config.json", lambda document: document.update({key: value}))(folder)
        arguments = ("export", "model", *models.MEASURED[:-3], "--no-validate", "--threads", "1", "--out", "out.gguf")
        return [Run(arguments, codes=codes, wall=40.0)]

    return Case(name, prepare)


known("return-dict", _config_export("return_dict is false", "return_dict", False, DONE))
known("num-labels-10000000", _config_export("num_labels", "num_labels", 10**7))
known("num-labels-1000000000", _config_export("num_labels", "num_labels", 10**9))
known(
    "saved-kept-evil",
    lazily(
        "kept",
        lambda: requests.saved_case("kept", _saved(lambda d: d["tensors"][0].update(kept="EVIL")), codes=REFUSED),
    ),
)


def _many_blocks(document: dict[str, Any]) -> None:
    first = document["blocks"][0]
    tensors = [t for t in document["tensors"] if t["name"].startswith("blk.0.")]
    document["blocks"] = [{**first, "index": i} for i in range(5000)]
    document["tensors"] = [
        {**t, "name": t["name"].replace("blk.0.", f"blk.{i}.")} for i in range(5000) for t in tensors
    ]


known(
    "saved-5000-blocks",
    lazily("blocks", lambda: requests.saved_case("5000 blocks", _saved(_many_blocks), codes=REFUSED)),
)


def _entry_of_another_shape(way: str) -> Case:
    """An entry whose checksum is right and whose record is another's."""

    def prepare(place: Place) -> list[Run]:
        (place.work / "model").symlink_to(models.directory("llama"))
        models.cached(place)
        entries = sorted(place.cache.glob("entries/**/*.safetensors"))
        assert len(entries) > 1
        contents = [entry.read_bytes() for entry in entries]
        if way == "exchanged":
            for entry, content in zip(entries, [*contents[1:], contents[0]], strict=True):
                entry.write_bytes(content)
        else:
            for entry, content in zip(entries, contents, strict=True):
                entry.write_bytes(_with_record(content))
        return [Run(faults.EXPORT, codes=DONE)]

    return Case(f"cache entries {way}", prepare, check=faults.right_or_nothing)


def _with_record(content: bytes) -> bytes:
    header, data = directories.header_of(content)
    notes = header.get("__metadata__", {})
    return directories.with_header({**header, "__metadata__": dict.fromkeys(notes, "5")}, data)


known("cache-exchanged", _entry_of_another_shape("exchanged"))
known("cache-other-record", _entry_of_another_shape("with another record"))
for size in (5, 20, 60):
    known(f"memory-{size}", lazily("memory", lambda size=size: faults.limit_case("memory", size << 20)))

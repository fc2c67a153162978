"""Convert a GGUF file to a Hugging Face directory and back, and list every difference.

    python -m benchmarks.roundtrip demo --report docs/roundtrip.md

Both ends are compared as F16 files: key by key, tensor by tensor (bytes), on the tokens of odd strings, and by the KL
divergence of their predictions. Keys may differ for the reasons in EXPLAINED only; anything else ends in exit code 1.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.harness import command_line, exit_code, table
from benchmarks.internals import (
    BATTERY,
    DEMO,
    Source,
    StoredTensor,
    builtin_text,
    demo_path,
    read_header,
    validate,
    write_plain,
)
from lieq_edge import open_source
from tools.widen import Widened, save_directory

EXPLAINED = {
    r"general\.name": "name of the directory, where the first converter took the name of the repository",
    r"general\.(basename|finetune|languages|license|organization|size_label|tags|base_model\..*|author|version|"
    r"description|repo_url|url|source\..*|quantized_by|dataset.*|datasets)": (
        "from the model card or the name of the repository, which weights and configuration do not hold; "
        "llama.cpp does not use it"
    ),
    r"\w+\.attention\.(key|value)_length": "the default, which is the hidden size over the number of heads",
    r"tokenizer\.ggml\.add_space_prefix": "false, which is llama.cpp's default for this vocabulary",
    r"tokenizer\.ggml\.unknown_token_id": "in a vocabulary of bytes every text has tokens; llama.cpp does not use it",
    r"quantize\..*|general\.(file_type|quantization_version)": "quantisation of the first file",
}
"""Reasons why a key may differ, by a pattern of its name."""


@dataclass(frozen=True)
class Difference:
    """A key that differs, with its values as text (None where it is absent); without a reason it is unexplained."""

    key: str
    before: str | None
    after: str | None
    reason: str | None


@dataclass(frozen=True)
class Trip:
    """Differences between both ends.

    Attributes:
        equal_keys: number of keys that are equal.
        differences: keys that differ or are in one file only.
        tensors: names of tensors whose bytes or shapes differ, or that are in one file only.
        texts: strings whose tokens differ.
        kld: mean KL divergence in nats a token between the two.
    """

    equal_keys: int
    differences: tuple[Difference, ...]
    tensors: tuple[str, ...]
    texts: tuple[str, ...]
    kld: float

    @property
    def faithful(self) -> bool:
        """Nothing differs but explained keys."""
        explained = all(difference.reason for difference in self.differences)
        return explained and not self.tensors and not self.texts and self.kld < 1e-6


def round_trip(source: Source, tokenizer: Path, folder: Path, *, context: int = 512, chunks: int = 2) -> Trip:
    """Compare ``source`` with what is read back from a directory.

    Args:
        source: a model that transformers can run.
        tokenizer: GGUF file or Hugging Face directory whose tokenizer goes into the directory.
        folder: folder for the files, about 8 bytes a weight.
        context: tokens of a window that predictions are compared on.
        chunks: windows.
    """
    directory = folder / "model"
    save_directory(Widened(source, int(source.config()["hidden_size"])), directory, tokenizer=tokenizer)
    again = open_source(str(directory))
    files = [folder / "before.gguf", folder / "after.gguf"]
    for path, model in zip(files, (source, again), strict=True):
        write_plain(path, model, "F16")
    text, name = builtin_text("validation")
    scores = validate(files[1], text, text_name=name, context=context, chunks=chunks, reference=files[0])
    assert scores.kld is not None
    first, second = ({kv.key: (kv.value, kv.type, kv.item_type) for kv in m.metadata()} for m in (source, again))
    return Trip(
        equal_keys=sum(second.get(key) == value for key, value in first.items()),
        differences=tuple(
            Difference(key, _shown(first.get(key)), _shown(second.get(key)), _reason(key))
            for key in sorted(first.keys() | second.keys())
            if first.get(key) != second.get(key)
        ),
        tensors=tuple(_different_tensors(*files)),
        texts=tuple(text for text in BATTERY if source.tokenize(text) != again.tokenize(text)),
        kld=scores.kld,
    )


def render(trip: Trip, label: str) -> str:
    """The report as Markdown."""
    lines = [
        f"# {label}: GGUF, Hugging Face directory, GGUF",
        "",
        "Made with `python -m benchmarks.roundtrip`. Both ends as F16 files:",
        "",
        f"- Keys that are equal: {trip.equal_keys}.",
        f"- Tensors that differ: {', '.join(trip.tensors) or 'none; all bytes are equal'}.",
        f"- Strings of the tokenizer battery ({len(BATTERY)}) that differ: {len(trip.texts) or 'none'}.",
        f"- KL divergence of the predictions: {trip.kld:.2g} nats a token.",
        "",
        table(
            ("key", "before", "after", "reason"),
            [(d.key, d.before or "-", d.after or "-", d.reason or "UNEXPLAINED") for d in trip.differences],
        ),
    ]
    return "\n".join(lines) + "\n"


def _reason(key: str) -> str | None:
    return next((reason for pattern, reason in EXPLAINED.items() if re.fullmatch(pattern, key)), None)


def _shown(entry: tuple[Any, int, int | None] | None) -> str | None:
    if entry is None:
        return None
    text = str(entry[0])
    return text if len(text) < 60 else f"{text[:57]}..."


def _different_tensors(before: Path, after: Path) -> list[str]:
    one, other = ({tensor.name: tensor for tensor in read_header(path).tensors} for path in (before, after))
    different = sorted(other.keys() - one.keys())
    for name, tensor in one.items():
        twin = other.get(name)
        alike = twin is not None and (twin.shape, twin.type) == (tensor.shape, tensor.type)
        if twin is None or not alike or not np.array_equal(_bytes_of(before, tensor), _bytes_of(after, twin)):
            different.append(name)
    return different


def _bytes_of(path: Path, tensor: StoredTensor) -> npt.NDArray[np.uint8]:
    return np.memmap(path, np.uint8, "r", tensor.offset, (tensor.nbytes,))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = command_line(__doc__, "model")
    parser.add_argument("--report", type=Path, help="Markdown file to write")
    args = parser.parse_args(arguments)

    def compare() -> int:
        path = demo_path() if args.model == DEMO else Path(args.model)
        with tempfile.TemporaryDirectory(prefix="roundtrip.") as folder:
            trip = round_trip(open_source(str(path)), path, Path(folder))
        text = render(trip, path.stem)
        print(text, end="")
        if args.report is not None:
            args.report.write_text(text, encoding="utf-8")
        return 0 if trip.faithful else 1

    return exit_code(compare)


if __name__ == "__main__":
    raise SystemExit(main())

"""The bytes of finished files stay what they were: tiny models, every rounding, two metrics, every kind of budget.

The values in ``golden/values.json`` are for the processors and library versions that stand beside them. On others the
last bits of sums differ, and then two exports are compared with each other instead. All products are made in float32
and on one thread. The tokenizers lie in ``golden/`` too, because training one gives other merges each time. After a
change that is meant to change files, write the values anew and say why in the commit:

    PYTHONPATH=tests python tests/pipeline/test_golden.py
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from importlib import metadata
from itertools import cycle
from pathlib import Path
from unittest import mock

import pytest
from runner import run
from tiny import cached_model, sample_text

from lieq_edge.blockwise import precision
from lieq_edge.store.keys import machine

GOLDEN = Path(__file__).parent / "golden"
VALUES = GOLDEN / "values.json"
FAMILIES = ("llama", "qwen2", "qwen3")
ROUNDINGS = ("nearest", "imatrix", "feedback", "feedback-once")
BUDGETS = cycle(("3", "3.7bpw", "1060kB"))
_PACKAGES = ("gguf", "llama-cpp-python", "numba", "numpy", "scipy", "tokenizers", "torch", "transformers")

CASES = [
    (family, metric, rounding, next(BUDGETS))
    for family in FAMILIES
    for metric in ("geometry", "loss")
    for rounding in ROUNDINGS
]


def conditions() -> dict[str, object]:
    """What the last bits of a sum depend on beside this project."""
    return {
        "instructions": machine(1)["instructions"],
        "versions": {name: metadata.version(name) for name in _PACKAGES},
    }


def export(folder: Path, family: str, metric: str, rounding: str, budget: str, *more: str) -> str:
    """SHA-256 of the file that an export writes."""
    folder.mkdir(exist_ok=True)
    text = folder / "text.txt"
    text.write_text(sample_text(20_000), encoding="utf-8")
    model = folder / "model"
    shutil.copytree(cached_model(family, hidden=256, intermediate=512, blocks=3, tied=family != "qwen2"), model)
    shutil.copyfile(GOLDEN / f"{'llama' if family == 'llama' else 'qwen'}-tokenizer.json", model / "tokenizer.json")
    out = folder / "out.gguf"
    arguments = ["--metric", metric, "--rounding", rounding, "--budget", budget, "--calibration", text]
    arguments += ["--calibration-tokens", "1024", "--probe-text", text, "--probe-tokens", "64", "--threads", "1"]
    if rounding == "nearest":  # which does not write two bits without importance
        arguments += ["--types", "Q3_K,Q4_K,Q5_K"] if metric == "loss" else ["--levels", "3,4"]
    arguments += ["--no-validate", "--no-parity", "--quiet", "--force", *more]
    with mock.patch.object(precision, "has_bfloat16", return_value=False):
        done = run("export", model, "--out", out, *arguments)
    assert done.returncode == 0, done.stderr
    return hashlib.sha256(out.read_bytes()).hexdigest()


@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_bytes_stay(tmp_path: Path, case: tuple[str, str, str, str]) -> None:
    kept = json.loads(VALUES.read_text(encoding="utf-8"))
    found = export(tmp_path, *case)
    if kept["conditions"] == conditions():
        assert found == kept["values"]["-".join(case)]
    else:
        assert found == export(tmp_path / "again", *case, "--no-cache")


def main() -> None:
    """Write the values of this machine."""
    import tempfile

    values = {}
    for case in CASES:
        with tempfile.TemporaryDirectory() as folder:
            values["-".join(case)] = export(Path(folder), *case, "--no-cache")
    document = {"conditions": conditions(), "values": values}
    VALUES.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    print(f"Wrote {len(values)} values to {VALUES}.", file=sys.stderr)


if __name__ == "__main__":
    main()

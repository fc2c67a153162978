"""Compare a rewritten file with the original: equal tensors and ``lieq.*`` keys, and a model that still answers.

python compare.py FILE REWRITTEN [--name NAME]
"""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path

import llama_cpp
from gguf import GGUFReader

import lieq_edge


def tensors(path: str) -> dict[str, tuple[str, str]]:
    """Type and SHA-256 of the data, by name."""
    found = GGUFReader(path).tensors
    return {
        tensor.name: (tensor.tensor_type.name, hashlib.sha256(tensor.data.tobytes()).hexdigest()) for tensor in found
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file")
    parser.add_argument("rewritten")
    parser.add_argument("--name", help="name that the rewritten file has")
    args = parser.parse_args()
    before, after = tensors(args.file), tensors(args.rewritten)
    assert before == after, "the tensors differ"
    reports = [lieq_edge.inspect_file(Path(path)) for path in (args.file, args.rewritten)]
    assert reports[0].lieq == reports[1].lieq, "the keys lieq.* differ"
    assert not reports[1].warnings, reports[1].warnings
    if args.name is not None:
        assert reports[1].name == args.name, reports[1].name
    model = llama_cpp.Llama(args.rewritten, n_ctx=128, verbose=False)
    text = model("The capital of France is", max_tokens=2, temperature=0)["choices"][0]["text"]
    assert "Paris" in text, text
    print(f"{len(after)} tensors are equal, as are {len(reports[1].lieq)} keys")


if __name__ == "__main__":
    main()

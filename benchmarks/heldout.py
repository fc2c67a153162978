"""Write a held-out text of another kind than WikiText: short dialogues and JavaScript.

    python -m benchmarks.heldout other.txt

Two packages are downloaded with pip: chatterbot-corpus 1.3.3 (English dialogues) and XStatic-jQuery 3.7.1.1 (jQuery and
its comments). Parts of both take turns. None of it is in any calibration text of lieq-edge.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import yaml

from benchmarks.harness import exit_code
from lieq_edge import InputError

PACKAGES = ("chatterbot-corpus==1.3.3", "XStatic-jQuery==3.7.1.1")
_PART = 1500
# Licence and polyfills come first in the source.
_SKIPPED = 20_000


def dialogues(folder: Path) -> str:
    """Questions and answers of all subjects, a line each."""
    lines: list[str] = []
    for path in sorted((folder / "chatterbot_corpus" / "data" / "english").glob("*.yml")):
        for dialogue in yaml.safe_load(path.read_text(encoding="utf-8"))["conversations"]:
            lines += [f"{'Q' if i % 2 == 0 else 'A'}: {text}" for i, text in enumerate(dialogue)]
    return "\n".join(lines)


def parts(text: str) -> Iterator[str]:
    """Parts of about ``_PART`` characters, whole lines."""
    part: list[str] = []
    for line in text.splitlines():
        part.append(line)
        if sum(map(len, part)) > _PART:
            yield "\n".join(part)
            part = []


def write(out: Path, characters: int) -> None:
    """Download the packages and write the text."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", name, *PACKAGES]
        if subprocess.run(command, check=False).returncode != 0:
            raise InputError("pip could not download the packages; look at its output above.")
        for wheel in folder.glob("*.whl"):
            zipfile.ZipFile(wheel).extractall(folder)
        script = (folder / "xstatic/pkg/jquery/data/jquery.js").read_text(encoding="utf-8")[_SKIPPED:]
        pairs = zip(parts(dialogues(folder)), parts(script), strict=False)
        text = "\n\n".join(part for pair in pairs for part in pair)
        out.write_text(text[:characters], encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="text to write")
    parser.add_argument("--characters", type=int, default=120_000, help="length of the text")
    args = parser.parse_args(arguments)
    return exit_code(lambda: write(args.out, args.characters))


if __name__ == "__main__":
    raise SystemExit(main())

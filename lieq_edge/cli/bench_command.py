"""``bench``: speed, load time and memory of a file."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

import lieq_edge as api

from ..system.progress import set_quiet
from .flags import DebugFlag, JsonFlag, QuietFlag, ThreadsFlag
from .printing import Printer


def bench(
    file: Annotated[Path, typer.Argument(help="GGUF file to measure.")],
    prompt: Annotated[int, typer.Option(min=1, help="Tokens of the prompt.")] = 256,
    generate: Annotated[int, typer.Option(min=1, help="Tokens of the answer.")] = 64,
    repeats: Annotated[int, typer.Option(min=1, help="Measurements; their medians are shown.")] = 3,
    threads: ThreadsFlag = None,
    json_output: JsonFlag = False,
    quiet: QuietFlag = False,
    debug: DebugFlag = False,
) -> None:
    """Speed of a GGUF file in llama.cpp on this machine, its load time and its memory."""
    set_quiet(quiet)
    size = api.inspect_file(file).file_bytes
    speed = api.measure_speed(file, prompt=prompt, generated=generate, repeats=repeats, threads=threads)
    if json_output:
        print(json.dumps({"file": str(file), "file_bytes": size, **asdict(speed)}, indent=1))
        return
    Printer().table(
        f"{file.name} in llama.cpp, {speed.threads} thread{'s' * (speed.threads > 1)}",
        [("", False), ("", True)],
        [
            [f"prompt of {speed.prompt} tokens", f"{speed.prefill:,.1f} tokens/s"],
            [f"answer of {speed.generated} tokens", f"{speed.decode:,.1f} tokens/s"],
            ["time to load", f"{speed.load_seconds:.2f} s"],
            ["largest memory", f"{speed.peak_bytes / 1e6:,.1f} MB"],
            ["size of the file", f"{size / 1e6:,.1f} MB"],
        ],
    )

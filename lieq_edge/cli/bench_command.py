"""``bench``: speed, load time and memory of a file, or the speed of this machine by type."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

import lieq_edge as api

from ..system.files import check_output, user_path
from ..system.progress import log, set_quiet
from .flags import DEVICE, CacheDirFlag, DebugFlag, ForceFlag, JsonFlag, NoCacheFlag, QuietFlag, ThreadsFlag
from .given import is_given
from .printing import Printer
from .report import print_json

# Columns of the residual stream of a model of about 1B weights, as an example.
_WIDTH = 2048


# Flags of --types alone.
_OF_TYPES = ("out", "name", "cache_dir", "no_cache", "force")


def bench(
    context: typer.Context,
    file: Annotated[Path | None, typer.Argument(help="GGUF file to measure; leave it out with --types.")] = None,
    prompt: Annotated[int, typer.Option(min=1, help="Tokens in the prompt.")] = 256,
    generate: Annotated[int, typer.Option(min=1, help="Tokens in the answer.")] = 64,
    repeats: Annotated[int, typer.Option(min=1, help="Number of measurements; their medians are shown.")] = 3,
    types: Annotated[
        bool,
        typer.Option(
            "--types", rich_help_panel=DEVICE, help="Measure the cost of a weight of each type on this machine."
        ),
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", rich_help_panel=DEVICE, help="Profile to write (JSON), for use with --device."),
    ] = None,
    name: Annotated[str | None, typer.Option(rich_help_panel=DEVICE, help="Name of the profile.")] = None,
    threads: ThreadsFlag = None,
    cache_dir: CacheDirFlag = None,
    no_cache: NoCacheFlag = False,
    force: ForceFlag = False,
    json_output: JsonFlag = False,
    quiet: QuietFlag = False,
    debug: DebugFlag = False,
) -> None:
    """Measure a GGUF file in llama.cpp on this machine: speed, load time and memory; or the speed of every type."""
    set_quiet(quiet)
    if types:
        if file is not None:
            raise api.InputError("--types measures this machine and not a file; leave the file or --types out.")
        _bench_types(out, name, repeats, threads, cache_dir, no_cache=no_cache, force=force, json_output=json_output)
        return
    if file is None:
        raise api.InputError("The file is missing; give a GGUF file, or --types to measure this machine.")
    if given := [f"--{flag.replace('_', '-')}" for flag in _OF_TYPES if is_given(context, flag)]:
        are, them = ("is", "it") if len(given) == 1 else ("are", "them")
        raise api.InputError(f"{' and '.join(given)} {are} for --types only; leave {them} out.")
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


def _bench_types(
    out: Path | None,
    name: str | None,
    repeats: int,
    threads: int | None,
    cache_dir: Path | None,
    *,
    no_cache: bool,
    force: bool,
    json_output: bool,
) -> None:
    out = None if out is None else user_path(out)
    if out is not None:
        check_output(out, force=force)
    made = api.measure_profile(name=name, repeats=repeats, threads=threads, cache=not no_cache, cache_dir=cache_dir)
    if out is not None:
        api.save_json(made, out, replace=force)
        log(f"Wrote {out}: take it with lieq-edge fit MODEL --device {out}.")
    if json_output:
        print_json(made)
        return
    printer = Printer()
    printer.table(
        f"{made.name}, {made.threads} thread{'s' * (made.threads > 1)}: nanoseconds a weight and token",
        [("type", False), ("prompt", True), ("answer", True)],
        [[kind, f"{cost.prefill:.4g}", f"{cost.decode:.4g}"] for kind, cost in made.types.items()],
    )
    prefill, decode = made.block.of(_WIDTH)
    printer.line(
        f"A block of {_WIDTH} columns takes {prefill / 1e3:.3g} microseconds a token of a prompt and "
        f"{decode / 1e3:.3g} a token of an answer beside its matrices."
    )
    printer.line(made.conditions)

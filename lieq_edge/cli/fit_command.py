"""``fit``: which sizes of a model fit a device."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

import lieq_edge as api

from ..system.progress import set_quiet
from ..system.units import parse_bytes, size_text
from .flags import DEVICE, DebugFlag, DeviceFlag, JsonFlag, KvFlag, MinTpsFlag, Model, QuietFlag, RevisionFlag
from .printing import Printer
from .report import print_json

if TYPE_CHECKING:
    from ..device.fit import Fit, Size

_WAYS = {"mapped": "yes", "read": "yes, --load-mode none", "plain": "yes, --no-repack"}


def fit(
    model: Model,
    device: DeviceFlag = None,
    context: Annotated[int, typer.Option(min=1, rich_help_panel=DEVICE, help="Tokens in a conversation.")] = 4096,
    kv: KvFlag = None,
    min_tps: MinTpsFlag = None,
    memory: Annotated[
        str | None,
        typer.Option(rich_help_panel=DEVICE, help="The device's memory, e.g. 2GiB, if it differs from the profile."),
    ] = None,
    revision: RevisionFlag = None,
    json_output: JsonFlag = False,
    quiet: QuietFlag = False,
    debug: DebugFlag = False,
) -> None:
    """Show which sizes of a model fit a device, how fast they run there, and which llama.cpp flags to use."""
    set_quiet(quiet)
    if device is None:
        names = ", ".join(profile.name for profile in api.list_profiles())
        raise api.InputError(f"The device is missing; pass --device with one of {names}, or a file of bench --types.")
    found = api.fit_model(
        model,
        device,
        context=context,
        cache_type=kv or "f16",
        min_tps=min_tps,
        memory=None if memory is None else parse_bytes(memory, "--memory"),
        revision=revision,
    )
    if json_output:
        print_json(found)
    else:
        _show(found, Printer())


def _show(found: Fit, printer: Printer) -> None:
    context = found.context
    columns = ("size", "file, MB", "bits a weight", "memory, MB", "prompt, tokens/s", "answer, tokens/s", "fits")
    printer.table(
        f"{found.model} on {found.device.name}, context of {context.tokens} tokens",
        [(name, 0 < i < 6) for i, name in enumerate(columns)],
        [_row(size) for size in found.sizes],
    )
    printer.line(
        f"The system leaves {size_text(found.device.spare)}. The context takes {size_text(context.cache)} for keys and "
        f"values ({context.cache_type}) and {size_text(context.compute)} for computing, llama.cpp and the tokenizer "
        f"{size_text(found.run)}. {size_text(found.room)} are left for weights: {found.largest_bpw:.2f} bits a weight."
    )
    for note in found.notes:
        printer.line(note)
    printer.line(f"Largest that fits: {found.best}. On the device: llama-server -m FILE {' '.join(found.flags)}")


def _row(size: Size) -> list[str]:
    if size.loading is None:
        fits = f"lacks {size_text(size.missing)}"
    else:
        fits = _WAYS[size.loading] if size.fast_enough else "too slow"
    pace = [f"{value:,.0f}" if value >= 100 else f"{value:.1f}" for value in (size.pace.prefill, size.pace.decode)]
    return [size.name, f"{size.file_bytes / 1e6:,.1f}", f"{size.bpw:.2f}", f"{size.memory / 1e6:,.0f}", *pace, fits]

"""Score files against the unquantised model: the last step of an export, and all of ``validate``."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import GateError, InputError
from .files import check_space, temporary_folder
from .settings import ExportSettings
from .splits import first_part
from .validate.perplexity import Validation, validate

if TYPE_CHECKING:
    from .source.base import Source


def validate_export(out: Path, source: Source, settings: ExportSettings) -> Validation:
    """Perplexity of the written file and, unless switched off, its divergence from the unquantised model."""
    text, name = validation_text(settings.text)
    context, chunks, threads = settings.context, settings.chunks, settings.threads
    if not settings.reference and settings.max_ppl_ratio is None:
        return validate(out, text, text_name=name, context=context, chunks=chunks, threads=threads)
    with reference_file(source, out.parent) as reference:
        return validate(
            out,
            text,
            text_name=name,
            context=context,
            chunks=chunks,
            threads=threads,
            reference=reference,
            reference_name=source.label,
        )


@contextlib.contextmanager
def reference_file(source: Source, folder: Path) -> Iterator[Path]:
    """A GGUF file of the unquantised model: the source itself, or a 16-bit copy in ``folder`` that is removed after."""
    if source.gguf_path is not None:
        yield source.gguf_path
        return
    from .write.plain import plain_bytes, write_plain

    check_space(folder, plain_bytes(source))
    with temporary_folder(folder) as temporary:
        path = Path(temporary) / "reference.gguf"
        write_plain(path, source)
        yield path


def validation_text(path: Path | None) -> tuple[str, str]:
    """Text to score on and its name: the user's, or the built-in one that nothing is calibrated on."""
    from .measure.texts import builtin_text, load_text

    if path is None:
        return builtin_text("validation")
    return load_text(path), path.name


def check_text_length(source: Source, settings: ExportSettings) -> None:
    """Tell a text shorter than one window, or a window beyond learned positions, before anything is made."""
    from .measure.texts import longest_window

    if (limit := longest_window(source, settings.context)) < settings.context:
        raise InputError(f"{source.label} has positions for {limit} tokens only; take a --context of that or less.")
    text, name = validation_text(settings.text)
    # The beginning of a long text nearly always has tokens enough.
    for part in (text[: 16 * settings.context], text):
        tokens = len(source.tokenize(part, add_bos=source.adds_bos))
        if tokens >= settings.context:
            return
    raise InputError(
        f"The text {name} has {tokens} tokens, fewer than one window of {settings.context}; "
        "give a longer --text or a smaller --context."
    )


def check_gate(validation: Validation | None, max_ppl_ratio: float | None) -> None:
    """Raise GateError when the perplexity exceeds the reference's by more than ``max_ppl_ratio``."""
    if max_ppl_ratio is None or validation is None or validation.reference_ppl is None:
        return
    ratio = validation.ppl / validation.reference_ppl
    # A NaN perplexity must fail too, so the comparison asks for success.
    if not ratio <= max_ppl_ratio:
        raise GateError(
            f"The perplexity {validation.ppl:.2f} is {ratio:.3f} times the unquantised model's "
            f"{validation.reference_ppl:.2f}, above --max-ppl-ratio {max_ppl_ratio:g}; raise the budget."
        )


def validate_against(
    file: Path,
    reference: str | None,
    *,
    text: Path | None = None,
    context: int = 512,
    chunks: int | None = None,
    threads: int | None = None,
) -> Validation:
    """Score a GGUF file, alone or against a GGUF file or any model that can be opened.

    Raises:
        InputError: a file is missing or unreadable, or the text is shorter than one window.
    """
    body, name = validation_text(text)
    if reference is None or reference.endswith(".gguf"):
        path = first_part(Path(reference)) if reference else None
        return validate(file, body, text_name=name, context=context, chunks=chunks, threads=threads, reference=path)
    from .source import open_source

    with (
        tempfile.TemporaryDirectory(prefix="lieq-validate.") as folder,
        reference_file(open_source(reference), Path(folder)) as path,
    ):
        return validate(
            file,
            body,
            text_name=name,
            context=context,
            chunks=chunks,
            threads=threads,
            reference=path,
            reference_name=reference,
        )

"""Score files against the unquantised model: the last step of an export, and all of ``validate``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import GateError, InputError
from ..gguf.splits import first_part
from ..settings import ExportSettings
from ..store import NO_CACHE, Cache
from ..validate.perplexity import Validation, validate

if TYPE_CHECKING:
    from ..sources.base import Source


def validate_export(out: Path, source: Source, settings: ExportSettings, cache: Cache = NO_CACHE) -> Validation:
    """Perplexity of the written file and, unless switched off, its divergence from the unquantised model."""
    text, name = validation_text(settings.text)
    context, chunks, threads = settings.context, settings.chunks, settings.threads
    if not settings.reference and settings.max_ppl_ratio is None:
        return validate(out, text, text_name=name, context=context, chunks=chunks, threads=threads)
    return validate(
        out,
        text,
        text_name=name,
        context=context,
        chunks=chunks,
        threads=threads,
        reference=reference_of(source),
        reference_name=source.label,
        cache=cache,
    )


def reference_of(source: Source) -> Path | Source:
    """The unquantised model as ``validate`` takes it.

    That is the source's own GGUF file, or else the source: PyTorch runs it block by block, so nothing has to be
    written and the model is never whole in memory.
    """
    return source if source.gguf_path is None else source.gguf_path


def validation_text(path: Path | None) -> tuple[str, str]:
    """Text to score on and its name: the user's, or the built-in one that nothing is calibrated on."""
    from ..texts.windows import builtin_text, load_text

    if path is None:
        return builtin_text("validation")
    return load_text(path), path.name


def check_text_length(source: Source, settings: ExportSettings) -> None:
    """Tell a text shorter than one window, or a window beyond learned positions, before anything is made."""
    from ..texts.windows import longest_window

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
    other: Path | Source | None = None
    if reference is not None and reference.endswith(".gguf"):
        other = first_part(Path(reference))
    elif reference is not None:
        from ..sources import open_source

        other = reference_of(open_source(reference))
    return validate(
        file,
        body,
        text_name=name,
        context=context,
        chunks=chunks,
        threads=threads,
        reference=other,
        reference_name=reference,
    )

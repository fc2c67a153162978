"""Score files against the unquantised model: the last part of ``write``, and all of ``validate``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..blockwise.threads import restored_threads
from ..errors import GateError, InputError
from ..gguf.splits import first_part
from ..llama.speed import measure_speed
from ..settings import Settings
from ..sources import Source, open_source
from ..store import NO_CACHE, Cache
from ..system.exclusive import one_at_a_time
from ..system.files import user_path
from ..system.progress import Progress, reporting_to
from ..texts.windows import builtin_text, load_text, longest_window
from ..validate.perplexity import Validation, validate_files
from ..validate.protocol import reference_parts, scored_positions
from ..validate.scored import ScoredFile, short_names


@dataclass(frozen=True)
class ValidationRequest:
    """Text and windows that a file is scored on.

    Attributes:
        text: text to score on.
        name: its name.
        context: tokens of a window.
        chunks: largest number of windows, None for all of the text.
        reference: True also compares with the unquantised model.
        parse_special: True reads special tokens in the text as tokens.
    """

    text: str
    name: str
    context: int
    chunks: int | None
    reference: bool
    parse_special: bool = False

    def check(self, source: Source) -> None:
        """Refuse a text shorter than one window, or a window beyond learned positions, before the work.

        Raises:
            InputError: the sentence says what to change.
        """
        if (limit := longest_window(source, self.context)) < self.context:
            raise InputError(f"{source.label} has positions for {limit} tokens only; take a --context of that or less.")
        # The beginning of a long text nearly always has enough tokens.
        for part in (self.text[: 16 * self.context], self.text):
            tokens = len(source.tokenize(part, add_bos=source.adds_bos, parse_special=self.parse_special))
            if tokens >= self.context:
                return
        raise InputError(
            f"The text {self.name} has {tokens} tokens, fewer than one window of {self.context}; "
            "give a longer --text or a smaller --context."
        )


def validation_request(settings: Settings) -> ValidationRequest | None:
    """The request of the settings; None if the file is not to be scored.

    Raises:
        InputError: the text cannot be read.
    """
    if not settings.validation:
        return None
    text, name = validation_text(settings.text)
    return ValidationRequest(text, name, settings.context, settings.chunks, settings.reference, settings.parse_special)


def require_reference(settings: Settings, flag: str, use: str) -> None:
    """Refuse a flag that needs scores against the original, where the settings leave them out.

    Args:
        settings: settings of the export.
        flag: the flag.
        use: what it does with the scores, as a part of the sentence.

    Raises:
        InputError: the sentence names the flag that is in the way.
    """
    if not (settings.validation and settings.reference):
        other = "--no-reference" if settings.validation else "--no-validate"
        raise InputError(f"{flag} {use} the original; leave out {flag} or {other}.")


def validate_export(
    out: Path, source: Source, request: ValidationRequest, *, threads: int | None, cache: Cache = NO_CACHE
) -> Validation:
    """Perplexity of the written file and, where it is asked for, its divergence from the unquantised model."""
    return validate_exports([out], source, request, threads=threads, cache=cache)[0]


def validate_exports(
    files: Sequence[Path], source: Source, request: ValidationRequest, *, threads: int | None, cache: Cache = NO_CACHE
) -> list[Validation]:
    """Scores of several files of a model, which is run once for all of them."""
    return validate_files(
        files,
        request.text,
        text_name=request.name,
        context=request.context,
        chunks=request.chunks,
        parse_special=request.parse_special,
        threads=threads,
        reference=reference_of(source) if request.reference else None,
        reference_name=source.label,
        cache=cache,
    )


def reference_of(source: Source) -> Path | Source:
    """The unquantised model, as ``validate`` takes it.

    It is the source's own GGUF file, or else the source: PyTorch runs it block by block, so nothing has to be written
    and the model is never whole in memory.
    """
    return source if source.gguf_path is None else source.gguf_path


def reference_stored(source: Source, request: ValidationRequest, cache: Cache) -> bool:
    """True if the original's part of the scores is in the cache."""
    if not request.reference or source.gguf_path is not None:
        return False
    ids = np.array(
        source.tokenize(request.text, add_bos=source.adds_bos, parse_special=request.parse_special), np.int32
    )
    count = min(len(ids) // request.context, request.chunks or len(ids))
    windows = ids[: count * request.context].reshape(count, request.context)
    if source.adds_bos and source.bos_id is not None:
        windows[:, 0] = source.bos_id
    return cache.has("reference", reference_parts(windows, scored_positions(request.context)))


def validation_text(path: Path | None) -> tuple[str, str]:
    """Text to score on and its name: the user's, or the built-in held-out text."""
    return builtin_text("validation") if path is None else (load_text(path), path.name)


def check_gate(validation: Validation | None, max_ppl_ratio: float | None, *, name: str | None = None) -> None:
    """Fail if a file is too far from the unquantised model.

    Args:
        validation: scores of the file.
        max_ppl_ratio: largest ratio of its perplexity to the unquantised model's; None lets everything pass.
        name: name of the file, where it is one of several.

    Raises:
        GateError: the perplexity exceeds the reference's by more than ``max_ppl_ratio``.
    """
    if max_ppl_ratio is None or validation is None or validation.reference_ppl is None:
        return
    ratio = validation.ppl / validation.reference_ppl
    # A NaN perplexity must fail too, so the comparison asks for success.
    if not ratio <= max_ppl_ratio:
        owner = "" if name is None else f" of {name}"
        raise GateError(
            f"The perplexity {validation.ppl:.2f}{owner} is {ratio:.3f} times the unquantised model's "
            f"{validation.reference_ppl:.2f}, above --max-ppl-ratio {max_ppl_ratio:g}; raise the budget."
        )


def check_gates(rows: Sequence[ScoredFile], max_ppl_ratio: float | None) -> None:
    """``check_gate`` for every file.

    Raises:
        GateError: names all files that are too far from the unquantised model.
    """
    failures = []
    for row in rows:
        try:
            check_gate(row.validation, max_ppl_ratio, name=None if len(rows) == 1 else row.name)
        except GateError as error:
            failures.append(str(error))
    if failures:
        raise GateError(" ".join(failures))


def validate_against(
    file: str | Path,
    reference: str | Path | None = None,
    *,
    text: str | Path | None = None,
    context: int = 512,
    chunks: int | None = None,
    parse_special: bool = False,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Validation:
    """Score a GGUF file, alone or against a GGUF file or any model that can be opened.

    Args:
        file: GGUF file to score.
        reference: GGUF file or model to compare with; None scores the file alone.
        text: file with the text; None takes the built-in text.
        context: tokens of a window.
        chunks: largest number of windows, None for all of the text.
        parse_special: special tokens in the text become tokens, as they stand in rendered conversations.
        threads: number of CPU threads, None for all cores.
        progress: function that receives steps and notes.

    Raises:
        InputError: a file is missing or unreadable, or the text is shorter than one window.
    """
    (row,) = score_files(
        [file],
        reference,
        text=text,
        context=context,
        chunks=chunks,
        parse_special=parse_special,
        threads=threads,
        progress=progress,
    )
    return row.validation


def score_files(
    files: Sequence[str | Path],
    reference: str | Path | None = None,
    *,
    text: str | Path | None = None,
    context: int = 512,
    chunks: int | None = None,
    parse_special: bool = False,
    speed: bool = False,
    threads: int | None = None,
    progress: Progress | None = None,
) -> tuple[ScoredFile, ...]:
    """Score GGUF files as ``validate_against`` scores one. The reference is run once.

    Args:
        files: GGUF files to score, named without their folder if they lie in the same one.
        reference: GGUF file or model to compare with; None scores the files alone.
        text: file with the text; None takes the built-in text.
        context: tokens of a window.
        chunks: largest number of windows, None for all of the text.
        parse_special: special tokens in the text become tokens.
        speed: True measures tokens a second as well.
        threads: number of CPU threads, None for all cores.
        progress: function that receives steps and notes.

    Raises:
        InputError: a file is missing or unreadable, or the text is shorter than one window.
    """
    paths = [first_part(user_path(file)) for file in files]
    if not paths:
        raise InputError("There is no file to score; give one GGUF file or several.")
    body, name = validation_text(None if text is None else user_path(text))
    other: Path | Source | None = None
    with reporting_to(progress), one_at_a_time(), restored_threads():
        if reference is not None:
            named = str(reference)
            other = first_part(user_path(named)) if named.endswith(".gguf") else reference_of(open_source(named))
        validations = validate_files(
            paths,
            body,
            text_name=name,
            context=context,
            chunks=chunks,
            parse_special=parse_special,
            threads=threads,
            reference=other,
            reference_name=None if reference is None else str(reference),
        )
        return scored_files(short_names(paths), paths, validations, speed=speed, threads=threads)


def scored_files(
    names: Sequence[str],
    paths: Sequence[Path],
    validations: Sequence[Validation],
    *,
    speed: bool,
    threads: int | None,
) -> tuple[ScoredFile, ...]:
    """The rows of scored files; with ``speed``, tokens a second are measured now."""
    rows = []
    for name, path, validation in zip(names, paths, validations, strict=True):
        rates = measure_speed(path, threads=threads) if speed else None
        prefill, decode = (None, None) if rates is None else (rates.prefill, rates.decode)
        rows.append(ScoredFile(name, validation.file_bytes, validation, prefill, decode))
    return tuple(rows)

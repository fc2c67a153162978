"""Compare a written file with llama.cpp's presets, made with an imatrix of the same text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ..errors import InputError
from ..presets.make import make_preset
from ..presets.names import NEAREST, USUAL, preset_name
from ..presets.original import written_original
from ..presets.sizes import known_preset, nearest_preset, preset_sizes
from ..settings import Settings
from ..system.files import check_space, output_target, temporary_folder
from ..texts.windows import CALIBRATION_CONTEXT
from ..validate.perplexity import Validation
from ..validate.scored import SAME_SIZE, ScoredFile
from .calibration import NoCalibration
from .gather import Evidence, imatrix_of
from .job import Job
from .validation import require_reference, scored_files, validate_exports


def check_comparison(settings: Settings, presets: Sequence[str]) -> tuple[str, ...]:
    """The presets to compare with, each once; to call before any work.

    Args:
        settings: settings of the export.
        presets: names in any case; ``nearest`` or nothing for the one that is nearest in size.

    Raises:
        InputError: a preset is unknown, or the file is not scored against the original.
    """
    if presets:
        require_reference(settings, "--compare", "scores files against")

    def name(text: str) -> str:
        return NEAREST if text.strip().lower() in ("", NEAREST) else known_preset(text)

    return tuple(dict.fromkeys(map(name, presets)))


def check_makeable(job: Job, presets: Sequence[str]) -> None:
    """Refuse presets that llama.cpp makes with an imatrix only, where the job measures none; to call before any work.

    Args:
        job: a job of the export.
        presets: names of ``check_comparison``.

    Raises:
        InputError: the sentence names them.
    """
    named = [name for name in presets if name != NEAREST]
    if named and isinstance(job.calibration, NoCalibration):
        _possible_sizes(job, named, importance=False)


def compare_presets(
    job: Job,
    evidence: Evidence,
    out: Path,
    presets: Sequence[str],
    *,
    ours: Validation | None = None,
    speed: bool = True,
) -> tuple[ScoredFile, ...]:
    """Make presets of the job's model beside ``out``, score them, and remove them.

    Args:
        job: the job that wrote the file, with a request for its validation.
        evidence: evidence of the job. Importances are measured on the same text if it has none.
        out: the written file.
        presets: names of ``check_comparison``.
        ours: scores of the written file by the job's request, with the original; None scores it now.
        speed: True measures tokens a second of all files.

    Returns:
        The written file, then a row for each preset.

    Raises:
        InputError: llama.cpp cannot make a preset of this model, or the disk has too little space.
    """
    assert job.validation is not None
    request = replace(job.validation, reference=True)
    with job.step("compare"):
        importances = imatrix_of(job, evidence)
        sizes = _sizes(job, out, presets, importance=importances is not None)
        chunks = max(1, evidence.calibration.tokens // CALIBRATION_CONTEXT) if evidence.calibration else 1
        beside = output_target(out).parent
        check_space(beside, sum(sizes.values()))
        with temporary_folder(beside) as folder:
            made = []
            with written_original(job.source, beside) as original:
                for name in sizes:
                    path = folder / f"{name}.gguf"
                    make_preset(
                        job.source, name, path, importances, chunks=chunks, threads=job.threads, original=original
                    )
                    made.append(path)
            unscored = made if ours is not None else [out, *made]
            scores = validate_exports(unscored, job.source, request, threads=job.threads, cache=job.cache)
            validations = scores if ours is None else [ours, *scores]
            names = [out.name, *sizes]
            return scored_files(names, [out, *made], validations, speed=speed, threads=job.threads)


def _sizes(job: Job, out: Path, presets: Sequence[str], *, importance: bool) -> dict[str, int]:
    """Bytes of each preset's file, by name."""
    own = preset_name(job.settings.budget)
    others = [*USUAL, *([] if own is None else [own])] if NEAREST in presets else []
    possible = _possible_sizes(job, [name for name in presets if name != NEAREST], others, importance=importance)
    names = list(presets)
    if NEAREST in presets:
        # The file was given the size of a preset, which may be none of the usual ones.
        usual = {name: possible[name] for name in USUAL if name in possible}
        nearest = own if own in possible else nearest_preset(usual, int(SAME_SIZE * out.stat().st_size))
        names = [nearest if name == NEAREST else name for name in presets]
    return {name: possible[name] for name in dict.fromkeys(names)}


def _possible_sizes(job: Job, named: Sequence[str], others: Sequence[str] = (), *, importance: bool) -> dict[str, int]:
    """Bytes of the files of presets that llama.cpp can make, all of ``named`` among them."""
    possible = preset_sizes(job.source, [*named, *others], importance=importance, possible=True)
    if refused := [name for name in named if name not in possible]:
        raise InputError(
            f"llama.cpp makes {', '.join(refused)} with an imatrix only, and this export reads no calibration text; "
            "choose one, or leave that preset out of --compare."
        )
    return possible

"""Resolve: from settings to a job, in which everything is decided.

This is the only place that refuses, warns and fills defaults. Explicit settings stay as they are. Only faults that show
in a plan (a byte budget that the losses cannot meet, a 2-bit type without importance) are refused later, by the
allocator and the rounder.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from ..allocation.base import Allocator
from ..allocation.budget import Budget, parse_budget
from ..errors import InputError
from ..evidence.blocks.metrics import GEOMETRY
from ..evidence.blocks.records import Diagnostics, describe
from ..rounding.base import Rounder
from ..runtimes import Runtime, open_runtime
from ..runtimes.base import LOSS, NETWORK
from ..settings import Settings
from ..sources import Source, open_source
from ..store import NO_CACHE, Cache, open_cache, parse_size
from ..system.fingerprint import Fingerprints
from ..system.progress import log
from ..system.timing import Stopwatch
from .blocks import BlockChoice
from .calibration import Calibration
from .choices import block_choice, check_combination, choose_allocator, choose_calibration, choose_rounder
from .validation import ValidationRequest, validation_request


@dataclass(frozen=True)
class Job:
    """A resolved export.

    Attributes:
        model: name of the model, as the user wrote it.
        settings: settings of the user, for the record.
        source: opened model.
        runtime: runtime of the model.
        budget: limit of the weights or of the file.
        allocator: way to share out the budget.
        rounder: way from weights to codes.
        calibration: calibration text, imatrix file, or neither.
        blocks: measurements of the blocks to make.
        saved: saved measurements, instead of new ones; None to measure.
        validation: text and windows to score the file on; None to leave it unscored.
        cache: cache for results of this model.
        threads: number of CPU threads, None for all cores.
        seed: first seed of everything that is drawn.
        out: file to write; None for a plan only.
        files: files of the model as they were when they were hashed; nothing is stored once one has changed.
        watch: seconds by stage.
    """

    model: str
    settings: Settings
    source: Source
    runtime: Runtime
    budget: Budget
    allocator: Allocator
    rounder: Rounder
    calibration: Calibration
    blocks: BlockChoice
    saved: Diagnostics | None
    validation: ValidationRequest | None
    cache: Cache
    out: Path | None = None
    files: Fingerprints = field(default_factory=Fingerprints)
    watch: Stopwatch = field(default_factory=Stopwatch)

    @property
    def threads(self) -> int | None:
        return self.settings.threads

    @property
    def seed(self) -> int:
        return self.settings.seed


def resolve(
    model: str | Path,
    settings: Settings,
    *,
    saved: Diagnostics | None = None,
    out: str | Path | None = None,
    cache: Cache | None = None,
) -> Job:
    """Decide everything that the settings leave open, and refuse the impossible before any time is spent.

    Args:
        model: Hugging Face directory, hub id, ``.gguf`` file or ``demo``.
        settings: settings of the user.
        saved: saved measurements of the same model.
        out: file to write; None for a plan only.
        cache: cache to use; None takes the one that the settings name.

    Raises:
        InputError: the model does not exist, or the settings cannot be met.
    """
    model, out = str(model), None if out is None else Path(out).expanduser()
    check_combination(settings)
    watch = Stopwatch()
    budget = parse_budget(settings.budget)
    validation = validation_request(settings) if out is not None else None
    files = Fingerprints()
    with watch.measure("open"):
        source = open_source(model, revision=settings.revision, lora=settings.lora, allow_pickle=settings.allow_pickle)
        for path in source.read_files:
            files.remember(path)
        results = (cache_of(settings) if cache is None else cache).about(model=source.content_hash).guarded(files.check)
        results = results.labelled(source.label)
        source.use_cache(results)
        _settle_tokenizer(source)
    if out is not None:
        _check_not_source(out, model, source)
    runtime = open_runtime(source, threads=settings.threads)
    rounder = choose_rounder(settings, runtime)
    allocator = choose_allocator(settings, rounder)
    calibration = choose_calibration(settings, source, allocator, rounder)
    _check_runtime(runtime, settings, allocator, rounder, measures=saved is None)
    if saved is not None:
        check_saved(saved, settings)
        if saved.model_hash != source.content_hash:
            raise InputError(f"The saved measurements are of another model ({saved.model}); run analyze again.")
    allocator.check(describe(source), budget)
    if validation is not None:
        validation.check(source)
    return Job(
        model=model,
        settings=settings,
        source=source,
        runtime=runtime,
        budget=budget,
        allocator=allocator,
        rounder=rounder,
        calibration=calibration,
        blocks=block_choice(settings, allocator.needs),
        saved=saved,
        validation=validation,
        cache=results,
        out=out,
        files=files,
        watch=watch,
    )


def _settle_tokenizer(source: Source) -> None:
    """Load the tokenizer, which may be refused, and report the warnings of the model's source."""
    _ = source.adds_bos
    for warning in source.warnings:
        log(f"Note: {warning}")


def cache_of(settings: Settings) -> Cache:
    """The cache that the settings name."""
    if not settings.cache:
        return NO_CACHE
    return open_cache(settings.cache_dir, limit=parse_size(settings.cache_limit), threads=settings.threads)


def check_saved(saved: Diagnostics, settings: Settings) -> None:
    """Refuse saved measurements that were made with other settings than the user gives.

    Raises:
        InputError: the sentence names the setting.
    """
    made: dict[str, object] = {"projections": saved.projections, "baseline": saved.baseline}
    if saved.probe is not None:
        made |= {"probe_text": saved.probe.name, "probe_tokens": saved.probe.tokens}
    for name, value in made.items():
        if not settings.gives(name):
            continue
        wanted = getattr(settings, name)
        if value != (wanted.name if isinstance(wanted, Path) else wanted):
            flag = name.replace("_", "-")
            raise InputError(
                f"The saved measurements were made with --{flag} {value}, not {wanted}; run analyze again."
            )


def _check_runtime(
    runtime: Runtime, settings: Settings, allocator: Allocator, rounder: Rounder, *, measures: bool
) -> None:
    """Refuse measurements that the runtime cannot make."""
    if allocator.predicts or rounder.follow is not None:
        runtime.require(LOSS)
    if measures:
        for measurement in sorted(allocator.needs):
            runtime.require(measurement)
        if GEOMETRY in allocator.needs and settings.baseline == "network":
            runtime.require(NETWORK)


def _check_not_source(out: Path, model: str, source: Source) -> None:
    """Refuse to overwrite the model, which validation still reads and of which there may be no other copy."""
    if not out.exists():
        return
    directory = Path(model).expanduser()
    if source.files:
        clash = any(out.samefile(path) for path in source.files)
    else:
        clash = out.suffix != ".gguf" and directory.is_dir() and out.resolve().parent == directory.resolve()
    if clash:
        raise InputError(f"{out} belongs to the model itself; choose another output path.")

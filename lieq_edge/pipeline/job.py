"""Resolve: from settings to a job, in which everything is decided.

This is the only place that refuses, warns and fills defaults. Explicit settings stay as they are. Only faults that show
in a plan (a byte budget that the losses cannot meet, a 2-bit type without importance) are refused later, by the
allocator and the rounder.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from ..allocation import by_loss
from ..allocation.base import Allocator
from ..allocation.budget import Budget, parse_budget
from ..allocation.time_limit import TimeLimit
from ..allocation.types import candidate_types
from ..device.pace import work_of
from ..device.profile import Profile, load_profile
from ..errors import InputError
from ..evidence.blocks.metrics import GEOMETRY
from ..evidence.blocks.records import Diagnostics, describe
from ..gguf.names import block_of
from ..gguf.types import LEVEL_TYPES
from ..rounding.base import Rounder
from ..runtimes import Runtime, open_runtime
from ..runtimes.base import LOSS, NETWORK
from ..settings import Settings
from ..sources import Source, open_source
from ..store import NO_CACHE, Cache, open_cache, parse_size
from ..system.files import temporary_folder, user_path
from ..system.fingerprint import Fingerprints
from ..system.progress import log, step_of
from ..system.schedule import Schedule
from ..system.timing import Stopwatch
from ..system.units import size_text
from ..texts.info import TextInfo
from ..texts.windows import Windows, calibration_windows
from .blocks import BlockChoice
from .calibration import Calibration, CalibrationText
from .choices import (
    block_choice,
    check_combination,
    check_inputs,
    choose_allocator,
    choose_calibration,
    choose_rounder,
    choose_tuning,
)
from .method import Method, choose_method
from .outputs import default_path
from .tuning import TuningChoice
from .validation import ValidationRequest, validation_request

# Tokens of a conversation on a device.
_DEFAULT_CONTEXT = 4096


@dataclass(frozen=True)
class Job:
    """A resolved export.

    Attributes:
        model: name of the model, as the user wrote it.
        settings: settings of the user, for the record.
        source: opened model.
        runtime: runtime of the model.
        budget: limit of the weights or of the file.
        method: metric, rounding and effort, with the reasons for them.
        allocator: way to share out the budget.
        rounder: way from weights to codes.
        calibration: calibration text, imatrix file, or neither.
        blocks: measurements of the blocks to make.
        saved: saved measurements, instead of new ones; None to measure.
        tuning: tuning of the written file; None for none.
        validation: text and windows to score the file on; None to leave it unscored.
        cache: cache for results of this model.
        threads: number of CPU threads, None for all cores.
        seed: first seed of everything that is drawn.
        out: file to write; None for a plan only.
        files: files of the model as they were when they were hashed; nothing is stored once one has changed.
        watch: seconds by stage.
        schedule: steps of the whole work, of which this job may be a part.
    """

    model: str
    settings: Settings
    source: Source
    runtime: Runtime
    budget: Budget
    method: Method
    allocator: Allocator
    rounder: Rounder
    calibration: Calibration
    blocks: BlockChoice
    saved: Diagnostics | None
    tuning: TuningChoice | None
    validation: ValidationRequest | None
    cache: Cache
    out: Path | None = None
    files: Fingerprints = field(default_factory=Fingerprints)
    watch: Stopwatch = field(default_factory=Stopwatch)
    schedule: Schedule = field(default_factory=lambda: Schedule(()))

    @functools.cached_property
    def windows(self) -> tuple[Windows, TextInfo]:
        """Windows of the calibration text, and its record; the model is run where it writes the text itself."""
        assert isinstance(self.calibration, CalibrationText)
        return calibration_windows(
            self.source,
            self.calibration.text,
            tokens=self.calibration.tokens,
            seed=self.seed,
            write=self.runtime.write_text,
            cache=self.cache,
        )

    @contextlib.contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Do a step of the schedule in the block, and take its time."""
        with step_of(self.schedule, name), self.watch.measure(name):
            yield

    @property
    def threads(self) -> int | None:
        return self.settings.threads

    @property
    def seed(self) -> int:
        return self.settings.seed


@dataclass(frozen=True)
class Opened:
    """An opened model, which the jobs of several budgets share.

    Attributes:
        model: name of the model, as the user wrote it.
        source: the model, with its tokenizer loaded.
        runtime: runtime of the model.
        cache: cache for results of this model.
        shared: the same cache for results of no model.
        files: files of the model as they were when they were hashed.
        seconds: seconds that opening took.
    """

    model: str
    source: Source
    runtime: Runtime
    cache: Cache
    shared: Cache
    files: Fingerprints
    seconds: float


def open_for(model: str | Path, settings: Settings, cache: Cache | None = None, *, notes: bool = True) -> Opened:
    """Open a model as the settings say.

    Args:
        model: Hugging Face directory, hub id, ``.gguf`` file or ``demo``.
        settings: settings of the user.
        cache: cache to use; None takes the one that the settings name.
        notes: report the warnings of the model's source; False where the model is opened again.

    Raises:
        InputError: the model does not exist, or cannot be read.
    """
    watch, files = Stopwatch(), Fingerprints()
    with watch.measure("open"):
        source = open_source(
            str(model), revision=settings.revision, lora=settings.lora, allow_pickle=settings.allow_pickle
        )
        for path in source.read_files:
            files.remember(path)
        shared = cache_of(settings) if cache is None else cache
        results = shared.about(model=source.content_hash).guarded(files.check).labelled(source.label)
        source.use_cache(results)
        _ = source.adds_bos  # loads the tokenizer, which may be refused
        for warning in source.warnings if notes else ():
            log(f"Note: {warning}")
    runtime = open_runtime(source, threads=settings.threads)
    return Opened(str(model), source, runtime, results, shared, files, watch.seconds["open"])


def resolve(
    model: str | Path,
    settings: Settings,
    *,
    saved: Diagnostics | None = None,
    out: str | Path | None = None,
    cache: Cache | None = None,
    opened: Opened | None = None,
    name_file: bool = False,
) -> Job:
    """Decide everything that the settings leave open, and refuse the impossible before any time is spent.

    Args:
        model: Hugging Face directory, hub id, ``.gguf`` file or ``demo``.
        settings: settings of the user.
        saved: saved measurements of the same model.
        out: file to write; None for a plan only.
        cache: cache to use; None takes the one that the settings name.
        opened: the model, if it is open already.
        name_file: a file without ``out`` gets a name by llama.cpp's convention, in the current folder.

    Raises:
        InputError: the model does not exist, or the settings cannot be met.
    """
    writes = out is not None or name_file
    check_combination(settings)
    budget = parse_budget(settings.budget)
    if opened is None:
        check_inputs(settings, writes=writes)
    validation = validation_request(settings) if writes else None
    opened = opened or open_for(model, settings, cache)
    source, runtime = opened.source, opened.runtime
    profile = None if settings.device is None else load_profile(settings.device)
    budget = _in_bytes(budget, source, settings, profile)
    method = choose_method(settings, budget, runtime, saved=saved is not None)
    rounder = choose_rounder(settings, method)
    described = describe(source)
    allocator = choose_allocator(settings, method.metric, rounder)
    calibration = choose_calibration(settings, source, allocator, rounder)
    _check_runtime(runtime, settings, allocator, rounder, measures=saved is None)
    if saved is not None:
        check_saved(saved, settings)
        if saved.model_hash != source.content_hash:
            raise InputError(f"The saved measurements are of another model ({saved.model}); run analyze again.")
        # The model card, which may have changed since, is no part of the hash.
        saved = replace(saved, metadata_bytes=described.metadata_bytes)
    allocator.check(described, budget)
    path = user_path(out) if out is not None else None
    if path is not None:
        _check_not_source(path, opened.model, source)
    if validation is not None:
        validation.check(source)
    # After all else, for this machine may have to be measured.
    time = _time_limit(settings, method, profile, described, opened)
    if time is not None:
        allocator = choose_allocator(settings, method.metric, rounder, time)
        allocator.check(described, budget)
    most = note_ceiling(allocator, described, budget)
    if name_file and path is None:
        path = default_path(source, settings, replace(budget, value=min(budget.value, most)))
        _check_not_source(path, opened.model, source)
    watch = Stopwatch()
    watch.seconds["open"] = opened.seconds
    return Job(
        model=opened.model,
        settings=settings,
        source=source,
        runtime=runtime,
        budget=budget,
        method=method,
        allocator=allocator,
        rounder=rounder,
        calibration=calibration,
        blocks=block_choice(settings, method.metric, allocator.needs),
        saved=saved,
        tuning=choose_tuning(settings, source, runtime, calibration) if writes else None,
        validation=validation,
        cache=opened.cache,
        out=path,
        files=opened.files,
        watch=watch,
    )


def cache_of(settings: Settings) -> Cache:
    """The cache that the settings name."""
    if not settings.cache:
        return NO_CACHE
    return open_cache(settings.cache_dir, limit=parse_size(settings.cache_limit), threads=settings.threads)


def shared_cache(settings: Sequence[Settings], stack: contextlib.ExitStack) -> Cache:
    """The cache of the jobs of several budgets; a temporary one where each would measure anew without any."""
    cache = cache_of(settings[0])
    if cache is NO_CACHE and len(settings) > 1:
        folder = stack.enter_context(temporary_folder())
        return open_cache(folder / "cache", threads=settings[0].threads)
    return cache


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


def device_context(settings: Settings) -> tuple[int, str]:
    """Tokens of a conversation on the device, and the type of its keys and values."""
    return settings.context_size or _DEFAULT_CONTEXT, settings.kv or "f16"


def _time_limit(
    settings: Settings, method: Method, profile: Profile | None, described: Diagnostics, opened: Opened
) -> TimeLimit | None:
    """The device on which the speed is predicted, this machine where the user bounds the speed without naming one."""
    if profile is None:
        if settings.min_tps is None or method.metric != by_loss.NAME:
            return None
        from ..device.measure import own_profile

        possible = candidate_types(described.tensors, settings.types, strict=False).values()
        types = sorted({kind for some in possible for kind in some} | {"Q6_K"})
        profile = own_profile(opened.shared, types, threads=settings.threads)
    source = opened.source
    metadata = {kv.key: kv.value for kv in source.metadata()}
    work = work_of({tensor.name: tensor.shape for tensor in described.tensors}, metadata, source.architecture)
    return TimeLimit(profile, work, settings.min_tps)


def _in_bytes(budget: Budget, source: Source, settings: Settings, profile: Profile | None) -> Budget:
    """The budget of a preset or of a device as bytes; others as they are."""
    if budget.kind == "fit":
        from ..device.fit import weight_room

        assert profile is not None
        tokens, kind = device_context(settings)
        room = weight_room(source, profile, tokens, kind)
        text = f"of {profile.name} with {tokens} tokens"
        log(f"Note: {profile.name} has room for weights of {size_text(room)} beside {tokens} tokens ({kind}).")
        return Budget("bytes", float(room), text)
    if budget.kind != "preset":
        return budget
    from ..presets.sizes import preset_bytes

    return Budget("bytes", float(preset_bytes(source, budget.text)), budget.text)


def note_ceiling(allocator: Allocator, described: Diagnostics, budget: Budget) -> float:
    """Report a budget that cannot be filled; returns the largest of which anything is used."""
    most = allocator.most(described, budget)
    if budget.value <= most * (1 + 1e-9):
        return most
    unit = {"nominal": f"{most:.3g} bits", "bpw": f"{most:.3g} bits a weight", "bytes": f"{most / 1e6:.1f} MB"}
    blocks = {name: types for name, types in allocator.candidates(described).items() if block_of(name) is not None}
    level, largest = max(LEVEL_TYPES.items())
    if all(largest in types for types in blocks.values()):
        advice = f"all blocks are in {largest} then, the largest type"
    elif allocator.predicts:
        advice = f"allow larger --types (up to {largest}) to use more"
    else:
        advice = f"allow larger --levels (up to {level}) to use more"
    log(
        f"Note: the budget {budget.text} is more than this model can use: with the largest of the allowed types it "
        f"takes {unit[budget.kind]}; {advice}."
    )
    return most


def _check_not_source(out: Path, model: str, source: Source) -> None:
    """Refuse to overwrite the model, which validation still reads and of which there may be no other copy."""
    if not out.exists():
        return
    directory = user_path(model)
    if source.files:
        clash = any(out.samefile(path) for path in source.files)
    else:
        clash = out.suffix != ".gguf" and directory.is_dir() and out.resolve().parent == directory.resolve()
    if clash:
        raise InputError(f"{out} belongs to the model itself; choose another output path.")

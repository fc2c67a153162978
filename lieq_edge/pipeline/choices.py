"""The choices behind ``resolve``: allocator, rounder, calibration and measurements."""

from __future__ import annotations

from pathlib import Path

from ..allocation import by_loss
from ..allocation.base import Allocator
from ..allocation.budget import parse_budget
from ..allocation.by_levels import ByLevels
from ..allocation.plan import PlanOptions
from ..allocation.time_limit import TimeLimit
from ..device.profile import load_profile
from ..errors import InputError
from ..evidence.blocks.table import METRICS
from ..evidence.importance.imatrix_file import read_content, read_imatrix
from ..gguf.types import TYPES
from ..rounding.base import Rounder
from ..rounding.table import ROUNDERS
from ..runtimes import Runtime
from ..runtimes.base import LOSS
from ..settings import Settings
from ..sources.base import Source
from ..system.progress import log
from ..texts.windows import CALIBRATIONS, load_text
from .blocks import BlockChoice
from .calibration import Calibration, CalibrationText, ImatrixFile, NoCalibration, default_tokens
from .effort import WORK
from .method import Method
from .tuning import TuningChoice, lacking

_SEEDS = 3
# Tokens of the text of tuning.
_TUNING_TOKENS = 32768


def check_combination(settings: Settings) -> None:
    """Refuse settings that contradict each other, whatever the model is.

    Raises:
        InputError: a setting is of no use with another one.
    """
    chooses_types = settings.type_choices
    if settings.gives("levels") and settings.metric == by_loss.NAME:
        raise InputError("--levels has no use with --metric loss, which chooses among --types; leave it out.")
    if chooses_types and settings.metric not in (None, by_loss.NAME):
        raise InputError(f"--{chooses_types[0]} is for --metric loss only; leave it out.")
    if chooses_types and settings.gives("levels"):
        raise InputError(f"--levels and --{chooses_types[0]} are of two methods; leave one out.")
    if settings.max_ppl_ratio is not None and not settings.validation:
        raise InputError("--max-ppl-ratio needs the validation; leave out --max-ppl-ratio or --no-validate.")
    if settings.max_ppl_ratio is not None and not settings.reference:
        raise InputError(
            "--max-ppl-ratio compares with the unquantised model; leave out --max-ppl-ratio or --no-reference."
        )
    if settings.tune == 0 and (settings.gives("tune_steps") or settings.gives("tune_tokens")):
        raise InputError("--tune 0 tunes nothing; leave out --tune-steps and --tune-tokens, or give --tune minutes.")
    if settings.gives("tune_tokens") and not _may_tune(settings):
        raise InputError("--tune-tokens is for tuning only; give --tune minutes too, or leave it out.")
    if settings.device is None:
        for name in ("context_size", "kv"):
            if settings.gives(name):
                raise InputError(f"--{name.replace('_', '-')} is for --device only; leave it out, or name a device.")
        if parse_budget(settings.budget).kind == "fit":
            raise InputError("The budget fit is what a device has room for; name it by --device.")
    if settings.min_tps is not None and settings.metric not in (None, by_loss.NAME):
        raise InputError(f"--min-tps is for --metric {by_loss.NAME} only; leave one of them out.")
    if settings.imatrix is not None and (settings.gives("calibration") or settings.gives("calibration_tokens")):
        raise InputError("--imatrix takes the place of a calibration text; leave --calibration out.")


def check_inputs(settings: Settings, *, writes: bool) -> None:
    """Refuse files and names of the settings that cannot be read or are unknown; to call before the model is opened.

    Args:
        settings: settings of the user.
        writes: a file is written, which is scored on a text.

    Raises:
        InputError: a text, an imatrix file or a device is unknown, unreadable or empty.
    """
    if settings.device is not None:
        load_profile(settings.device)
    texts = [settings.probe_text, settings.text if writes and settings.validation else None]
    texts += [None if settings.calibration in (*CALIBRATIONS, "none") else Path(settings.calibration)]
    for path in texts:
        if path is not None:
            load_text(path)
    if settings.imatrix is not None:
        read_content(settings.imatrix)


def choose_rounder(settings: Settings, method: Method) -> Rounder:
    """The rounder of the method.

    Raises:
        InputError: the calibration does not allow it.
    """
    name, follows_loss = method.rounding, method.metric == by_loss.NAME
    rounder = ROUNDERS[name]
    if settings.imatrix is not None and (follows_loss or not rounder.weighs):
        raise InputError("--imatrix is read for --rounding imatrix only, and not with --metric loss; leave it out.")
    if settings.calibration == "none":
        if follows_loss:
            raise InputError("The metric loss is measured on a calibration text; choose one, or another --metric.")
        if rounder.follow is not None:
            raise InputError(f"--rounding {name} follows a calibration text; choose one, or another --rounding.")
        if rounder.weighs and settings.imatrix is None:
            raise InputError(
                f"--rounding {name} needs a calibration text or --imatrix; choose one, or --rounding nearest."
            )
    return rounder


def choose_allocator(
    settings: Settings, metric: str, rounder: Rounder | None = None, time: TimeLimit | None = None
) -> Allocator:
    """The allocator of a metric.

    Args:
        settings: settings with levels and types.
        metric: name of the metric.
        rounder: rounder of the job, whose unusable types are left out; None leaves none out.
        time: bound on the time of a token, and the device on which the speed is predicted; None for neither.

    Raises:
        InputError: there is a least speed, and the metric does not choose by predicted losses.
    """
    options = plan_options(settings, metric)
    if metric != by_loss.NAME:
        if settings.min_tps is not None:
            raise InputError(
                f"--min-tps needs the metric {by_loss.NAME}, and this export takes {metric}; give a size as the budget."
            )
        return ByLevels(options)
    reads_importance = rounder is None or rounder.reads_text
    refused = frozenset(name for name, kind in TYPES.items() if kind.needs_importance and not reads_importance)
    return by_loss.ByLoss(options, settings.types, refused, time)


def plan_options(settings: Settings, metric: str) -> PlanOptions:
    """The part of the settings that allocation reads."""
    return PlanOptions(
        metric=metric,
        levels=settings.levels,
        token_embedding_type=settings.token_embedding_type,
        output_type=settings.output_type,
        strict_types=settings.strict_types,
        portable=settings.portable,
        seed=settings.seed,
        granularity=settings.granularity or ("tensor" if metric == by_loss.NAME else "block"),
    )


def choose_calibration(settings: Settings, source: Source, allocator: Allocator, rounder: Rounder) -> Calibration:
    """The calibration; none if neither allocator nor rounder reads one.

    Raises:
        InputError: the imatrix file cannot be read, or belongs to another model.
    """
    if settings.imatrix is not None:
        return ImatrixFile(*read_imatrix(settings.imatrix, source))
    if settings.calibration == "none":
        return NoCalibration(wanted=True)
    if not (allocator.predicts or rounder.reads_text):
        if settings.gives("calibration") or settings.gives("calibration_tokens"):
            log(f"Note: --rounding {rounder.name} and --metric {allocator.metric} read no calibration text.")
        return NoCalibration(wanted=False)
    follows_loss = allocator.predicts or rounder.follow is not None
    tokens = settings.calibration_tokens or default_tokens(source, follows_loss=follows_loss, effort=settings.effort)
    return CalibrationText(settings.calibration, tokens)


def _wants_tuning(settings: Settings) -> bool:
    return settings.tune is not None or settings.tune_steps is not None


def _may_tune(settings: Settings) -> bool:
    return _wants_tuning(settings) or WORK[settings.effort].tuning is not None


def block_choice(settings: Settings, metric: str, measurements: frozenset[str]) -> BlockChoice:
    """The measurements of the blocks that the settings ask for."""
    return BlockChoice(
        measurements=measurements,
        metric=METRICS.get(metric),
        projections=settings.projections,
        baseline=settings.baseline,
        seeds=tuple(range(settings.seed, settings.seed + _SEEDS)),
        probe_text=settings.probe_text,
        probe_tokens=settings.probe_tokens,
    )


def choose_tuning(
    settings: Settings, source: Source, runtime: Runtime, calibration: Calibration
) -> TuningChoice | None:
    """The tuning after rounding; None for none.

    Raises:
        InputError: the user asks for it, and this model cannot be tuned, or there is no text to tune on.
    """
    if settings.tune == 0 or not _may_tune(settings):
        return None
    wanted = _wants_tuning(settings)
    minutes = settings.tune if wanted else WORK[settings.effort].tuning
    tokens = settings.tune_tokens or _TUNING_TOKENS
    obstacle = _obstacle(source, runtime, calibration, tokens)
    if obstacle is not None:
        reason, advice = obstacle
        if wanted:
            raise InputError(f"--tune is not possible: {reason}; {advice}.")
        log(f"Note: --effort {settings.effort} goes without tuning, because {reason}.")
        return None
    assert isinstance(calibration, CalibrationText)
    return TuningChoice(calibration.text, tokens, minutes, settings.tune_steps)


def _obstacle(source: Source, runtime: Runtime, calibration: Calibration, tokens: int) -> tuple[str, str] | None:
    """Why the model cannot be tuned on the text, and what to do; None if it can."""
    advice = "leave it out"
    if not isinstance(calibration, CalibrationText):
        return "there is no calibration text to tune on", advice
    if any(len(spec.shape) > 2 for spec in source.tensors()):
        return "mixtures of experts are not tuned yet", advice
    if runtime.refusal(LOSS) is not None:
        return f"{runtime.name} runs this model and gives no gradients", advice
    if (found := lacking(source, calibration.text, tokens)) is not None:
        return found[0], f"{found[1]}, or {advice}"
    return None

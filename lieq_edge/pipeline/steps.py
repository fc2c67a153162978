"""The steps of an export, with estimates of their time from the model's shapes and the rates of this machine.

An estimate is a sum of passes over the model, products for Hessians and predictions, and rounding, each as operations
over a measured rate times a factor. Where products are fast, most of a pass is attention, and work on single values,
so these have rates of their own. ``python -m benchmarks.estimates`` compares estimates with the clock.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from math import prod

from ..evidence.blocks.metrics import GEOMETRY, SALIENCY
from ..evidence.blocks.records import describe
from ..evidence.loss.request import Follow
from ..gguf.names import block_of
from ..gguf.types import CODEBOOK_TYPES, SUPER_BLOCK, is_matrix
from ..sources.base import Source
from ..store import Entry
from ..system.progress import log
from ..system.schedule import Schedule, Step, spoken
from ..system.threads import available_threads
from ..texts.windows import CALIBRATION_CONTEXT, SALIENCY_TOKENS, written_tokens
from ..tuning.record import BATCH
from .calibration import CalibrationText
from .effort import WORK
from .gather import loss_candidates, stored_steps
from .job import Job, cache_of
from .machine import Machine, measure_machine, measure_without_pytorch
from .method import Method
from .tuning import TuningChoice

PARITY, MEASURE, TEXT, LOSSES, IMPORTANCES, WRITE, TUNE, SCORE, COMPARE = (
    "parity",
    "measure",
    "calibration text",
    "loss weights",
    "calibrate",
    "quantize and write",
    "tune",
    "validate",
    "compare",
)
"""Names of the steps, as the report's ``seconds`` has them."""

_WORTH = 5.0
"""Seconds at the machine's best rate that are worth a measurement of llama.cpp."""

_SMALL = 20e6
"""Weights of a model whose work takes seconds, so that a second round of measuring would be a good part of it."""

# Attention over the rate of float32 products: its products are small, and its scores are float32.
_ATTENTION, _ATTENTION_OF_LLAMA = 1 / 2.5, 1 / 8

_STEP_TOKENS = BATCH * CALIBRATION_CONTEXT
"""Tokens of a step of tuning."""

_TITLES = {
    PARITY: "compare llama.cpp with transformers on a piece of the model",
    MEASURE: "measure the blocks",
    TEXT: "let the model write a calibration text",
    LOSSES: "measure how much each matrix matters",
    IMPORTANCES: "measure the importance of columns",
    WRITE: "round and write",
    TUNE: "tune scales, norms and biases",
    SCORE: "score the file",
    COMPARE: "make and score llama.cpp's presets",
}


@dataclass(frozen=True)
class _Shapes:
    """Sizes of a model.

    Attributes:
        blocks: number of blocks.
        weights, head: weights of the blocks, and of the head.
        width: columns of the head.
        squares, cubes: sums over block matrices of the square and the cube of their columns.
        lanes: sum over block matrices of their rows and columns.
        outputs: rows of the head.
        columns: sum over block matrices of their columns.
        fitting: share of block weights in rows that K-quants fit.
    """

    blocks: int
    weights: int
    head: int
    width: int
    squares: float
    cubes: float
    lanes: int
    outputs: int
    columns: int
    fitting: float

    @classmethod
    def of(cls, source: Source) -> _Shapes:
        matrices = [spec for spec in source.tensors() if is_matrix(spec.name, spec.shape)]
        inside = [spec for spec in matrices if block_of(spec.name) is not None]
        outside = [spec for spec in matrices if block_of(spec.name) is None]
        weights = sum(prod(spec.shape) for spec in inside)
        wide = [spec for spec in inside if spec.shape[-1] % SUPER_BLOCK == 0]
        return cls(
            blocks=source.n_blocks,
            weights=weights,
            head=max((prod(spec.shape) for spec in outside), default=0),
            width=min((spec.shape[-1] for spec in outside), default=1),
            squares=sum(float(spec.shape[-1]) ** 2 for spec in inside),
            cubes=sum(float(spec.shape[-1]) ** 3 for spec in inside),
            lanes=sum(spec.shape[-2] + spec.shape[-1] for spec in inside),
            outputs=max((spec.shape[0] for spec in outside), default=0),
            columns=sum(spec.shape[-1] for spec in inside),
            fitting=sum(prod(spec.shape) for spec in wide) / max(weights, 1),
        )


def schedule_of(jobs: list[Job], *, presets: int = 0) -> Schedule:
    """The steps of several jobs.

    Args:
        jobs: jobs of one model; what an earlier one measures, a later one finds in the cache.
        presets: number of presets of llama.cpp that each file is compared with.
    """
    steps: list[Step] = []
    stored: dict[Method, frozenset[str]] = {}
    for job in jobs:
        # Budgets of one method read the same results, and looking for those takes the calibration text apart.
        if job.method not in stored:
            stored[job.method] = stored_steps(job)
    shapes = _Shapes.of(jobs[0].source)
    rounds = 1 if shapes.weights < _SMALL else WORK[jobs[0].settings.effort].rounds
    machine = _rates(jobs[0], stored[jobs[0].method], rounds)
    prompts = _prompt_rate(jobs, shapes, machine)
    for job in jobs:
        cost = _Costs(shapes, machine, prompts, job.threads or available_threads())
        known = stored[job.method] | {step.name for step in steps}
        for name, seconds in _steps(job, cost, known, presets):
            steps.append(Step(name, _TITLES[name], seconds))
    return Schedule(steps)


def announced(jobs: list[Job], *, presets: int = 0) -> Schedule:
    """``schedule_of`` the jobs, after a report of what will be done, how long it will take, and by which methods."""
    schedule = schedule_of(jobs, presets=presets)
    if schedule.steps:
        steps = "; ".join(f"{step.title} ({spoken(step.seconds)})" for step in schedule.steps)
        count = f"{schedule.count} steps" if schedule.count > 1 else "1 step"
        log(f"{count}, about {spoken(schedule.seconds)}: {steps}.")
    for sentence in dict.fromkeys(job.method.sentence for job in jobs):
        log(f"Note: {sentence}")
    return schedule


def _rates(job: Job, stored: frozenset[str], rounds: int) -> Machine:
    """Rates of this machine, measured in PyTorch where a step needs that anyway; else the last measured ones."""
    needed: set[str] = set()
    if job.source.in_transformers and job.out is not None and job.settings.parity:
        needed.add(PARITY)
    if job.source.gguf_path is None and job.validation is not None and job.validation.reference:
        needed.add(SCORE)
    if job.source.in_transformers and job.allocator.needs and job.saved is None:
        needed.add(MEASURE)
    if _measures_losses(job):
        needed.add(LOSSES)
    if needed <= stored:
        entry = job.cache.get("rates", {})
        return Machine(**entry.record) if entry is not None else measure_without_pytorch(rounds=rounds)
    machine = measure_machine(job.threads, rounds=rounds)
    if not job.cache.has("rates", {}):
        job.cache.put("rates", {}, Entry(record=asdict(machine)))
    return machine


def _prompt_rate(jobs: list[Job], shapes: _Shapes, machine: Machine) -> float:
    """Operations a second of llama.cpp, measured where scores take long enough to be worth two seconds a type."""
    scored = [job.validation for job in jobs if job.validation is not None and job.out is not None]
    operations = sum(2.0 * (shapes.weights + shapes.head) * v.context * (v.chunks or 64) for v in scored)
    if operations < _WORTH * machine.exact:
        return machine.exact / 4
    from ..device.measure import prompt_rate  # scipy's solvers come with it, which other exports do without

    settings = jobs[0].settings
    # Of no model: one measurement serves all. Types that llama.cpp does not repack for the processor set the pace.
    cache = cache_of(settings)
    kinds = {"Q3_K": shapes.fitting, "Q4_1": 1 - shapes.fitting}
    return 1 / sum(share / prompt_rate(kind, cache, threads=settings.threads) for kind, share in kinds.items() if share)


def _measures_losses(job: Job) -> bool:
    """The job follows the loss on the calibration text, for its plan or, where a file is written, for its rounding."""
    return job.allocator.predicts or (job.out is not None and job.rounder.follow is not None)


def _steps(job: Job, cost: _Costs, stored: frozenset[str], presets: int) -> Iterator[tuple[str, float]]:
    """Names and seconds of the steps of a job; ``stored`` are those whose results are known by then."""

    def known(name: str) -> bool:
        return name in stored

    text = job.calibration if isinstance(job.calibration, CalibrationText) else None
    tokens, written = (text.tokens, written_tokens(text.text, text.tokens)) if text is not None else (0, 0)
    types: tuple[str, ...] = ()
    if _measures_losses(job):
        types = max(loss_candidates(job, describe(job.source)).values(), key=len)
    codebooks = len(set(types) & set(CODEBOOK_TYPES))
    if job.settings.parity and job.source.in_transformers and job.out is not None and not known(PARITY):
        yield PARITY, cost.parity()
    if job.allocator.needs and job.saved is None and not known(MEASURE):
        yield MEASURE, cost.blocks(job.allocator.needs, job.blocks.probe_tokens)
    if tokens and (job.out is not None or _measures_losses(job)):
        if written and not known(TEXT):
            yield TEXT, cost.writing(written)
        if _measures_losses(job) and not known(LOSSES):
            yield LOSSES, cost.losses(tokens, len(types), codebooks, job.rounder.follow, job.method.rows)
        if job.rounder.weighs and job.out is not None and not known(IMPORTANCES):
            yield IMPORTANCES, cost.importances(tokens)
    if job.out is not None:
        yield WRITE, cost.rounding(job.rounder.follow, tokens, codebooks > 0)
        if job.tuning is not None:
            yield TUNE, cost.tuning(job.tuning)
        if job.validation is not None:
            scored = job.validation.context * (job.validation.chunks or 64)
            in_llama = job.source.gguf_path is not None
            yield SCORE, cost.scoring(scored, job.validation.reference, in_llama=in_llama, reference_known=known(SCORE))
            if presets:
                yield COMPARE, cost.comparing(tokens, scored, presets)


class _Costs:
    """Seconds of each step."""

    def __init__(self, shapes: _Shapes, machine: Machine, prompts: float, threads: int) -> None:
        self._shapes = shapes
        self._machine = machine
        self._prompts = prompts
        self._threads = threads

    def _attention(self, tokens: int) -> float:
        """Seconds that attention would take at the rate of float32 products."""
        operations = 4.0 * tokens * CALIBRATION_CONTEXT * self._shapes.width * self._shapes.blocks
        return operations / self._machine.exact

    def _pass(self, tokens: int, products: float = 1.0, values: float = 1.0, *, exact: bool = False) -> float:
        """Seconds in the blocks: so many times the products of a pass forward, and the work on its single values."""
        quick = self._machine.exact if exact else self._machine.quick
        in_products = 2.0 * tokens * self._shapes.weights / quick + self._attention(tokens) / _ATTENTION
        on_values = 4.5 * tokens * self._shapes.lanes / self._machine.stream
        return products * in_products + values * on_values

    def _head(self, tokens: int, products: float = 1.0, values: float = 1.0, *, exact: bool = False) -> float:
        """The same of the head, where single values are probabilities."""
        quick = self._machine.exact if exact else self._machine.quick
        on_values = 6.0 * tokens * self._shapes.outputs / self._machine.stream
        return products * 2.0 * tokens * self._shapes.head / quick + values * on_values

    def _hessians(self, tokens: int, share: float) -> float:
        # q and k, and gate and up, share an H; v has one of its own.
        return 2.0 * share * tokens * self._shapes.squares * (5 / 7) / self._machine.exact

    def parity(self) -> float:
        return 2.0 + 8e-8 * 2 * self._shapes.weights / max(self._shapes.blocks, 1)

    def blocks(self, needs: frozenset[str], tokens: int) -> float:
        seconds = 3.0
        if GEOMETRY in needs:
            seconds += 6e-9 * self._shapes.weights + 2 * self._pass(tokens, exact=True)
        if SALIENCY in needs:
            seconds += 0.6 * self._shapes.blocks * self._pass(SALIENCY_TOKENS)
        return seconds

    def writing(self, tokens: int) -> float:
        return 6.0 * self._pass(tokens, exact=True) + 3.0

    def losses(self, tokens: int, types: int, codebooks: int, follow: Follow | None, rows: int) -> float:
        share = 0.6 if follow is Follow.HESSIANS else 0.3
        passes = self._pass(tokens, 3.3, 2.8) + self._head(tokens, 2.0, 2.0)
        products = 1.5 * types * rows * 2.0 * self._shapes.squares / self._machine.exact
        encode = rows * self._shapes.columns / self._machine.encode / self._threads
        # The gain of feedback is measured for each type with a codebook; that takes twenty times as long as to encode.
        own = 20.0 * codebooks * self._shapes.fitting
        return 4.0 + passes + self._hessians(tokens, share) + products + (types + own) * encode

    def importances(self, tokens: int) -> float:
        return 3.0 + self._pass(tokens, 1.2, 1.2)

    def rounding(self, follow: Follow | None, tokens: int, codebooks: bool = False) -> float:
        encode = (self._shapes.weights + 2 * self._shapes.head) / self._machine.encode / self._threads
        if follow is None:
            return 1.0 + encode
        # Types with codebooks take two to three times as long, and about half of the weights have them.
        seconds = 1.0 + 1.8 * (encode * (1.75 if codebooks else 1.0) + self._shapes.cubes / self._machine.exact)
        if follow is Follow.STREAM:
            seconds += self._pass(tokens, 2.0, 2.0) + self._hessians(tokens, 0.4)
        return seconds

    def scoring(self, tokens: int, reference: bool, *, in_llama: bool, reference_known: bool) -> float:
        """Seconds of scoring a file, and of running the original in llama.cpp (``in_llama``) or in PyTorch."""
        products = 2.0 * tokens * (self._shapes.weights + self._shapes.head) / self._prompts
        in_file = products + self._attention(tokens) / _ATTENTION_OF_LLAMA
        # Half of the positions are scored.
        seconds = 1.0 + in_file + 0.5 * self._head(tokens, 0.0)
        if reference and in_llama:
            seconds += in_file
        elif reference and not reference_known:
            seconds += self._pass(tokens, exact=True) + self._head(tokens, exact=True)
        return seconds

    def tuning(self, choice: TuningChoice) -> float:
        """Seconds of the text, the original's predictions, and of training for the given time or number of steps."""
        predicting = self._pass(choice.tokens) + self._head(choice.tokens, 1.0, 2.0)
        step = self._pass(_STEP_TOKENS, 4.0, 3.0) + self._head(_STEP_TOKENS, 2.0, 2.0)
        limits = [60 * choice.minutes] if choice.minutes is not None else []
        limits += [step * choice.steps] if choice.steps is not None else []
        written = written_tokens(choice.text, choice.tokens)
        writing = self.writing(written) if written else 0.0
        return 5.0 + writing + predicting + min(limits)

    def comparing(self, tokens: int, scored: int, presets: int) -> float:
        made = self.rounding(None, tokens) + self.scoring(scored, reference=False, in_llama=False, reference_known=True)
        return self.importances(tokens) + presets * (made + 5.0)

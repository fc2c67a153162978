"""Settings of an export, from flags, from Python, or from a recipe file."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from .errors import InputError
from .system.files import read_text

Metric = Literal["geometry", "composite", "saliency", "loss", "random", "first", "last"]
RoundingName = Literal["nearest", "imatrix", "feedback", "feedback-once"]
Granularity = Literal["block", "tensor"]
Projections = Literal["qkv", "all"]
Baseline = Literal["projection", "network"]


@dataclass(frozen=True)
class ExportSettings:
    """Everything that decides what an export writes and how it is checked.

    Attributes:
        budget: ``2.1`` nominal bits, ``3.0bpw`` or ``90MB``.
        metric: what scores the blocks.
        levels: ascending nominal bits that blocks may get.
        types: candidates of the metric ``loss``: ``k``, ``all``, or names with commas between them.
        granularity: of the metric ``loss``: one type a ``block`` or a ``tensor``; None is by tensor.
        rounding: ``nearest``, ``imatrix`` (weighted by the inputs' mean squares), ``feedback`` (error feedback that
            follows the model's loss), or ``feedback-once`` (the same from what the original receives, which other
            budgets use again). None takes feedback where PyTorch runs the model and there is text enough to calibrate
            on, else imatrix.
        projections: ``qkv``, or ``all`` linears of a block, for the geometry.
        baseline: the untrained counterpart: ``projection`` or ``network``.
        seed: first seed of everything that is drawn.
        threads: of torch and ggml; None takes all cores.
        probe_text: file with the text for the geometry; None takes the built-in text.
        probe_tokens: tokens of it.
        calibration: ``self``, ``docs``, ``mixed``, ``none``, or a file.
        calibration_tokens: tokens to calibrate on; None takes 8192, or for feedback and the metric ``loss`` three
            for each column of the widest matrix, at least 16384.
        imatrix: file of importance by ``llama-imatrix``, which takes the place of a calibration text.
        token_embedding_type: ggml type of ``token_embd.weight``; None takes the default of the plan.
        output_type: ggml type of ``output.weight``.
        strict_types: refuse types that do not fit rows instead of replacing them.
        validation: measure the written file.
        reference: measure it against the unquantised model as well (KL divergence, top-1 agreement).
        text: file to validate on; None takes the built-in text.
        context: tokens of a window of the validation.
        chunks: windows of the validation; None takes the whole text.
        revision: of a hub id: branch, tag or commit.
        lora: directory of a PEFT adapter to merge into the weights.
        allow_pickle: read pickled weights where there are no safetensors.
        parity: check llama.cpp against transformers on a piece of the model first.
        cache: keep measurements and unfinished work for the next time, and take what is kept.
        cache_dir: folder of the cache; None takes ``LIEQ_CACHE_DIR`` or the platform's folder.
        cache_limit: bytes that the cache may take, e.g. ``10GB``.
        max_ppl_ratio: fail when PPL exceeds that of the unquantised model by more than this factor.
    """

    budget: str
    metric: Metric = "geometry"
    levels: tuple[int, ...] = (2, 3, 4)
    types: str = "k"
    granularity: Granularity | None = None
    rounding: RoundingName | None = None
    projections: Projections = "qkv"
    baseline: Baseline = "projection"
    seed: int = 0
    threads: int | None = None
    probe_text: Path | None = None
    probe_tokens: int = 512
    calibration: str = "self"
    calibration_tokens: int | None = None
    imatrix: Path | None = None
    token_embedding_type: str | None = None
    output_type: str | None = None
    strict_types: bool = False
    validation: bool = True
    reference: bool = True
    text: Path | None = None
    context: int = 512
    chunks: int | None = 16
    revision: str | None = None
    lora: Path | None = None
    allow_pickle: bool = False
    parity: bool = True
    cache: bool = True
    cache_dir: Path | None = None
    cache_limit: str = "10GB"
    max_ppl_ratio: float | None = None

    @property
    def feeds_back(self) -> bool:
        """The rounding is one of those with error feedback."""
        return self.rounding in ("feedback", "feedback-once")


def load_recipe(path: Path) -> dict[str, Any]:
    """Read a recipe: a YAML file with ``description``, ``notes`` and any settings of an export.

    Returns:
        The settings that the recipe gives, by field name of ``ExportSettings``.

    Raises:
        InputError: the file is missing, is no YAML, or holds an unknown or ill-typed setting.
    """
    import yaml
    from pydantic import ValidationError

    try:
        document = yaml.safe_load(read_text(path, "the recipe"))
    except yaml.YAMLError as error:
        raise InputError(f"The recipe {path} is no YAML: {' '.join(str(error).split())}.") from error
    if not isinstance(document, dict):
        raise InputError(f"The recipe {path} must hold settings, one `name: value` a line.")
    try:
        recipe = _recipe_model().model_validate(document)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise InputError(f"The recipe {path} has a wrong setting {where}: {first['msg']}.") from error
    return {name: getattr(recipe, name) for name in recipe.model_fields_set - {"description", "notes"}}


def merge(recipe: dict[str, Any], given: dict[str, Any]) -> ExportSettings:
    """Settings from a recipe and from what the user gave, which wins.

    Raises:
        InputError: neither has a budget.
    """
    values = {**recipe, **given}
    if values.get("budget") is None:
        raise InputError("No budget is given; pass --budget (e.g. 2.1, 3.0bpw or 90MB) or a --recipe that has one.")
    from pydantic import TypeAdapter, ValidationError

    by_loss = values.get("metric") == "loss"
    for name in ("levels",) if by_loss else ("types", "granularity"):
        if name in given:
            other = "no use with --metric loss, which chooses among --types" if by_loss else "for --metric loss only"
            raise InputError(f"--{name} is {other}; leave it out.")
    if values.get("imatrix") is not None and ("calibration" in given or "calibration_tokens" in given):
        raise InputError("--imatrix takes the place of a calibration text; leave --calibration out.")
    try:
        return TypeAdapter(ExportSettings).validate_python(values)
    except ValidationError as error:
        first = error.errors()[0]
        where = "--" + str(first["loc"][0]).replace("_", "-")
        raise InputError(f"{where} got {first['input']!r}: {first['msg']}.") from error


def _recipe_model() -> Any:
    from typing import get_type_hints

    from pydantic import ConfigDict, create_model, field_validator

    def as_text(cls: Any, value: Any) -> Any:
        # YAML reads `budget: 2.1` as a number.
        return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value

    hints = get_type_hints(ExportSettings)
    optional: dict[str, Any] = {field.name: (hints[field.name], None) for field in fields(ExportSettings)}
    return create_model(
        "Recipe",
        __config__=ConfigDict(extra="forbid", frozen=True),
        __validators__={"budget_text": field_validator("budget", mode="before")(as_text)},
        description=(str, ...),
        notes=(str, ""),
        **optional,
    )

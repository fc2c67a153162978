"""Settings of an export, from flags, from Python, or from a recipe file: checked when they are made."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator

from .allocation.budget import FIT, parse_budget
from .allocation.table import METRIC_NAMES
from .allocation.types import PORTABLE
from .errors import InputError, reason_of
from .gguf.types import LEVEL_TYPES
from .rounding.table import ROUNDERS
from .store.folder import parse_size
from .system.files import user_path

Granularity = Literal["block", "tensor"]
Projections = Literal["qkv", "all"]
Baseline = Literal["projection", "network"]
Effort = Literal["quick", "normal", "best"]
CacheType = Literal["f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "iq4_nl", "q4_1", "q4_0"]

_MOST_THREADS = 1024
_MOST_TOKENS = 1 << 26
_MOST_MINUTES = 100_000


def _levels(value: Any) -> Any:
    """``2,3,4`` as a flag or a recipe has it."""
    if isinstance(value, int) and not isinstance(value, bool):
        return (value,)
    if not isinstance(value, str):
        return value
    try:
        return tuple(int(part) for part in value.split(","))
    except ValueError:
        raise ValueError("it takes numbers with commas between them, e.g. 2,3,4") from None


def _text(value: Any) -> Any:
    """A number as text: YAML reads ``budget: 2.1`` as a number."""
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


def _path(value: Any) -> Any:
    """A path from text, with ``~`` resolved."""
    return user_path(value) if isinstance(value, str | Path) else value


def _upper(value: Any) -> Any:
    return value.strip().upper() if isinstance(value, str) else value


PathSetting = Annotated[Path, BeforeValidator(_path)]
TypeName = Annotated[str, BeforeValidator(_upper)]


class Settings(BaseModel):
    """Everything that a user may say about an export.

    Explicit values stay as they are; ``pipeline.job.resolve`` decides the others. The names of explicit values are in
    ``model_fields_set``.

    Attributes:
        budget: ``90MB``, ``3.0bpw``, ``Q4_K_M`` (the size of llama.cpp's preset), ``fit`` (what the device has room
            for), or ``2.1`` (nominal bits, as in the paper). With a device, ``fit`` is the default.
        device: device that the file is for: name or file of a profile.
        context_size: tokens of a conversation on the device; None takes 4096.
        kv: type of its keys and values; None takes ``f16``.
        min_tps: least tokens a second of an answer on the device, or on this machine without one, as predicted.
        effort: time that the work may take: ``quick``, ``normal`` or ``best``. It decides rounding and the length of
            the calibration text where they are left open.
        metric: name of the metric, in ``allocation.table.METRIC_NAMES``. None takes ``loss`` for a size where PyTorch
            runs the model, else ``geometry``.
        levels: ascending nominal bits that blocks may get.
        types: candidates of the metric ``loss``: ``k``, ``all``, or names with commas between them. ``portable`` is
            for every metric: ``k`` without the types that programs with kernels of their own do not read.
        granularity: one type for each ``block`` or ``tensor`` with the metric ``loss``; None takes ``tensor``.
        rounding: name of the rounding, in ``rounding.table.ROUNDERS``. None takes ``feedback-once`` (``feedback`` with
            the effort ``best``) where PyTorch runs the model and the calibration text is long enough, ``imatrix``
            where there is importance only, or with the effort ``quick`` and another metric than ``loss``, else
            ``nearest``.
        projections: ``qkv``, or ``all`` linears of a block, for the geometry.
        baseline: untrained counterpart of the geometry: ``projection`` or ``network``.
        seed: first seed of everything that is drawn.
        threads: number of CPU threads; None takes all cores.
        probe_text: file with the text for the geometry; None takes the built-in text.
        probe_tokens: tokens of the probe.
        calibration: ``builtin``, ``self``, ``docs``, ``mixed``, ``none``, or a file.
        calibration_tokens: tokens to calibrate on; None takes 8192, or three for each column of the widest matrix (at
            least 16384) where the loss is followed, of which the effort ``quick`` takes a quarter, and ``best`` twice
            as many.
        tune: minutes of tuning after rounding (scales, norms and biases are trained by the original's predictions); 0
            tunes nothing. None takes 0, or 30 with the effort ``best``.
        tune_steps: largest number of tuning steps; with it the bytes of the file do not depend on the time.
        tune_tokens: tokens to tune on.
        imatrix: file of importance by ``llama-imatrix``, instead of a calibration text.
        token_embedding_type: ggml type of ``token_embd.weight``; None takes the default of the plan.
        output_type: ggml type of ``output.weight``.
        strict_types: True refuses types that do not fit rows instead of replacing them.
        validation: True scores the written file.
        reference: True compares it with the unquantised model as well (KL divergence, top-1 agreement).
        text: file to validate on; None takes the built-in text.
        context: tokens of a window of the validation.
        chunks: windows of the validation; None takes the whole text.
        parse_special: True reads special tokens in the text as tokens, as they stand in rendered conversations.
        revision: branch, tag or commit of a hub id.
        lora: directory of a PEFT adapter to merge into the weights.
        allow_pickle: True reads pickled weights where there are no safetensors.
        parity: True compares llama.cpp with transformers on a piece of the model first.
        cache: True stores measurements and unfinished work, and reads stored ones.
        cache_dir: folder of the cache; None takes ``LIEQ_CACHE_DIR`` or the platform's folder.
        cache_limit: size that the cache may take, e.g. ``10GB``.
        max_ppl_ratio: largest ratio of the file's perplexity to the unquantised model's; beyond it the gate fails.

    Raises:
        InputError: a value is of a wrong kind or out of its range; the sentence names the flag.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    budget: Annotated[str, BeforeValidator(_text)]
    device: str | None = None
    context_size: Annotated[int, Field(ge=1, le=1 << 24)] | None = None
    kv: CacheType | None = None
    min_tps: Annotated[float, Field(gt=0, le=1e9, allow_inf_nan=False)] | None = None
    effort: Effort = "normal"
    metric: str | None = None
    levels: Annotated[tuple[int, ...], BeforeValidator(_levels)] = (2, 3, 4)
    types: str = "k"
    granularity: Granularity | None = None
    rounding: str | None = None
    projections: Projections = "qkv"
    baseline: Baseline = "projection"
    seed: Annotated[int, Field(ge=0, le=2**32 - 1)] = 0
    threads: Annotated[int, Field(ge=1, le=_MOST_THREADS)] | None = None
    probe_text: PathSetting | None = None
    probe_tokens: Annotated[int, Field(ge=16, le=_MOST_TOKENS)] = 512
    calibration: Annotated[str, BeforeValidator(lambda value: str(value) if isinstance(value, Path) else value)] = (
        "builtin"
    )
    calibration_tokens: Annotated[int, Field(ge=64, le=_MOST_TOKENS)] | None = None
    tune: Annotated[float, Field(ge=0, le=_MOST_MINUTES, allow_inf_nan=False)] | None = None
    tune_steps: Annotated[int, Field(ge=1, le=_MOST_TOKENS)] | None = None
    tune_tokens: Annotated[int, Field(ge=4096, le=_MOST_TOKENS)] | None = None
    imatrix: PathSetting | None = None
    token_embedding_type: TypeName | None = None
    output_type: TypeName | None = None
    strict_types: bool = False
    validation: bool = True
    reference: bool = True
    text: PathSetting | None = None
    context: Annotated[int, Field(ge=8, le=_MOST_TOKENS)] = 512
    chunks: Annotated[int, Field(ge=1, le=_MOST_TOKENS)] | None = 16
    parse_special: bool = False
    revision: str | None = None
    lora: PathSetting | None = None
    allow_pickle: bool = False
    parity: bool = True
    cache: bool = True
    cache_dir: PathSetting | None = None
    cache_limit: str = "10GB"
    max_ppl_ratio: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None

    def __init__(self, **values: Any) -> None:
        if values.get("device") is not None:
            values.setdefault("budget", FIT)
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise InputError(sentence(error)) from None

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Settings:
        """A copy with other values, which are checked as those of new settings are.

        Args:
            update: new values by name; they count as given explicitly.
            deep: of no effect, as no value can be changed.

        Raises:
            InputError: a name is unknown, or a value is wrong.
        """
        return Settings(**{**{name: getattr(self, name) for name in self.model_fields_set}, **(update or {})})

    @field_validator("budget")
    @classmethod
    def _known_budget(cls, value: str) -> str:
        parse_budget(value)
        return value

    @field_validator("cache_limit")
    @classmethod
    def _known_size(cls, value: str) -> str:
        parse_size(value)
        return value

    @field_validator("metric")
    @classmethod
    def _known_metric(cls, value: str | None) -> str | None:
        if value is not None and value not in METRIC_NAMES:
            raise ValueError(f"choose one of {', '.join(METRIC_NAMES)}")
        return value

    @field_validator("rounding")
    @classmethod
    def _known_rounding(cls, value: str | None) -> str | None:
        if value is not None and value not in ROUNDERS:
            raise ValueError(f"choose one of {', '.join(ROUNDERS)}")
        return value

    @field_validator("levels")
    @classmethod
    def _known_levels(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if not value or any(level not in LEVEL_TYPES for level in value) or sorted(set(value)) != list(value):
            raise ValueError(f"it takes rising numbers out of {','.join(map(str, LEVEL_TYPES))}, e.g. 2,3,4")
        return value

    @property
    def portable(self) -> bool:
        """Only types are used that programs with kernels of their own read too."""
        return self.types == PORTABLE

    @property
    def type_choices(self) -> list[str]:
        """Names of the given settings that choose types one by one, by predicted losses."""
        return [name for name in _choosing(self.types) if self.gives(name)]

    def gives(self, name: str) -> bool:
        """The user gave a value for the setting ``name``."""
        return name in self.model_fields_set and getattr(self, name) is not None


def _choosing(types: object) -> tuple[str, ...]:
    """Settings that choose types one by one, where ``types`` is the setting of that name."""
    return ("granularity",) if types == PORTABLE else ("types", "granularity")


def sentence(error: ValidationError) -> str:
    """A sentence about the first fault of the settings, which names the flag."""
    first = error.errors()[0]
    name = str(first["loc"][0]) if first["loc"] else "settings"
    flag = "--" + name.replace("_", "-")
    if first["type"] == "missing" and name == "budget":
        return "The budget is missing; pass --budget (e.g. 2.1, 3.0bpw or 90MB), --device, or a --recipe that has one."
    if first["type"] == "extra_forbidden":
        return f"The setting {name!r} is unknown; see lieq-edge export --help."
    return f"{flag} got {first['input']!r}: {reason_of(first['msg'])}."


def _without_tuning(values: dict[str, Any], given: dict[str, Any]) -> tuple[str, ...]:
    """Settings of tuning that are of no use with the explicit ones."""
    if given.get("tune") is not None:
        return ("tune_steps",) if given["tune"] else ("tune_steps", "tune_tokens")
    if given.get("tune_steps") is not None:
        return ("tune",)
    tunes = values.get("tune") or values.get("tune_steps") or values.get("effort") == "best"
    return () if tunes else ("tune_tokens",)


def merge(recipe: dict[str, Any], given: dict[str, Any]) -> Settings:
    """Settings from a recipe and from explicit values, which win.

    Settings of a recipe that are of no use with an explicit metric, imatrix file or tuning are left out.

    Args:
        recipe: settings of a recipe, from ``recipe.load_recipe``.
        given: explicit values, by field name.

    Raises:
        InputError: neither has a budget, or a value is wrong.
    """
    if given.get("device") is not None:
        # A device that the user names has a budget of its own.
        recipe = {name: value for name, value in recipe.items() if name != "budget"}
    elif given.get("budget") is not None:
        recipe = {name: value for name, value in recipe.items() if name not in ("device", "context_size", "kv")}
    values = {**recipe, **given}
    choosing = _choosing(values.get("types"))
    follows_loss = values.get("metric") == "loss" or any(name in given for name in choosing)
    useless: tuple[str, ...] = ()
    if follows_loss:
        useless = ("levels",)
    elif "metric" in values or "levels" in given:
        useless = choosing
    useless += _without_tuning(values, given)
    if values.get("imatrix") is not None:
        useless += ("calibration", "calibration_tokens")
    return Settings(**{name: value for name, value in values.items() if name in given or name not in useless})

# ruff: noqa: F401
"""What benchmarks use of the inside of ``lieq_edge``, in one place; everything else comes from its public names.

The imports below are the whole list. Each name is imported on first use, so that a process which is measured loads
only what it needs.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from lieq_edge import Diagnostics, Plan
    from lieq_edge.allocation.loss import make_loss_plan
    from lieq_edge.allocation.plan import TensorPlan
    from lieq_edge.allocation.table import METRIC_NAMES
    from lieq_edge.allocation.types import candidate_types
    from lieq_edge.blockwise.mixture import Routed
    from lieq_edge.blockwise.model import BlockModel
    from lieq_edge.blockwise.modules import empty_model
    from lieq_edge.blockwise.precision import fast_float32, has_bfloat16
    from lieq_edge.blockwise.residual import ResidualStream
    from lieq_edge.device.memory import LOADINGS, run_memory, weight_memory
    from lieq_edge.device.pace import predict_pace, read_work
    from lieq_edge.device.repack import own_instructions
    from lieq_edge.evidence.blocks.correlate import spearman
    from lieq_edge.evidence.blocks.records import describe
    from lieq_edge.evidence.loss.measure import LossEvidence
    from lieq_edge.evidence.loss.predictions import sample_rows
    from lieq_edge.evidence.loss.request import Follow
    from lieq_edge.evidence.loss.weights import measure_loss_weights
    from lieq_edge.gguf.header import StoredTensor, read_header
    from lieq_edge.gguf.names import InputGroup, block_of
    from lieq_edge.gguf.types import TYPES, is_matrix
    from lieq_edge.gptq.factor import factorise
    from lieq_edge.gptq.feedback import DAMPING, round_by_factor
    from lieq_edge.gptq.hessian import Hessian, importance_of, squared_norms, tokens_of
    from lieq_edge.llama.child import shared
    from lieq_edge.llama.encoders import Packed, encode
    from lieq_edge.llama.engine import Engine
    from lieq_edge.llama.library import dequantize
    from lieq_edge.llama.memory import measure_memory, simulate_contexts
    from lieq_edge.llama.quantize import Preset, quantize
    from lieq_edge.llama.session import Floats, observed
    from lieq_edge.pipeline.validation import reference_of, validation_text
    from lieq_edge.pipeline.write import write_model
    from lieq_edge.presets.make import make_preset
    from lieq_edge.presets.names import FILE_TYPES
    from lieq_edge.presets.original import written_original
    from lieq_edge.rounding.encode import encode_tensors
    from lieq_edge.rounding.table import ROUNDERS
    from lieq_edge.sources import DEMO, demo_path
    from lieq_edge.sources.base import Array, Source
    from lieq_edge.sources.plain import write_plain
    from lieq_edge.sources.tokenizers.battery import BATTERY
    from lieq_edge.store import Cache, Run, open_cache
    from lieq_edge.system.child import START_SECONDS
    from lieq_edge.system.files import atomic_path, check_output, check_space
    from lieq_edge.system.memory import peak_rss_bytes
    from lieq_edge.system.progress import Terminal, log, receive_with, stage
    from lieq_edge.system.schedule import latest_schedule
    from lieq_edge.system.threads import available_threads
    from lieq_edge.texts.documentation import stdlib_text
    from lieq_edge.texts.info import TextInfo
    from lieq_edge.texts.windows import (
        SALIENCY_CONTEXT,
        Windows,
        builtin_text,
        load_text,
        text_windows,
    )
    from lieq_edge.validate.perplexity import validate, validate_files
    from lieq_edge.validate.scores import Comparison, compare

Importance = Mapping[str, npt.NDArray[np.float32]]
"""Importance of each input column by tensor name."""

LossByType = Mapping[str, Mapping[str, float]]
"""Predicted losses by tensor name and ggml type."""


def homes() -> dict[str, str]:
    """Module of each name that is imported above for type checkers."""
    body = ast.parse(Path(__file__).read_text(encoding="utf-8")).body
    block = next(node for node in body if isinstance(node, ast.If))
    imports = [node for node in block.body if isinstance(node, ast.ImportFrom)]
    return {alias.name: str(node.module) for node in imports for alias in node.names}


_HOMES = homes()

if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(_HOMES[name]), name)


def analyze(
    source: Source, *, metrics: set[str], saliency_tokens: int = 2048, threads: int | None = None
) -> Diagnostics:
    """Measurements of the blocks: any of ``geometry`` and ``saliency``."""
    from lieq_edge.pipeline.blocks import BlockChoice, measure_diagnostics
    from lieq_edge.runtimes import open_runtime
    from lieq_edge.store import NO_CACHE

    choice = BlockChoice(frozenset(metrics), saliency_tokens=saliency_tokens)
    return measure_diagnostics(open_runtime(source, threads=threads), choice, NO_CACHE)


def calibration_windows(source: Source, calibration: str, *, tokens: int, seed: int = 0) -> tuple[Windows, TextInfo]:
    """Windows of a calibration text; ``self`` and ``mixed`` run the model."""
    from lieq_edge.runtimes import open_runtime
    from lieq_edge.texts.windows import calibration_windows as windows_of

    return windows_of(source, calibration, tokens=tokens, seed=seed, write=open_runtime(source).write_text)


def measure_importance(
    source: Source, windows: Windows, *, bfloat16: bool | None = None, threads: int | None = None
) -> Importance:
    """Importances on calibration windows."""
    from lieq_edge.runtimes import open_runtime
    from lieq_edge.store import Run

    return open_runtime(source, threads=threads).measure_importances(windows, run=Run(None), bfloat16=bfloat16)


def measure_feedback(
    source: Source, windows: Windows, candidates: Mapping[str, Sequence[str]], original: Run, *, once: bool
) -> LossEvidence:
    """Evidence that rounding with feedback needs, and the predicted losses of the candidate types.

    Args:
        source: the model.
        windows: windows of the calibration text.
        candidates: ggml types by tensor name.
        original: run that stores the original's residual stream; a second measurement finds it there.
        once: take H of the original, as the rounding feedback-once does.
    """
    from lieq_edge.evidence.loss.request import Follow

    return _measure_loss(source, windows, candidates, original, Follow.HESSIANS if once else Follow.STREAM)


def predict_losses(source: Source, windows: Windows, candidates: Mapping[str, Sequence[str]]) -> LossByType:
    """Predicted losses with importance rounding, in nats a token, by tensor and type."""
    from lieq_edge.evidence.loss.request import Follow

    return losses_with(_measure_loss(source, windows, candidates, None, Follow.NOTHING), "imatrix")


def losses_with(evidence: LossEvidence, rounding: str) -> LossByType:
    """Predicted losses with the rounding of this name, by tensor and type."""
    from lieq_edge.rounding.table import ROUNDERS

    predicted = ROUNDERS[rounding].predicted
    return {name: {kind: predicted(loss) for kind, loss in types.items()} for name, types in evidence.losses.items()}


def round_with_feedback(source: Source, plan: Plan, evidence: LossEvidence) -> Iterator[tuple[TensorPlan, Packed]]:
    """All tensors of the plan, encoded with error feedback."""
    from lieq_edge.rounding.base import RoundingTask
    from lieq_edge.rounding.walk import encode_blocks
    from lieq_edge.store import NO_CACHE, Run

    return encode_blocks(RoundingTask(source, plan, {}, evidence, None, Run(None), NO_CACHE))


def _measure_loss(
    source: Source, windows: Windows, candidates: Mapping[str, Sequence[str]], run: Run | None, follow: Follow
) -> LossEvidence:
    from lieq_edge.evidence.loss.request import LossRequest
    from lieq_edge.gguf.names import block_of
    from lieq_edge.runtimes import open_runtime
    from lieq_edge.store import NO_CACHE

    inside = {name: types for name, types in candidates.items() if block_of(name) is not None}
    outside = {name: types for name, types in candidates.items() if block_of(name) is None}
    request = LossRequest(windows, 0, inside, outside, follow)
    return open_runtime(source).measure_loss(request, NO_CACHE, run)

"""The report of an export: a record that is printed, saved as JSON, or made into a page."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ..allocation import by_loss
from ..allocation.plan import Plan
from ..device.pace import Pace
from ..evidence.blocks.records import Diagnostics, describe_inputs
from ..gguf.names import EMBEDDING, HEAD, TensorName
from ..gguf.types import CODEBOOK_TYPES, is_matrix, portability_note
from ..llama import child
from ..system.jsonio import to_json
from ..system.memory import peak_rss_bytes
from ..texts.info import TextInfo
from ..tuning.record import Tuned
from ..validate.perplexity import Validation
from ..validate.scored import ScoredFile
from .gather import Evidence
from .job import Job, device_context

# Predictions hold for text like the calibration's; beyond this excess they no longer add up.
_ADDITIVE = 1.5


@dataclass(frozen=True)
class LayerReport:
    """One block of the report: its measurements, nominal bits, and the type of each projection."""

    index: int
    score: float
    bits: float
    delta_ppl: float | None
    compactness_gain: float | None
    energy_gain: float | None
    types: dict[str, str]


@dataclass(frozen=True)
class TensorReport:
    """One tensor of the file.

    Attributes:
        name: GGUF name.
        role: what it is in its block, e.g. ``attn_q``; of a tensor outside the blocks its name without suffix.
        block: its block, or None.
        shape: shape in numpy order, the row length last.
        type: name of the ggml type.
        nbytes: size without padding.
        predicted_loss: rise of the loss that the type is predicted to cause, nats a token; None if none is predicted.
    """

    name: str
    role: str
    block: int | None
    shape: tuple[int, ...]
    type: str
    nbytes: int
    predicted_loss: float | None = None

    @property
    def is_matrix(self) -> bool:
        """True unless it stays in full precision in every file: a norm, a bias, a router."""
        return is_matrix(self.name, self.shape)


@dataclass(frozen=True)
class ExportReport:
    """The result of an export.

    Attributes:
        file_bytes: size of the written file.
        method: sentence about the metric and the rounding, and how to get the others.
        nominal_bits: average code bits of the block weights.
        bpw: physical bits a weight of the block weights.
        file_bpw: physical bits a weight of all weights.
        layers: one record a block.
        fallbacks: ``wanted -> written`` type, by name of each tensor whose rows the wanted type does not fit.
        seconds: by stage.
        peak_rss_bytes: largest resident size of the process and of the one in which llama.cpp runs, together.
        validation: scores of the written file; None if it was not scored.
        geometry_inputs: program that gave the inputs for the geometry, as in ``Diagnostics.inputs``.
        predicted_loss: sum of the predicted losses, nats a token; None if types were chosen otherwise.
        tensors: one record a tensor, in the order of the file.
        settings: every setting of the export that was of use, with its resolved value, by name.
        tuned: course and result of the tuning; None without one.
        compared: scores of the file and of presets of llama.cpp; empty if it was not compared with any.
        pace: predicted speed on the device of the export; None without a device.
    """

    model: str
    out: str
    architecture: str
    file_bytes: int
    nominal_bits: float
    bpw: float
    file_bpw: float
    metric: str
    budget: str
    rounding: str
    method: str
    embedding_types: dict[str, str]
    layers: tuple[LayerReport, ...]
    fallbacks: dict[str, str]
    calibration: TextInfo | None
    probe: TextInfo | None
    warnings: tuple[str, ...]
    seconds: dict[str, float]
    peak_rss_bytes: int
    validation: Validation | None = None
    correlations: dict[str, float] = field(default_factory=dict)
    predicted_loss: float | None = None
    geometry_inputs: str | None = None
    tensors: tuple[TensorReport, ...] = ()
    settings: dict[str, Any] = field(default_factory=dict)
    tuned: Tuned | None = None
    compared: tuple[ScoredFile, ...] = ()
    pace: Pace | None = None

    @property
    def shown_seconds(self) -> dict[str, float]:
        """``seconds`` by the names that people read; saved reports keep the one that the step has always had."""
        return {name.replace("quantize", "quantise"): value for name, value in self.seconds.items()}

    def notes(self) -> list[str]:
        """Sentences that explain the numbers."""
        notes = []
        if self.geometry_inputs in ("llama.cpp", "white"):
            notes.append(describe_inputs(self.geometry_inputs))
        slow = sorted({kind for layer in self.layers for kind in layer.types.values() if kind in CODEBOOK_TYPES})
        if slow:
            notes.append(f"{', '.join(slow)} are small for their precision, and decode about half as fast on ARM.")
        kinds = {tensor.type for tensor in self.tensors}
        if (note := portability_note(kinds)) is not None:
            notes.append(note)
        kld = self.validation.kld if self.validation is not None else None
        if self.predicted_loss is not None and kld is not None:
            note = f"The sum of predicted losses is {self.predicted_loss:.4f} nats, the measured divergence {kld:.4f}."
            if kld > _ADDITIVE * self.predicted_loss:
                note += (
                    " Errors this large add up beyond the prediction: it orders files, but does not say their level."
                )
            notes.append(note)
        return notes


def make_report(
    job: Job,
    evidence: Evidence,
    plan: Plan,
    file_bytes: int,
    validation: Validation | None,
    tuned: Tuned | None = None,
) -> ExportReport:
    """The report of a finished export."""
    return ExportReport(
        model=job.model,
        out=str(job.out),
        architecture=plan.architecture,
        file_bytes=file_bytes,
        nominal_bits=plan.nominal_bits,
        bpw=plan.bpw,
        file_bpw=plan.file_bpw,
        metric=plan.metric,
        budget=plan.budget,
        rounding=job.rounder.name,
        method=job.method.sentence,
        embedding_types={t.name: t.type for t in plan.tensors if t.name in (EMBEDDING, HEAD)},
        layers=layer_reports(plan, evidence.diagnostics),
        fallbacks=plan.fallbacks,
        calibration=evidence.calibration,
        probe=plan.probe,
        warnings=tuple(job.source.warnings),
        seconds=job.watch.seconds,
        peak_rss_bytes=peak_rss_bytes() + child.peak_bytes(),
        validation=validation,
        tuned=tuned,
        correlations=evidence.diagnostics.correlations,
        predicted_loss=plan.predicted_loss,
        geometry_inputs=evidence.diagnostics.inputs,
        tensors=tensor_reports(plan),
        settings=resolved_settings(job, evidence, plan),
        pace=plan.pace,
    )


def tensor_reports(plan: Plan) -> tuple[TensorReport, ...]:
    """Place, type and size of every tensor."""
    reports = []
    for tensor in plan.tensors:
        name = TensorName.parse(tensor.name)
        reports.append(
            TensorReport(
                tensor.name, name.role, name.block, tensor.shape, tensor.type, tensor.nbytes, tensor.predicted_loss
            )
        )
    return tuple(reports)


_OUTPUTS = frozenset({"cache", "cache_dir", "cache_limit"})


def resolved_settings(job: Job, evidence: Evidence, plan: Plan) -> dict[str, Any]:
    """The settings of a job by name, with the values that were decided for those that the user left open.

    Settings that had no use, and those that have no influence on the file or its scores, are left out.
    """
    settings = {name: value for name, value in to_json(job.settings).items() if name not in _OUTPUTS}
    follows_loss = plan.metric == by_loss.NAME
    unused = {"levels"} if follows_loss else {"types", "granularity"}
    for name in unused - ({"types"} if job.settings.portable else set()):
        settings.pop(name, None)
    if follows_loss and settings.get("granularity") is None:
        settings["granularity"] = "tensor"
    if job.settings.device is not None:
        settings["context_size"], settings["kv"] = device_context(job.settings)
    settings["metric"], settings["rounding"] = plan.metric, job.rounder.name
    chosen = {tensor.name: tensor.type for tensor in plan.tensors}
    settings["token_embedding_type"], settings["output_type"] = chosen.get(EMBEDDING), chosen.get(HEAD)
    text = evidence.calibration
    settings["calibration"] = None if text is None else text.name
    settings["calibration_tokens"] = None if text is None else text.tokens
    settings["probe_text"] = None if plan.probe is None else plan.probe.name
    if plan.probe is None:
        settings["probe_tokens"] = None
    if not job.blocks.measurements:
        settings |= dict.fromkeys(("projections", "baseline"))
    if job.validation is None:
        settings |= dict.fromkeys(("text", "context", "chunks", "reference"))
    else:
        settings["text"] = job.validation.name
    settings["model_sha256"] = plan.model_hash
    return {name: value for name, value in settings.items() if value is not None}


def layer_reports(plan: Plan, diagnostics: Diagnostics) -> tuple[LayerReport, ...]:
    """Measurements, bits and types block by block."""
    types: list[dict[str, str]] = [{} for _ in plan.blocks]
    for tensor in plan.tensors:
        name = TensorName.parse(tensor.name)
        if name.block is not None and is_matrix(tensor.name, tensor.shape):
            types[name.block][name.role] = tensor.type
    return tuple(
        LayerReport(
            index=block.index,
            score=block.score,
            bits=block.bits,
            delta_ppl=measured.delta_ppl,
            compactness_gain=measured.compactness_gain,
            energy_gain=measured.energy_gain,
            types=types[block.index],
        )
        for block, measured in zip(plan.blocks, diagnostics.blocks, strict=True)
    )

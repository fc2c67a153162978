"""Reports of made-up exports."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from lieq_edge.gguf.types import TYPES
from lieq_edge.pipeline.report import ExportReport, LayerReport, TensorReport
from lieq_edge.texts.info import TextInfo
from lieq_edge.validate.perplexity import Validation
from lieq_edge.validate.scored import ScoredFile

SCORES = Validation(
    ppl=12.5,
    ppl_se=0.1,
    tokens=1000,
    file_bytes=90_000_000,
    context=512,
    chunks=4,
    text=TextInfo("held-out", "ab" * 32, 2048),
    reference_ppl=12.0,
    kld=0.0125,
    kld_se=0.0004,
    kld_p50=0.006,
    kld_p99=0.1,
    kld_p999=0.4,
    top1=0.931,
)
_ROLES = {"ffn_down": (256, 512), "attn_q": (256, 256), "ffn_up": (512, 256)}


def tensor(name: str, shape: tuple[int, ...], kind: str, loss: float | None = None) -> TensorReport:
    block, role = (
        (int(name.split(".")[1]), name.split(".")[2]) if name.startswith("blk.") else (None, name.split(".")[0])
    )
    return TensorReport(name, role, block, shape, kind, TYPES[kind].nbytes(shape), loss)


def tensors(blocks: int = 3, *, predicted: bool = True) -> tuple[TensorReport, ...]:
    """A tied embedding, and three matrices and a norm a block; ``ffn_down`` of the first block has 6 bits."""
    found = [tensor("token_embd.weight", (1000, 256), "Q6_K", 0.001 if predicted else None)]
    for block in range(blocks):
        found.append(tensor(f"blk.{block}.attn_norm.weight", (256,), "F32"))
        for role, shape in _ROLES.items():
            kind = "Q6_K" if (role, block) == ("ffn_down", 0) else "Q4_K" if role == "attn_q" else "Q2_K"
            found.append(tensor(f"blk.{block}.{role}.weight", shape, kind, 0.002 * (block + 1) if predicted else None))
    return tuple(found)


def report(**changes: Any) -> ExportReport:
    """A report with everything in it."""
    made = ExportReport(
        model="org/model",
        out="/somewhere/model-90MB.gguf",
        architecture="llama",
        file_bytes=90_000_000,
        nominal_bits=3.0,
        bpw=3.4,
        file_bpw=3.6,
        metric="loss",
        budget="90MB",
        rounding="feedback",
        method="Types by predicted loss.",
        embedding_types={"token_embd.weight": "Q6_K"},
        layers=(LayerReport(0, 1.0, 3.0, None, None, None, {"attn_q": "Q4_K"}),),
        fallbacks={"blk.0.attn_v.weight": "Q3_K -> IQ4_NL"},
        calibration=TextInfo("documentation", "cd" * 32, 8192),
        probe=None,
        warnings=("The adapter was merged.",),
        seconds={"open": 1.0, "quantize and write": 30.25},
        peak_rss_bytes=1_500_000_000,
        validation=SCORES,
        predicted_loss=0.0111,
        tensors=tensors(),
        settings={"budget": "90MB", "metric": "loss", "types": "k", "strict_types": False},
    )
    return replace(made, **changes)


def bare(**changes: Any) -> ExportReport:
    """A report of a file that was neither predicted nor scored."""
    nothing: dict[str, Any] = {
        "validation": None,
        "predicted_loss": None,
        "calibration": None,
        "fallbacks": {},
        "warnings": (),
        "tensors": tensors(predicted=False),
        "metric": "geometry",
    }
    return report(**{**nothing, **changes})


def preset(name: str = "Q3_K_M", *, file_bytes: int = 95_000_000, kld: float | None = 0.05) -> ScoredFile:
    """Scores of a file that others would take."""
    return ScoredFile(name, file_bytes, replace(SCORES, kld=kld, ppl=14.0), prefill=180.0, decode=32.5)

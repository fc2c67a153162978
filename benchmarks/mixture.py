"""Compare metrics and roundings on a small mixture of experts that is trained here, at equal bytes.

    python -m benchmarks.mixture --work WORK --out OUT

The model (Qwen3-MoE, 7 million weights, 8 experts of which a token visits 2) learns a part of Python's documentation in
a few minutes on two cores. Each method writes files of the same sizes, which are scored on another part against the
model in full precision. Written are OUT.md and OUT.json; an interrupted run keeps the trained model, in WORK/model, and
resumes from OUT.json.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.harness import (
    Records,
    command_line,
    describe_machine,
    exit_code,
    geometric_mean,
    machine_line,
    plus_minus,
    table,
    write_markdown,
)
from benchmarks.internals import log, stage, stdlib_text
from benchmarks.shapes import special_ids, tokenizer_files
from lieq_edge import ExportReport, Settings, export_model

TOKENS = 509
SIZES: dict[str, dict[str, Any]] = {
    "2 bits": {"levels": (2,), "budget": "2"},
    "2.5 bits": {"levels": (2, 3, 4), "budget": "2.5"},
    "3 bits": {"levels": (3,), "budget": "3"},
    "4 bits": {"levels": (4,), "budget": "4"},
}
"""Files by the geometry with importance, whose bytes the others may take; of one level all blocks are alike."""

METHODS = (("loss", "imatrix"), ("loss", "feedback-once"), ("loss", "feedback"))
_BASE = ("geometry", "imatrix")
_SEQUENCES, _LENGTH, _RATE = 16, 128, 2e-3


@dataclass(frozen=True)
class File:
    """A file and its scores: KL divergence (nats a token) with its standard error, and share of same top tokens."""

    size: str
    metric: str
    rounding: str
    file_bytes: int
    kld: float
    kld_se: float
    top1: float
    ppl: float
    reference_ppl: float
    seconds: float


def train(folder: Path, steps: int) -> None:
    """Write the trained model into ``folder``, whole or not at all."""
    import torch
    from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

    ids = special_ids(TOKENS)
    config = Qwen3MoeConfig(
        vocab_size=TOKENS + len(ids),
        hidden_size=256,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        intermediate_size=256,
        moe_intermediate_size=256,
        num_experts=8,
        num_experts_per_tok=2,
        norm_topk_prob=True,
        max_position_embeddings=512,
        tie_word_embeddings=False,
        output_router_logits=True,  # so that the loss balances the experts
        router_aux_loss_coef=0.01,
        bos_token_id=None,
        eos_token_id=ids["<|im_end|>"],
        pad_token_id=ids["<|endoftext|>"],
    )
    torch.manual_seed(0)
    model = Qwen3MoeForCausalLM(config).train()
    part = folder.with_name(f"{folder.name}.part")
    part.mkdir(parents=True, exist_ok=True)
    for name, text in tokenizer_files(TOKENS).items():
        (part / name).write_text(text, encoding="utf-8")
    tokens = _training_tokens(part)
    optimizer = torch.optim.AdamW(model.parameters(), lr=_RATE, betas=(0.9, 0.95), weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _RATE, total_steps=steps, pct_start=0.1)
    generator = torch.Generator().manual_seed(0)
    loss = math.nan
    with stage("Training", steps) as advance:
        for _ in range(steps):
            starts = torch.randint(0, len(tokens) - _LENGTH, (_SEQUENCES, 1), generator=generator)
            batch = tokens[starts + torch.arange(_LENGTH)]
            optimizer.zero_grad()
            result = model(input_ids=batch, labels=batch).loss
            result.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            loss = float(result.detach())
            advance()
    log(f"The last training loss is {loss:.3f} nats a token.")
    model.config.output_router_logits = False
    model.save_pretrained(part)
    config_file = part / "config.json"
    config_file.write_text(json.dumps({**json.loads(config_file.read_text()), "torch_dtype": "float32"}))
    part.rename(folder)


def _training_tokens(folder: Path) -> Any:
    """Ids of all of the documentation but the parts that files are calibrated and scored on."""
    import torch
    from tokenizers import Tokenizer

    text = "\n\n".join(stdlib_text(part, 10**9)[0] for part in ("probe", "saliency", "calibration"))
    return torch.tensor(Tokenizer.from_file(str(folder / "tokenizer.json")).encode(text).ids)


def export(model: Path, work: Path, metric: str, rounding: str, threads: int | None, **more: Any) -> ExportReport:
    """One file, scored on the part of the documentation that nothing else reads."""
    text = work / "validation.txt"
    if not text.exists():
        text.write_text(stdlib_text("validation", 10**9)[0], encoding="utf-8")
    settings = Settings(
        metric=metric,
        rounding=rounding,
        calibration="docs",
        calibration_tokens=16384,
        text=text,
        context=256,
        chunks=64,
        threads=threads,
        cache_dir=work / "cache",
        **more,
    )
    return export_model(model, work / "file.gguf", settings, force=True)


def measure(work: Path, files: Records[File], threads: int | None) -> None:
    """Write and score what is missing."""
    for size, more in SIZES.items():
        done = {(file.metric, file.rounding): file for file in files if file.size == size}
        for metric, rounding in (_BASE, *METHODS):
            if (metric, rounding) in done:
                continue
            own = more if (metric, rounding) == _BASE else {"budget": f"{done[_BASE].file_bytes}B"}
            report = export(work / "model", work, metric, rounding, threads, **own)
            score = report.validation
            assert score is not None
            assert score.kld is not None
            assert score.kld_se is not None
            assert score.top1 is not None
            assert score.reference_ppl is not None
            file = File(
                size,
                metric,
                rounding,
                report.file_bytes,
                score.kld,
                score.kld_se,
                score.top1,
                score.ppl,
                score.reference_ppl,
                sum(report.seconds.values()),
            )
            files.add(file)
            done[metric, rounding] = file


def render(files: Sequence[File]) -> str:
    """The table, one row a size, and the means of the ratios to the geometry with importance."""
    by_size: dict[str, dict[tuple[str, str], File]] = {}
    for file in files:
        by_size.setdefault(file.size, {})[file.metric, file.rounding] = file
    methods = (_BASE, *METHODS)
    rows = []
    ratios: dict[tuple[str, str], list[float]] = {method: [] for method in METHODS}
    for size, own in by_size.items():
        cells = [plus_minus(own[method].kld, own[method].kld_se, 4) if method in own else "" for method in methods]
        rows.append([size, f"{own[_BASE].file_bytes / 1e6:.3f}", *cells])
        for method in METHODS:
            if method in own:
                ratios[method].append(own[method].kld / own[_BASE].kld)
    rows.append(["ratio", "", "1", *(f"{geometric_mean(some):.2f}" if some else "" for some in ratios.values())])
    head = ["size of", "MB", *(f"{metric}, {rounding}" for metric, rounding in methods)]
    return table(head, rows)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = command_line(__doc__)
    parser.add_argument("--work", type=Path, required=True, help="folder for the model, the files and the cache")
    parser.add_argument("--out", type=Path, required=True, help="OUT.md and OUT.json are written")
    parser.add_argument("--steps", type=int, default=400, help="steps of the training")
    parser.add_argument("--threads", type=int, help="CPU threads; all cores when left out")
    args = parser.parse_args(arguments)

    def work() -> None:
        args.work.mkdir(parents=True, exist_ok=True)
        files: Records[File] = Records(args.out.with_suffix(".json"), File)
        if not (args.work / "model").exists():
            train(args.work / "model", args.steps)
        measure(args.work, files, args.threads)
        machine = machine_line(describe_machine())
        ppl = next(iter(files)).reference_ppl
        write_markdown(args.out, f"{render(list(files))}\n\nPerplexity in full precision {ppl:.2f}. {machine}\n")

    return exit_code(work)


if __name__ == "__main__":
    sys.exit(main())

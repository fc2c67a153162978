"""Hand-made measurements for tests of allocation."""

from __future__ import annotations

from collections.abc import Sequence

from lieq_edge.evidence.blocks.records import BlockDiagnostics, Diagnostics, TensorInfo


def make_diagnostics(
    gains: Sequence[float | None],
    drops: Sequence[float] | None = None,
    energies: Sequence[float] | None = None,
    *,
    hidden: int = 256,
    inner: int = 512,
    vocab: int = 1000,
    tied: bool = True,
) -> Diagnostics:
    """Diagnostics of a model with one attention and one feed-forward matrix a block, and a norm."""
    tensors = [TensorInfo("token_embd.weight", (vocab, hidden))]
    if not tied:
        tensors.append(TensorInfo("output.weight", (vocab, hidden)))
    for i in range(len(gains)):
        tensors += [
            TensorInfo(f"blk.{i}.attn_norm.weight", (hidden,)),
            TensorInfo(f"blk.{i}.attn_q.weight", (hidden, hidden)),
            TensorInfo(f"blk.{i}.ffn_down.weight", (hidden, inner)),
        ]
    return Diagnostics(
        model="made up",
        architecture="llama",
        model_hash="0" * 64,
        metadata_bytes=1000,
        tensors=tuple(tensors),
        blocks=tuple(
            BlockDiagnostics(
                i,
                delta_ppl=drops[i] if drops else None,
                compactness_gain=gain,
                energy_gain=energies[i] if energies else None,
                projections={"attn_q": gain} if gain is not None else {},
            )
            for i, gain in enumerate(gains)
        ),
        probe=None,
        saliency_text=None,
        base_ppl=None,
        projections="qkv",
        baseline="projection",
        seeds=(0,),
    )

"""Load a file in transformers and compare its logits with llama.cpp's: the mean KL divergence of a short text.

python in_transformers.py FILE
"""

from __future__ import annotations

import sys
from pathlib import Path

import llama_cpp
import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

TEXT = "The capital of France is Paris. It lies on the river Seine, and about two million people live in it."


def log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def main() -> None:
    path = Path(sys.argv[1])
    tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
    # Without flash attention and with keys and values in float32, llama.cpp's arithmetic is the nearest.
    options = {"n_ctx": 128, "logits_all": True, "flash_attn": False, "type_k": 0, "type_v": 0, "verbose": False}
    reference = llama_cpp.Llama(str(path), **options)
    ids = reference.tokenize(TEXT.encode(), add_bos=False)
    assert tokenizer(TEXT, add_special_tokens=False)["input_ids"] == ids, "the tokenizers differ"
    reference.eval(ids)
    expected = log_softmax(reference.scores[: len(ids)])
    with torch.no_grad():
        found = log_softmax(model(torch.tensor([ids])).logits[0].numpy())
    divergence = float((np.exp(expected) * (expected - found)).sum(axis=-1).mean())
    # llama.cpp rounds activations to 8 bits, transformers does not.
    assert divergence < 0.02, f"KL divergence {divergence:.4f}"
    print(f"KL divergence from llama.cpp's logits {divergence:.5f} on {len(ids)} tokens")


if __name__ == "__main__":
    main()

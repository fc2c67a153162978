"""Mistral: llama.cpp's llama graph, which has no sliding window."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .base import window_note
from .llama import Llama


class Mistral(Llama):
    """GGUF files of it say ``llama`` and are read as such; texts within the window give the same numbers."""

    name = "mistral"
    title = "Mistral"
    class_name = "MistralForCausalLM"
    reads_gguf = False

    def warnings(self, config: dict[str, Any], label: str) -> Sequence[str]:
        # transformers takes 4096 where the configuration says nothing.
        return [*super().warnings(config, label), *window_note(config, config.get("sliding_window", 4096), label)]

"""Tokenizers: from the files of a model to the vocabulary of a GGUF file."""

"""The GGUF format: types, names, headers, blocks, and the writer of files."""

"""Score written files, and compare llama.cpp with transformers."""

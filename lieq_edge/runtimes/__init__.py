"""How a model is run: by PyTorch, block by block, or by llama.cpp."""

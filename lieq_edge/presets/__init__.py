"""llama.cpp's presets: the files that llama-quantize would write, and their sizes."""

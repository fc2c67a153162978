"""llama.cpp through llama-cpp-python; nothing else of this package imports llama_cpp."""

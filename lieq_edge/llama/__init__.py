"""llama.cpp through llama-cpp-python; nothing else of this package imports llama_cpp.

ggml's encoders and decoders (``library``, ``encoders``) run in this process. Models and tokenizers (``vocabulary``,
``engine``, ``session``, ``reload``, ``speed``, ``chat``, ``template``) run in another one, which may die of them, and
files are quantised there (``quantize``): ``child`` is this end of it, and ``serve``, ``worker``, ``loaded``, ``timed``,
``writer``, ``quantizer``, ``observer`` and ``log`` are the other.
"""

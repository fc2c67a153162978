"""The parts of rounding with error feedback: see ``lieq_edge.quantize.feedback``."""

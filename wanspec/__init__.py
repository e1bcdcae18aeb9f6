"""Speculative decoding across regions: the target here, the draft elsewhere."""

__version__ = "0.1.0"

"""Packed weights, of 16 bits or quantised to 8 or 4: how numbers are rounded, and how they lie in memory and in files.

rounding    quantise(), from float32; dequantise() and plain_values(), back
panels      the packed layout that kernels read: pack() and unpack() of codes and scales, and of halves
"""

from gollm.quantisation.panels import GROUPS, Codes, joined, pack, packed_shape, unpack
from gollm.quantisation.rounding import DTYPES, checked_group, dequantise, plain_values, quantise

__all__ = [
    "DTYPES",
    "GROUPS",
    "Codes",
    "checked_group",
    "dequantise",
    "joined",
    "pack",
    "packed_shape",
    "plain_values",
    "quantise",
    "unpack",
]

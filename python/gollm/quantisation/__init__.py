"""Quantised weights: how numbers become codes, and how codes lie in memory and in files.

rounding    quantise(), from float32; dequantise(), back
panels      the packed layout that kernels read: pack() and unpack() of codes and scales
"""

from gollm.quantisation.panels import GROUPS, Codes, joined, pack, packed_shape, unpack
from gollm.quantisation.rounding import DTYPES, checked_group, dequantise, dtype_named, quantise

__all__ = [
    "DTYPES",
    "GROUPS",
    "Codes",
    "checked_group",
    "dequantise",
    "dtype_named",
    "joined",
    "pack",
    "packed_shape",
    "quantise",
    "unpack",
]

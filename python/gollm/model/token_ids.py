"""Token ids from callers, checked."""

from __future__ import annotations

from typing import Any

import numpy as np

from gollm.errors import DTypeError, ShapeError, TokenizerError
from gollm.kernels import Array
from gollm.system.strict_json import shorten


def token_ids(values: Any, vocab_size: int) -> Array:
    """Token ids as an int32 array of their shape. Raises DTypeError for anything but integers, ShapeError for lists of
    different lengths, TokenizerError for an id that is not from 0 to vocab_size - 1."""
    try:
        array = np.asarray(values)
    except (TypeError, ValueError, OverflowError):
        raise ShapeError(
            "the token ids are lists of different lengths; each sequence needs as many as the others"
        ) from None
    if array.size and array.dtype.kind not in "iu":
        big = array.dtype == object and all(type(value) is int for value in array.flat)
        if not big:
            raise DTypeError(f"the token ids are {shorten(values)}; they must be whole numbers")
    if array.size and not (array.min() >= 0 and array.max() < vocab_size):
        odd = next(value for value in array.flat if not 0 <= value < vocab_size)
        raise TokenizerError(f"a token id is {shorten(int(odd))}; it must be from 0 to {vocab_size - 1}")
    return array.astype(np.int32)

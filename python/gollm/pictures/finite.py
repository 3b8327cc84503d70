"""Numbers that can be drawn."""

from __future__ import annotations

import numpy as np

from gollm.errors import PictureError
from gollm.kernels import Array


def finite(values: Array, what: str) -> Array:
    """`values` as they are. Raises PictureError where one is NaN or infinite, as after training that diverged."""
    if not np.isfinite(values).all():
        raise PictureError(f"{what} are not finite, so they cannot be drawn; the model is damaged or has diverged")
    return values

"""The models that come with gollm, by name: `gollm generate shakespeare`. A file or folder of that name comes first."""

from __future__ import annotations

import os
from pathlib import Path

BOX = Path(__file__).resolve().parent.parent / "box"


def unboxed(path: Path) -> Path:
    """The file of the model in the box that a path names, or the path itself."""
    inside = BOX / f"{path.name}.golm"
    return inside if path.parts == (path.name,) and os.path.isfile(inside) and not os.path.lexists(path) else path

"""The models that come with gollm, by name: `gollm generate shakespeare`. A file or folder of that name comes first."""

from __future__ import annotations

import os
from pathlib import Path

from gollm.options import nearest

BOX = Path(__file__).resolve().parent.parent / "box"


def in_the_box(path: Path) -> str:
    """What to say of a path that is not there but is nearly the name of a model in the box; else nothing."""
    near = nearest(path.name, [file.stem for file in BOX.glob("*.golm")]) if path.parts == (path.name,) else None
    return f"; did you mean {near}, which comes with gollm?" if near else ""


def unboxed(path: Path) -> Path:
    """The file of the model in the box that a path names, or the path itself."""
    inside = BOX / f"{path.name}.golm"
    return inside if path.parts == (path.name,) and os.path.isfile(inside) and not os.path.lexists(path) else path

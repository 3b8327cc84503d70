"""The trained model that some figures look into: stories260K of llama2.c, in $DATA or beside the checkout. Figures that
need it are left as they are where it is missing."""

from __future__ import annotations

import os
from pathlib import Path

STORIES = Path(os.environ.get("DATA", Path(__file__).resolve().parents[4] / "shared" / "data")) / "stories260K.bin"

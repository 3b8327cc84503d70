"""Makes the model that comes with gollm, python/gollm/box/shakespeare.golm: trains it and stores it in 8 bits.

python tools/make_box_model.py tinyshakespeare.txt       a quarter of an hour on one core
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TARGET = ROOT / "python" / "gollm" / "box" / "shakespeare.golm"


def main(data: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        config = ROOT / "configs" / "shakespeare-box.yaml"
        gollm("train", data, "--config", str(config), "--out", f"{folder}/run")
        gollm("quantize", f"{folder}/run/best.golm", str(TARGET), "--weights", "int8", "--overwrite")
    print(f"{TARGET}: {TARGET.stat().st_size:,} bytes")


def gollm(*words: str) -> None:
    subprocess.run([sys.executable, "-m", "gollm", *words], check=True)


if __name__ == "__main__":
    main(sys.argv[1])

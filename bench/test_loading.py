"""How long models take to open, and how much memory, in every format: `gollm.load` of one of some 100 MB.

pytest bench/test_loading.py

Each load has a process of its own, in which the modules are there already and the file is in the page cache. `load` is
gollm.load, `use` touching every weight then; both beside the time of reading the file's bytes into memory, here and
then. `peak` is what the process has grown by, over the model's bytes in float32.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from gollm.errors import FormatError
from gollm.formats import NAMES, convert, format_named
from gollm.language_model import LanguageModel
from gollm.model.config import ModelConfig, preset
from gollm.model.decoder import Decoder

GPT2 = ModelConfig(n_layers=6, n_heads=8, d_model=512, vocab_size=16384, context=512)
LLAMA = preset("gollm-85m").replace(n_layers=4, d_model=512, n_heads=8, n_kv_heads=4, d_ff=1536, vocab_size=16384)
TURNS = 7

WORKER = """
import json, sys, time
import numpy as np
import gollm.language_model
from gollm.formats import NAMES, format_named

for name in NAMES:
    format_named(name)
path, files = sys.argv[1], sys.argv[2:]

def memory():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmHWM")) * 1024

before, started = memory(), time.perf_counter()
weights = gollm.load(path).decoder.parameters.weights
loaded = time.perf_counter()
float(weights.sum())
used, peak = time.perf_counter(), memory() - before
starts = time.perf_counter()
for file in files:
    np.fromfile(file, np.uint8)
print(json.dumps([loaded - started, used - loaded, time.perf_counter() - starts, peak]))
"""


def measure(path: Path) -> list[float]:
    """The least of seconds to load, to use and to read the bytes, and the median of peaks in bytes."""
    files = sorted(map(str, path.iterdir())) if path.is_dir() else [str(path)]
    turns = []
    for _ in range(TURNS):
        done = subprocess.run(
            [sys.executable, "-c", WORKER, str(path), *files], capture_output=True, text=True, check=True
        )
        turns.append(json.loads(done.stdout))
    *seconds, peaks = zip(*turns, strict=True)
    return [*map(min, seconds), statistics.median(peaks)]


CASES = [(name, dtype) for name in NAMES if name != "json" for dtype in format_named(name).dtypes]


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak as Linux reports it")
@pytest.mark.parametrize(("name", "dtype"), CASES, ids=lambda value: str(value))
def test_loading(name: str, dtype: str, tmp_path: Path, say: Callable[[str], None]) -> None:
    model = tmp_path / "model"
    for config in (LLAMA, GPT2):
        LanguageModel(Decoder(config).initialise(1)).save(tmp_path / "model.golm")
        try:
            convert(tmp_path / "model.golm", model, name, dtype)  # type: ignore[arg-type]
            break
        except FormatError:  # llm.c has GPT-2 only
            continue
    load, use, read, peak = measure(model)
    n_bytes = 4 * Decoder(config).parameters.n_parameters
    size = sum(file.stat().st_size for file in (model.iterdir() if model.is_dir() else [model]))
    say(
        f"{name:12} {dtype:5} {size >> 20:4} MiB  load {load * 1e3:6.1f} ms  use {use * 1e3:5.1f} ms  "
        f"read {read * 1e3:5.1f} ms  load/read {load / read:5.2f}  peak {peak / n_bytes:5.3f}"
    )


def test_opening_gpt2_124m(tmp_path: Path, say: Callable[[str], None]) -> None:
    """Our own file of half a gigabyte; the aim is below 0.1 s."""
    path = tmp_path / "d12.golm"
    LanguageModel(Decoder(preset("d12")).initialise(1)).save(path)
    load, use, read, peak = measure(path)
    say(
        f"golm, GPT-2 124M, {os.path.getsize(path) >> 20} MiB: load {load * 1e3:.1f} ms, use {use * 1e3:.0f} ms, "
        f"read {read * 1e3:.0f} ms, peak {peak / os.path.getsize(path):.3f}"
    )


if __name__ == "__main__":
    sys.exit(pytest.main([str(Path(__file__))]))

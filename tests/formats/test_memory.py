"""Loading needs little more memory than the model itself has in float32."""

from __future__ import annotations

import itertools
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gollm.formats import format_named, save
from gollm.formats.source import Source
from gollm.model.config import ModelConfig
from gollm.model.decoder import Decoder

CONFIGS = {
    "gpt2": ModelConfig(n_layers=8, n_heads=8, d_model=640, vocab_size=16000, context=256),
    "llama": ModelConfig(
        n_layers=8, n_heads=8, n_kv_heads=2, d_model=640, d_ff=2048, vocab_size=16000, context=256, norm="rmsnorm",
        position="rope", gated_mlp=True, bias=False, activation="silu",
    ),
}  # fmt: skip

# Prints the bytes that loading needed at its worst, beyond what the process had before.
CHILD = """
import sys
import gollm.language_model
from gollm.formats import NAMES, format_named

for name in NAMES:
    format_named(name)

def memory(name):
    with open("/proc/self/status") as file:
        return int(next(line for line in file if line.startswith(name)).split()[1]) << 10

open("/proc/self/clear_refs", "w").write("5")  # forget the peak of the imports
before = memory("VmRSS")
model = gollm.load(sys.argv[1])
for parameter in model.decoder.parameters.values():
    parameter.data.sum()  # one that is mapped comes in when it is touched
print(memory("VmHWM") - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak as Linux tells it")
@pytest.mark.parametrize(
    ("config", "to", "dtype"),
    [
        *itertools.product(
            CONFIGS,
            ["huggingface", "golm"],
            ["f32", "bf16"],
        ),
        *itertools.product(CONFIGS, ["gguf"], ["f32", "q8_0"]),
        *itertools.product(["gpt2"], ["llm.c"], ["f32", "bf16"]),
        *itertools.product(["llama"], ["llama2.c"], ["f32", "q8_0"]),
    ],
)
def test_peak(config: str, to: str, dtype: Any, tmp_path: Path) -> None:
    if to == "gguf":
        pytest.importorskip("gguf")
    shape = CONFIGS[config]
    source = Source(shape, lambda name, out: np.copyto(out, 1))
    save(source, tmp_path / "model", to, dtype)
    assert format_named(to).recognises(tmp_path / "model")
    size = 4 * Decoder(shape).parameters.n_parameters
    assert size > 180e6
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(tmp_path / "model")], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) <= 1.1 * size, int(done.stdout) / size

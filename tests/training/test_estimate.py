"""What a run is said to take, against what the process then takes."""

import json
import math
import re
import subprocess
import sys

import pytest

from gollm import TrainOptions
from gollm.errors import ConfigError
from gollm.model.config import preset
from gollm.options import given
from gollm.system.memory import resident_bytes
from gollm.training import prepare_job
from gollm.training.estimate import flops_per_token

SCRIPT = """
import json, sys
from gollm import TrainOptions
from gollm.training import prepare_job
from gollm.system.memory import resident_bytes

job = prepare_job(TrainOptions(**json.loads(sys.argv[1])))
job.run()
print(json.dumps([job.estimate.total_bytes, resident_bytes()[1]]))
"""

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")


def estimated_and_peak(options):
    chosen = {name: getattr(options, name) for name in given(options)}
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps(chosen)], capture_output=True, text=True, check=True
    )
    return json.loads(result.stdout)


WIDE = {"d_model": 128, "n_heads": 4, "n_layers": 4, "context": 128, "steps": 2, "eval_batches": 3, "sample_tokens": 2}
LLAMA = {"norm": "rmsnorm", "position": "rope", "gated_mlp": True, "activation": "silu", "bias": False, "n_kv_heads": 1}
KINDS = {
    "tiny": {"sample_tokens": 3},
    "small": WIDE,
    "large batch": {**WIDE, "batch_size": 48},
    "accumulation": {**WIDE, "batch_size": 16, "grad_accumulation": 2},
    "gradient descent": {**WIDE, "batch_size": 16, "optimizer": "sgd"},
    "dropout": {**WIDE, "batch_size": 16, "dropout": 0.1},
    "an uneven last evaluation batch": {**WIDE, "batch_size": 40, "eval_batches": 9, "validation_fraction": 0.15},
    "long context": {"d_model": 64, "n_heads": 2, "context": 1024, "batch_size": 8, "n_layers": 2, "steps": 2},
    "MLPs computed again": {**WIDE, "batch_size": 64, "recompute": "mlp"},
    "blocks computed again": {**WIDE, "batch_size": 64, "n_layers": 8, "recompute": "block"},
    "bfloat16 activations": {**WIDE, "batch_size": 64, "activation_dtype": "bfloat16"},
    "both": {**WIDE, "batch_size": 64, "n_layers": 8, "recompute": "mlp", "activation_dtype": "bfloat16"},
    "both, blocks": {**WIDE, "batch_size": 64, "dropout": 0.1, "recompute": "block", "activation_dtype": "bfloat16"},
    "llama": {**WIDE, **LLAMA, "batch_size": 16},
    "llama, MLPs computed again": {**WIDE, **LLAMA, "batch_size": 64, "recompute": "mlp"},
    "llama, both": {**WIDE, **LLAMA, "batch_size": 64, "recompute": "block", "activation_dtype": "bfloat16"},
    "llama, both, dropout, wide heads": {
        **WIDE, **LLAMA, "batch_size": 64, "recompute": "block", "activation_dtype": "bfloat16", "dropout": 0.1,
        "head_dim": 64,
    },
    "llama, bfloat16": {**WIDE, **LLAMA, "batch_size": 64, "activation_dtype": "bfloat16"},
    "bfloat16 products": {**WIDE, "batch_size": 16, "compute_dtype": "bfloat16"},
    "grouped heads, untied": {**WIDE, "n_kv_heads": 1, "tied_head": False, "bias": False, "batch_size": 16},
}  # fmt: skip
LARGE = {
    "30M": {**WIDE, "n_layers": 8, "d_model": 512, "n_heads": 8, "batch_size": 4},
    "85M": {**WIDE, "n_layers": 12, "d_model": 768, "n_heads": 12, "context": 64, "batch_size": 4},
}


@pytest.mark.parametrize("kind", KINDS)
def test_memory(options, kind):
    estimated, peak = estimated_and_peak(options(**KINDS[kind]))
    assert estimated == pytest.approx(peak, rel=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("kind", LARGE)
def test_memory_of_large_models(options, kind):
    estimated, peak = estimated_and_peak(options(**LARGE[kind]))
    assert estimated == pytest.approx(peak, rel=0.1)


def test_memory_of_a_resumed_run(options):
    """Weights and moments come out of a mapped file, whose pages are not counted twice."""
    chosen = options(**{**WIDE, "n_layers": 6, "d_model": 384, "n_heads": 6, "context": 32, "batch_size": 2})
    estimated_and_peak(chosen)
    estimated, peak = estimated_and_peak(TrainOptions(resume=chosen.out, steps=4))
    assert estimated == pytest.approx(peak, rel=0.1)


def test_nothing_is_allocated_for_an_estimate(options):
    """Terabytes: the estimate needs no more memory for it."""
    before = resident_bytes()[1]
    job = prepare_job(options(n_layers=200, d_model=2**15, n_heads=2**8, context=8, batch_size=2**14, force=True))
    assert job.estimate.total_bytes > 1e12
    assert job.estimate.n_parameters > 1e12
    assert job.estimate.peak_so_far - before < 1e8


@pytest.fixture
def little_memory(monkeypatch):
    monkeypatch.setattr("gollm.training.estimate.available_bytes", lambda: 20_000_000)


def test_a_run_that_cannot_fit_names_the_largest_batch_that_does(options, little_memory, tmp_path):
    with pytest.raises(ConfigError, match=r"needs about .* of memory and 20 MB are free; .*--force trains") as refused:
        prepare_job(options(batch_size=2048, grad_accumulation=2))
    assert not (tmp_path / "run").exists()
    largest = int(re.search(r"--batch-size (\d+)", str(refused.value))[1])
    accumulation = int(re.search(r"--grad-accumulation (\d+)", str(refused.value))[1])
    assert 8 < largest < 2048 and accumulation == math.ceil(4096 / largest)
    with prepare_job(options(batch_size=largest, grad_accumulation=2)) as job:
        assert job.estimate.wanted_bytes <= 20_000_000
    with pytest.raises(ConfigError, match=f"--batch-size {largest} "):
        prepare_job(options(batch_size=largest + 1, grad_accumulation=2))


def test_a_model_that_cannot_fit_says_so_and_force_goes_on(options, little_memory):
    with pytest.raises(ConfigError, match="not even --batch-size 1 fits: use a smaller model"):
        prepare_job(options(d_model=1024, n_heads=16))
    with prepare_job(options(d_model=1024, n_heads=16, force=True)) as job:
        assert job.estimate.wanted_bytes > 20_000_000


def test_flops_per_token():
    """6 N + 12 L C T: for GPT-2, 124M parameters and 1024 tokens of context."""
    assert flops_per_token(preset("d12")) == 6 * 124_439_808 + 12 * 12 * 768 * 1024


def test_operations_of_a_token_without_its_lookup_and_beyond_its_window():
    tied = preset("gollm-85m")
    untied, short = tied.replace(tied_head=False), tied.replace(sliding_window=256)
    assert flops_per_token(untied) == flops_per_token(tied)
    assert flops_per_token(tied) - flops_per_token(short) == 12 * 12 * 768 * (2048 - 256)
    some = short.replace(window_layers=(0, 5, 11))
    assert flops_per_token(tied) - flops_per_token(some) == 12 * 3 * 768 * (2048 - 256)

"""A training step, forward, backward, clipping and update, beside PyTorch's (bench/torch_gpt.py).

    pytest bench/test_training.py

The share of the FMA peak counts 6 N + 12 L C T operations a token, as the trainer's log line does.
"""

from pathlib import Path

import numpy as np
import pytest

from gollm.config import ModelConfig
from gollm.model import Decoder
from gollm.optimizer import AdamW
from gollm.training.estimate import flops_per_token

SMALL = {"n_layers": 4, "n_heads": 4, "d_model": 128, "vocab_size": 65}
MEDIUM = {"n_layers": 6, "n_heads": 6, "d_model": 384, "vocab_size": 65}
GPT2 = {"n_layers": 12, "n_heads": 12, "d_model": 768, "vocab_size": 50257}
CASES = {
    "0.8M, 12 x 64": (SMALL, 12, 64, 15),
    "10.7M, 12 x 256": (MEDIUM, 12, 256, 5),
    "GPT-2 124M, 4 x 64": (GPT2, 4, 64, 5),
    "GPT-2 124M, 4 x 256": (GPT2, 4, 256, 3),
}


@pytest.mark.parametrize("case", CASES)
def test_training_step(compare, isa, case):
    shape, batch_size, context, rounds = CASES[case]
    config = ModelConfig(**shape, context=context)
    model = Decoder(config).initialise(0)
    optimizer = AdamW(model.parameters)
    inputs, targets = np.random.default_rng(0).integers(0, config.vocab_size, (2, batch_size, context)).astype(np.int32)

    def step() -> None:
        model.parameters.zero_grad()
        model.loss(inputs, targets).backward()
        optimizer.step(1e-3)

    setup = f"""
import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})
from torch_gpt import training_step
step = training_step(batch_size={batch_size}, **{ {**shape, "context": context} })
"""
    n_tokens = inputs.size
    compare(
        step,
        n_tokens * flops_per_token(config),
        {"torch": (setup, "step()")},
        rounds=rounds,
        counts={"tokens": n_tokens},
    )

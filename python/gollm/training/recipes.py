"""How a preset is trained where the options do not say: learning rate, batch and steps, with their source."""

from __future__ import annotations

import math
from dataclasses import dataclass

from gollm.model.config import preset
from gollm.model.presets import OTHER_NAMES

# Brown et al. 2020 (GPT-3), table 2.1: parameters, learning rate, tokens of a batch
GPT_3 = {
    "125M": (125e6, 6e-4, 0.5e6),
    "350M": (350e6, 3e-4, 0.5e6),
    "760M": (760e6, 2.5e-4, 0.5e6),
    "1.3B": (1.3e9, 2e-4, 1e6),
    "2.7B": (2.7e9, 1.6e-4, 1e6),
    "6.7B": (6.7e9, 1.2e-4, 2e6),
}
ROWS = {
    **dict.fromkeys(("large", "d12", "gollm-85m", "smollm-135m"), "125M"),
    **dict.fromkeys(("d24", "smollm-360m", "qwen-2.5-0.5b"), "350M"),
    "d36": "760M",
    **dict.fromkeys(("d48", "tinyllama-1.1b", "llama-3.2-1b"), "1.3B"),
    "llama-3.2-3b": "2.7B",
    "llama-3-8b": "6.7B",
}
STEP_TOKENS = 1 << 15  # of a step on a small machine, in place of half a million and more
TOKENS_PER_PARAMETER = 20  # Hoffmann et al. 2022 (Chinchilla)


@dataclass(frozen=True)
class Recipe:
    """What a preset brings. steps: the most that a run takes where neither steps nor epochs are given."""

    lr: float
    batch_size: int
    grad_accumulation: int
    steps: int
    source: str


SMALL = Recipe(2e-3, 8, 1, 1500, "chosen for a minute on two cores")
# A quarter of nanoGPT's batch of 64, and half of its learning rate of 1e-3.
MEDIUM = Recipe(5e-4, 16, 1, 5000, "nanoGPT's train_shakespeare_char.py, scaled")


def recipe(name: str) -> Recipe:
    """The recipe of a preset.

    Larger models have GPT-3's learning rate for their size, but batches of STEP_TOKENS tokens. AdamW's learning rate
    goes with the square root of the batch (Malladi et al. 2022).

    >>> recipe("d12")
    Recipe(lr=0.00015, batch_size=8, grad_accumulation=4, steps=76294, source="GPT-3's 125M, scaled")
    """
    name = OTHER_NAMES.get(name, name)
    if name not in ROWS:
        return MEDIUM if name == "medium" else SMALL
    parameters, lr, tokens = GPT_3[ROWS[name]]
    context = preset(name).context
    batch_size = max(1, STEP_TOKENS // 4 // context)
    grad_accumulation = max(1, STEP_TOKENS // (batch_size * context))
    step = batch_size * grad_accumulation * context
    scaled = float(f"{lr * math.sqrt(step / tokens):.1e}")
    steps = math.ceil(TOKENS_PER_PARAMETER * parameters / step)
    return Recipe(scaled, batch_size, grad_accumulation, steps, f"GPT-3's {ROWS[name]}, scaled")

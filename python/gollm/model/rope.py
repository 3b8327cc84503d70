"""The angles of rotary position embeddings (Su et al. 2021), and how they are stretched for longer contexts.

At position p, pair i of a head's D values is turned by p * f_i, where f_i = theta^(-2i/D). A model is made to take
more tokens than it was trained on by lowering frequencies:

    linear   f_i / factor, which squeezes all positions into the trained range (Chen et al. 2023)
    llama3   only those whose wavelength 2 pi / f_i is long against the trained context: f_i / factor where it goes
             fewer than low_freq_factor times into it, f_i where more than high_freq_factor times, blended in between
             (LLaMA 3.1)

csrc/rope.c has the rotation itself.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from gollm.kernels import Array, Kernels, cpu
from gollm.model.config import ModelConfig
from gollm.nn.dtypes import DType
from gollm.nn.storage import Storage


def frequencies(config: ModelConfig) -> Array:
    """Angle per position of each pair: (head_dim / 2,) float64

    >>> frequencies(ModelConfig(n_layers=1, n_heads=1, d_model=4, position="rope", rope_theta=10000.0)).tolist()
    [1.0, 0.01]
    """
    f = config.rope_theta ** (-np.arange(0, config.head_dim, 2) / config.head_dim)
    if config.rope_scaling == "linear":
        return np.asarray(f / config.rope_factor)
    if config.rope_scaling == "llama3":
        assert config.rope_original_context is not None
        low, high = config.rope_low_freq_factor, config.rope_high_freq_factor
        turns = config.rope_original_context * f / (2 * np.pi)  # over the trained context
        keep = np.clip((turns - low) / (high - low), 0, 1)
        return np.asarray(keep * f + (1 - keep) * f / config.rope_factor)
    return np.asarray(f)


MANY_POSITIONS = 1 << 20


class Rotations:
    """Cosines and sines of every position so far asked for, as the kernels take them.

    The table has room for the whole context from the start (memory is taken as rows are filled), so that its address
    stays the same; beyond MANY_POSITIONS it is replaced when it has to grow. On a GPU it is a copy, filled at
    once, and bfloat16 where the model's activations are."""

    def __init__(
        self, config: ModelConfig, dtype: np.dtype[Any], kernels: Kernels = cpu, read_dtype: DType | None = None
    ) -> None:
        self._frequencies = frequencies(config)
        self._context = config.context
        self._kernels, self._dtype = kernels, read_dtype
        self._copy: Array | None = None
        self._state = (np.empty((0, config.head_dim), dtype), 0)  # the table, and how many of its rows are filled

    def __call__(self, n_positions: int) -> Array:
        """A table whose rows 0 to n_positions - 1 are filled: (P, head_dim), cos and sin of each pair side by side"""
        table, filled = self._state
        if n_positions > len(table):
            rows = max(n_positions, min(self._context, max(MANY_POSITIONS, 2 * len(table))))
            table, filled = np.empty((rows, table.shape[1]), table.dtype), 0  # NumPy's memory: it outlives a plan's
        if n_positions > filled:
            n = max(n_positions, min(len(table), 2 * filled))  # doubled: token by token, few are made
            n = n if self._kernels.is_cpu else len(table)
            # In float64: position 100 000 is as exact as position 1.
            angles = np.arange(filled, n)[:, None] * self._frequencies
            table[filled:n, 0::2], table[filled:n, 1::2] = np.cos(angles), np.sin(angles)
            if not self._kernels.is_cpu:
                self._copy = Storage(table).to(self._kernels, self._dtype).array
            self._state = table, n  # last, and at once: other threads may be reading
        return table if self._copy is None else self._copy

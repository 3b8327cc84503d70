"""Models for tests of formats: random ones, and what is in a source."""

from __future__ import annotations

import numpy as np

from gollm.formats.source import Source
from gollm.model.config import ModelConfig
from gollm.model.decoder import Decoder


def random_source(config: ModelConfig, seed: int = 0, scale: float = 1.0) -> tuple[Source, dict[str, np.ndarray]]:
    """A model of random weights, and these by name; a change of the arrays changes the model."""
    rng = np.random.default_rng(seed)
    arrays = {
        name: (scale * rng.standard_normal(p.shape)).astype(np.float32)
        for name, p in Decoder(config).parameters.items()
    }
    return Source(config, lambda name, out: np.copyto(out, arrays[name])), arrays


def contents(source: Source) -> dict[str, np.ndarray]:
    """Every parameter of a source by name."""
    return {name: source.array(name, p.shape) for name, p in Decoder(source.config).parameters.items()}

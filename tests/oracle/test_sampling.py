"""What changes logits, and what is kept of them, against transformers' processors."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from gollm.inference.drawing import Row, draw  # noqa: E402
from gollm.inference.processors import process  # noqa: E402
from gollm.inference.sampling import Sampling  # noqa: E402
from gollm.model.generation_defaults import GenerationDefaults  # noqa: E402

RNG = np.random.default_rng(8)
LOGITS = (3 * RNG.standard_normal((4, 300))).astype(np.float32)
TOKENS = RNG.integers(0, 300, 40)


def resolved(**options):
    return Sampling(**options).resolved(GenerationDefaults())


@pytest.mark.parametrize("penalty", [0.5, 1.2, 3.0])
def test_repetition_penalty(penalty):
    theirs = transformers.RepetitionPenaltyLogitsProcessor(penalty)
    for row in LOGITS:
        ours = row.copy()
        process(ours, resolved(repetition_penalty=penalty), TOKENS.astype(np.int32), 10)
        want = theirs(torch.tensor(TOKENS[None]), torch.tensor(row[None]))[0].numpy()
        np.testing.assert_allclose(ours, want, rtol=1e-6)


OPTIONS = [
    {"top_k": 1},
    {"top_k": 12},
    {"top_p": 0.3},
    {"top_p": 0.9},
    {"min_p": 0.05},
    {"temperature": 0.6},
    {"temperature": 1.7, "top_k": 50, "top_p": 0.8, "min_p": 0.03},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_truncations_and_temperature(options):
    """transformers' probabilities, summed up, have each of our draws where its random number is."""
    warpers = transformers.LogitsProcessorList()
    if "temperature" in options:
        warpers.append(transformers.TemperatureLogitsWarper(options["temperature"]))
    if "top_k" in options:
        warpers.append(transformers.TopKLogitsWarper(options["top_k"]))
    if "top_p" in options:
        warpers.append(transformers.TopPLogitsWarper(options["top_p"]))
    if "min_p" in options:
        warpers.append(transformers.MinPLogitsWarper(options["min_p"]))
    sampling = resolved(**{"temperature": 1.0, **options})
    n = 4000
    for row in LOGITS:
        p = warpers(None, torch.tensor(row[None], dtype=torch.float64))[0].softmax(-1).numpy()
        rows = [Row(sampling, range(position), 0) for position in range(n)]
        tokens = np.array([one.token for one in draw(np.tile(row, (n, 1)), rows)])
        assert (p[tokens] > 0).all()
        counts = np.bincount(tokens, minlength=len(row))
        assert (np.abs(counts - n * p) < 5 * np.sqrt(n * p * (1 - p)) + 3).all()
        assert counts[n * p > 15].min() > 0


def test_greedy_is_transformers_argmax():
    drawn = draw(LOGITS, [Row(resolved(temperature=0), [1], 1)] * len(LOGITS))
    assert [one.token for one in drawn] == torch.tensor(LOGITS).argmax(-1).tolist()

"""What the rows of dropout do not say: its generator is Philox4x32-10, and each draw is a function of its position."""

import numpy as np
import pytest

from gollm import _native
from gollm.errors import KernelError
from kernels.references.dropout import philox

ONES = 0xFFFFFFFF


def forward(n, *, p, seed=1, stream=0, counter=0, x=None):
    y = np.empty(n, np.float32)
    x = np.ones(n, np.float32) if x is None else x
    arguments = {"counter": np.array([counter]), "p": p, "seed": seed, "stream": stream}
    _native.dropout_forward(y=y, x=x, residual=None, **arguments)
    return y


@pytest.mark.parametrize(
    ("counter", "key", "words"),
    [
        ([0, 0, 0, 0], [0, 0], "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ([ONES] * 4, [ONES] * 2, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        (
            [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
            [0xA4093822, 0x299F31D0],
            "d16cfe09 94fdcceb 5001e420 24126ea1",
        ),
    ],
)
def test_the_reference_gives_the_known_answers_of_random123(counter, key, words):
    assert " ".join(f"{int(word):08x}" for word in philox(counter, key)) == words


def test_the_kernel_draws_the_words_of_philox():
    """An element is kept when its word is at least 2^32 p: the word itself as the limit keeps it, one more drops it."""
    for w, word in enumerate([0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]):
        element = 16 * w  # word w of counter 0
        assert forward(64, p=word / 2**32, seed=0)[element] > 0
        assert forward(64, p=(word + 1) / 2**32, seed=0)[element] == 0


def test_a_draw_depends_on_position_seed_stream_and_counter_only():
    y = forward(1000, p=0.5)
    assert (forward(77, p=0.5) == y[:77]).all()
    for other in ({"seed": 2}, {"stream": 1}, {"counter": 1}, {"seed": 1 + 2**32}, {"counter": 2**32}):
        assert 400 < (forward(1000, p=0.5, **other) != y).sum() < 600


def test_share_and_scale_of_the_kept():
    n, p = 1_000_000, 0.2
    y = forward(n, p=p)
    assert set(np.unique(y)) == {0.0, np.float32(1 / (1 - p))}
    deviation = np.sqrt(n * p * (1 - p))  # of a binomial distribution
    assert abs((y == 0).sum() - n * p) < 5 * deviation


@pytest.mark.parametrize("bad", [{"p": -0.1}, {"p": 1.1}, {"p": np.nan}, {"p": 0.5, "stream": -1}])
def test_values_outside_of_their_ranges_are_refused(bad):
    with pytest.raises(KernelError, match="a value outside of its range"):
        forward(8, **bad)

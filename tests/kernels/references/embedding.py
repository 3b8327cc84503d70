"""csrc/embedding.c"""

import numpy as np

from kernels.harness import kernel

IDS = {
    "tokens": lambda rng, s: rng.integers(0, s.V, s.N),
    "positions": lambda rng, s: rng.integers(0, s.T, s.N),
}
# N, C, V, T: more rows than ids, so that rows meet in the tables; and fewer; and several blocks of a GPU's sort
SHAPES = [(1, 1, 1, 1), (2, 3, 1, 2), (7, 5, 3, 4), (16, 17, 50, 16), (129, 100, 11, 64), (300, 768, 1001, 257)]
SHAPES += [(2500, 5, 40, 300)]


@kernel("embedding_forward", shapes=SHAPES, inputs=IDS, empty=["N", "C"], together=[{"positions", "position_table"}])
def embedding_forward(tokens, token_table, positions, position_table):
    return {"y": token_table[tokens] + (0 if position_table is None else position_table[positions])}


@kernel(
    "embedding_backward",
    forward="embedding_forward",
    shapes=SHAPES,
    inputs=IDS,
    empty=["N", "C"],
    summands=lambda s: s.N,
    together=[{"positions", "dposition_table"}],
)
def embedding_backward(dy, tokens, positions, V, T):
    dtoken_table, dposition_table = np.zeros((V, dy.shape[1])), np.zeros((T, dy.shape[1]))
    np.add.at(dtoken_table, tokens, dy)
    if positions is not None:
        np.add.at(dposition_table, positions, dy)
    return {"dtoken_table": dtoken_table, "dposition_table": dposition_table}

"""Attention of a transformer's shapes, beside PyTorch's scaled_dot_product_attention; and decoding, against the memory.

    pytest bench/test_attention.py

Operations: 4 D for each pair of a query and a key that it sees, forward; 2.5 times as many backward.
"""

import numpy as np
import pytest

from gollm import _native

SHAPES = {  # B, T, H, G, D
    "small model, 12 x 64": (12, 64, 4, 4, 32),
    "medium model, 12 x 256": (12, 256, 6, 6, 64),
    "GPT-2, 4 x 256": (4, 256, 12, 12, 64),
    "GPT-2, 1 x 1024": (1, 1024, 12, 12, 64),
    "GPT-2, 1 x 4096": (1, 4096, 12, 12, 64),
    "LLaMA shape, 1 x 1024": (1, 1024, 12, 4, 64),
    "head of 128, 1 x 1024": (1, 1024, 6, 6, 128),
}
# as PyTorch models do it, from the rows that the projection leaves to the rows that the next one takes
TORCH = """
B, T, H, G, D = {shape}
qkv = torch.randn(B, T, (H + 2 * G) * D, requires_grad=True)
dy = torch.randn(B, T, H * D)

def forward():
    q, k, v = (x.unflatten(-1, (-1, D)).transpose(1, 2) for x in qkv.split([H * D, G * D, G * D], -1))
    if G < H:
        k, v = (x.repeat_interleave(H // G, 1) for x in (k, v))
    y = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
    return y.transpose(1, 2).reshape(B, T, H * D)

y = forward()
"""


def make(shape):
    B, T, H, G, D = shape
    rng = np.random.default_rng(0)
    sizes = {"qkv": (B, T, (H + 2 * G) * D), "y": (B, T, H * D), "dy": (B, T, H * D), "lse": (B, H, T)}
    arrays = {name: rng.standard_normal(size, dtype=np.float32) for name, size in sizes.items()}
    heads = {"H": H, "G": G, "D": D, "scale": D**-0.5}
    return arrays, heads, 4.0 * B * H * D * T * (T + 1) / 2


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_forward(compare, isa, shape):
    x, heads, work = make(shape)
    compare(
        lambda: _native.attention_forward(y=x["y"], lse=x["lse"], qkv=x["qkv"], **heads),
        work,
        {"torch": (TORCH.format(shape=shape), "forward()")},
        rounds=15,
    )


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_backward(compare, isa, shape):
    x, heads, work = make(shape)
    dqkv = np.zeros_like(x["qkv"])
    _native.attention_forward(y=x["y"], lse=x["lse"], qkv=x["qkv"], **heads)
    compare(
        lambda: _native.attention_backward(dqkv=dqkv, dy=x["dy"], qkv=x["qkv"], y=x["y"], lse=x["lse"], **heads),
        2.5 * work,
        {"torch": (TORCH.format(shape=shape), "torch.autograd.grad(y, qkv, dy, retain_graph=True)")},
        rounds=15,
    )


@pytest.mark.parametrize("tokens", [1024, 16384])
@pytest.mark.parametrize("heads", [(12, 12, 64), (12, 4, 64), (32, 8, 128)], ids=str)
def test_decode(compare, isa, heads, tokens):
    """One token of one sequence, through pages of 64, six layers in turn, so that pages come from memory."""
    H, G, D = heads
    pages, rng = tokens // 64, np.random.default_rng(0)
    layers = [rng.standard_normal((2, pages, 64, G * D), dtype=np.float32) for _ in range(6)]
    call = {
        "qkv": rng.standard_normal((1, (H + 2 * G) * D), dtype=np.float32),
        "y": np.zeros((1, H * D), np.float32),
        "query_offsets": np.array([0, 1], np.int32),
        "lengths": np.array([tokens], np.int32),
        "page_table": rng.permutation(pages).astype(np.int32)[None],
    }

    def ours():
        for k_pages, v_pages in layers:
            _native.attention_paged(k_pages=k_pages, v_pages=v_pages, H=H, G=G, D=D, scale=D**-0.5, **call)

    compare(ours, float(sum(layer.nbytes for layer in layers)), limit_name="read_bandwidth", rounds=15)

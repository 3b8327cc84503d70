"""Products on a transformer's shapes, beside NumPy's (OpenBLAS) and PyTorch's (MKL or oneDNN).

pytest bench/test_matmul.py
"""

import numpy as np
import pytest

from gollm import _native

SHAPES = {  # M, N, K of the forward pass y (M, N) = x (M, K) w (N, K)^T
    "1024^3": (1024, 1024, 1024),
    "qkv of 256 tokens": (256, 2304, 768),
    "mlp up of 256 tokens": (256, 3072, 768),
    "mlp down of 256 tokens": (256, 768, 3072),
    "mlp up of 1024 tokens": (1024, 3072, 768),
    "mlp down of 1024 tokens": (1024, 768, 3072),
    "small model": (768, 384, 128),
}
SETUP = """
rng = np.random.default_rng(0)
a, b, c = (rng.standard_normal(s).astype(np.float32) for s in {shapes})
"""
TORCH = "import numpy as np\n" + SETUP + "a, b, c = map(torch.from_numpy, (a, b, c))"
LAYOUTS = {  # shapes of a and b, the kernel, and the same for the peers
    "nt": (lambda M, N, K: [(M, K), (N, K), (M, N)], "a", "b.T"),
    "nn": (lambda M, N, K: [(M, K), (K, N), (M, N)], "a", "b"),
    "tn": (lambda M, N, K: [(K, M), (K, N), (M, N)], "a.T", "b"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_matmul(compare, isa, shape, layout):
    of, left, right = LAYOUTS[layout]
    shapes = of(*shape)
    rng = np.random.default_rng(0)
    a, b, c = (rng.standard_normal(s).astype(np.float32) for s in shapes)
    kernel, given = getattr(_native, f"matmul_{layout}"), {} if layout == "tn" else {"activation": 0}
    peers = {
        "numpy": ("import numpy as np\n" + SETUP.format(shapes=shapes), f"np.matmul({left}, {right}, out=c)"),
        "torch": (TORCH.format(shapes=shapes), f"torch.mm({left}, {right}, out=c)"),
    }
    compare(lambda: kernel(c=c, a=a, b=b, **given), 2 * np.prod(shape, dtype=float), peers)


@pytest.mark.parametrize("shape", [(256, 768, 50257), (1024, 128, 65)], ids=["GPT-2", "characters"])
def test_head(compare, isa, shape):
    """Loss and both gradients; PyTorch: the same through autograd."""
    N, C, V = shape
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((N, C)).astype(np.float32), 0.02 * rng.standard_normal((V, C)).astype(np.float32)
    targets = rng.integers(0, V, N).astype(np.int32)
    dx, dw, losses = np.zeros_like(x), np.zeros_like(w), np.zeros(N, np.float32)
    loss, dloss = np.zeros(1, np.float32), np.ones(1, np.float32)
    torch_setup = f"""
x = torch.randn({N}, {C}, requires_grad=True)
w = (0.02 * torch.randn({V}, {C})).requires_grad_()
targets = torch.randint({V}, ({N},))
"""
    statement = """
x.grad = w.grad = None
torch.nn.functional.cross_entropy(x @ w.T, targets).backward()
"""

    def ours():
        _native.head_backward(
            loss=loss, losses=losses, dx=dx, dw=dw, dloss=dloss, x=x, w=w, targets=targets, denominator=float(N),
            ignore_index=-1,
        )  # fmt: skip

    compare(ours, 6.0 * N * V * C, {"torch": (torch_setup, statement)})

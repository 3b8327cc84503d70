# %% [markdown]
# # 1. Tensors and kernels
#
# This notebook looks at gollm from below: a kernel is a function over plain memory, a tensor is memory that can have a
# gradient, and the tape records what was computed, so that gradients can flow back. Half an hour; no model and no data
# are needed.

# %%
import altair as alt
import numpy as np

import gollm
from gollm import nn
from gollm.kernels import cpu

alt.renderers.enable("png", scale_factor=1.5)
rng = np.random.default_rng(0)

# %% [markdown]
# ## A kernel
#
# Kernels are C functions. `cpu` has them all as methods. They take NumPy arrays by name and write into arrays that you
# give them; nothing is allocated inside. RMSNorm divides each row by the root of its mean square:

# %%
x = rng.normal(size=(3, 8)).astype(np.float32)
w = np.ones(8, np.float32)
y, r = np.empty_like(x), np.empty(3, np.float32)
cpu.rmsnorm_forward(y=y, r=r, x=x, w=w, eps=1e-5)
print("by the kernel:", y[0, :4].round(4))
print("by hand:      ", (x[0] / np.sqrt((x[0] ** 2).mean() + 1e-5))[:4].round(4))

# %% [markdown]
# Each kernel has a contract in `csrc/kernels.def`: the shapes, the dtypes, what may alias. The binding checks it before
# C runs:

# %%
try:
    cpu.rmsnorm_forward(y=y, r=r, x=x, w=w[:5].copy(), eps=1e-5)
except gollm.GollmError as error:
    print(type(error).__name__, "|", error)

# %% [markdown]
# The matrix product is the kernel that matters most. `nn.linear` chooses the one for the weight's dtype and layout.
# Weights are stored as (outputs, inputs), so it computes x wᵀ:

# %%
a, weight = rng.normal(size=(4, 300)).astype(np.float32), rng.normal(size=(5, 300)).astype(np.float32)
product = nn.linear(gollm.tensor(a), gollm.tensor(weight)).data
exact = a.astype(np.float64) @ weight.T.astype(np.float64)
print("largest error:", f"{np.abs(product - exact).max():.1e}")

# %% [markdown]
# A result does not depend on the number of threads. Each element has one order of summation, whoever computes it:

# %%
threads = gollm.num_threads()
results = []
for n in (1, 2, 3):
    gollm.set_num_threads(n)
    results.append(nn.linear(gollm.tensor(a), gollm.tensor(weight)).data.copy())
gollm.set_num_threads(threads)
print("the same bits with 1, 2 and 3 threads:", all(np.array_equal(results[0], other) for other in results))

# %% [markdown]
# ## A tensor
#
# A tensor is an array, and maybe a gradient. `gollm.tensor` shares the memory of a float32 array. With `requires_grad`,
# operations on it are recorded:

# %%
t = gollm.tensor(x, requires_grad=True)
print(t, "shares memory with the array:", np.shares_memory(t.data, x))

# %% [markdown]
# A small network: linear, an activation, linear, and a loss at the end. `cross_entropy` computes the product with the
# head, the softmax and the mean loss in one operation, as language models need it.

# %%
w1 = gollm.tensor(rng.normal(size=(16, 8)).astype(np.float32) / 3, requires_grad=True)
w2 = gollm.tensor(rng.normal(size=(10, 16)).astype(np.float32) / 4, requires_grad=True)
targets = np.array([2, 7, 1], np.int32)


def network(x: gollm.Tensor) -> gollm.Tensor:
    hidden = nn.activation(nn.linear(x, w1), kind=nn.ACTIVATIONS["gelu"])
    return nn.cross_entropy(hidden, w2, targets)


loss = network(t)
loss.backward()
print(f"loss {loss.item():.4f}; gradients of shapes {t.grad.shape}, {w1.grad.shape}, {w2.grad.shape}")

# %% [markdown]
# Is the gradient right? Move one number a little, and look at what the loss does. In float32 the quotient is good to
# three digits or so:

# %%
at, step = (3, 5), np.float32(1e-2)
gradient = w1.grad[at]
with gollm.no_grad():
    w1.data[at] += step
    up = network(t).item()
    w1.data[at] -= 2 * step
    down = network(t).item()
    w1.data[at] += step
print(f"by the tape {gradient:.5f}, by differences {(up - down) / (2 * step):.5f}")

# %% [markdown]
# `gollm gradcheck` does this in float64 for every parameter of a whole model, where nine digits agree.
#
# ## Activations and their slopes
#
# The tape gives the derivative of any function of tensors. For an activation, sum its outputs: then the gradient of
# each input is its slope.

# %%
points = np.linspace(-4, 4, 161, dtype=np.float32)
rows = []
for name, kind in nn.ACTIVATIONS.items():
    xs = gollm.tensor(points.reshape(1, -1), requires_grad=True)
    ones = gollm.tensor(np.ones((1, points.size), np.float32))
    total = nn.linear(nn.activation(xs, kind=kind), ones)  # the sum of all outputs
    total.backward()
    values = nn.activation(xs, kind=kind).data[0]
    for i in range(0, points.size, 2):
        rows.append({"x": float(points[i]), "y": float(values[i]), "activation": name, "what": "value"})
        rows.append({"x": float(points[i]), "y": float(xs.grad[0, i]), "activation": name, "what": "slope"})

alt.Chart(alt.Data(values=rows)).mark_line().encode(
    x="x:Q", y=alt.Y("y:Q", title=None), color="activation:N", column=alt.Column("what:N", sort=["value", "slope"])
).properties(width=260, height=200)

# %% [markdown]
# The two kinds of `gelu` lie on each other. `relu` has a corner, and no slope to the left of it. The others are smooth.
# GPT-2 uses `gelu_tanh`, LLaMA `silu`.
#
# ## An operation of your own
#
# An operation is a forward pass and a backward pass side by side, each the call of a kernel. `into` says where
# gradients go: the kernel overwrites that place, or adds to it. This is RMSNorm, as gollm itself has it:


# %%
class RMSNorm(nn.Op):
    """y = x / sqrt(mean(x²) + eps) · w over the last axis.  x: (..., C), w: (C,) -> (..., C)"""

    def forward(self, x, w):
        y, r = x.new(x.shape), x.new(x.shape[:-1])
        self.kernels.rmsnorm_forward(y=y, r=r, x=x, w=w, eps=1e-5)
        self.save(x, w, r)
        return y

    def backward(self, dy, into):
        x, w, r = self.saved
        self.kernels.rmsnorm_backward(dx=into[0], dw=into[1], dy=dy, x=x, w=w, r=r)


scale = gollm.tensor(np.full(8, 0.5, np.float32), requires_grad=True)
t.zero_grad()
network(RMSNorm.apply(t, scale)).backward()
print("gradient of the scale:", scale.grad.round(3))

# %% [markdown]
# ## A plan
#
# A training step calls the same kernels in the same order each time. A `Plan` records them once, and replays the list
# without Python in between:

# %%
xs = rng.normal(size=(6, 8)).astype(np.float32)
step_of = gollm.Plan(lambda x: nn.linear(gollm.tensor(x), gollm.tensor(w1.data)))
first = step_of(xs).data.copy()
again = step_of(xs).data.copy()
print("recorded kernels:", step_of.kernels, "| replayed with the same bits:", np.array_equal(first, again))

# %% [markdown]
# Next: [attention from scratch](02-attention-from-scratch.ipynb). The files behind this notebook are `csrc/rmsnorm.c`,
# `csrc/kernels.def`, `python/gollm/nn/tensor.py`, `tape.py` and `ops.py`.

# %% [markdown]
# # 2. Attention from scratch
#
# This notebook builds causal self-attention in NumPy, step by step, until it computes what gollm's kernel computes:
# scores, mask, softmax, heads, rotary positions. Half an hour; it goes with pages 2 and 6 of the course.

# %%
import altair as alt
import numpy as np

from gollm.kernels import cpu

alt.renderers.enable("png", scale_factor=1.5)
rng = np.random.default_rng(0)

# %% [markdown]
# ## Three tokens by hand
#
# Each token has a query (what it looks for), a key (what it is found by) and a value (what it gives). The score of a
# pair is the dot product of a query and a key. Here are three tokens with two numbers each:

# %%
q = np.array([[1.0, 0.0], [1.0, 1.0], [0.0, 2.0]])
k = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
v = np.array([[10.0, 0.0], [0.0, 10.0], [5.0, 5.0]])
scores = q @ k.T / np.sqrt(2)
print(scores.round(2))

# %% [markdown]
# Row i has the scores of query i with all keys. A language model predicts the next token, so a token may look at itself
# and at earlier ones only. Later keys get the score −∞. The softmax then turns each row into weights that sum to 1:


# %%
def softmax(x):
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def causal(scores):
    """(..., T, T) with −∞ above the diagonal"""
    T = scores.shape[-1]
    return np.where(np.tri(T, dtype=bool), scores, -np.inf)


weights = softmax(causal(scores))
print(weights.round(3))
print("outputs:")
print((weights @ v).round(2))

# %% [markdown]
# The first token sees itself only: its output is its own value. The last one mixes all three, most of it from the
# tokens whose keys fit its query.
#
# Why the division by √2, the root of the size of a head? A dot product of D random numbers has the standard deviation
# √D. Without the division the softmax of a head of 64 would put nearly all weight on one token before anything has been
# learnt:

# %%
rows = []
for D in (4, 64, 1024):
    a, b = rng.normal(size=(1000, D)), rng.normal(size=(64, D))
    for name, factor in (("q·k", 1.0), ("q·k / √D", D**-0.5)):
        rows.append({"D": D, "scores": name, "largest weight": float(softmax(factor * a @ b.T).max(1).mean())})

alt.Chart(alt.Data(values=rows)).mark_bar().encode(
    x=alt.X("scores:N", title=None),
    y=alt.Y("largest weight:Q"),
    column=alt.Column("D:O"),
    color=alt.Color("scores:N", legend=None),
).properties(width=110, height=180)

# %% [markdown]
# ## A sequence and several heads
#
# A layer has H heads, each with queries, keys and values of its own, which are slices of one matrix. Different heads
# can look for different things. `qkv` holds everything that a layer computes for T tokens: (T, 3 · H · D).

# %%
T, H, D = 12, 4, 8
qkv = rng.normal(size=(T, 3 * H * D)).astype(np.float32)


def heads(qkv, H, D):
    """(T, 3 H D) -> q, k, v, each (H, T, D)"""
    return np.moveaxis(qkv.reshape(len(qkv), 3, H, D), (1, 2), (0, 1)).astype(np.float64)


def attention(qkv, H, D):
    """-> (T, H D), and the weights (H, T, T)"""
    q, k, v = heads(qkv, H, D)
    p = softmax(causal(q @ np.swapaxes(k, 1, 2) / np.sqrt(D)))
    return np.moveaxis(p @ v, 0, 1).reshape(len(qkv), H * D), p


y, p = attention(qkv, H, D)
print(y.shape, p.shape)

# %% [markdown]
# The weights of the four heads. Since the numbers are random, there is no pattern but the mask:

# %%
cells = [
    {"query": i, "key": j, "head": h + 1, "weight": float(p[h, i, j])}
    for h in range(H)
    for i in range(T)
    for j in range(i + 1)
]
alt.Chart(alt.Data(values=cells)).mark_rect().encode(
    x="key:O",
    y="query:O",
    color=alt.Color("weight:Q", scale=alt.Scale(scheme="blues")),
    column=alt.Column("head:O"),
).properties(width=130, height=130)

# %% [markdown]
# ## The kernel
#
# gollm's kernel gets the same array. It never forms the (T, T) weights (page 6 says how), and computes in float32:


# %%
def kernel(qkv, H, D, rotations=None, G=None):
    """-> (T, H D)"""
    y = np.empty((1, len(qkv), H * D), np.float32)
    cpu.attention_forward(
        y=y, lse=None, qkv=qkv[None], rotations=rotations, H=H, G=G or H, D=D, scale=D**-0.5, window=0
    )
    return y[0]


print("largest difference:", f"{np.abs(kernel(qkv, H, D) - y).max():.1e}")

# %% [markdown]
# ## Attention does not know the order
#
# Exchange two earlier tokens. For the last token nothing changes, since a sum does not care about the order of its
# terms:

# %%
swapped = qkv.copy()
swapped[[2, 5]] = swapped[[5, 2]]
print("the last row differs by", f"{np.abs(kernel(swapped, H, D)[-1] - kernel(qkv, H, D)[-1]).max():.0e}")

# %% [markdown]
# So positions must come in from elsewhere. GPT-2 adds a learnt vector for each position to the embedding. LLaMA turns
# queries and keys: pair i of a head is turned by the angle position · θ^(−2i/D). The dot product of two turned vectors
# then depends on the *difference* of their positions only:


# %%
def angles(positions, D, theta=10000.0):
    return np.outer(positions, theta ** (-np.arange(0, D, 2) / D))


def rotate(x, positions):
    """x (..., T, D): neighbouring numbers are a pair"""
    a = angles(positions, x.shape[-1])
    even, odd = x[..., 0::2], x[..., 1::2]
    return np.stack([even * np.cos(a) - odd * np.sin(a), odd * np.cos(a) + even * np.sin(a)], axis=-1).reshape(x.shape)


one, other = rng.normal(size=(2, 1, D))
for m, n in ((3, 1), (10, 8), (100, 98)):
    score = (rotate(one, [m]) @ rotate(other, [n]).T).item()
    print(f"positions {m:3} and {n:3}: score {score:.6f}")

# %% [markdown]
# The kernel takes a table with cosine and sine for each position and pair, and turns queries and keys itself:

# %%
table = np.stack([np.cos(angles(np.arange(T), D)), np.sin(angles(np.arange(T), D))], axis=-1)
rotations = table.reshape(T, D).astype(np.float32)

q, k, v = heads(qkv, H, D)
p = softmax(causal(rotate(q, np.arange(T)) @ np.swapaxes(rotate(k, np.arange(T)), 1, 2) / np.sqrt(D)))
turned = np.moveaxis(p @ v, 0, 1).reshape(T, H * D)
print("largest difference:", f"{np.abs(kernel(qkv, H, D, rotations) - turned).max():.1e}")
print(
    "the last row, after the exchange, differs by",
    f"{np.abs(kernel(swapped, H, D, rotations)[-1] - turned[-1]).max():.2f}",
)

# %% [markdown]
# Now the order counts.
#
# ## Groups
#
# Keys and values have to be kept for all earlier tokens when text is generated. So newer models have fewer heads of
# keys and values than of queries: with G = 2, two queries' heads share one. A row is then [q of H heads | k of G | v of
# G]:

# %%
G = 2
grouped = np.concatenate([qkv[:, : H * D], qkv[:, H * D : (H + G) * D], qkv[:, 2 * H * D : (2 * H + G) * D]], axis=1)
shared = grouped.reshape(T, H + 2 * G, D)
full = np.concatenate(
    [shared[:, :H], np.repeat(shared[:, H : H + G], H // G, axis=1), np.repeat(shared[:, H + G :], H // G, axis=1)],
    axis=1,
)
print("numbers to keep for a token:", 2 * G * D, "instead of", 2 * H * D)
print(
    "kernel with groups = full attention with repeated heads:",
    np.allclose(kernel(np.ascontiguousarray(grouped), H, D, G=G), attention(full.reshape(T, -1), H, D)[0], atol=1e-6),
)

# %% [markdown]
# That is all of attention in a GPT or a LLaMA. The rest of a block is a norm, a residual add and an MLP.
#
# Next: [train a transformer end to end](03-train-a-transformer.ipynb).

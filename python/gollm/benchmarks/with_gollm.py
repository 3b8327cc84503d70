"""What gollm does in its turn, and what the machine can do: fma(), stream()."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from functools import cache, partial
from typing import Any

import numpy as np

from gollm import num_threads
from gollm.inference.decoding import CachedForward
from gollm.inference.pages import CachedSequence, PagePool, cache_dtype_of, pages_for
from gollm.kernels import Array, cpu
from gollm.language_model import load
from gollm.model.config import ModelConfig
from gollm.model.decoder import Decoder
from gollm.nn.optimizer import AdamW
from gollm.nn.plan import Plan
from gollm.nn.tape import ComputeDType
from gollm.training.objective import forward_backward

Prepared = tuple[Callable[..., object], int]
RNG = np.random.default_rng(0)
ROTATED_BYTES = 1 << 30  # for what works on no operands: one set of them is enough


def random(*shape: int) -> Array:
    values: Array = RNG.random(shape, np.float32) - np.float32(0.5)
    return values


def filled(*shape: int) -> Array:
    """Memory that has been touched."""
    return np.ones(shape, np.float32)


def prepared(kernel: Callable[..., object], **arguments: Any) -> Prepared:
    """A call of a kernel, and the bytes of its arrays."""
    values = (value[0] if isinstance(value, tuple) else value for value in arguments.values())
    return partial(kernel, **arguments), sum(value.nbytes for value in values if isinstance(value, np.ndarray))


# -- limits


def fma() -> Prepared:
    """Multiply-adds in registers, about a millisecond. Returns how many operations those of all threads were."""
    flops, result = np.zeros(1), filled(1)

    def call() -> float:
        cpu.measure_fma(flops=flops, result=result, iterations=200_000)
        return float(flops[0]) * num_threads()

    return call, ROTATED_BYTES


def stream(rows: int, n: int, reads: int, writes: int) -> Prepared:
    """A plain loop over `rows` arrays of n elements: so many are read, so many written. Returns the bytes moved."""
    if not writes:
        call, n_bytes = prepared(cpu.measure_read, sums=filled(64), x=filled(rows * n))
        return lambda: call() or 4.0 * n * reads, n_bytes
    call, n_bytes = prepared(cpu.measure_stream, x=filled(rows, n), reads=reads, writes=writes)
    return lambda: call() or 4.0 * n * (reads + writes), n_bytes


# -- products


def matmul(layout: str, M: int, N: int, K: int) -> Prepared:
    """c (M, N) = op(a) op(b)"""
    a = random(K, M) if layout == "TN" else random(M, K)
    b = random(N, K) if layout == "NT" else random(K, N)
    if layout == "TN":
        return prepared(cpu.matmul_tn, c=filled(M, N), a=a, b=b, compute=0)
    kernel = cpu.matmul_nt if layout == "NT" else cpu.matmul_nn
    return prepared(kernel, c=filled(M, N), a=a, b=b, activation=0, compute=0)


def head(N: int, C: int, V: int) -> Prepared:
    """Loss and both gradients.  x (N, C), w (V, C)"""
    targets = RNG.integers(0, V, N).astype(np.int32)
    return prepared(
        cpu.head_backward, loss=filled(1), losses=filled(N), dx=filled(N, C), dw=filled(V, C), dloss=filled(1),
        x=random(N, C), w=random(V, C), targets=targets, denominator=np.full(1, float(N)), ignore_index=-1,
        compute=0,
    )  # fmt: skip


def head_products(N: int, C: int, V: int) -> Prepared:
    """The head's three products, in its chunks of 256 rows."""
    rows = 256
    logits, w, dw = filled(rows, V), random(V, C), filled(V, C)
    x, dx = random(N, C), filled(N, C)

    def call() -> None:
        for part in np.split(np.arange(N), range(rows, N, rows)):
            chunk, into = x[part[0] : part[-1] + 1], dx[part[0] : part[-1] + 1]
            of_chunk = logits[: len(part)]
            cpu.matmul_nt(c=of_chunk, a=chunk, b=w, activation=0, compute=0)
            cpu.matmul_nn(c=into, a=of_chunk, b=w, activation=0, compute=0)
            cpu.matmul_tn(c=(dw, part[0] > 0), a=of_chunk, b=chunk, compute=0)

    return call, logits.nbytes + w.nbytes + dw.nbytes


# -- attention


def attention(B: int, T: int, H: int, G: int, D: int, backward: bool) -> Prepared:
    qkv, y, lse = random(B, T, (H + 2 * G) * D), filled(B, T, H * D), filled(B, H, T)
    heads = {"H": H, "G": G, "D": D, "scale": D**-0.5, "window": 0}
    forward = prepared(cpu.attention_forward, y=y, lse=lse, qkv=qkv, **heads)
    if not backward:
        return forward
    forward[0]()
    dqkv, dy = np.ones_like(qkv), random(*y.shape)
    return prepared(cpu.attention_backward, dqkv=dqkv, dy=dy, qkv=qkv, y=y, lse=lse, **heads)


def decode(H: int, G: int, D: int, tokens: int) -> Prepared:
    """One token of one sequence, through pages of 64."""
    pages = tokens // 64
    return prepared(
        cpu.attention_paged, y=filled(1, H * D), qkv=random(1, (H + 2 * G) * D),
        k_pages=random(pages, G, D, 64), v_pages=random(pages, G, 64, D),
        query_offsets=np.array([0, 1], np.int32), lengths=np.array([tokens], np.int32),
        page_table=RNG.permutation(pages).astype(np.int32)[None], H=H, G=G, D=D, scale=D**-0.5, window=0,
    )  # fmt: skip


# -- a step


def training(batch_size: int, compute_dtype: ComputeDType = "float32", **shape: Any) -> Prepared:
    """The trainer's step on random tokens: forward, backward, clipping, update; the next backward pass overwrites the
    gradients."""
    config = ModelConfig(**shape)
    model = Decoder(config).initialise(0)
    model.compute_dtype = compute_dtype
    optimizer, plan = AdamW(model.parameters), Plan(partial(forward_backward, model, np.zeros(1, np.int64)))
    inputs, targets = RNG.integers(0, config.vocab_size, (2, 1, batch_size, config.context)).astype(np.int32)

    def step() -> None:
        plan(inputs, targets)[0].item()
        optimizer.step(1e-3)

    return step, ROTATED_BYTES


# -- a model that generates


@cache
def loaded(path: str) -> Decoder:
    return load(path).decoder


def sequences(model: Decoder, batch: int, depth: int, room: int) -> tuple[list[CachedSequence], CachedForward]:
    """`batch` sequences with room for `depth` + `room` tokens, keys and values of 0, and what computes the next."""
    pool = PagePool(model.config, batch * pages_for(depth + room), cache_dtype_of(model))
    for pages in (pool.k_pages, pool.v_pages):
        pages.array.fill(0)
    return [CachedSequence(pool) for _ in range(batch)], CachedForward(model, pool, max_recorded_rows=batch)


def start_over(growing: Iterable[CachedSequence], depth: int) -> None:
    for sequence in growing:
        sequence.clear()
        sequence.extend(depth)


def prefill(path: str, depth: int, tokens: int) -> Prepared:
    """Another `tokens` tokens at once, after `depth`."""
    model = loaded(path)
    growing, forward = sequences(model, 1, depth, tokens)
    prompt = RNG.integers(0, model.config.vocab_size, tokens).tolist()

    def call() -> None:
        start_over(growing, depth)
        forward(growing, [prompt], [tokens - 1])

    return call, ROTATED_BYTES


def decoding(path: str, batch: int, depth: int, tokens: int) -> Prepared:
    """One token more for each of `batch` sequences; after `tokens` of them they start over at `depth`."""
    model = loaded(path)
    growing, forward = sequences(model, batch, depth, tokens)
    new = RNG.integers(0, model.config.vocab_size, (batch, 1)).tolist()
    start_over(growing, depth)

    def call() -> None:
        if growing[0].length == depth + tokens:
            start_over(growing, depth)
        forward(growing, new, None)

    return call, ROTATED_BYTES


# -- what is no product


def layernorm(N: int, C: int, backward: bool) -> Prepared:
    x, w, mean, rstd = random(N, C), filled(C), filled(N), filled(N)
    if not backward:
        return prepared(cpu.layernorm_forward, y=filled(N, C), mean=mean, rstd=rstd, x=x, w=w, b=filled(C), eps=1e-5)
    dx, dw, db = ((filled(*shape), True) for shape in ((N, C), (C,), (C,)))
    return prepared(cpu.layernorm_backward, dx=dx, dw=dw, db=db, dy=random(N, C), x=x, w=w, mean=mean, rstd=rstd)


def gelu(n: int, backward: bool) -> Prepared:
    if not backward:
        return prepared(cpu.activation_forward, y=filled(n), x=random(n), kind=1)
    return prepared(cpu.activation_backward, dx=filled(n), dy=random(n), x=random(n), kind=1)


def add(n: int) -> Prepared:
    return prepared(cpu.add, c=filled(n), a=random(n), b=random(n))


def dropout(n: int, backward: bool) -> Prepared:
    draw = {"counter": np.zeros(1, np.int64), "p": 0.1, "seed": 0, "stream": 0}
    if not backward:
        return prepared(cpu.dropout_forward, y=filled(n), x=random(n), residual=random(n), **draw)
    return prepared(cpu.dropout_backward, dx=filled(n), dy=random(n), **draw)


def embedding(B: int, T: int, C: int, V: int, backward: bool) -> Prepared:
    """Other tokens at every call, through all of the table, so that rows come from memory. backward adds to the token
    table's gradient, which is the tied head's too, and writes the positions'."""
    tokens = itertools.cycle(RNG.integers(0, V, (V // (B * T) + 1, B, T)).astype(np.int32))
    positions = np.broadcast_to(np.arange(T, dtype=np.int32), (B, T)).copy()
    if backward:
        dtokens, dpositions = (filled(V, C), True), filled(T, C)
        kernel, tables = cpu.embedding_backward, {"dtoken_table": dtokens, "dposition_table": dpositions}
        call, n_bytes = prepared(kernel, dy=random(B, T, C), positions=positions, **tables)
    else:
        tables = {"token_table": filled(V, C), "position_table": filled(T, C)}
        call, n_bytes = prepared(cpu.embedding_forward, y=filled(B, T, C), positions=positions, **tables)
    return lambda: call(tokens=next(tokens)), n_bytes


def softmax(N: int, V: int, backward: bool) -> Prepared:
    if not backward:
        return prepared(cpu.softmax_forward, y=filled(N, V), x=random(N, V))
    return prepared(cpu.softmax_backward, dx=filled(N, V), dy=random(N, V), y=random(N, V))


def gradient_norm(n: int) -> Prepared:
    return prepared(cpu.gradient_norm, norm=np.zeros(1), scale=np.zeros(1), g=random(n), max_norm=1.0)


def adamw(n: int) -> Prepared:
    arenas = {"w": random(n), "m": random(n), "v": filled(n), "g": random(n)}
    state = {"lr": np.full(1, 1e-3), "step": np.ones(1, np.int64), "grad_scale": np.ones(1)}
    numbers = {"beta1": 0.9, "beta2": 0.95, "eps": 1e-8, "weight_decay": 0.1, "n_decay": n}
    return prepared(cpu.adamw, **arenas, **state, **numbers)

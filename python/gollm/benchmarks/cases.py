"""What is measured, by group.

matmul         products on a transformer's shapes, and the head, against the FMA peak and PyTorch (else NumPy)
attention      causal, forward and backward, against the same; decoding, against reading memory
training       whole steps, against the same; memory is the process' peak
bfloat16       whole steps whose products are of bfloat16, against those of float32, and PyTorch's autocast
memory-bound   everything that is no product, against a plain loop that moves as many bytes in the same mix
scaling        a step on all threads, against one thread
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from gollm.benchmarks.turns import Case, Contestant
from gollm.model.config import ModelConfig, preset
from gollm.model.decoder import Decoder
from gollm.training.estimate import flops_per_token

FMA = Contestant("with_gollm", "fma", {})
HAS_TORCH = importlib.util.find_spec("torch") is not None

GPT2: dict[str, Any] = {"n_layers": 12, "n_heads": 12, "d_model": 768, "vocab_size": 50257}
MODELS: dict[str, tuple[dict[str, Any], int, int]] = {  # shape, batch size, context
    "0.8M, 12 x 64": ({"n_layers": 4, "n_heads": 4, "d_model": 128, "vocab_size": 65}, 12, 64),
    "10.7M, 12 x 256": ({"n_layers": 6, "n_heads": 6, "d_model": 384, "vocab_size": 65}, 12, 256),
    "30M, 8 x 256": ({"n_layers": 8, "n_heads": 8, "d_model": 512, "vocab_size": 8192}, 8, 256),
    "GPT-2 124M, 4 x 64": (GPT2, 4, 64),
    "GPT-2 124M, 4 x 256": (GPT2, 4, 256),
    "GPT-2 124M, 1 x 1024": (GPT2, 1, 1024),
    "gollm-85m, 4 x 256": (preset("gollm-85m").to_dict(), 4, 256),
    "gollm-85m, 1 x 1024": (preset("gollm-85m").to_dict(), 1, 1024),
}
WEIGHTS = {  # tokens, and the (outputs, inputs) of linear layers
    "GPT-2": (
        (256, 1024, 4096),
        ((768, 768), (3072, 768), (768, 3072), (2304, 768), (50257, 768), (768, 50257)),
    ),
    "LLaMA": ((256, 1024), ((2048, 2048), (256, 2048), (5632, 2048), (2048, 5632))),
    "small": ((768,), ((128, 128), (384, 128), (512, 128), (128, 512), (65, 128))),
    "medium": ((3072,), ((384, 384), (1152, 384), (1536, 384), (384, 1536), (65, 384))),
}


def contestants(function: str, **arguments: Any) -> dict[str, Contestant]:
    """gollm, and PyTorch where it is installed."""
    names = ("gollm", "torch") if HAS_TORCH else ("gollm",)
    return {name: Contestant(f"with_{name}", function, arguments) for name in names}


def product(layout: str, M: int, N: int, K: int, name: str) -> Case:
    """c (M, N) = op(a) op(b) over K"""
    found = contestants("matmul", layout=layout, M=M, N=N, K=K)
    if not HAS_TORCH:
        found["numpy"] = Contestant("with_numpy", "matmul", found["gollm"].arguments)
    return Case("matmul", f"{layout} {name}", found | {"limit": FMA}, 2.0 * M * N * K)


def matmul() -> Iterator[Case]:
    """Of a linear layer: y = x w^T (NT), dx = dy w (NN), dw = dy^T x (TN)."""
    for tokens_of, weights in WEIGHTS.values():
        for tokens in tokens_of:
            for outputs, inputs in weights:
                sizes = {
                    "NT": (tokens, outputs, inputs),
                    "NN": (tokens, inputs, outputs),
                    "TN": (outputs, inputs, tokens),
                }
                for layout, (M, N, K) in sizes.items():
                    yield product(layout, M, N, K, f"{tokens} tokens, {outputs} x {inputs}")
    for n in (1024, 2048):
        for layout in ("NT", "NN", "TN"):
            yield product(layout, n, n, n, f"{n}^3")
    for N, C, V in ((256, 768, 50257), (1024, 768, 50257), (768, 128, 65)):
        found = contestants("head", N=N, C=C, V=V)
        yield Case("matmul", f"head {N} tokens, {V} x {C}", found | {"limit": FMA}, 6.0 * N * C * V)


def attention() -> Iterator[Case]:
    """4 D operations for each pair of a query and a key that it sees, forward; 2.5 times as many backward."""
    for H, G, D in ((12, 12, 64), (6, 6, 128)):
        for T in (64, 128, 256, 512, 1024, 2048, 4096, 16384):
            yield from both_passes(max(1, 1024 // T), T, H, G, D)
    yield from both_passes(1, 1024, 12, 4, 64)
    yield from both_passes(12, 64, 4, 4, 32)
    for H, G, D in ((12, 12, 64), (12, 4, 64), (32, 8, 128)):
        for tokens in (1024, 16384):
            numbers = 2 * tokens * G * D
            found = {
                "gollm": Contestant("with_gollm", "decode", {"H": H, "G": G, "D": D, "tokens": tokens}),
                "limit": loop(1, numbers, 1, 0),
            }
            yield Case("attention", f"decode {H}/{G} x {D}, {tokens} tokens", found, 4.0 * numbers, "GB/s")


def both_passes(B: int, T: int, H: int, G: int, D: int) -> Iterator[Case]:
    for backward in (False, True):
        found = contestants("attention", B=B, T=T, H=H, G=G, D=D, backward=backward)
        if T > 4096:
            found.pop("torch", None)
        work = (2.5 if backward else 1) * 4.0 * B * H * D * T * (T + 1) / 2
        name = f"{'backward' if backward else 'forward'} {B} x {T}, {H}/{G} heads of {D}"
        yield Case("attention", name, found | {"limit": FMA}, work)


def training() -> Iterator[Case]:
    for name, (shape, batch_size, context) in MODELS.items():
        yield training_step("training", name, batch_size, {**shape, "context": context})


def bfloat16() -> Iterator[Case]:
    for case in training():
        narrow = {
            name: replace(contestant, arguments={**contestant.arguments, "compute_dtype": "bfloat16"})
            for name, contestant in case.contestants.items()
            if name != "limit"
        }
        others = {"float32": case.contestants["gollm"], "limit": FMA}
        yield replace(case, group="bfloat16", contestants={**narrow, **others})


def with_compile(case: Case) -> Case:
    """The same with torch.compile beside PyTorch's eager mode, where PyTorch takes part in a training step."""
    theirs = case.contestants.get("torch")
    if theirs is None or theirs.function != "training":
        return case
    compiled = replace(theirs, arguments={**theirs.arguments, "compiled": True})
    return replace(case, contestants={**case.contestants, "torch.compile": compiled})


def training_step(group: str, name: str, batch_size: int, shape: dict[str, Any]) -> Case:
    found = contestants("training", batch_size=batch_size, **shape)
    tokens = batch_size * shape["context"]
    work = tokens * flops_per_token(ModelConfig(**shape))
    return Case(group, name, found | {"limit": FMA}, work, tokens=tokens, alone=True)


def loop(rows: int, n: int, reads: int, writes: int) -> Contestant:
    return Contestant("with_gollm", "stream", {"rows": rows, "n": n, "reads": reads, "writes": writes})


STEP = "a training step"


def memory_bound() -> Iterator[Case]:
    """At the sizes of GPT-2 124M, 4 x 256, and how often a step does it. What is fused into products is never done by
    itself. The head, less its products, is what it does with logits."""
    _, B, T = MODELS["GPT-2 124M, 4 x 256"]
    config = ModelConfig(**GPT2, context=T)
    C, V, L = config.d_model, config.vocab_size, config.n_layers
    N, x = B * T, B * T * C
    n_parameters = Decoder(config).parameters.n_parameters

    def case(
        name: str, function: str, arguments: dict[str, Any], rows: int, n: int, reads: int, writes: int, steps: int = 0
    ) -> Case:
        ours = Contestant("with_gollm", function, arguments)
        found = {"gollm": ours, "limit": loop(rows, n, reads, writes)}
        return Case("memory-bound", name, found, 4.0 * n * (reads + writes), "GB/s", steps=steps)

    norms = 2 * L + 1
    yield case("layernorm forward", "layernorm", {"N": N, "C": C, "backward": False}, 2, x, 1, 1, norms)
    yield case("layernorm backward", "layernorm", {"N": N, "C": C, "backward": True}, 3, x, 3, 1, norms)
    yield case("GELU forward (fused)", "gelu", {"n": 4 * x, "backward": False}, 2, 4 * x, 1, 1)
    yield case("GELU backward (fused)", "gelu", {"n": 4 * x, "backward": True}, 3, 4 * x, 2, 1)
    yield case("residual add (fused)", "add", {"n": x}, 3, x, 2, 1)
    yield case("dropout forward (off)", "dropout", {"n": x, "backward": False}, 3, x, 2, 1)
    yield case("dropout backward (off)", "dropout", {"n": x, "backward": True}, 2, x, 1, 1)
    sizes = {"B": B, "T": T, "C": C, "V": V}
    yield case("embedding forward", "embedding", {**sizes, "backward": False}, 3, x, 2, 1, 1)
    yield case("embedding backward", "embedding", {**sizes, "backward": True}, 2, x, 2, 1, 1)
    yield case("softmax forward", "softmax", {"N": N, "V": V, "backward": False}, 2, N * V, 1, 1)
    yield case("softmax backward", "softmax", {"N": N, "V": V, "backward": True}, 3, N * V, 2, 1)
    yield case("gradient norm", "gradient_norm", {"n": n_parameters}, 1, n_parameters, 1, 0, 1)
    yield case("AdamW", "adamw", {"n": n_parameters}, 4, n_parameters, 4, 3, 1)
    sizes = {"N": N, "C": C, "V": V}
    for name, function, steps in (("head", "head", 1), ("the head's products", "head_products", -1)):
        found = {"gollm": Contestant("with_gollm", function, sizes), "limit": FMA}
        yield Case("memory-bound", name, found, 6.0 * N * C * V, steps=steps)
    step = training_step("memory-bound", STEP, B, {**GPT2, "context": T})
    yield replace(step, contestants={"gollm": step.contestants["gollm"], "limit": FMA})


def scaling() -> Iterator[Case]:
    for case in training():
        ours = case.contestants["gollm"]
        one = Contestant(ours.file, ours.function, ours.arguments, threads=1)
        found = {"gollm": ours, "one thread": one, "limit": FMA}
        yield Case("scaling", case.name, found, case.work, tokens=case.tokens, alone=True)


GROUPS: dict[str, Callable[[], Iterator[Case]]] = {
    "matmul": matmul,
    "attention": attention,
    "training": training,
    "bfloat16": bfloat16,
    "memory-bound": memory_bound,
    "scaling": scaling,
}

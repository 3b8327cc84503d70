"""Runs and measures gollm's CUDA kernels on a GPU, in less than ten minutes.

    python bench/cuda.py [--minutes 9] [--only tests,products,...]

In a checkout: gollm is built with its CUDA kernels where it is not yet. Every kernel's tests run on the device, with
the references of the CPU's kernels; then compute-sanitizer's memcheck and racecheck over a few of them, where it is
installed and works. What is measured is printed as a table, beside PyTorch where that is installed: its products are
cuBLAS, its attention is flash attention.
"""

from __future__ import annotations

import argparse
import importlib.util
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
GPU_DEVICES = ("/dev/nvidiactl", "/dev/nvidia0", "/dev/dxg")  # Linux; WSL
PARTS = ("tests", "sanitizer", "products", "few-rows", "attention", "paged", "memory", "decoding", "training")
SANITIZED = ("matmul_nt", "layernorm_backward", "head_backward", "attention_forward", "attention_backward", "adamw")
SANITIZED += ("adamw_bf16", "attention_paged_bf16")
Rows = Iterator[tuple[str, str, str]]  # what, gollm, PyTorch


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=9.0, help="stop beginning new parts after so many")
    parser.add_argument("--only", default=",".join(PARTS), help="parts, with commas between")
    options = parser.parse_args()
    if not any(Path(device).exists() for device in GPU_DEVICES):
        print("nothing was run: this machine has no NVIDIA GPU, or its driver is not loaded")
        return 1
    build()
    from gollm import cuda

    if (reason := cuda.unavailable_reason()) is not None:
        print(f"nothing was run: {reason}")
        return 1
    gpu = cuda.describe()
    print(
        f"{time.strftime('%Y-%m-%d')} · {gpu['name']}, {gpu['total_bytes'] / 1e9:.0f} GB, compute capability "
        f"{gpu['compute_capability']} · driver for CUDA {gpu['driver_supports']}"
    )
    end, failed = time.monotonic() + 60 * options.minutes, False
    sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "bench")]
    for part in options.only.split(","):
        if time.monotonic() > end:
            print(f"\n{part}: left out, the time is over")
        elif part == "tests":
            failed |= bool(run_tests())
        elif part == "sanitizer":
            sanitize(end)
        else:
            table(
                part,
                {
                    "products": products,
                    "few-rows": few_rows,
                    "attention": attention,
                    "paged": paged,
                    "memory": memory,
                    "decoding": decoding,
                    "training": training,
                }[part](),
            )
    return int(failed)


def build() -> None:
    """Installs this checkout where gollm, or its CUDA kernels, are not there."""
    if importlib.util.find_spec("gollm") is not None and importlib.util.find_spec("gollm._cuda") is not None:
        return
    if shutil.which("nvcc") is None and importlib.util.find_spec("nvidia") is None:
        return  # the reason is said by gollm.cuda
    install = [sys.executable, "-m", "pip", "install", "-q", "--force-reinstall", "--no-deps"]
    subprocess.run([*install, "-Ccmake.define.GOLLM_CUDA=ON", str(ROOT)], check=True)


# ---- correctness


def run_tests(names: tuple[str, ...] = ()) -> list[str]:
    """The kernels' checks on the device; returns what failed."""
    import gollm
    from cuda_emulation.device import VARIANTS, Device
    from cuda_emulation.test_kernels import CHECKS
    from kernels import harness

    device = Device(Path(importlib.util.find_spec("gollm._cuda").origin))
    harness.DEVICES.update({f"cuda-{variant}": device.caller(variant) for variant in VARIANTS})
    failures, passed, missing = [], 0, []
    for name, row in harness.load_rows().items():
        if names and name not in names:
            continue
        for variant in VARIANTS:
            if not device.has(name, variant):
                missing.append(f"{name} ({variant})")
                continue
            for check in CHECKS:
                try:
                    check(row, f"cuda-{variant}")
                    passed += 1
                except Exception as error:
                    failures.append(f"{name}, {variant}, {check.__name__}: {str(error).strip().splitlines()[0]}")
    print(f"\ntests of gollm {gollm.__version__}'s kernels: {passed} passed, {len(failures)} failed")
    for failure in failures:
        print(f"  FAILED {failure}")
    if missing:
        print(f"  not there: {', '.join(missing)}")
    return failures


def sanitize(end: float) -> None:
    """compute-sanitizer over SANITIZED."""
    print()
    if shutil.which("compute-sanitizer") is None:
        print("compute-sanitizer: not installed")
        return
    code = f"import sys; sys.path[:0] = {sys.path[:2]!r}; import cuda; sys.exit(len(cuda.run_tests({SANITIZED!r})))"
    for tool in ("memcheck", "racecheck"):
        seconds = min(90.0, end - time.monotonic())
        if seconds <= 10:
            print(f"compute-sanitizer {tool}: left out, the time is over")
            continue
        command = ["compute-sanitizer", "--tool", tool, "--error-exitcode", "9", sys.executable, "-c", code]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=seconds)
        except subprocess.TimeoutExpired:
            print(f"compute-sanitizer {tool}: not done after {seconds:.0f} s")
            continue
        summary = [line for line in done.stdout.splitlines() if "SUMMARY" in line or "rror" in line]
        print(f"compute-sanitizer {tool}: {'no errors' if done.returncode == 0 else ' · '.join(summary[-3:])}")


# ---- speed


def table(part: str, rows: Rows) -> None:
    print(f"\n{part:44} {'gollm':>24} {'PyTorch':>24}", flush=True)
    try:
        for what, ours, theirs in rows:
            print(f"{what:44} {ours:>24} {theirs:>24}", flush=True)
    except Exception as error:  # the other parts can still be measured
        print(f"  {type(error).__name__}: {error}")


def torch_or_none() -> Any:
    try:
        import torch
    except ImportError:
        return None
    return torch if torch.cuda.is_available() else None


def seconds_of(work: Callable[[], object], finish: Callable[[], object], at_least: float = 0.3) -> float:
    """The best of five, of a call among many that are queued together."""
    work(), finish()
    begin = time.perf_counter()
    work(), finish()
    n = max(1, min(1000, int(at_least / 5 / max(1e-6, time.perf_counter() - begin))))
    best = float("inf")
    for _ in range(5):
        begin = time.perf_counter()
        for _ in range(n):
            work()
        finish()
        best = min(best, (time.perf_counter() - begin) / n)
    return best


def kernel_seconds(name: str, **arguments: Any) -> float:
    """Of a kernel, replayed by a plan, so that Python takes no part."""
    return calls_seconds(name, [arguments])


def calls_seconds(name: str, arguments: list[dict[str, Any]]) -> float:
    """The same of several calls, one after the other."""
    kernels = _kernels()
    plan = kernels.Plan()
    plan.begin()
    for one in arguments:
        getattr(kernels, name)(**one)
    plan.end()
    calls = 20
    return seconds_of(lambda: plan.run(calls), kernels.native.finish) / calls


def torch_seconds(work: Callable[[], object]) -> float:
    torch = torch_or_none()
    return seconds_of(work, torch.cuda.synchronize)


def _kernels() -> Any:
    from gollm import cuda

    return cuda.kernels()


def random_bf16(*shape: int) -> Any:
    """Bits of normal numbers, on the device."""
    import numpy as np

    values = np.random.default_rng(0).standard_normal(shape, np.float32)
    return _kernels().from_host((values.view(np.uint32) >> 16).astype(np.uint16))


def empty_bf16(*shape: int) -> Any:
    import numpy as np

    return _kernels().empty(shape, np.dtype(np.uint16))


def products() -> Rows:
    """TFLOP/s of bfloat16 products, operands random."""
    torch = torch_or_none()
    tokens = 16 * 1024
    shapes = [
        ("GPT-2 qkv", tokens, 2304, 768),
        ("GPT-2 output", tokens, 768, 768),
        ("GPT-2 up", tokens, 3072, 768),
        ("GPT-2 down", tokens, 768, 3072),
        ("GPT-2 head", tokens, 50304, 768),
        ("LLaMA-3 8B qkv", 4096, 6144, 4096),
        ("LLaMA-3 8B gate", 4096, 14336, 4096),
        ("4096³", 4096, 4096, 4096),
        ("8192³", 8192, 8192, 8192),
    ]
    for name, M, N, K in shapes:
        for kind in ("nt", "nn", "tn"):
            a = random_bf16(K, M) if kind == "tn" else random_bf16(M, K)
            b = random_bf16(N, K) if kind == "nt" else random_bf16(K, N)
            c, more = empty_bf16(M, N), {} if kind == "tn" else {"activation": 0}
            ours = kernel_seconds(f"matmul_{kind}", c=c, a=a, b=b, compute=2, **more)
            theirs = None
            if torch is not None:
                x, y = (torch.randn(tuple(array.shape), dtype=torch.bfloat16, device="cuda") for array in (a, b))
                x, y = (x.T if kind == "tn" else x), (y.T if kind == "nt" else y)
                theirs = torch_seconds(partial(torch.matmul, x, y))
            yield (
                f"{name} {kind} {M} x {N} x {K}",
                *both(ours, theirs, lambda s, f=2.0 * M * N * K: f / s / 1e12, "TFLOP/s"),
            )


def few_rows() -> Rows:
    """TB/s at which products with few rows read a plain weight, as in decoding; weights rotate through more than L2."""
    import numpy as np

    torch, copies = torch_or_none(), 4
    for dtype in ("bfloat16", "float32"):
        for M, N, K in ((1, 768, 768), (1, 50304, 768), (1, 14336, 4096), (8, 14336, 4096), (1, 4096, 14336)):
            size = 2 if dtype == "bfloat16" else 4

            def array(*shape: int, narrow: bool = dtype == "bfloat16") -> Any:
                return random_bf16(*shape) if narrow else _kernels().empty(shape, np.dtype(np.float32))

            weights, a, c, bias = [array(N, K) for _ in range(copies)], array(M, K), array(M, N), array(N)
            if dtype == "float32":
                for flat in (a, bias, *weights):
                    _kernels().fill(y=flat.reshape(-1), value=0.5)
            calls = [{"c": c, "a": a, "b": b, "bias": bias, "activation": 0, "compute": 0} for b in weights]
            ours = calls_seconds("matmul_nt", calls) / copies
            theirs = None
            if torch is not None:
                kind = getattr(torch, dtype)
                x = torch.randn(M, K, dtype=kind, device="cuda")
                ws = [torch.randn(N, K, dtype=kind, device="cuda") for _ in range(copies)]
                b = torch.randn(N, dtype=kind, device="cuda")

                def linears(x: Any = x, ws: Any = ws, b: Any = b) -> None:
                    for w in ws:
                        torch.nn.functional.linear(x, w, b)

                theirs = torch_seconds(linears) / copies
            yield (
                f"{M} x {N} x {K}, {dtype}",
                *both(ours, theirs, lambda s, n=size * N * K: n / s / 1e12, "TB/s"),
            )


def paged() -> Rows:
    """TB/s at which a new token's attention reads keys and values in pages, and TFLOP/s of a prompt's."""
    import numpy as np

    kernels, Z, H, G, D = _kernels(), 64, 32, 8, 128
    heads = {"H": H, "G": G, "D": D, "scale": D**-0.5, "window": 0}
    for texts, rows, past in ((1, 1, 8191), (32, 1, 2047), (1, 2048, 0)):
        length = rows + past
        L = length // Z
        pages = {
            "k_pages": random_bf16(texts * L, G, D, Z),
            "v_pages": random_bf16(texts * L, G, Z, D),
            "page_table": kernels.from_host(np.arange(texts * L, dtype=np.int32).reshape(texts, L)),
            "lengths": kernels.from_host(np.full(texts, length, np.int32)),
            "query_offsets": kernels.from_host(np.arange(texts + 1, dtype=np.int32) * rows),
        }
        qkv, y = random_bf16(texts * rows, (H + 2 * G) * D), empty_bf16(texts * rows, H * D)
        seconds = kernel_seconds("attention_paged", y=y, qkv=qkv, rotations=None, **pages, **heads)
        what = f"{texts} texts, {rows} new tokens after {past}, bfloat16"
        if rows == 1:
            n_bytes = 2.0 * 2 * texts * length * G * D
            yield what, *both(seconds, None, lambda s, n=n_bytes: n / s / 1e12, "TB/s")
        else:
            flops = 2.0 * rows * rows * H * D
            yield what, *both(seconds, None, lambda s, f=flops: f / s / 1e12, "TFLOP/s")


def both(ours: float, theirs: float | None, value: Callable[[float], float], unit: str) -> tuple[str, str]:
    mine = f"{value(ours):.1f} {unit}"
    if theirs is None:
        return mine, "-"
    return f"{mine} ({theirs / ours:.0%})", f"{value(theirs):.1f} {unit}"


def attention() -> Rows:
    """TFLOP/s of causal attention, half of the products counted."""
    import numpy as np

    torch, kernels = torch_or_none(), _kernels()
    for B, T, H, D in ((16, 1024, 12, 64), (4, 4096, 12, 64), (4, 4096, 16, 128), (1, 16384, 16, 128)):
        heads = {"H": H, "G": H, "D": D, "scale": D**-0.5, "window": 0}
        qkv, y, lse = (
            random_bf16(B, T, 3 * H * D),
            empty_bf16(B, T, H * D),
            kernels.empty((B, H, T), np.dtype(np.float32)),
        )
        forward = kernel_seconds("attention_forward", y=y, lse=lse, qkv=qkv, **heads)
        dqkv, dy = empty_bf16(B, T, 3 * H * D), random_bf16(B, T, H * D)
        backward = kernel_seconds("attention_backward", dqkv=dqkv, dy=dy, qkv=qkv, y=y, lse=lse, **heads)
        theirs: list[float | None] = [None, None]
        if torch is not None:
            q, k, v = (
                torch.randn(B, H, T, D, dtype=torch.bfloat16, device="cuda", requires_grad=True) for _ in range(3)
            )
            run = partial(torch.nn.functional.scaled_dot_product_attention, q, k, v, is_causal=True)
            out = run()
            step = partial(torch.autograd.grad, out, (q, k, v), torch.randn_like(out), retain_graph=True)
            theirs = [torch_seconds(run), torch_seconds(step)]
        flops = 2.0 * B * H * T * T * D
        for name, ours, other, factor in (("forward", forward, theirs[0], 1.0), ("backward", backward, theirs[1], 2.5)):
            yield (
                f"{name} {B} x {T}, {H} heads of {D}",
                *both(ours, other, lambda s, f=flops * factor: f / s / 1e12, "TFLOP/s"),
            )


def memory() -> Rows:
    """TB/s of what is bound by memory, beside the copy of a large array."""
    import numpy as np

    kernels, torch = _kernels(), torch_or_none()
    n = 1 << 28
    x, y = empty_bf16(n), empty_bf16(n)
    theirs = None
    if torch is not None:
        a, b = (torch.empty(n, dtype=torch.bfloat16, device="cuda") for _ in range(2))
        theirs = torch_seconds(partial(b.copy_, a))
    copy = kernel_seconds("copy", y=y, x=x)
    yield "copy 0.5 GB", *both(copy, theirs, lambda s: 4 * n / s / 1e12, "TB/s")
    N, C = 32 * 1024, 768
    f32, one = partial(kernels.empty, dtype=np.dtype(np.float32)), kernels.from_host(np.ones(1))
    rows, w = random_bf16(N, C), random_bf16(C)
    out, mean, rstd = empty_bf16(N, C), f32((N,)), f32((N,))
    seconds = kernel_seconds("layernorm_forward", y=out, mean=mean, rstd=rstd, x=rows, w=w, b=w, eps=1e-5)
    yield "layernorm 32K x 768", *both(seconds, None, lambda s: 4 * N * C / s / 1e12, "TB/s")
    seconds = kernel_seconds(
        "layernorm_backward", dx=out, dw=empty_bf16(C), db=empty_bf16(C), dy=rows, x=rows, w=w, mean=mean, rstd=rstd
    )
    yield "layernorm, backward", *both(seconds, None, lambda s: 6 * N * C / s / 1e12, "TB/s")
    P = 124_000_000
    masters, weights, m, v, g = f32((P,)), empty_bf16(P), f32((P,)), f32((P,)), empty_bf16(P)
    for flat in (masters, weights, m, v, g):
        kernels.fill(y=flat, value=0.0)
    step = kernels.from_host(np.ones(1, np.int64))
    state = {"m": m, "v": v, "g": g, "lr": one, "step": step, "grad_scale": one}
    numbers = {"beta1": 0.9, "beta2": 0.99, "eps": 1e-8, "weight_decay": 0.1, "n_decay": P}
    seconds = kernel_seconds("adamw", w=masters, **state, **numbers)
    yield "AdamW, 124M parameters", *both(seconds, None, lambda s: 26 * P / s / 1e12, "TB/s")
    seconds = kernel_seconds("adamw_bf16", w=weights, **state, **numbers, seed=1)
    yield "AdamW, without masters", *both(seconds, None, lambda s: 22 * P / s / 1e12, "TB/s")


def decoding() -> Rows:
    """Tokens/s of one text, and the share of the bandwidth that reading the weights would allow alone."""
    from gollm import Engine
    from gollm.language_model import LanguageModel
    from gollm.model.config import ModelConfig
    from gollm.model.decoder import Decoder
    from gollm.nn import dtypes

    n = 1 << 28
    bandwidth = 4 * n / kernel_seconds("copy", y=empty_bf16(n), x=empty_bf16(n))
    for name in ("gpt2-124m", "llama-3.2-1b"):
        config = ModelConfig.from_dict({"preset": {"gpt2-124m": "d12"}.get(name, name)}, where="bench")
        decoder = Decoder(config).initialise(1)
        decoder.parameters.freeze(decoder.parameters)
        model = LanguageModel(decoder.to(_kernels(), dtypes.bfloat16))
        n_bytes = 2 * decoder.parameters.n_parameters
        for texts in (1, 16):
            with Engine(model, max_batch=texts, max_tokens_in_cache=texts * 512) as engine:
                options = {"max_new_tokens": 200, "temperature": 1.0}
                engine.generate([[1, 2, 3]] * texts, **options)
                begin = time.perf_counter()
                engine.generate([[1, 2, 3]] * texts, **options)
                rate = 200 * texts / (time.perf_counter() - begin)
            share = rate / texts * n_bytes / bandwidth
            yield f"{name}, {texts} texts, bfloat16", f"{rate:.0f} tokens/s ({share:.0%})", "-"


def training() -> Rows:
    """Tokens/s and MFU of a training step of GPT-2 124M, 16 x 1024 tokens, bfloat16."""
    import numpy as np

    from gollm.model.config import ModelConfig
    from gollm.model.decoder import Decoder
    from gollm.nn import dtypes
    from gollm.nn.optimizer import AdamW
    from gollm.nn.plan import Plan
    from gollm.training.estimate import flops_per_token
    from gollm.training.objective import forward_backward

    kernels, B, T = _kernels(), 16, 1024
    config = ModelConfig.from_dict({"preset": "d12"}, where="bench").replace(vocab_size=50304, context=T)
    model = Decoder(config).initialise(1).to(kernels, dtypes.bfloat16)
    optimizer = AdamW(model.parameters)
    denominator = np.array([B * T], np.float64)
    plan = Plan(lambda *arrays: forward_backward(model, *arrays, denominator=denominator), kernels)
    tokens = np.random.default_rng(0).integers(0, config.vocab_size, (1, B, T)).astype(np.int32)

    def step() -> None:
        sum(part.item() for part in plan(np.zeros(1, np.int64), tokens, tokens))
        optimizer.step(1e-4)

    seconds = seconds_of(step, kernels.native.finish, 5.0)
    theirs = _torch_training(config, tokens[0])
    per_second = flops_per_token(config)

    def rate(s: float) -> str:
        return f"{B * T / s:,.0f} tokens/s, {per_second * B * T / s / 1e12:.0f} TFLOP/s"

    yield "GPT-2 124M, 16 x 1024 tokens", rate(seconds), "-" if theirs is None else rate(theirs)


def _torch_training(config: Any, tokens: Any) -> float | None:
    """torch.compile, flash attention, fused AdamW, autocast to bfloat16."""
    torch = torch_or_none()
    if torch is None:
        return None
    from gollm.benchmarks.with_torch import GPT

    shape = (config.n_layers, config.n_heads, config.d_model, config.vocab_size, config.context)
    model = torch.compile(GPT(*shape).cuda())
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    ids = torch.from_numpy(tokens.astype("int64")).cuda()

    def step() -> None:
        with torch.autocast("cuda", torch.bfloat16):
            loss = model(ids, ids)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return torch_seconds(step)


if __name__ == "__main__":
    sys.exit(main())

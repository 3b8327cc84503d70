"""What `gollm bench inference` measures: one model's prefill and decoding, over threads, batch sizes and depths.

prefill     a prompt at once, after `depth` tokens of its sequence: operations, against the FMA peak of float32
decoding    one token more for each of `batch` sequences that have `depth`: bytes read, against reading memory

A depth is filled with keys and values of 0, which take as long as any others. Drawing a token is not part of it.
"""

from __future__ import annotations

import importlib.util
import signal
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gollm.benchmarks.cases import FMA, loop
from gollm.benchmarks.turns import HERE, Case, Contestant, Result
from gollm.errors import ConfigError
from gollm.inference.pages import PAGE_SIZE, PagePool, cache_dtype_of, pages_for
from gollm.model.config import ModelConfig
from gollm.model.decoder import Decoder
from gollm.system.machine import SUMMED_BYTES
from gollm.system.memory import available_bytes

BINDINGS = ("llama_cpp", "llama_cpp_py_sync")  # of llama.cpp
SPREAD = 0.1  # between turns, from which on the machine was not quiet


@dataclass(frozen=True)
class Measurement:
    """One row: `name` is "prefill 512" or "decoding"; `tokens` come in one call of the case."""

    name: str
    threads: int
    batch: int
    depth: int
    tokens: int
    case: Case


@dataclass(frozen=True)
class Grid:
    """Which rows there are: each number of threads with each depth, and prompt, or batch size in decoding, where a
    sequence grows by `new_tokens` before it starts over."""

    threads: Sequence[int]
    depths: Sequence[int]
    prompts: Sequence[int]
    batch_sizes: Sequence[int]
    new_tokens: int

    def check(self, model: Decoder) -> None:
        """Raises ConfigError for sequences beyond the model's context or the machine's memory."""
        context, depth, more = model.config.context, max(self.depths, default=0), max((self.new_tokens, *self.prompts))
        if depth + more > context:
            raise ConfigError(
                f"--depths {depth} and {more} tokens more are longer than this model's context ({context}); use "
                "smaller --depths, --prompts and --new-tokens"
            )
        batch, length = max(self.batch_sizes, default=0), depth + self.new_tokens
        needed, free = batch * pages_for(length) * PAGE_SIZE * bytes_of_a_token(model), available_bytes()
        if free is not None and needed > free:
            raise ConfigError(
                f"{batch} sequences of {length} tokens need {needed / 1e9:.1f} GB for keys and values, and "
                f"{free / 1e9:.1f} GB are free; use fewer --batch-sizes or smaller --depths"
            )

    def measurements(self, path: Path, model: Decoder, llama_cpp: bool) -> Iterator[Measurement]:
        for threads in self.threads:
            for depth in self.depths:
                for prompt in self.prompts:
                    arguments = {"path": str(path), "depth": depth, "tokens": prompt}
                    found = contestants("prefill", threads, llama_cpp, arguments, FMA)
                    name = f"prefill {prompt}"
                    case = Case("inference", name, found, operations(model, depth, prompt), tokens=prompt)
                    yield Measurement(name, threads, 1, depth, prompt, case)
            for batch in self.batch_sizes:
                for depth in self.depths:
                    arguments = {"path": str(path), "batch": batch, "depth": depth, "tokens": self.new_tokens}
                    found = contestants("decoding", threads, llama_cpp, arguments, READING)
                    n_bytes = bytes_read(model, batch, depth + (self.new_tokens + 1) / 2)
                    case = Case("inference", "decoding", found, n_bytes, "GB/s", tokens=batch)
                    yield Measurement("decoding", threads, batch, depth, batch, case)


READING = loop(1, SUMMED_BYTES // 4, 1, 0)


def contestants(
    function: str, threads: int, llama_cpp: bool, arguments: dict[str, Any], limit: Contestant
) -> dict[str, Contestant]:
    found = {
        "gollm": Contestant("with_gollm", function, arguments, threads),
        "limit": Contestant(limit.file, limit.function, limit.arguments, threads),
    }
    if llama_cpp:
        found["llama.cpp"] = Contestant("with_llama_cpp", function, {**arguments, "threads": threads}, threads)
    return found


def seen(config: ModelConfig, position: float) -> float:
    """How many keys the token at a position sees, in all layers together."""
    return sum(min(position + 1, config.window(layer) or position + 1) for layer in range(config.n_layers))


def operations(model: Decoder, depth: int, tokens: int) -> float:
    """Of a prompt: two for each number in the blocks and each token, two for each in the head, which reads the last
    token only, and 4 D for each head, query and key that it sees."""
    config = model.config
    blocks = sum(p.size for name, p in model.parameters.items() if name.startswith("blocks."))
    pairs = sum(seen(config, depth + i) for i in range(tokens))
    heads = config.n_heads * config.head_dim
    return 2.0 * blocks * tokens + 2.0 * config.vocab_size * config.d_model + 4.0 * heads * pairs


def weight_bytes(model: Decoder) -> int:
    """Of what every token reads: all weights, without tables of embeddings that are only looked up."""
    tables = {"position_embedding"} | (set() if model.config.tied_head else {"token_embedding"})
    return sum(p.storage.array.nbytes for name, p in model.parameters.items() if name not in tables)


def bytes_of_a_token(model: Decoder) -> int:
    """Of its keys and values in the cache."""
    pool = PagePool(model.config, 1, cache_dtype_of(model))
    return int(pool.k_pages.array.nbytes + pool.v_pages.array.nbytes) // PAGE_SIZE


def bytes_read(model: Decoder, batch: int, length: float) -> float:
    """By one step of decoding: the weights once, the keys and values that each sequence sees."""
    of_a_layer = bytes_of_a_token(model) / model.config.n_layers
    return weight_bytes(model) + batch * of_a_layer * seen(model.config, length - 1)


def installed_llama_cpp(model: Path) -> tuple[bool, str]:
    """Whether there is a llama.cpp that runs the model; which it is and what it was built for, or why there is none."""
    if not any(importlib.util.find_spec(name) for name in BINDINGS):
        return False, "not installed (llama-cpp-python, or llama-cpp-py-sync)"
    program = [sys.executable, str(HERE / "with_llama_cpp.py"), str(model)]
    done = subprocess.run(program, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, errors="replace")
    said = done.stdout.strip()
    return (True, said) if done.returncode == 0 else (False, f"it does not run: {said or ending(done.returncode)}")


def ending(status: int) -> str:
    """What ended a process that said nothing.

    >>> ending(-4), ending(3)
    ('SIGILL', 'exit status 3')
    """
    return signal.Signals(-status).name if status < 0 else f"exit status {status}"


# -- in words


def row(test: Measurement, result: Result) -> dict[str, Any]:
    """One row of the table, for JSON: rates a second, seconds of one call for each turn."""
    ours, work = result.median("gollm"), test.case.work
    decoding = test.case.unit == "GB/s"
    return {
        "test": test.name,
        "threads": test.threads,
        "batch": test.batch,
        "depth": test.depth,
        "tokens_per_second": test.tokens / ours,
        "spread": spread(result.seconds["gollm"]),
        "bytes_per_token": work / test.tokens if decoding else None,
        "unit": test.case.unit,
        "rate": result.rate / 1e9,
        "limit": result.work["limit"] / result.median("limit") / 1e9,
        "share_of_limit": result.share,
        "llama_cpp_tokens_per_second": test.tokens / result.median("llama.cpp") if result.ratios else None,
        "ratio": result.ratios.get("llama.cpp"),
        "seconds": result.seconds,
    }


def spread(seconds: Sequence[float]) -> float:
    """The distance of the quartiles, over the median; 0 of a single turn."""
    if len(seconds) < 2:
        return 0.0
    low, middle, high = statistics.quantiles(seconds, n=4, method="inclusive")
    return (high - low) / middle


HEADER = (
    f"{'test':12} {'threads':>7} {'batch':>5} {'depth':>6} {'tokens/s':>9} {'spread':>6} {'MB/token':>8}  "
    f"{'share of the limit':24} {'llama.cpp':>9} {'ratio':>7}"
)


def line(row: dict[str, Any]) -> str:
    """A row under HEADER."""
    read = "" if row["bytes_per_token"] is None else f"{row['bytes_per_token'] / 1e6:.2f}"
    limit = f"{100 * row['share_of_limit']:3.0f} % of {row['limit']:.1f} {row['unit']}"
    theirs = "" if row["ratio"] is None else f"{row['llama_cpp_tokens_per_second']:9.1f} {row['ratio']:5.2f} x"
    return (
        f"{row['test']:12} {row['threads']:7} {row['batch']:5} {row['depth']:6} {row['tokens_per_second']:9.1f} "
        f"{100 * row['spread']:4.0f} % {read:>8}  {limit:24} {theirs}"
    ).rstrip()


def noise(rows: Sequence[dict[str, Any]]) -> str | None:
    """A warning where the machine was not quiet."""
    wide = [row for row in rows if row["spread"] > SPREAD]
    if not wide:
        return None
    return (
        f"{len(wide)} of {len(rows)} rows spread by more than {100 * SPREAD:.0f} % of their median between turns: the "
        "machine was not quiet; measure again, or with more --turns"
    )

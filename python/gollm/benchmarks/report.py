"""Results in words and as JSON."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from gollm import num_threads
from gollm.benchmarks.cases import STEP
from gollm.benchmarks.turns import Result
from gollm.system.machine import isa

WIDTH = 42


def line(result: Result) -> str:
    """One row: the time of a call, the rate, its share of the limit, and the ratios, above 1 where gollm is faster."""
    case = result.case
    parts = [_seconds(result.median("gollm")), f"{result.rate / 1e9:5.0f} {case.unit}"]
    if result.share is not None:
        parts.append(f"{100 * result.share:4.0f} % of the {limit_name(result)}")
    if case.tokens:
        parts.append(f"{case.tokens / result.median('gollm'):7.0f} tokens/s")
    parts += [f"{ratio:5.2f} x {name}" for name, ratio in result.ratios.items()]
    if case.alone and (peak := result.peak_bytes["gollm"]):
        parts.append(f"peak {peak / 1e9:.2f} GB")
    parts += [f"{ratio:.2f} x {name}'s {_gigabytes(result, name)}" for name, ratio in result.memory_ratios.items()]
    return f"{case.name:{WIDTH}} {'  '.join(parts)}"


def summary(results: Sequence[Result]) -> list[str]:
    """Geometric means of the ratios and the smallest, by group; and the share of a step that is no product."""
    lines = []
    for group, name, ratios in ratios_of(results):
        mean, least = statistics.geometric_mean(ratios), min(ratios)
        lines.append(f"{group}: {mean:.2f} x {name} in the geometric mean of {len(ratios)}, at least {least:.2f}")
    if share := share_of_step(results):
        total = sum(share.values())
        parts = ", ".join(f"{name} {100 * part:.1f}" for name, part in share.items())
        lines.append(f"memory-bound: {100 * total:.1f} % of a step of GPT-2 124M, 4 x 256: {parts}")
    return lines


def ratios_of(results: Sequence[Result]) -> list[tuple[str, str, list[float]]]:
    """(group, contestant, ratios)"""
    found: dict[tuple[str, str], list[float]] = {}
    for result in results:
        for name, ratio in result.ratios.items():
            found.setdefault((result.case.group, name), []).append(ratio)
    return [(*key, ratios) for key, ratios in found.items()]


def share_of_step(results: Sequence[Result]) -> dict[str, float]:
    """How much of a step each operation that is no product takes, from 0 to 1; empty if no step was measured."""
    step = next((result.median("gollm") for result in results if result.case.name == STEP), None)
    counted = {result.case.name: result for result in results if result.case.steps}
    return {name: r.case.steps * r.median("gollm") / step for name, r in counted.items()} if step else {}


def document(results: Sequence[Result]) -> dict[str, Any]:
    """All of it for JSON."""
    return {
        "isa": isa(),
        "threads": num_threads(),
        "cases": [row(result) for result in results],
        "geometric_means": [
            {"group": group, "contestant": name, "ratio": statistics.geometric_mean(ratios)}
            for group, name, ratios in ratios_of(results)
        ],
        "share_of_step": share_of_step(results),
    }


def row(result: Result) -> dict[str, Any]:
    """One case; rate in GFLOP/s or GB/s; seconds of one call, a number for each turn."""
    case = result.case
    return {
        "group": case.group,
        "name": case.name,
        "unit": case.unit,
        "rate": result.rate / 1e9,
        "share_of_limit": result.share,
        "tokens_per_second": case.tokens / result.median("gollm") if case.tokens else None,
        "ratios": result.ratios,
        "memory_ratios": result.memory_ratios,
        "peak_bytes": result.peak_bytes if case.alone else {},
        "seconds": result.seconds,
    }


def limit_name(result: Result) -> str:
    return "plain loop" if result.case.unit == "GB/s" else "FMA peak"


def _seconds(seconds: float) -> str:
    return f"{1e3 * seconds:9.3f} ms" if seconds < 1 else f"{seconds:9.3f} s "


def _gigabytes(result: Result, name: str) -> str:
    return f"{(result.peak_bytes[name] or 0) / 1e9:.2f} GB"

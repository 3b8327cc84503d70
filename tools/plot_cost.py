"""Measures what a training step costs against context, batch, width and depth, and draws docs/cost.svg.

    python tools/plot_cost.py        about a minute; nothing else should run

One axis is changed at a time. Dots: measured, the best of a few turns. Line: the step's operations (6 N + 12 L C T a
token) at the FMA peak that was measured in the same turns.
"""

from __future__ import annotations

import math
from pathlib import Path

from gollm.benchmarks.cases import training_step
from gollm.benchmarks.turns import Bench

PICTURE = Path(__file__).resolve().parent.parent / "docs" / "cost.svg"
BASE = {"batch": 4, "context": 128, "d_model": 256, "n_layers": 6}
SWEEPS = {
    "context": ("context T", (32, 64, 128, 256, 512, 1024, 2048)),
    "batch": ("sequences in a batch", (1, 2, 4, 8, 16, 32)),
    "d_model": ("width", (64, 128, 256, 384, 512, 768)),
    "n_layers": ("layers", (1, 2, 4, 8, 16, 32)),
}
TURNS = 3
PANEL, MARGIN = 210, 55  # pixels


def measure(bench: Bench, values: dict[str, int]) -> tuple[float, float]:
    """Seconds of a step, and of its operations at the FMA peak."""
    shape = {
        "n_layers": values["n_layers"],
        "n_heads": max(1, values["d_model"] // 64),
        "d_model": values["d_model"],
        "vocab_size": 512,
        "context": values["context"],
    }
    case = training_step("cost", str(values), values["batch"], shape)
    contestants = {name: case.contestants[name] for name in ("gollm", "limit")}
    result = bench.measure(type(case)(case.group, case.name, contestants, case.work), TURNS)
    best = {name: min(seconds) for name, seconds in result.seconds.items()}
    return best["gollm"], case.work * best["limit"] / result.work["limit"]


def panel(index: int, title: str, points: list[tuple[int, float, float]]) -> list[str]:
    """One axis, both scales logarithmic: a decade of seconds is a third of the height."""
    left, bottom = MARGIN + index * (PANEL + MARGIN), PANEL + 35
    values = [value for value, _, _ in points]
    low, high = math.log(values[0]), math.log(values[-1])

    def place(value: float, seconds: float) -> tuple[float, float]:
        x = left + PANEL * (math.log(value) - low) / (high - low)
        return x, bottom - PANEL * (math.log10(seconds) + 3) / 4  # 1 ms ... 10 s

    def text(x: float, y: float, words: str, anchor: str = "middle") -> str:
        return f'<text x="{x:.0f}" y="{y:.0f}" text-anchor="{anchor}">{words}</text>'

    lines = [
        f'<rect x="{left}" y="{bottom - PANEL}" width="{PANEL}" height="{PANEL}" fill="none" stroke="#999"/>',
        text(left + PANEL / 2, 22, f"{title}"),
    ]
    for seconds, label in ((1e-3, "1 ms"), (1e-2, "10 ms"), (0.1, "0.1 s"), (1.0, "1 s"), (10.0, "10 s")):
        y = place(values[0], seconds)[1]
        lines.append(f'<path d="M{left} {y:.1f}h{PANEL}" stroke="#ddd"/>')
        lines.append(text(left - 4, y + 4, label, "end"))
    lines += [text(place(value, 1e-3)[0], bottom + 16, str(value)) for value in values]
    peak = " ".join("{:.1f},{:.1f}".format(*place(value, least)) for value, _, least in points)
    lines.append(f'<polyline points="{peak}" fill="none" stroke="#888" stroke-dasharray="4 3"/>')
    dots = [place(value, seconds) for value, seconds, _ in points]
    lines += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="#1f5fa8"/>' for x, y in dots]
    return lines


def main() -> None:
    lines: list[str] = []
    with Bench() as bench:
        for index, (axis, (title, values)) in enumerate(SWEEPS.items()):
            points = [(value, *measure(bench, {**BASE, axis: value})) for value in values]
            lines += panel(index, title, points)
            for value, seconds, least in points:
                print(f"{title:22} {value:5} {1e3 * seconds:9.2f} ms  {100 * least / seconds:3.0f} % of the FMA peak")
    width, height = MARGIN + len(SWEEPS) * (PANEL + MARGIN), PANEL + 65
    box = f'viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="11"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {box}>'
    PICTURE.write_text("\n".join([head, f'<rect width="{width}" height="{height}" fill="#fff"/>', *lines, "</svg>\n"]))


if __name__ == "__main__":
    main()

"""gollm info"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from gollm.cli.inputs import checkpoint_of
from gollm.options import Positional


@dataclass(frozen=True)
class Options:
    """Show what is inside of a checkpoint, without reading its weights."""

    model: Annotated[Path, Positional]  # a checkpoint (*.golm), or the folder of a training run: its best one
    tensors: bool = False  # list every tensor with its type and shape
    json: bool = False  # print one JSON document, tensors included


def run(options: Options) -> None:
    from gollm import checkpoint

    found = checkpoint.describe(checkpoint_of(options.model))
    print(json.dumps(found, indent=2) if options.json else in_lines(found, tensors=options.tensors))


def in_lines(found: dict[str, Any], *, tensors: bool) -> str:
    sizes, tokenizer, step = found["bytes"], found["tokenizer"], found["training_step"]
    rows = [
        ("file", f"{found['path']}, {sizes['file']:,} bytes, format version {found['version']}"),
        ("parameters", f"{found['parameters']:,} in {sizes['weights']:,} bytes"),
        ("model", ", ".join(f"{name} {_value(value)}" for name, value in found["config"].items())),
        ("tokenizer", f"{tokenizer['kind']}, {tokenizer['vocab_size']:,} tokens" if tokenizer else "none"),
        *([("generation", _generation(found["generation"]))] if found["generation"] else []),
        ("training", "none; the weights only" if step is None else f"after step {step:,}, {sizes['training']:,} bytes"),
    ]
    lines = [f"{name:11}{text}" for name, text in rows]
    if tensors:
        width = max((len(tensor["name"]) for tensor in found["tensors"]), default=0)
        for tensor in found["tensors"]:
            shape = " x ".join(map(str, tensor["shape"])) or "1"
            lines.append(f"{tensor['name']:{width}}  {tensor['dtype']:4} {shape:16} {tensor['group']}")
    return "\n".join(lines)


def _generation(defaults: dict[str, Any]) -> str:
    from gollm.strict_json import shorten

    return ", ".join(f"{name} {shorten(value)}" for name, value in defaults.items())


def _value(value: Any) -> str:
    return "yes" if value is True else "no" if value is False else str(value)

"""gollm info"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from gollm.cli.provenance import in_rows, provenance
from gollm.errors import FormatError, TokenizerError
from gollm.options import Positional
from gollm.system.strict_json import shorten


@dataclass(frozen=True)
class Options:
    """Show the contents of a model file or folder in any format, without reading the weights. For a run folder, also
    show how the model was trained. Tokenizers can be shown, too."""

    # model in any format, run folder (best checkpoint), or tokenizer
    model: Annotated[Path, Positional]
    tensors: bool = False  # list all tensors with dtype and shape
    json: bool = False  # print one JSON document, including the tensors


def run(options: Options) -> None:
    from gollm import formats
    from gollm.formats import peft
    from gollm.formats.box import unboxed
    from gollm.formats.golm import checkpoint_info
    from gollm.formats.golm.model import checkpoint_of

    path = unboxed(options.model)
    folder = peft.adapter_in(path)
    if folder is not None:
        found = peft.adapter_info(folder)
        found["provenance"] = provenance(folder, None)
        print(json.dumps(found, indent=2) if options.json else adapter_in_lines(found, tensors=options.tensors))
        return
    try:
        golm = formats.recognise(path).name == "golm"
    except FormatError:
        tokenizer = tokenizer_info(path)
        if tokenizer is None:
            raise
        print(json.dumps(tokenizer, indent=2) if options.json else tokenizer_in_lines(tokenizer))
        return
    if golm:
        path = checkpoint_of(path) or path
        found = checkpoint_info(path)
        found["provenance"] = provenance(path, found["training_step"])
    else:
        found = model_info(path)
    found["sampling"] = default_sampling(found["generation"] or {})
    if options.json:
        print(json.dumps(found, indent=2))
    else:
        print((checkpoint_in_lines if golm else in_lines)(found, tensors=options.tensors))


def model_info(path: Path) -> dict[str, Any]:
    """The contents of a model in one of the formats of others, as JSON can hold it; parameters as gollm has them."""
    from gollm import formats
    from gollm.model.decoder import Decoder

    with formats.open_model(path) as source:
        parameters = Decoder(source.config).parameters
        tokenizer = source.tokenizer
        return {
            "path": str(path),
            "format": formats.recognise(path).name,
            "dtype": source.dtype,
            "config": source.config.to_dict(),
            "parameters": parameters.n_parameters,
            "tokenizer": None if tokenizer is None else {"kind": tokenizer.kind, "vocab_size": tokenizer.vocab_size},
            "without_tokenizer": source.without_tokenizer,
            "generation": source.defaults.to_dict(),
            "tensors": [{"name": name, "shape": list(p.shape)} for name, p in parameters.items()],
        }


def tokenizer_info(path: Path) -> dict[str, Any] | None:
    """A tokenizer, as JSON can hold it; None where there is none."""
    from gollm import tokenizers

    try:
        found = tokenizers.load(path)
    except TokenizerError:
        return None
    return {
        "path": str(path),
        "kind": found.kind,
        "vocab_size": found.vocab_size,
        "special_tokens": found.special_tokens,
        "begin": list(found.framing.begin),
        "end": list(found.framing.end),
    }


def tokenizer_in_lines(found: dict[str, Any]) -> str:
    special = [f"{shorten(spelling)} {index}" for spelling, index in found["special_tokens"].items()]
    more = f" and {len(special) - 10} more" if special[10:] else ""
    framed = [f"{where} {' '.join(map(str, found[where]))}" for where in ("begin", "end") if found[where]]
    rows = [
        ("file", f"{found['path']}, a tokenizer"),
        ("tokenizer", _tokenizer(found)),
        ("special", (", ".join(special[:10]) or "none") + more),
        ("documents", ", ".join(framed) or "no token before or after them"),
    ]
    return _lines(rows, [])


def adapter_in_lines(found: dict[str, Any], *, tensors: bool) -> str:
    targets = found["targets"]
    lines = [
        f"file       {found['path']}, an adapter in peft's files",
        f"parameters {found['parameters']:,}",
        f"LoRA       rank {found['rank']}, alpha {found['alpha']:g}, on "
        + (", ".join(map(str, targets)) if isinstance(targets, list) else str(targets)),
        f"base model {found['base']}",
    ]
    lines += [f"{name:11}{text}" for name, text in in_rows(found["provenance"])] if found["provenance"] else []
    if tensors:
        lines += [f"{tensor['name']} {tensor['shape']}" for tensor in found["tensors"]]
    return "\n".join(lines)


def default_sampling(generation: dict[str, Any]) -> dict[str, Any]:
    """How texts are generated where the user says nothing: as the file recommends, or else by gollm's defaults."""
    from gollm.inference.sampling import DEFAULTS, Sampling
    from gollm.model.generation_defaults import GenerationDefaults

    sampling = Sampling().resolved(GenerationDefaults.from_dict(generation))
    return {name: getattr(sampling, name) for name in DEFAULTS}


def in_lines(found: dict[str, Any], *, tensors: bool) -> str:
    tokenizer = found["tokenizer"]
    rows = [
        ("file", f"{found['path']}, {found['format']}"),
        ("parameters", f"{found['parameters']:,}" + (f" as {found['dtype']}" if found["dtype"] else "")),
        ("model", _config(found["config"])),
        (
            "tokenizer",
            _tokenizer(tokenizer) + (f": {found['without_tokenizer']}" if found["without_tokenizer"] else ""),
        ),
        ("generation", _generation(found["generation"])),
        ("sampling", _config(found["sampling"])),
    ]
    return _lines(rows, [[t["name"], _shape(t)] for t in found["tensors"]] if tensors else [])


def checkpoint_in_lines(found: dict[str, Any], *, tensors: bool) -> str:
    sizes, step = found["bytes"], found["training_step"]
    rows = [
        ("file", f"{found['path']}, {sizes['file']:,} bytes, format version {found['version']}"),
        ("parameters", f"{found['parameters']:,} in {sizes['weights']:,} bytes, as {_widths(found['tensors'])}"),
        ("model", _config(found["config"])),
        ("tokenizer", _tokenizer(found["tokenizer"])),
        ("generation", _generation(found["generation"] or {})),
        ("sampling", _config(found["sampling"])),
        ("training", "none; the weights only" if step is None else f"after step {step:,}, {sizes['training']:,} bytes"),
        *(in_rows(found["provenance"]) if found["provenance"] else ()),
    ]
    table = [[t["name"], f"{t['dtype']:4} {_shape(t):16} {t['group']}"] for t in found["tensors"]]
    return _lines(rows, table if tensors else [])


def _widths(tensors: list[dict[str, Any]]) -> str:
    """What parameters are stored as, the dtype of most numbers first: "int8 in groups of 32, f32"."""
    numbers: dict[str, int] = {}
    for tensor in (tensor for tensor in tensors if tensor["group"] == "weights"):
        _, _, group = tensor["layout"].partition("/")
        width = tensor["dtype"] + (f" in groups of {group}" if group not in ("", "1") else "")
        numbers[width] = numbers.get(width, 0) + math.prod(tensor["shape"])
    return ", ".join(sorted(numbers, key=lambda width: -numbers[width]))


def _lines(rows: list[tuple[str, str]], table: list[list[str]]) -> str:
    width = max((len(name) for name, _ in table), default=0)
    return "\n".join(
        [*(f"{name:11}{text}" for name, text in rows), *(f"{name:{width}}  {rest}" for name, rest in table)]
    )


def _config(values: dict[str, Any]) -> str:
    return ", ".join(f"{name} {_value(value)}" for name, value in values.items() if value is not None)


def _generation(found: dict[str, Any]) -> str:
    templates = ("chat_template", "chat_templates")
    said = [f"{name} {_value(value)}" for name, value in found.items() if name not in templates]
    said += ["chat template"] if "chat_template" in found else []
    said += [f"chat template {shorten(name)}" for name in found.get("chat_templates", ())]
    return ", ".join(said) or "nothing is said"


def _tokenizer(found: dict[str, Any] | None) -> str:
    return f"{found['kind']}, {found['vocab_size']:,} tokens" if found else "none"


def _shape(tensor: dict[str, Any]) -> str:
    return " x ".join(map(str, tensor["shape"])) or "1"


def _value(value: Any) -> str:
    if isinstance(value, list | tuple):
        return " ".join(map(str, value))
    return "yes" if value is True else "no" if value is False else str(value)

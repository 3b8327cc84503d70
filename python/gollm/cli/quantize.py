"""gollm quantize"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from gollm.cli.process import of_the_words
from gollm.errors import warn
from gollm.options import Positional

if TYPE_CHECKING:
    from gollm.formats import Source


@dataclass(frozen=True)
class Options:
    """Quantise the matrices of a model. The file shrinks to between a half and an eighth of its size, and generation is
    faster. Norms, biases and learned position embeddings are not quantised."""

    # model in any format: a checkpoint, run folder, Hugging Face folder, GGUF, llama2.c, llm.c or JSON
    model: Annotated[Path, Positional]
    target: Annotated[Path, Positional]  # output file: .golm, or .gguf (groups of 32)
    # storage format of the weights; int4_min stores a minimum per group in addition to the scale
    weights: Literal["int8", "int4", "int4_min", "bf16", "fp16"] = "int8"
    group: Literal[32, 64, 128] | None = None  # group size: weights per scale (default: 32; others for int8 only)
    keep: tuple[Literal["head", "embedding"], ...] = ()  # matrices to leave unquantised; a tied head is the embedding
    tokenizer: Path | None = None  # tokenizer file or folder, for a model without a tokenizer
    overwrite: bool = False  # overwrite an existing target


def run(options: Options) -> None:
    import os

    from gollm import formats
    from gollm.formats.box import unboxed
    from gollm.quantisation import DTYPES
    from gollm.quantisation.rounding import checked_group

    with of_the_words():
        formats.format_of_target(options.target)
        group = checked_group(DTYPES[options.weights], options.group)
    names = {"head": "head", "embedding": "token_embedding"}
    with formats.open_model(options.model, options.tokenizer) as model:
        keep = {names[part] for part in options.keep}
        if model.config.tied_head and keep:
            keep = {"token_embedding"}
        narrow = model.quantised(DTYPES[options.weights], group, keep)
        before = _rounded_again(model, narrow)
        formats.save(narrow, options.target, overwrite=options.overwrite)
    if before:
        warn(f"the model was quantised already ({', '.join(before)}), and is rounded again")
    before_path = unboxed(options.model)
    size, size_before = os.path.getsize(options.target), os.path.getsize(before_path)
    if before_path.is_file() and size > size_before:
        warn(f"{options.target} is larger than {options.model}: {size / 1e6:.1f} MB, {size_before / 1e6:.1f} MB before")
    print(f"{options.target}: {size / 1e6:.1f} MB")


def _rounded_again(model: Source, narrow: Source) -> list[str]:
    """What quantised parameters were that are stored as something else now."""
    from gollm.model.decoder import Decoder
    from gollm.quantisation.panels import GROUPS

    pairs = [(model.packed(name), narrow.packed(name)) for name in Decoder(model.config).parameters]
    return sorted(
        {
            f"{old.dtype} in groups of {old.group}"
            for old, new in pairs
            if old and new and old.dtype in GROUPS and (old.dtype, old.group) != (new.dtype, new.group)
        }
    )

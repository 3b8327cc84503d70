"""gollm convert"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from gollm.cli.process import of_the_words
from gollm.options import Positional


@dataclass(frozen=True)
class Options:
    """Turn a model into another format. The source's format is detected from its content."""

    # a model in any format: a checkpoint, a run's folder, a Hugging Face folder, GGUF, llama2.c, llm.c, JSON
    source: Annotated[Path, Positional]
    target: Annotated[Path, Positional]  # the new file, or folder for Hugging Face
    # format of the target (default: from its ending, .golm, .gguf or .json; a folder for huggingface without one)
    to: Literal["golm", "huggingface", "gguf", "llama2.c", "llm.c", "json"] | None = None
    # dtype of the matrices, where the format has it (default: the format's usual one, for most float32)
    dtype: Literal["f32", "bf16", "f16", "q8_0", "q4_0"] | None = None
    merge: Path | None = None  # the folder of an adapter (peft's LoRA) that is added to the weights
    tokenizer: Path | None = None  # a tokenizer's file or folder, for a model that has none with it
    overwrite: bool = False  # replace a target that exists


def run(options: Options) -> None:
    from gollm import formats

    if options.to is None:
        with of_the_words():
            formats.format_of_target(options.target)
    with formats.open_model(options.source, options.tokenizer) as model:
        if options.merge is not None:
            model = formats.with_adapter(model, options.merge)
        formats.save(model, options.target, options.to, options.dtype, overwrite=options.overwrite)
        if model.without_tokenizer:
            print(f"written without its tokenizer: {model.without_tokenizer}", file=sys.stderr)

"""gollm convert"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from gollm.cli.process import of_the_words
from gollm.options import Positional

if TYPE_CHECKING:
    from gollm.formats import Source


@dataclass(frozen=True)
class Options:
    """Convert a model to another format. The source format is detected from its content."""

    # model in any format: a checkpoint, run folder, Hugging Face folder, GGUF, llama2.c, llm.c or JSON
    source: Annotated[Path, Positional]
    target: Annotated[Path, Positional]  # output file, or output folder for huggingface
    # target format (default: from the suffix .golm, .gguf or .json; huggingface if there is no suffix)
    to: Literal["golm", "huggingface", "gguf", "llama2.c", "llm.c", "json"] | None = None
    # dtype of the matrices, if the format supports it (default: the format's usual dtype, mostly float32)
    dtype: Literal["f32", "bf16", "f16", "q8_0", "q4_0"] | None = None
    merge: Path | None = None  # folder of a LoRA adapter (peft format) to merge into the weights
    tokenizer: Path | None = None  # tokenizer file or folder, for a model without a tokenizer
    overwrite: bool = False  # overwrite an existing target


def run(options: Options) -> None:
    from gollm import formats

    with of_the_words():
        goal = formats.format_to_write(options.target, options.to, options.dtype)
    with formats.open_model(options.source, options.tokenizer) as model:
        if options.merge is not None:
            model = formats.with_adapter(model, options.merge)
        formats.save(model, options.target, options.to, options.dtype, overwrite=options.overwrite)
        with formats.open_model(options.target) as written:
            print(in_a_line(options.target, goal.name, written))
            left_out = [*missing(model, written), *training_state(options.source)]
    if left_out:
        print("left out: " + "; ".join(left_out), file=sys.stderr)


def in_a_line(path: Path, name: str, written: Source) -> str:
    """ "model.gguf: gguf, 123,392 parameters as F32, bpe with 300 tokens, 0.5 MB" """
    from gollm.model.decoder import Decoder

    files = [path] if path.is_file() else [file for file in path.iterdir() if file.is_file()]
    parameters = f"{Decoder(written.config).parameters.n_parameters:,} parameters"
    tokenizer = written.tokenizer
    parts = [
        name,
        f"{parameters} as {written.dtype}" if written.dtype else parameters,
        f"{tokenizer.kind} with {tokenizer.vocab_size:,} tokens" if tokenizer else "no tokenizer",
        f"{sum(file.stat().st_size for file in files) / 1e6:.1f} MB",
    ]
    return f"{path}: {', '.join(parts)}"


def missing(model: Source, written: Source) -> list[str]:
    """What the new file does not have of what the model has."""
    found = []
    if written.tokenizer is None and (model.tokenizer is not None or model.without_tokenizer):
        why = model.without_tokenizer or written.without_tokenizer
        found.append("the tokenizer" + (f" ({why})" if why else ""))
    before, after = model.defaults.to_dict(), written.defaults.to_dict()
    lost = [name.replace("_", " ") for name in before if name not in after]
    if lost:
        found.append("of what the file says about generation: " + ", ".join(lost))
    return found


def training_state(source: Path) -> list[str]:
    """Of a checkpoint that training goes on from: formats hold weights alone."""
    from gollm import formats
    from gollm.formats.box import unboxed
    from gollm.formats.golm import checkpoint_info
    from gollm.formats.golm.model import checkpoint_of
    from gollm.formats.peft import adapter_in

    source = unboxed(source)
    if adapter_in(source) is not None or formats.recognise(source).name != "golm":
        return []
    step = checkpoint_info(checkpoint_of(source) or source)["training_step"]
    return [] if step is None else [f"the training state after step {step:,}"]

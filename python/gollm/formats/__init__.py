"""Models in and out of the formats of others: one module a format.

`open_model` reads any of them, `convert` turns one into another. A file's format is told by its content.
"""

from __future__ import annotations

import importlib
import os
from pathlib import Path

from gollm import tokenizers
from gollm.errors import FormatError, TokenizerError, warn
from gollm.formats import peft
from gollm.formats.box import in_the_box, unboxed
from gollm.formats.hub import on_the_hub
from gollm.formats.opening import first_bytes
from gollm.formats.source import ModelFormat, Source, StorageType
from gollm.system.files import as_path, reason, refuse_pointer
from gollm.system.strict_json import shorten
from gollm.tokenizers import Tokenizer

# Each module has a FORMAT; looked at in this order. A package that a format needs is imported when it is used.
_MODULES = {
    "golm": "golm.model",
    "huggingface": "huggingface.model",
    "gguf": "gguf.model",
    "llm.c": "flat.llmc",
    "json": "json_weights",
    "llama2.c": "flat.llama2c",  # after those that begin with a magic number: its oldest version has none
}
NAMES = tuple(_MODULES)
__all__ = ["NAMES", "ModelFormat", "Source", "StorageType", "convert", "format_named", "format_of_target",
           "format_to_write", "open_model", "open_tokenizer", "recognise", "save", "with_adapter"]  # fmt: skip
_ENDINGS = {".golm": "golm", ".gguf": "gguf", ".json": "json"}  # of names that can be one format only


def format_named(name: str) -> ModelFormat:
    """The format of this name. Raises FormatError for an unknown one."""
    if not isinstance(name, str) or name not in _MODULES:
        raise FormatError(f"the format is {shorten(name)}; it must be one of {', '.join(_MODULES)}")
    found: ModelFormat = importlib.import_module(f"gollm.formats.{_MODULES[name]}").FORMAT
    return found


def recognise(path: str | Path) -> ModelFormat:
    """The format of what is at `path`. Raises FormatError where there is nothing, or nothing that is known."""
    path = unboxed(as_path(path, FormatError))
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        raise FormatError(f"there is no file or folder {path}{in_the_box(path) or on_the_hub(path)}") from None
    except (OSError, ValueError) as failure:
        why = reason(failure) if isinstance(failure, OSError) else failure
        raise FormatError(f"cannot read {path}: {why}") from None
    found = _recognised(path)
    if found is not None:
        return found
    hint = ""
    if path.is_dir():
        inside = sorted(config.parent.name for config in path.glob("*/config.json"))
        hint = f"; there is one in its folder {inside[0]}" if inside else ""
    else:
        refuse_pointer(path, first_bytes(path, 64), FormatError)
    raise FormatError(f"{path} is no model in a format that gollm reads: {', '.join(_MODULES)}{hint}")


def _recognised(path: Path) -> ModelFormat | None:
    return next((found for found in map(format_named, _MODULES) if found.recognises(path)), None)


def open_tokenizer(path: str | Path) -> Tokenizer:
    """The tokenizer in a file or folder: one by itself (gollm.tokenizers.load), or that of a model in any format.

    Raises TokenizerError where there is none that can be read, FormatError for a model that is damaged."""
    path = unboxed(as_path(path, TokenizerError))
    if not os.path.lexists(path):
        raise TokenizerError(f"there is no file or folder {path}{in_the_box(path) or on_the_hub(path)}")
    found = _recognised(path)
    if found is None or found.read_tokenizer is None or path.is_dir():  # it may be no model after all
        try:
            return tokenizers.load(path)
        except TokenizerError:
            if found is None:
                raise
    if found.read_tokenizer is not None:
        tokenizer, without = found.read_tokenizer(path)
    else:
        with found.read(path) as source:
            tokenizer, without = source.tokenizer, source.without_tokenizer
    if tokenizer is None:
        if without:
            raise TokenizerError(f"{path} has no tokenizer that gollm can use: {without}")
        raise TokenizerError(f"{path} has no tokenizer inside; name one with --tokenizer")
    return tokenizer


def open_model(
    path: str | Path, tokenizer: Tokenizer | str | Path | None = None, *, any_tokenizer: bool = False
) -> Source:
    """The model at `path`, whatever its format, or the one that comes with gollm ("shakespeare"); with `tokenizer` (or
    one in a file: `open_tokenizer`) for its own. Of an adapter of peft, or a run with one, it is the base model with
    the adapter added.

    Raises FormatError for a model that is damaged or not supported, and for a tokenizer with more tokens than it has,
    or (unless `any_tokenizer`) with far fewer; TokenizerError for a tokenizer that cannot be read."""
    path = unboxed(as_path(path, FormatError))
    folder = peft.adapter_in(path)
    if folder is not None:
        source = open_model(peft.base_of(folder), tokenizer, any_tokenizer=any_tokenizer)
        try:
            return peft.merged(source, folder)
        except BaseException:
            source.close()
            raise
    given = tokenizer if tokenizer is None or isinstance(tokenizer, Tokenizer) else open_tokenizer(tokenizer)
    source = recognise(path).read(path)
    rows = source.config.vocab_size
    if given is not None:
        if given.vocab_size > rows:
            source.close()
            raise FormatError(
                f"the tokenizer has {_beyond(given, rows)}, and the model {path} has only {rows:,}; the tokenizer "
                "belongs to another model"
            )
        if not any_tokenizer and rows - given.vocab_size > padding_of(given.vocab_size):
            source.close()
            raise FormatError(
                f"the tokenizer has {given.vocab_size:,} tokens, and the model {path} has {rows:,}, many more than "
                "padding adds; the tokenizer belongs to another model (--force, or any_tokenizer=True, takes it)"
            )
        source.tokenizer, source.without_tokenizer = given, ""
    elif source.tokenizer is not None and source.tokenizer.vocab_size > rows:
        warn(
            f"{path}: its tokenizer has {_beyond(source.tokenizer, rows)}, and the model has only {rows:,}; a text "
            "with such a token cannot be computed"
        )
    return source


def padding_of(n: int) -> int:
    """The most rows that an embedding may have beyond its tokenizer's n tokens: models are padded to multiples of 128
    and more, Phi's 50,295 tokens to 51,200.

    >>> padding_of(1_000), padding_of(50_295)
    (127, 1571)
    """
    return max(127, n // 32)


def _beyond(tokenizer: Tokenizer, rows: int) -> str:
    """ "365 tokens, '<pad>' (364) among them": the last one that has no row in the embedding, a special one first."""
    index = max((i for i in tokenizer.special_tokens.values() if i >= rows), default=tokenizer.vocab_size - 1)
    return f"{tokenizer.vocab_size:,} tokens, {shorten(tokenizer.decode([index]))} ({index}) among them"


def format_of_target(path: str | Path) -> ModelFormat:
    """The format that a new file's or folder's name asks for. Raises FormatError where it may be several."""
    path = as_path(path, FormatError)
    if os.path.isdir(path) or not path.suffix:
        return format_named("huggingface")
    if path.suffix not in _ENDINGS:
        raise FormatError(
            f"the ending of {path.name} does not say which format to write; name one of {', '.join(_MODULES)} with --to"
        )
    return format_named(_ENDINGS[path.suffix])


def format_to_write(target: str | Path, to: str | None = None, dtype: StorageType | None = None) -> ModelFormat:
    """The format of a target, by name or else by its ending. Raises FormatError for a dtype that it does not have."""
    goal = format_of_target(target) if to is None else format_named(to)
    if dtype is not None and dtype not in goal.dtypes:
        raise FormatError(f"dtype is {shorten(dtype)}; {goal.name} is written as {', '.join(goal.dtypes)}")
    return goal


def save(
    source: Source,
    target: str | Path,
    to: str | None = None,
    dtype: StorageType | None = None,
    *,
    overwrite: bool = False,
) -> None:
    """Writes a model to `target`, one weight after the other: a new file or folder appears whole or not at all.

    `to` is the name of the format, told by the target's ending where there is none; `dtype` what matrices are stored
    as: unless given, quantised ones as they are where the format has such, the others as is usual in the format. Only
    with `overwrite` is something replaced. Raises FormatError."""
    if not isinstance(source, Source):
        raise FormatError(f"the model is {shorten(source)}; it must be a Source, which open_model returns")
    target = as_path(target, FormatError)
    goal = format_to_write(target, to, dtype)
    if source.config.labels and goal.name != "golm":
        raise FormatError(f"this model is a classifier, which {goal.name} has no form for; write it as golm")
    if os.path.exists(target) and not _is_empty_folder(target):
        if not overwrite:
            raise FormatError(f"{target} is there already; choose another name, or replace it with --overwrite")
        if target.is_dir() and not goal.recognises(target):
            raise FormatError(f"the folder {target} holds something else than a {goal.name} model; it is not replaced")
    goal.write(source if dtype is None else source.as_dtype(dtype), target, dtype or goal.dtypes[0])


def _is_empty_folder(path: Path) -> bool:
    try:
        return not os.listdir(path)
    except OSError:  # a file, or a folder that cannot be read
        return False


def convert(
    source: str | Path,
    target: str | Path,
    to: str | None = None,
    dtype: StorageType | None = None,
    *,
    merge: str | Path | None = None,
    overwrite: bool = False,
) -> None:
    """Writes the model at `source` to `target`; see `save`. `merge` is the folder of an adapter that is added to its
    weights first. Raises FormatError."""
    with open_model(source) as model:
        save(model if merge is None else with_adapter(model, merge), target, to, dtype, overwrite=overwrite)


def with_adapter(source: Source, folder: str | Path) -> Source:
    """The same model with the adapter of a folder, or of a run's folder, added to its weights. Raises FormatError."""
    found = peft.adapter_in(as_path(folder, FormatError))
    if found is None:
        raise FormatError(f"there is no adapter in {folder}: no adapter_config.json")
    return peft.merged(source, found)

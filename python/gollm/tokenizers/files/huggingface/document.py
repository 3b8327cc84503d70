"""What all tokenizer.json have in common: version, added tokens, merges, and the template around a text."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from gollm.errors import TokenizerError, warn
from gollm.system.strict_json import shorten
from gollm.tokenizers.base import Tokenizer
from gollm.tokenizers.files.added_tokens import write_list


def refuse(path: Path, what: str, value: Any, allowed: str, *, of: str = "byte-level BPE") -> TokenizerError:
    return TokenizerError(f"{path}: {what} is {json.dumps(value)[:80]}; supported is {of} with {allowed}")


def type_of(part: Any) -> str | None:
    kind = part.get("type") if isinstance(part, dict) else None
    return kind if isinstance(kind, str) else None


def steps_of(part: Any, key: str, path: Path) -> list[dict[str, Any]]:
    """The parts of a Sequence, or the one part, or none."""
    if part is None:
        return []
    steps = part.get(key) if type_of(part) == "Sequence" else [part]
    if not isinstance(steps, list) or len(steps) > 16 or not all(type_of(step) for step in steps):
        raise refuse(path, f"a part with {key}", part, "a list of up to 16 parts of known types")
    return steps


def warn_of_limits(document: dict[str, Any], path: Path) -> None:
    """Says once what is left out: they concern batches, and no text's ids."""
    found = [key for key in ("truncation", "padding") if document.get(key) is not None]
    if found:
        warn(f"{path}: {' and '.join(found)} left out; a text is neither cut nor filled up")


def read_merges(merges: Any, path: Path) -> list[tuple[str, str]]:
    """Written "left right" by old versions, ["left", "right"] by new ones."""
    if not isinstance(merges, list):
        raise TokenizerError(f"{path}: the model has no list of merges")
    pairs: list[tuple[str, str]] = []
    for merge in merges:
        parts = merge.split(" ") if isinstance(merge, str) else merge
        if not isinstance(parts, list) or len(parts) != 2 or not all(isinstance(part, str) and part for part in parts):
            raise TokenizerError(f"{path}: merge {len(pairs)} is {json.dumps(merge)[:80]}; it must be two tokens")
        pairs.append((parts[0], parts[1]))
    return pairs


def in_order(vocab: Mapping[str, int], path: Path) -> list[str]:
    """The tokens by their ids, which are 0 to V - 1. Raises TokenizerError for others."""
    names: list[str | None] = [None] * len(vocab)
    for token, index in vocab.items():
        if not 0 <= index < len(vocab) or names[index] is not None:
            raise TokenizerError(
                f"{path}: token {shorten(token)} has id {index}; {len(vocab)} tokens need an id each, from 0 on"
            )
        names[index] = token
    return [name for name in names if name is not None]


def read_template(part: Any, path: Path) -> tuple[list[int], list[int]]:
    """The ids that a post-processor puts before and behind a text."""
    prefix: list[int] = []
    suffix: list[int] = []
    for step in steps_of(part, "processors", path):
        if step["type"] == "TemplateProcessing":
            before, behind = _read_template(step, path)
        elif step["type"] in ("RobertaProcessing", "BertProcessing"):
            before, behind = [_token_and_id(step.get("cls"), path)], [_token_and_id(step.get("sep"), path)]
        elif step["type"] == "ByteLevel":
            continue
        else:
            raise refuse(path, "post_processor", step, "TemplateProcessing, RobertaProcessing, ByteLevel or none")
        prefix, suffix = before + prefix, suffix + behind
    return prefix, suffix


def _token_and_id(value: Any, path: Path) -> int:
    if isinstance(value, list) and len(value) == 2 and type(value[1]) is int:
        return value[1]
    raise refuse(path, "a token of the post_processor", value, "a token and its id")


def _read_template(step: dict[str, Any], path: Path) -> tuple[list[int], list[int]]:
    pieces, known = step.get("single"), step.get("special_tokens")
    sides: list[list[int]] = [[]]
    for piece in pieces if isinstance(pieces, list) else []:
        kind, what = next(iter(piece.items())) if isinstance(piece, dict) and len(piece) == 1 else (None, None)
        name = what.get("id") if isinstance(what, dict) else None
        token = known.get(name) if isinstance(known, dict) and isinstance(name, str) else None
        ids = token.get("ids") if isinstance(token, dict) else None
        if kind == "Sequence" and name == "A":
            sides.append([])
        elif kind == "SpecialToken" and isinstance(ids, list) and all(type(i) is int for i in ids):
            sides[-1] += ids
        else:
            raise refuse(path, "a piece of the template", piece, "special tokens and Sequence A")
    if len(sides) != 2:
        raise refuse(path, "the template", pieces, "Sequence A once in it")
    return sides[0], sides[1]


def write_template(tokenizer: Tokenizer, names: Mapping[int, str] | Sequence[str]) -> dict[str, Any] | None:
    """names: how ids are spelled."""
    prefix, suffix = ([names[index] for index in ids] for ids in (tokenizer.prefix, tokenizer.suffix))
    if not prefix and not suffix:
        return None
    ids = dict(zip([*prefix, *suffix], [*tokenizer.prefix, *tokenizer.suffix], strict=True))

    def around(sequence: str, kind: int) -> list[dict[str, Any]]:
        before, behind = (
            [{"SpecialToken": {"id": name, "type_id": kind}} for name in side] for side in (prefix, suffix)
        )
        return [*before, {"Sequence": {"id": sequence, "type_id": kind}}, *behind]

    return {
        "type": "TemplateProcessing",
        "single": around("A", 0),
        "pair": around("A", 0) + around("B", 1),
        "special_tokens": {name: {"id": name, "ids": [index], "tokens": [name]} for name, index in ids.items()},
    }


def to_json(
    tokenizer: Tokenizer, path: Path, more_tokens: Iterable[dict[str, Any]] = (), **parts: Any
) -> dict[Path, bytes]:
    """The file. more_tokens: added ones beside the tokenizer's. parts: normalizer, pre_tokenizer, post_processor,
    decoder, model, in this order."""
    added = sorted([*write_list(tokenizer), *more_tokens], key=lambda token: token["id"])
    head = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added}
    return {path: json.dumps(head | parts, ensure_ascii=False).encode()}

"""The parts of Hugging Face's tokenizer.json around the model, for byte-level BPE; what is not supported is refused."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gollm.errors import TokenizerError
from gollm.system.strict_json import shorten
from gollm.tokenizers.patterns import PATTERNS, REGEXES, Pattern, checked, named

_DIGIT, _DIGITS = r"\p{N}", r"\p{N}+"
_EVERYTHING = r"[\s\S]+"


def refuse(path: Path, what: str, value: Any, allowed: str) -> TokenizerError:
    return TokenizerError(f"{path}: {what} is {json.dumps(value)[:80]}; supported is byte-level BPE with {allowed}")


def type_of(part: Any) -> str | None:
    kind = part.get("type") if isinstance(part, dict) else None
    return kind if isinstance(kind, str) else None


def _steps(part: Any, key: str, path: Path) -> list[dict[str, Any]]:
    """The parts of a Sequence, or the one part, or none."""
    if part is None:
        return []
    steps = part.get(key) if type_of(part) == "Sequence" else [part]
    if not isinstance(steps, list) or len(steps) > 16 or not all(type_of(step) for step in steps):
        raise refuse(path, f"a part with {key}", part, "a list of up to 16 parts of known types")
    return steps


# normalizer


def read_normalizer(part: Any, path: Path) -> str | None:
    for step in _steps(part, "normalizers", path):
        if step["type"] != "NFC":
            raise refuse(path, "normalizer", step, "NFC or none")
    return "NFC" if _steps(part, "normalizers", path) else None


def write_normalizer(normalizer: str | None) -> dict[str, Any] | None:
    return {"type": normalizer} if normalizer else None


# pre-tokenizer


def read_pre_tokenizer(part: Any, path: Path) -> tuple[Pattern, bool]:
    """(pattern, whether a space is put before a text)"""
    steps = _steps(part, "pretokenizers", path)
    if not steps or steps[-1]["type"] != "ByteLevel":
        raise refuse(path, "pre_tokenizer", part, "ByteLevel as its only or last step")
    cuts: list[str] = []
    for step in steps[:-1]:
        if step["type"] == "Split":
            cuts.append(_read_split(step, path))
        elif step["type"] == "Digits":
            cuts.append(_DIGIT if step.get("individual_digits") is True else _DIGITS)
        else:
            raise refuse(path, "a step of the pre_tokenizer", step, "Split, Digits and ByteLevel")
    prefix_space = steps[-1].get("add_prefix_space", True)
    if type(prefix_space) is not bool or (prefix_space and cuts):
        raise refuse(path, "add_prefix_space behind other steps", prefix_space, "false there")
    use_regex = steps[-1].get("use_regex", True)
    if type(use_regex) is not bool:
        raise refuse(path, "use_regex", use_regex, "true or false")
    if use_regex:
        cuts.append("gpt2")
    if cuts == [_DIGIT, "gpt2"]:
        cuts = ["smollm"]
    try:
        return checked(cuts or _EVERYTHING), prefix_space
    except TokenizerError as error:
        raise TokenizerError(f"{path}: {error}") from None


def _read_split(step: dict[str, Any], path: Path) -> str:
    pattern = step.get("pattern")
    kind, text = next(iter(pattern.items())) if isinstance(pattern, dict) and len(pattern) == 1 else (None, None)
    if kind not in ("Regex", "String") or not isinstance(text, str) or not text:
        raise refuse(path, "the pattern of a Split", pattern, "a Regex or a String")
    expression = named(text) if kind == "Regex" else f"(?:{re.escape(text)})"
    behavior, invert = str(step.get("behavior")).lower(), step.get("invert", False)
    # The named patterns leave nothing between their matches: then removing that is the same as keeping it.
    if behavior != "isolated" and not (behavior == "removed" and invert is True and expression in PATTERNS):
        raise refuse(path, "the behavior of a Split", step.get("behavior"), '"Isolated"')
    # Oniguruma reads it there, whose ^ and $ stand at every line, and where {1,3}+ repeats instead of being possessive.
    bare = re.sub(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]", "", text) if kind == "Regex" else ""
    for sign in (r"\{[\d,]+\}\+", r"\^", r"\$"):
        if found := re.search(sign, bare):
            what = found.group()
            if what == "$" and expression == "gpt2":  # there it only ever stands behind all of a run of white space
                continue
            raise refuse(path, f"the pattern of a Split, with {what} in it,", text, f"no {what} there")
    return expression


def write_pre_tokenizer(pattern: Pattern, add_prefix_space: bool) -> dict[str, Any]:
    """Raises TokenizerError for what the format can't say."""
    cuts = [pattern] if isinstance(pattern, str) else list(pattern)
    if cuts[-1] == "smollm":
        cuts[-1:] = [_DIGIT, "gpt2"]
    by_gpt2 = cuts[-1] == "gpt2"
    if by_gpt2:
        cuts.pop()
    if add_prefix_space and cuts:
        raise TokenizerError(
            f"tokenizer.json has no space before a text for the pattern {shorten(pattern)}, only for 'gpt2'"
        )
    parts: list[dict[str, Any]] = []
    for cut in cuts:
        if cut == _DIGIT:
            parts.append({"type": "Digits", "individual_digits": True})
        else:
            parts.append(_split(REGEXES.get(cut, cut)))
    byte_level = _byte_level(add_prefix_space=add_prefix_space, use_regex=by_gpt2)
    return {"type": "Sequence", "pretokenizers": [*parts, byte_level]} if parts else byte_level


def _split(regex: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False}


def _byte_level(*, add_prefix_space: bool = False, use_regex: bool = True) -> dict[str, Any]:
    return {
        "type": "ByteLevel",
        "add_prefix_space": add_prefix_space,
        "trim_offsets": True,
        "use_regex": use_regex,
    }


# decoder


def read_decoder(part: Any, path: Path) -> None:
    for step in _steps(part, "decoders", path):
        if step["type"] != "ByteLevel":
            raise refuse(path, "decoder", step, "ByteLevel or none")


def write_decoder() -> dict[str, Any]:
    return _byte_level()


# post-processor


def read_template(part: Any, path: Path) -> tuple[list[int], list[int]]:
    """The ids that a post-processor puts before and behind a text."""
    prefix: list[int] = []
    suffix: list[int] = []
    for step in _steps(part, "processors", path):
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


def write_post_processor(prefix: Sequence[int], suffix: Sequence[int], names: Mapping[int, str]) -> dict[str, Any]:
    """names: how the ids of the template are spelled."""
    if not prefix and not suffix:
        return _byte_level()
    special = {name: {"id": name, "ids": [index], "tokens": [name]} for index, name in names.items()}

    def around(sequence: str, kind: int) -> list[dict[str, Any]]:
        before, behind = (
            [{"SpecialToken": {"id": names[index], "type_id": kind}} for index in ids] for ids in (prefix, suffix)
        )
        return [*before, {"Sequence": {"id": sequence, "type_id": kind}}, *behind]

    template = {
        "type": "TemplateProcessing",
        "single": around("A", 0),
        "pair": around("A", 0) + around("B", 1),
        "special_tokens": special,
    }
    return {"type": "Sequence", "processors": [_byte_level(), template]}

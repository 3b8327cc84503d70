"""The parts of Hugging Face's tokenizer.json around the model, for byte-level BPE; what is not supported is refused."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from gollm.errors import TokenizerError
from gollm.system.strict_json import shorten
from gollm.tokenizers.files.huggingface.document import refuse, steps_of
from gollm.tokenizers.patterns import PATTERNS, REGEXES, Pattern, checked, named

_DIGIT, _DIGITS = r"\p{N}", r"\p{N}+"
_EVERYTHING = r"[\s\S]+"


# normalizer


def read_normalizer(part: Any, path: Path) -> str | None:
    for step in steps_of(part, "normalizers", path):
        if step["type"] != "NFC":
            raise refuse(path, "normalizer", step, "NFC or none")
    return "NFC" if steps_of(part, "normalizers", path) else None


# pre-tokenizer


def read_pre_tokenizer(part: Any, path: Path) -> tuple[Pattern, bool]:
    """(pattern, whether a space is put before a text)"""
    steps = steps_of(part, "pretokenizers", path)
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
    last = byte_level(add_prefix_space=add_prefix_space, use_regex=by_gpt2)
    return {"type": "Sequence", "pretokenizers": [*parts, last]} if parts else last


def _split(regex: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False}


def byte_level(*, add_prefix_space: bool = False, use_regex: bool = True) -> dict[str, Any]:
    return {
        "type": "ByteLevel",
        "add_prefix_space": add_prefix_space,
        "trim_offsets": True,
        "use_regex": use_regex,
    }


# decoder


def read_decoder(part: Any, path: Path) -> None:
    for step in steps_of(part, "decoders", path):
        if step["type"] != "ByteLevel":
            raise refuse(path, "decoder", step, "ByteLevel or none")

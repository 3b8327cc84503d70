"""Writes csrc/tokenizer/bert_characters.c: what BERT's normalisation and pre-tokenizer do with every code point.

    pip install tokenizers==0.23.3 && python tools/bert_characters.py

The tables are made by asking Hugging Face's tokenizers, character by character, and not from one version of Unicode:
its parts carry tables of several versions, and the ids must be those that BERT's models were trained with.
"""

from __future__ import annotations

from pathlib import Path

from tokenizers import normalizers, pre_tokenizers

BLOCK = 256  # code points per block; a block's 2-bit classes fill one cache line
OTHER, SPACE, PUNCTUATION, REMOVED = range(4)
HANGUL = range(0xAC00, 0xD7A4)  # their decomposition is arithmetic
CODE_POINTS = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]


def normalizer(**on: bool) -> normalizers.BertNormalizer:
    off = {"clean_text": False, "handle_chinese_chars": False, "strip_accents": False, "lowercase": False}
    return normalizers.BertNormalizer(**{**off, **on})


def classes() -> dict[int, int]:
    """Those that are not OTHER. White space that cleaning removes (U+000B, U+000C, U+0085) is SPACE."""
    clean, split = normalizer(clean_text=True), pre_tokenizers.BertPreTokenizer()
    found: dict[int, int] = {}
    for c in CODE_POINTS:
        words = [word for word, _ in split.pre_tokenize_str(f"a{chr(c)}b")]
        if words == ["a", "b"]:
            found[c] = SPACE
        elif len(words) == 3:
            found[c] = PUNCTUATION
        elif clean.normalize_str(chr(c)) == "":
            found[c] = REMOVED
    return found


def replacements(step: normalizers.BertNormalizer) -> list[tuple[int, str]]:
    pairs = [(c, step.normalize_str(chr(c))) for c in CODE_POINTS if c not in HANGUL]
    return [(c, text) for c, text in pairs if text != chr(c)]


def packed_block(found: dict[int, int], first: int) -> bytes:
    """The classes of 256 code points from `first`, four to a byte, the lowest bits first."""
    values = [found.get(c, OTHER) for c in range(first, first + BLOCK)]
    return bytes(sum(values[i + k] << 2 * k for k in range(4)) for i in range(0, BLOCK, 4))


def rows(values: list[str], per_row: int) -> str:
    return "\n".join("    " + ", ".join(values[i : i + per_row]) + "," for i in range(0, len(values), per_row))


def table(name: str, pairs: list[tuple[int, str]]) -> str:
    entries = []
    for c, text in pairs:
        assert len(text) <= 3
        codes = [f"0x{ord(t):X}" for t in text] + ["0"] * (3 - len(text))
        entries.append(f"{{0x{c:X}, {{{', '.join(codes)}}}}}")
    return f"""const struct bert_replacement {name}[{len(entries)}] = {{
{rows(entries, 4)}
}};
const int {name}_n = {len(entries)};
"""


def main() -> None:
    found = classes()
    numbers: dict[bytes, int] = {}
    index = [numbers.setdefault(packed_block(found, first), len(numbers)) for first in range(0, 0x110000, BLOCK)]
    assert len(numbers) <= 256
    blocks = "\n".join(f"    {{\n    {rows(list(map(str, block)), 32).strip()}\n    }}," for block in numbers)
    path = Path(__file__).resolve().parent.parent / "csrc/tokenizer/bert_characters.c"
    path.write_text(
        f"""/* Written by tools/bert_characters.py; do not edit. */
#include "bert_characters.h"

// clang-format off
const uint8_t bert_block[{len(index)}] = {{
{rows(list(map(str, index)), 32)}
}};

const uint8_t bert_classes[{len(numbers)}][{BLOCK // 4}] = {{
{blocks}
}};

{table("bert_stripped", replacements(normalizer(strip_accents=True)))}
{table("bert_lowered", replacements(normalizer(lowercase=True)))}"""
    )


if __name__ == "__main__":
    main()

"""Writes csrc/tokenizer/unicode_classes.c: the class (csrc/tokenizer/unicode.h) of every Unicode code point.

    pip install unicodedata2==16.0.0 && python tools/unicode_classes.py

The version is fixed here, not the running Python's, because the ids must be those of tiktoken 0.14 and Hugging Face's
tokenizers 0.23, whose regular-expression engines both carry Unicode 16.0 (checked code point by code point in
tests/oracle/test_tokenizers.py). A Python whose own unicodedata is 16.0 (3.14) needs no extra package.
"""

from __future__ import annotations

from pathlib import Path

try:
    import unicodedata2 as unicodedata
except ImportError:
    import unicodedata

UNICODE_VERSION = "16.0.0"
BLOCK = 256  # code points per block; a block's 4-bit classes fill two cache lines
OTHER, MARK, NUMBER, SPACE, NEWLINE, UPPER, LOWER, CASELESS = range(8)  # the bits of enum char_class
CLASSES = {"Lu": UPPER, "Lt": UPPER, "Ll": LOWER, "Lm": CASELESS, "Lo": CASELESS, "M": MARK, "N": NUMBER}

# White_Space of the Unicode character database (PropList.txt), which unicodedata does not carry.
WHITE_SPACE = frozenset(
    [*range(0x09, 0x0E), 0x20, 0x85, 0xA0, 0x1680, *range(0x2000, 0x200B), 0x2028, 0x2029, 0x202F, 0x205F, 0x3000]
)


def class_of(code_point: int) -> int:
    if code_point in WHITE_SPACE:
        return NEWLINE if chr(code_point) in "\r\n" else SPACE
    category = unicodedata.category(chr(code_point))
    return CLASSES.get(category) or CLASSES.get(category[0], OTHER)


def packed_block(first: int) -> bytes:
    """The classes of 256 code points from `first`, two to a byte, the lower bits first."""
    classes = [class_of(c) for c in range(first, first + BLOCK)]
    return bytes(low | high << 4 for low, high in zip(classes[::2], classes[1::2], strict=True))


def rows(values: list[int], per_row: int) -> str:
    return "\n".join(
        "    " + ", ".join(map(str, values[i : i + per_row])) + "," for i in range(0, len(values), per_row)
    )


def main() -> None:
    if unicodedata.unidata_version != UNICODE_VERSION:
        raise SystemExit(f"need Unicode {UNICODE_VERSION}, this unicodedata is {unicodedata.unidata_version}")
    numbers: dict[bytes, int] = {}
    index = [numbers.setdefault(packed_block(first), len(numbers)) for first in range(0, 0x110000, BLOCK)]
    assert len(numbers) <= 256
    blocks = "\n".join(f"    {{\n    {rows(list(block), 32).strip()}\n    }}," for block in numbers)
    path = Path(__file__).resolve().parent.parent / "csrc/tokenizer/unicode_classes.c"
    path.write_text(
        f"""/* Written by tools/unicode_classes.py from Unicode {UNICODE_VERSION}; do not edit. */
#include "unicode.h"

// clang-format off
const uint8_t unicode_block[{len(index)}] = {{
{rows(index, 32)}
}};

const uint8_t unicode_classes[{len(numbers)}][{BLOCK // 2}] = {{
{blocks}
}};
"""
    )


if __name__ == "__main__":
    main()

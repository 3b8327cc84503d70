"""JSON of files from outside, read strictly: bounded depth, size and numbers, no duplicate keys, no NaN or infinity."""

from __future__ import annotations

import json
import math
from typing import Any, Final

from gollm.errors import GollmError, warn

MAX_NODES: Final = 500_000  # objects and lists
MAX_DEPTH: Final = 32
_MAX_DIGITS: Final = 400  # of a number: the largest float64 has 309


def shorten(value: object, limit: int = 60) -> str:
    """`repr` of something from outside, in one line and short enough for a message."""
    try:
        text = repr(value if not isinstance(value, str | bytes | list | tuple) else value[: limit + 1])
    except ValueError:  # Python writes no integers of thousands of digits
        text = f"a huge {type(value).__name__}"
    text = text.replace("\n", " ")
    return text if len(text) <= limit else text[: limit - 3] + "..."


def check_nesting(text: bytes, what: str, error: type[GollmError]) -> None:
    """Refuse deep or crowded JSON before a parser recurses into it.

    Brackets count only outside strings: once escaped backslashes and escaped quotes are gone, a byte is inside a
    string when the number of quotes before it is odd. Up to the first syntax error this is exact, and no parser gets
    further.
    """
    if text.count(b"{") + text.count(b"[") > MAX_NODES:
        raise error(f"{what} holds more than {MAX_NODES:,} objects and lists")
    import numpy as np  # late: the command line reads no JSON to show its help

    data = np.frombuffer(text.replace(b"\\\\", b"").replace(b'\\"', b""), np.uint8)
    inside = np.bitwise_xor.accumulate((data == ord('"')).view(np.uint8)).view(np.bool_)
    steps = np.zeros(256, np.int8)
    steps[list(b"[{")], steps[list(b"]}")] = 1, -1
    depth = np.cumsum(np.where(inside, np.int8(0), steps[data]), dtype=np.int32)
    if depth.size and int(depth.max()) > MAX_DEPTH:
        raise error(f"{what} is nested {int(depth.max())} levels deep; at most {MAX_DEPTH} are allowed")


def parse_object(
    text: bytes, what: str, error: type[GollmError], *, unchecked_numbers: bool = False, lenient: bool = False
) -> dict[str, Any]:
    """The JSON object that `text` is. Raises `error` with a sentence about `what` for anything else.

    An integer of more than 20 digits becomes the nearest float64: 1e30 is often written with all its digits. With
    `unchecked_numbers`, which is some times faster for millions of them, floats may be infinite (1e999) and integers of
    any size: the caller checks them. With `lenient`, numbers may be NaN or infinite, and of a key that is there twice
    the last one counts, with one warning."""
    doubles: list[str] = []

    def collect(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(pairs)
        if len(result) != len(pairs):
            seen: set[str] = set()
            double = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
            if not lenient:
                raise error(f"{what} has the key {shorten(double)} twice")
            doubles.append(double)
        return result

    def integer(digits: str) -> float:
        return int(digits) if len(digits) <= 20 else decimal(digits)

    def decimal(digits: str) -> float:
        value = float(digits) if len(digits) <= _MAX_DIGITS else math.inf
        if not (lenient or math.isfinite(value)):
            raise error(f"{what} holds the number {shorten(digits)}, which is not a finite float64")
        return value

    def constant(name: str) -> float:
        if not lenient:
            raise error(f"{what} holds {name}, which is not JSON")
        return float(name)

    check_nesting(text, what, error)
    try:
        value = json.loads(
            text.decode(),
            object_pairs_hook=collect,
            parse_int=None if unchecked_numbers else integer,
            parse_float=None if unchecked_numbers else decimal,
            parse_constant=constant,
        )
    except (ValueError, RecursionError) as failure:
        if isinstance(failure, error):
            raise
        raise error(f"{what} is not JSON in UTF-8 ({failure})") from None
    if not isinstance(value, dict):
        raise error(f"{what} is a JSON {type(value).__name__} instead of an object")
    if doubles:
        warn(f"{what} has the key {shorten(doubles[0])} twice; the last one counts")
    return value

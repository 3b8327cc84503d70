"""The wire format of protocol buffers, as far as SentencePiece's models need it.

A message is a sequence of fields: a key (number << 3 | wire type), then a varint (type 0), 8 bytes (1), a length and so
many bytes (2), or 4 bytes (5). Every length is compared with the bytes that are there. Groups (3, 4) are refused.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import TypeAlias

from gollm.errors import TokenizerError

Value: TypeAlias = int | bytes
"""A varint; or the bytes of a field of any other type."""


def fields(data: bytes) -> Iterator[tuple[int, Value]]:
    """(number, value) of each field, in their order. Raises TokenizerError for what is no message."""
    at, end = 0, len(data)
    while at < end:
        key, at = _varint(data, at)
        number, wire = key >> 3, key & 7
        if wire == 0:
            value, at = _varint(data, at)
            yield number, value
            continue
        if wire == 2:
            size, at = _varint(data, at)
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
        else:
            raise TokenizerError(f"field {number} at byte {at} has wire type {wire}, which is not known")
        if size > end - at:
            raise TokenizerError(f"field {number} at byte {at} is {size} bytes long; {end - at} bytes are left")
        yield number, data[at : at + size]
        at += size


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """The number at `at`, and where it ends: 7 bits a byte, the lowest first."""
    value = 0
    for i, byte in enumerate(data[at : at + 10]):
        value |= (byte & 0x7F) << 7 * i
        if byte < 0x80:
            return value & 0xFFFF_FFFF_FFFF_FFFF, at + i + 1
    raise TokenizerError(f"the number at byte {at} has no end")


def varint(value: int) -> bytes:
    """A number from 0 on."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def number_field(number: int, value: int) -> bytes:
    """A varint; negative ones have all 64 bits."""
    return varint(number << 3) + varint(value & 0xFFFF_FFFF_FFFF_FFFF)


def bytes_field(number: int, value: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(value)) + value


def float_field(number: int, value: float) -> bytes:
    return varint(number << 3 | 5) + struct.pack("<f", value)

"""GPT-2's alphabet, in which JSON files hold bytes as text.

A printable byte is the character of its own number, the other 68 are U+0100, U+0101, ... in order (the space becomes
"Ġ").
"""

from __future__ import annotations

_PRINTABLE = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
_REST = [byte for byte in range(256) if byte not in _PRINTABLE]
CHARACTER_OF_BYTE = {byte: chr(byte) for byte in _PRINTABLE} | {byte: chr(0x100 + i) for i, byte in enumerate(_REST)}
BYTE_OF_CHARACTER = {character: byte for byte, character in CHARACTER_OF_BYTE.items()}


def to_alphabet(token: bytes) -> str:
    """b" the" -> "Ġthe" """
    return "".join([CHARACTER_OF_BYTE[byte] for byte in token])


def from_alphabet(token: str) -> bytes:
    """ "Ġthe" -> b" the"; raises KeyError for a character that stands for no byte."""
    return bytes([BYTE_OF_CHARACTER[character] for character in token])

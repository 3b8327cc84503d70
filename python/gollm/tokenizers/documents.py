"""Documents that come in pieces, such as a reader's chunks, cut again where a tokenizer allows it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from gollm.tokenizers.added_tokens import AddedToken

BATCH_CHARACTERS = 4 << 20


class DocumentPiece(NamedTuple):
    """Part of a document; `first` marks the beginning of one."""

    text: str
    first: bool


def recut(pieces: Iterable[DocumentPiece], cut: Callable[[str], int]) -> Iterator[DocumentPiece]:
    """The same documents in parts that end where `cut` says: the last safe place of a text, whatever follows, or 0.

    What is behind that place is held until more has come. A text without one is looked at again when it is twice as
    long, so that all looks together take linear time.
    """
    held: list[str] = []
    size = wait = 0
    first = True
    for text, begins in pieces:
        if begins:
            if held:
                yield DocumentPiece("".join(held), first)
            held, size, wait, first = [], 0, 0, True
        elif held and size >= wait:
            whole = "".join(held)
            if at := cut(whole):
                yield DocumentPiece(whole[:at], first)
                first = False
            held = [whole[at:]]
            size -= at
            wait = 2 * size
        held.append(text)
        size += len(text)
    if held:
        yield DocumentPiece("".join(held), first)


def batches(parts: Iterable[DocumentPiece]) -> Iterator[list[DocumentPiece]]:
    """Runs of parts of about BATCH_CHARACTERS together: enough to spread over threads."""
    batch: list[DocumentPiece] = []
    characters = 0
    for part in parts:
        batch.append(part)
        characters += len(part[0])
        if characters >= BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def cut_beside_tokens(
    text: str, cut: Callable[[str], int], tokens: Sequence[AddedToken], normalize: Callable[[str], str]
) -> int:
    """The last place that `cut` finds, with an ASCII letter or digit before it and no added token near it, or 0.

    So no token goes across the place, ends at it, or takes white space there, in the text or in the normalized text.
    """
    spellings = {spelling for token in tokens for spelling in (token.spelling, normalize(token.spelling))}
    reach = 64 + 4 * max(map(len, spellings))
    at = len(text) - reach
    for _ in range(64):
        at = cut(text[:at]) if at > 0 else 0
        if not at:
            break
        around = text[max(0, at - reach) : at + reach]
        plain = text[at - 1].isascii() and text[at - 1].isalnum() and around in normalize(around)
        if plain and not any(spelling in around for spelling in spellings):
            return at
        at -= 1
    return 0

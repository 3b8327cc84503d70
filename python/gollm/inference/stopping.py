"""Stop strings in a text that comes in pieces, across their borders."""

from __future__ import annotations

from collections.abc import Sequence


class StopStrings:
    """Ends a text where one of the strings is complete; the string itself is left out. What may be the beginning of one
    is held back. Where the pieces are cut makes no difference.

    >>> stop = StopStrings(["END"])
    >>> [stop.push(piece) for piece in ("one E", "NE", "ND and more")]
    [('one ', False), ('EN', False), ('', True)]
    """

    def __init__(self, strings: Sequence[str]) -> None:
        self._matches = [_Match(string) for string in strings]
        self._held = ""

    def push(self, piece: str) -> tuple[str, bool]:
        """The text that is certain with this piece, and whether it ends there."""
        text, begin, self._held = self._held + piece, len(self._held), ""
        for end, character in enumerate(piece, begin + 1):
            complete = [len(match.string) for match in self._matches if match.push(character)]
            if complete:
                return text[: end - max(complete)], True
        certain = len(text) - max((match.length for match in self._matches), default=0)
        self._held = text[certain:]
        return text[:certain], False

    def finish(self) -> str:
        """The text that was held back, at the end of all pieces."""
        held, self._held = self._held, ""
        return held


class _Match:
    """How many characters of a string the text ends with, by the algorithm of Knuth, Morris and Pratt (1977)."""

    def __init__(self, string: str) -> None:
        self.string = string
        self.length = 0
        # border[n]: the longest shorter beginning of string[:n] that it also ends with
        self._border = border = [0, 0]
        for character in string[1:]:
            border.append(self._next(border[-1], character))

    def push(self, character: str) -> bool:
        """Whether the string is complete with this character."""
        if self.length == len(self.string):
            self.length = self._border[self.length]
        self.length = self._next(self.length, character)
        return self.length == len(self.string)

    def _next(self, length: int, character: str) -> int:
        while length and self.string[length] != character:
            length = self._border[length]
        return length + (self.string[length] == character)

"""SentencePiece's byte-pair encoding: LLaMA-2's, Mistral's and llama2.c's tokenizers."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from enum import IntEnum
from functools import cached_property
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt

from gollm import _native
from gollm.errors import TokenizerError
from gollm.system.strict_json import shorten
from gollm.tokenizers.added_tokens import AddedToken, Finder
from gollm.tokenizers.base import Ids, StreamDecoder, Tokenizer
from gollm.tokenizers.state import State, arguments_of
from gollm.tokenizers.vocabulary import Vocabulary

DummyPrefix: TypeAlias = Literal["always", "missing", "first", "never"]

MARK = "\u2581"
"""What stands for the space in the pieces of files."""


BYTE_NAME = re.compile("<0x[0-9A-F]{2}>")
"""How a byte is spelled in files."""


class PieceType(IntEnum):
    """The numbers of SentencePiece's own files, and LITERAL."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    BYTE = 6
    LITERAL = 7  # a user-defined piece that is spelled with a space: left as it is by the normalisation, but no token


_CONTROL = int(PieceType.CONTROL)  # an IntEnum's members take a while to get
_AS_THEY_ARE = (int(PieceType.BYTE), int(PieceType.LITERAL))
"""A space in these is none that encoding put before a text."""


class SentencePieceTokenizer(Tokenizer):
    """Byte-pair encoding of characters by the scores of pieces, as SentencePiece has it.

    A space is put before the text, and a text begins as its characters; the adjacent pair that makes the piece of the
    highest score is joined, the leftmost of equals, until no two neighbours make a piece. A character that is no piece
    becomes the tokens of its bytes or, where the vocabulary has none, the unknown token. A user-defined piece is found
    wherever it stands in the text, before everything else; as in sentencepiece, one that a file spells
    with a space instead of U+2581 is never found.

    The vocabulary holds what the pieces stand for: spaces instead of U+2581, a byte instead of "<0x0A>". U+2581 in a
    text is a space. The special tokens are the control tokens and the unknown one; `prefix` is the begin token of files
    that have one.
    """

    kind = "sentencepiece"
    title = "SentencePiece"
    rules = ("dummy_prefix", "remove_extra_spaces", "split_spaces", "fuse_unknown")

    def __init__(
        self,
        vocabulary: Vocabulary,
        types: npt.NDArray[np.uint8],
        *,
        scores: npt.NDArray[np.float32] | None = None,
        merges: npt.NDArray[np.int32] | None = None,
        charsmap: npt.NDArray[np.uint8] | None = None,
        dummy_prefix: DummyPrefix = "always",
        remove_extra_spaces: bool = False,
        split_spaces: bool = False,
        fuse_unknown: bool = True,
        added_tokens: Iterable[AddedToken] = (),
        prefix: Sequence[int] = (),
        suffix: Sequence[int] = (),
    ) -> None:
        """types (V): PieceType. Either scores (V), or merges (M, 3): left, right, result; the first listed is joined
        first.

        charsmap: SentencePiece's precompiled normalisation, bytes.
        dummy_prefix: a space before every text ("always"), before one that begins with none ("missing"), the same but
        not behind a special token ("first"), or "never".
        remove_extra_spaces: leading, trailing and doubled ones.
        split_spaces: nothing is joined with the space behind it.
        fuse_unknown: unknown tokens in a row are one.

        Whether all this fits together is checked when text is first encoded; `check` does it now.
        """
        if types.shape != (len(vocabulary),) or (scores is not None and scores.shape != types.shape):
            raise TokenizerError(f"types and scores must have one entry for each of the {len(vocabulary)} tokens")
        if dummy_prefix not in get_args(DummyPrefix):
            known = ", ".join(get_args(DummyPrefix))
            raise TokenizerError(f"dummy_prefix is {shorten(dummy_prefix)}; it must be one of {known}")
        if (scores is None) == (merges is None):
            raise TokenizerError("a SentencePiece tokenizer has either scores or merges")
        self.types = types
        added_tokens = list(added_tokens)
        added = {token.id for token in added_tokens}
        special = np.flatnonzero((types == PieceType.CONTROL) | (types == PieceType.UNKNOWN)).tolist()
        spellings = {vocabulary[token].decode("utf-8", "replace"): token for token in special if token not in added}
        super().__init__(vocabulary, spellings, added_tokens=added_tokens, prefix=prefix, suffix=suffix)
        if self._outside != special:
            raise TokenizerError("control tokens need spellings of their own, and added tokens must be among them")
        self._control_ids = np.flatnonzero(types == PieceType.CONTROL)
        self.scores = scores
        self.merges = merges
        self.charsmap = charsmap
        self.dummy_prefix = dummy_prefix
        self.remove_extra_spaces = remove_extra_spaces
        self.split_spaces = split_spaces
        self.fuse_unknown = fuse_unknown
        self._check_switches("remove_extra_spaces", "split_spaces", "fuse_unknown")

    def _bytes_of(self, token: AddedToken) -> bytes | None:
        if not token.ordinary or not 0 <= token.id < len(self.types):
            return super()._bytes_of(token)
        if self.types[token.id] != PieceType.BYTE:
            return token.spelling.replace(MARK, " ").encode("utf-8", "replace")
        return bytes.fromhex(token.spelling[3:5]) if BYTE_NAME.fullmatch(token.spelling) else None

    def check(self) -> None:
        """Raises TokenizerError if pieces, scores, merges and normalisation don't fit together."""
        self._encoder  # noqa: B018

    # text -> ids

    @cached_property
    def _encoder(self) -> _native.SentencePieceEncoder:
        return _native.SentencePieceEncoder(
            self.vocabulary.tokens,
            self.vocabulary.offsets,
            self.types,
            self.scores,
            self.merges,
            np.zeros(0, np.uint8) if self.charsmap is None else self.charsmap,
            "never" if self.dummy_prefix == "first" or self._normalizes_early else self.dummy_prefix,
            self.remove_extra_spaces,
            self.split_spaces,
            self.fuse_unknown,
        )

    def _cut(self, text: str) -> int:
        if self.remove_extra_spaces and self.dummy_prefix != "always":  # what follows would lose the space at the cut
            return 0
        return self._encoder.cut(text)

    def _continued(self, text: str) -> str:
        """The space that the text begins with is put there by the encoder."""
        return text[1:] if self.dummy_prefix == "always" else text

    def _encode(self, text: str) -> Ids:
        return self._encoder.encode(text)

    def _encode_batch(self, texts: Sequence[str]) -> list[Ids]:
        return self._encoder.encode_batch(texts)

    @property
    def _normalizes_early(self) -> bool:
        """A Prepend normalizer comes before the search for `normalized` added tokens."""
        return self.dummy_prefix in ("always", "never") and any(token.normalized for token in self.added_tokens)

    def _normalize(self, text: str) -> str:
        if not self._normalizes_early or not text or not _is_unicode(text):
            return text
        return (MARK if self.dummy_prefix == "always" else "") + text.replace(" ", MARK)

    def _parts(self, text: str, finders: tuple[Finder | None, Finder | None]) -> list[str | int]:
        parts = super()._parts(text, finders)
        first = parts[0] if parts else 0
        if self.dummy_prefix == "first" and isinstance(first, str) and first and first[0] not in (" ", MARK):
            parts[0] = " " + first if _is_unicode(first) else first
        return parts

    # ids -> text

    def decode_bytes(self, ids: Sequence[int] | npt.NDArray[Any]) -> bytes:
        """The bytes that ids (n) stand for, without the space that encoding puts before a text, or behind a control
        token. Raises TokenizerError for an id outside the vocabulary."""
        data = self.vocabulary.decode(ids)
        if not data or not self._drops_space:
            return data
        array = np.asarray(ids)
        if self.dummy_prefix == "first":
            return self._decode_text(array)
        starts = np.flatnonzero(np.isin(array[:-1], self._control_ids)) + 1
        return b"".join(self._decode_text(text) for text in np.split(array, starts))

    def _decode_text(self, ids: npt.NDArray[Any]) -> bytes:
        first = 0
        while self.remove_extra_spaces and first < len(ids) - 1 and self._is_space(int(ids[first])):
            first += 1
        data = self.vocabulary.decode(ids[first:])
        return data[1:] if data[:1] == b" " and self.types[ids[first]] not in _AS_THEY_ARE else data

    def _is_space(self, token: int) -> bool:
        return self.vocabulary[token] == b" " and self.types[token] not in _AS_THEY_ARE

    @property
    def _drops_space(self) -> bool:
        return self.dummy_prefix != "never" or self.remove_extra_spaces

    def _stream_decoder(self) -> StreamDecoder:
        return _Decoder(self) if self._drops_space else StreamDecoder(self.vocabulary)

    # states

    def to_state(self) -> State:
        header, arrays = super().to_state()
        own = {"types": self.types, "scores": self.scores, "merges": self.merges, "charsmap": self.charsmap}
        return header, arrays | {name: array for name, array in own.items() if array is not None}

    @classmethod
    def from_state(cls, header: Mapping[str, Any], arrays: Mapping[str, npt.NDArray[Any]]) -> SentencePieceTokenizer:
        dtypes = {"types": "uint8", **({"merges": "int32"} if "merges" in arrays else {"scores": "float32"})}
        dtypes |= {"charsmap": "uint8"} if "charsmap" in arrays else {}
        arguments = arguments_of(header, arrays, cls.rules, **dtypes)
        special_tokens = arguments.pop("special_tokens")
        tokenizer = cls(**arguments)
        if special_tokens != tokenizer.special_tokens:
            raise TokenizerError("tokenizer state: special_tokens are not the control tokens and the unknown one")
        return tokenizer


def _is_unicode(text: str) -> bool:
    """Whether there is no lone surrogate in it, which the encoder refuses and whose position it names."""
    try:
        return text.isascii() or bool(text.encode())
    except UnicodeEncodeError:
        return False


class _Decoder(StreamDecoder):
    """Leaves out the spaces that SentencePieceTokenizer.decode_bytes leaves out."""

    def __init__(self, tokenizer: SentencePieceTokenizer) -> None:
        super().__init__(tokenizer.vocabulary)
        self._tokenizer = tokenizer
        self._types = tokenizer.types.tobytes()  # whose items are faster to get than an array's
        self._at_start = True

    def _bytes(self, token: int) -> bytes:
        piece, kind = super()._bytes(token), self._types[token]
        drop = self._at_start and piece[:1] == b" " and kind not in _AS_THEY_ARE
        again = drop and len(piece) == 1 and self._tokenizer.remove_extra_spaces
        begins = kind == _CONTROL and self._tokenizer.dummy_prefix != "first"
        self._at_start = bool(again or begins)
        return piece[1:] if drop else piece

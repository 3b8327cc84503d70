"""What all tokenizers have in common: special tokens, batches, decoding, saving."""

from __future__ import annotations

import codecs
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from gollm import _native
from gollm.errors import TokenizerError
from gollm.tokenizers.vocabulary import Vocabulary

Ids: TypeAlias = npt.NDArray[np.int32]
AllowedSpecial: TypeAlias = Literal["none", "all"] | Collection[str]
State: TypeAlias = tuple[dict[str, Any], dict[str, npt.NDArray[Any]]]

VERSION = 1
"""Of the state and of the JSON file."""

_WORTH_A_THREAD = 1 << 16  # characters; less than that is encoded before a thread has started


class StreamDecoder:
    """Text from ids that come one at a time; a character whose bytes have not all come is held back."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token: int) -> str:
        """The characters that `token` completes, often none. Raises TokenizerError for an id that is no token."""
        return self._utf8.decode(self._vocabulary[int(token)])

    def finish(self) -> str:
        """What is left at the end: U+FFFD if a character stayed incomplete, else nothing."""
        return self._utf8.decode(b"", final=True)


class Tokenizer(ABC):
    """Text to token ids and back.

    Text is a Python str. A lone surrogate in it is no character and raises TokenizerError; everything else is encoded.
    Special tokens, such as "<|endoftext|>", have ids that no text is encoded to: in text their spelling is ordinary
    text, unless the caller allows it with `allowed_special`. `add_special_tokens` puts the ids of the tokenizer's
    template around a text: `prefix` before it and `suffix` behind it, such as the tokens for begin and end. By default
    nothing is put there: a model is trained on, and continues, the ids of the text alone.
    """

    kind: ClassVar[str]
    """"character", "word" or "bpe"."""

    def __init__(
        self,
        vocabulary: Vocabulary,
        special_tokens: Mapping[str, int],
        *,
        prefix: Sequence[int] = (),
        suffix: Sequence[int] = (),
    ) -> None:
        self.vocabulary = vocabulary
        self.prefix = self._template_ids("prefix", prefix)
        """The ids that `add_special_tokens` puts before a text."""
        self.suffix = self._template_ids("suffix", suffix)
        """The ids that `add_special_tokens` puts behind a text."""
        self.special_tokens = dict(special_tokens)
        """Spelling -> id."""
        self._patterns: dict[frozenset[str], re.Pattern[str]] = {}
        for spelling, token in self.special_tokens.items():
            if not isinstance(spelling, str) or type(token) is not int or not 0 <= token < len(vocabulary):
                raise TokenizerError(
                    f"special token {spelling!r} has id {token!r}; it must be text with an id below {len(vocabulary)}"
                )
            if vocabulary[token] != spelling.encode("utf-8", "replace"):
                raise TokenizerError(
                    f"special token {spelling!r} has id {token}, which the vocabulary spells {vocabulary[token]!r}"
                )

    @property
    def vocab_size(self) -> int:
        """V: ids are 0 to V - 1, special tokens included."""
        return len(self.vocabulary)

    def _template_ids(self, name: str, ids: Sequence[int]) -> tuple[int, ...]:
        if not isinstance(ids, list | tuple) or not all(type(i) is int and 0 <= i < self.vocab_size for i in ids):
            raise TokenizerError(f"{name} is {ids!r}; it must be a list of ids from 0 to {self.vocab_size - 1}")
        return tuple(ids)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(vocab_size={self.vocab_size}, special_tokens={list(self.special_tokens)})"

    # text -> ids

    @abstractmethod
    def _encode(self, text: str) -> Ids: ...

    def _encode_batch(self, texts: Sequence[str]) -> list[Ids]:
        return [self._encode(text) for text in texts]

    def encode(
        self, text: str, *, allowed_special: AllowedSpecial = "none", add_special_tokens: bool = False
    ) -> Ids:
        """The ids (n) of a text, int32.

        `allowed_special` says which special tokens the text may contain: "none" (text from outside can't forge them),
        "all", or a collection of spellings; where several match, the longest wins. `add_special_tokens` puts `prefix`
        before the ids and `suffix` behind them. Raises TokenizerError for a lone surrogate, and, in a character
        tokenizer without an unknown token, for a character that is not in the vocabulary.
        """
        ids = self._encode_special(text, self._special_pattern(allowed_special))
        return self._in_template(ids) if add_special_tokens else ids

    def _in_template(self, ids: Ids) -> Ids:
        return np.concatenate([np.array(self.prefix, np.int32), ids, np.array(self.suffix, np.int32)])

    def _encode_special(self, text: str, pattern: re.Pattern[str] | None) -> Ids:
        if pattern is None:
            return self._encode(text)
        parts = pattern.split(text)  # text, special, text, special, ..., text
        encoded = self._encode_batch(parts[::2])
        ids = [encoded[0]]
        for spelling, part in zip(parts[1::2], encoded[1:], strict=True):
            ids += [np.array([self.special_tokens[spelling]], np.int32), part]
        return np.concatenate(ids)

    def encode_batch(
        self,
        texts: Iterable[str],
        *,
        threads: int | None = None,
        allowed_special: AllowedSpecial = "none",
        add_special_tokens: bool = False,
    ) -> list[Ids]:
        """[encode(text) for text in texts], on `threads` threads (default: as many as kernels use)."""
        if isinstance(texts, str):
            raise TokenizerError("encode_batch takes a sequence of texts, not one text; use encode for that")
        if threads is not None and threads < 1:
            raise TokenizerError(f"threads is {threads}; it must be 1 or more")
        texts = list(texts)
        pattern = self._special_pattern(allowed_special)
        if pattern is None:
            batch = self._encode_on_threads(texts, threads or _native.num_threads())
        else:
            batch = [self._encode_special(text, pattern) for text in texts]
        return [self._in_template(ids) for ids in batch] if add_special_tokens else batch

    def _encode_on_threads(self, texts: list[str], threads: int) -> list[Ids]:
        runs = _runs(texts, threads)
        if threads == 1 or len(runs) == 1:
            return self._encode_batch(texts)
        with ThreadPoolExecutor(min(threads, len(runs))) as pool:
            return [ids for run in pool.map(self._encode_batch, runs) for ids in run]

    def _special_pattern(self, allowed: AllowedSpecial) -> re.Pattern[str] | None:
        if isinstance(allowed, str):
            if allowed not in ("none", "all"):
                raise TokenizerError(
                    f'allowed_special is {allowed!r}; it must be "none", "all" or a collection of special tokens'
                )
            spellings = frozenset(self.special_tokens if allowed == "all" else ())
        else:
            spellings = frozenset(allowed)
        if not spellings:
            return None
        if not spellings <= self.special_tokens.keys():
            unknown = min(spellings - self.special_tokens.keys())
            raise TokenizerError(
                f"{unknown!r} is no special token of this tokenizer; it has {list(self.special_tokens)}"
            )
        if spellings not in self._patterns:
            longest_first = sorted(spellings, key=lambda s: (-len(s), s))
            self._patterns[spellings] = re.compile("(" + "|".join(map(re.escape, longest_first)) + ")")
        return self._patterns[spellings]

    # ids -> text

    def decode_bytes(self, ids: Sequence[int] | npt.NDArray[Any]) -> bytes:
        """The bytes that ids (n) stand for. Raises TokenizerError for an id outside of the vocabulary."""
        return self.vocabulary.decode(ids)

    def decode(self, ids: Sequence[int] | npt.NDArray[Any]) -> str:
        """The text that ids (n) stand for; bytes that are not UTF-8 become U+FFFD. Raises as decode_bytes does."""
        return self.decode_bytes(ids).decode("utf-8", "replace")

    def decoder(self) -> StreamDecoder:
        """For ids that come one at a time."""
        return StreamDecoder(self.vocabulary)

    # files and checkpoints

    def _header(self) -> dict[str, Any]:
        """What this kind adds to the header."""
        return {}

    def to_state(self) -> State:
        """(header, arrays): JSON values, and the vocabulary as arrays; the way back is `tokenizers.from_state`."""
        header = {
            "kind": self.kind,
            "version": VERSION,
            "vocab_size": self.vocab_size,
            "special_tokens": self.special_tokens,
            **({"prefix": list(self.prefix)} if self.prefix else {}),
            **({"suffix": list(self.suffix)} if self.suffix else {}),
            **self._header(),
        }
        return header, {"tokens": self.vocabulary.tokens, "offsets": self.vocabulary.offsets}

    @classmethod
    @abstractmethod
    def from_state(cls, header: Mapping[str, Any], arrays: Mapping[str, npt.NDArray[Any]]) -> Tokenizer:
        """The tokenizer that to_state() came from. The arrays are kept as they are. Raises TokenizerError for anything
        that no to_state() returns: a checkpoint may come from anywhere."""

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes one JSON file, which `gollm.tokenizers.load` reads. Raises TokenizerError if it can't be written."""
        from gollm.tokenizers.json_file import write

        write(self, Path(path))

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self).from_state, self.to_state()


def _runs(texts: list[str], threads: int) -> list[list[str]]:
    """The texts in order, in runs of about equal length: a few per thread, so that none waits long for the others."""
    share = max(_WORTH_A_THREAD, sum(map(len, texts)) // (4 * threads))
    runs: list[list[str]] = [[]]
    size = 0
    for text in texts:
        if size >= share:
            runs.append([])
            size = 0
        runs[-1].append(text)
        size += len(text)
    return runs


def with_special_tokens(tokens: Sequence[bytes], special_tokens: Iterable[str]) -> tuple[list[bytes], dict[str, int]]:
    """Ordinary tokens, then special ones. Raises TokenizerError for one that is empty, doubled or ordinary."""
    ids: dict[str, int] = {}
    ordinary = set(tokens)
    if isinstance(special_tokens, str):
        raise TokenizerError(f"special_tokens is {special_tokens!r}; it must be a sequence of spellings")
    for spelling in special_tokens:
        if not isinstance(spelling, str) or not spelling or not spelling.isprintable():
            raise TokenizerError(f"special token {spelling!r} must be printable text of one character or more")
        if spelling in ids or spelling.encode() in ordinary:
            raise TokenizerError(f"special token {spelling!r} is in the vocabulary already; choose another spelling")
        ids[spelling] = len(tokens) + len(ids)
    return [*tokens, *(spelling.encode() for spelling in ids)], ids


def state_arrays(
    header: Mapping[str, Any], arrays: Mapping[str, npt.NDArray[Any]], **wanted: str
) -> list[npt.NDArray[Any]]:
    """The arrays of a state in the order of `wanted` (name=dtype), their dtypes checked and contiguous."""
    if header.get("version") != VERSION:
        raise TokenizerError(
            f"tokenizer state of version {header.get('version')!r}; this gollm reads version {VERSION}"
        )
    if set(arrays) != set(wanted):
        raise TokenizerError(f"tokenizer state with the arrays {sorted(arrays)}; it must have {sorted(wanted)}")
    for name, dtype in wanted.items():
        if not isinstance(arrays[name], np.ndarray) or arrays[name].dtype != np.dtype(dtype):
            raise TokenizerError(f"tokenizer state: array {name!r} must be an array of {dtype}")
    return [np.ascontiguousarray(arrays[name]) for name in wanted]


def state_vocabulary(header: Mapping[str, Any], tokens: npt.NDArray[Any], offsets: npt.NDArray[Any]) -> Vocabulary:
    """The vocabulary of a state, as large as its header says."""
    vocabulary = Vocabulary(tokens, offsets)
    if header.get("vocab_size") != len(vocabulary):
        raise TokenizerError(
            f"tokenizer state: vocab_size is {header.get('vocab_size')!r}, but there are {len(vocabulary)} tokens"
        )
    return vocabulary


def state_special_tokens(header: Mapping[str, Any]) -> dict[str, int]:
    special = header.get("special_tokens")
    if not isinstance(special, dict):
        raise TokenizerError("tokenizer state: special_tokens must be a mapping from text to id")
    return special


def state_template(header: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments `prefix` and `suffix` of a tokenizer, which checks them; none where the state has none."""
    return {key: header[key] for key in ("prefix", "suffix") if key in header}


def state_name(header: Mapping[str, Any], key: str) -> str | None:
    """A text of a header, or None."""
    value = header.get(key)
    if value is not None and not isinstance(value, str):
        raise TokenizerError(f"tokenizer state: {key} is {value!r}; it must be text")
    return value

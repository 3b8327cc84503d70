"""What all tokenizers have in common: special tokens, batches, decoding, states."""

from __future__ import annotations

import codecs
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar, Literal, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from gollm import _native
from gollm.errors import TokenizerError
from gollm.system.strict_json import shorten
from gollm.tokenizers.added_tokens import AddedToken, Finder, added_tokens_of
from gollm.tokenizers.documents import DocumentPiece, batches, cut_beside_tokens, recut
from gollm.tokenizers.state import VERSION, State, arguments_of
from gollm.tokenizers.vocabulary import Vocabulary

Ids: TypeAlias = npt.NDArray[np.int32]
AllowedSpecial: TypeAlias = Literal["none", "all"] | Collection[str]

END_OF_TEXT = ("<|endoftext|>", "<|end_of_text|>", "</s>")
"""Special tokens that end a text, where nothing else says which: the first of these that a tokenizer has."""

_WORTH_A_THREAD = 1 << 16  # characters; less than that is encoded before a thread has started


class Framing(NamedTuple):
    """The ids around each document, wherever a model meets one: in training and validation data, prompts and samples.

    A document is `begin`, its own ids, and `end` where it is known to be over: where another document follows. So a
    corpus of one text is not made longer by an end, and a prompt is a document that goes on."""

    begin: tuple[int, ...] = ()
    end: tuple[int, ...] = ()

    @property
    def start(self) -> tuple[int, ...]:
        """What comes before the first token of a document: its begin, or else the end of the document before."""
        return self.begin or self.end


class StreamDecoder:
    """Text from ids that come one at a time; a character whose bytes have not all come is held back."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token: int) -> str:
        """The characters that `token` completes, often none. Raises TokenizerError for an id that is no token."""
        return self._utf8.decode(self._bytes(int(token)))

    def _bytes(self, token: int) -> bytes:
        return self._vocabulary[token]

    def finish(self) -> str:
        """What is left at the end: U+FFFD if a character stayed incomplete, else nothing."""
        return self._utf8.decode(b"", final=True)


class Tokenizer(ABC):
    """Text to token ids and back.

    Text is a Python str. A lone surrogate in it is no character and raises TokenizerError; everything else is encoded.
    Special tokens, such as "<|endoftext|>", have ids that no text is encoded to: in text their spelling is ordinary
    text, unless the caller allows it with `allowed_special`. `add_special_tokens` puts the ids of the tokenizer's
    template around a text: `prefix` before it and `suffix` after it, such as the tokens for begin and end. `framing`
    has the ids that models see around a document.
    """

    kind: ClassVar[str]
    """"character", "word", "bpe", "sentencepiece" or "wordpiece"."""
    title: ClassVar[str]
    """What messages call the kind."""
    rules: ClassVar[tuple[str, ...]] = ()
    """Arguments of a kind that its states' headers hold."""

    def __init__(
        self,
        vocabulary: Vocabulary,
        special_tokens: Mapping[str, int],
        *,
        added_tokens: Iterable[AddedToken] = (),
        prefix: Sequence[int] = (),
        suffix: Sequence[int] = (),
    ) -> None:
        """added_tokens: those that are not simply special."""
        self.vocabulary = vocabulary
        self.prefix = self._template_ids("prefix", prefix)
        """The ids that `add_special_tokens` puts before a text."""
        self.suffix = self._template_ids("suffix", suffix)
        """The ids that `add_special_tokens` puts behind a text."""
        self.added_tokens = added_tokens_of(special_tokens.items(), added_tokens)
        """Special tokens, and others that are looked for in a text before anything else."""
        self.special_tokens = {token.spelling: token.id for token in self.added_tokens if token.special}
        """Spelling -> id."""
        self._finders: dict[frozenset[tuple[str, str]], tuple[Finder | None, Finder | None]] = {}
        for token in self.added_tokens:
            if not 0 <= token.id < len(vocabulary):
                raise TokenizerError(
                    f"special token {shorten(token.spelling)} has id {token.id}; it must be below {len(vocabulary)}"
                )
            if vocabulary[token.id] != self._bytes_of(token):
                raise TokenizerError(
                    f"special token {shorten(token.spelling)} has id {token.id}, which the vocabulary spells "
                    f"{shorten(vocabulary[token.id])}"
                )

    def _bytes_of(self, token: AddedToken) -> bytes | None:
        """How the vocabulary must spell an added token."""
        return token.spelling.encode("utf-8", "replace")

    @property
    def _outside(self) -> list[int]:
        """The added tokens that no text is encoded to unless they are looked for."""
        return [token.id for token in self.added_tokens if not token.ordinary]

    @property
    def vocab_size(self) -> int:
        """V: ids are 0 to V - 1, special tokens included."""
        return len(self.vocabulary)

    @property
    def written(self) -> list[bytes]:
        """(V): how each token is written behind others."""
        return [self.vocabulary[token] for token in range(self.vocab_size)]

    @property
    def end_of_text(self) -> int | None:
        """The id of the special token that ends a text, if there is one with a usual name."""
        return next((self.special_tokens[name] for name in END_OF_TEXT if name in self.special_tokens), None)

    @property
    def framing(self) -> Framing:
        """The template's prefix before a document, and after it the template's suffix, or else end_of_text."""
        end = self.end_of_text
        return Framing(self.prefix, self.suffix or (() if end is None else (end,)))

    def _check_switches(self, *names: str) -> None:
        for name in names:
            if type(value := getattr(self, name)) is not bool:
                raise TokenizerError(f"{name} is {shorten(value)}; it must be true or false")

    def _check_unknown_token(self, spelling: str) -> None:
        if spelling not in list(self.special_tokens):  # in a state it may be anything
            raise TokenizerError(f"the unknown token {shorten(spelling)} is not among the special tokens")

    def _template_ids(self, name: str, ids: Sequence[int]) -> tuple[int, ...]:
        if not isinstance(ids, list | tuple) or not all(type(i) is int and 0 <= i < self.vocab_size for i in ids):
            raise TokenizerError(f"{name} is {shorten(ids)}; it must be a list of ids from 0 to {self.vocab_size - 1}")
        return tuple(ids)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(vocab_size={self.vocab_size}, special_tokens={list(self.special_tokens)})"

    # text -> ids

    @abstractmethod
    def _encode(self, text: str) -> Ids: ...

    def _encode_batch(self, texts: Sequence[str]) -> list[Ids]:
        return [self._encode(text) for text in texts]

    def _normalize(self, text: str) -> str:
        """What is done to text before it is looked at for `normalized` added tokens."""
        return text

    def _prepare(self, text: str) -> str:
        """What is done to text between added tokens."""
        return text

    def _divide(self, text: str, size: int) -> list[str]:
        """A long text in parts of about `size` characters whose ids, joined, are those of the whole."""
        return [text]

    def _cut(self, text: str) -> int:
        """The last place, or 0, where a text can be cut, whatever follows, so that the ids of the parts make up those
        of the whole; added tokens are not thought of."""
        return 0

    def _continued(self, text: str) -> str:
        """What is encoded in place of a text that goes on behind a cut."""
        return text

    def encode(
        self,
        text: str,
        *,
        threads: int | None = None,
        allowed_special: AllowedSpecial = "none",
        add_special_tokens: bool = False,
    ) -> Ids:
        """The ids (n) of a text, int32.

        `allowed_special` says which special tokens the text may contain: "none" (text from outside can't forge them),
        "all", or a collection of spellings; where several match, the longest wins. `add_special_tokens` puts `prefix`
        before the ids and `suffix` behind them. A long text is spread over `threads` threads (default: as many as
        kernels use). Raises TokenizerError for a lone surrogate, and, in a character tokenizer without an unknown
        token, for a character that is not in the vocabulary.
        """
        parts = self._parts(text, self._finders_of(allowed_special))
        ids = self._joined(parts, self._encode_texts([part for part in parts if isinstance(part, str)], threads))
        return self._in_template(ids) if add_special_tokens else ids

    def encode_coded(self, text: str, codes: Mapping[str, str]) -> Ids:
        """The ids of a text where codes[spelling] stands for a special token; its spelling is plain text."""
        parts = self._parts(text, self._finders_for(codes))
        return self._joined(parts, self._encode_texts([part for part in parts if isinstance(part, str)], None))

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
        finders = self._finders_of(allowed_special)
        parts = [self._parts(text, finders) for text in texts]
        encoded = self._encode_texts([part for text in parts for part in text if isinstance(part, str)], threads)
        if finders == (None, None):  # each text is one part
            batch = encoded
        else:
            left = iter(encoded)
            batch = [self._joined(text, [next(left) for part in text if isinstance(part, str)]) for text in parts]
        return [self._in_template(ids) for ids in batch] if add_special_tokens else batch

    def encode_pieces(self, pieces: Iterable[DocumentPiece]) -> Iterator[tuple[Ids, bool]]:
        """The ids of documents whose text comes in pieces: (text, whether a document begins with it).

        The ids come in parts, again with whether a document begins; those of a document together are
        `encode(document)`, wherever the pieces were cut. Some megabytes of text are held at a time, but a document is
        held as a whole where the tokenizer knows no safe place to cut it: behind a regular expression of one's own, or
        if pieces of SentencePiece go across words.
        """
        for batch in batches(recut(pieces, self._safe_cut)):
            ids = self.encode_batch([text if first else self._continued(text) for text, first in batch])
            yield from zip(ids, [first for _, first in batch], strict=True)

    def _safe_cut(self, text: str) -> int:
        always = [token for token in self.added_tokens if not token.special]
        return cut_beside_tokens(text, self._cut, always, self._normalize) if always else self._cut(text)

    def _parts(self, text: str, finders: tuple[Finder | None, Finder | None]) -> list[str | int]:
        """A text as the ids of the added tokens in it and the texts between them."""
        if not isinstance(text, str):
            raise TypeError(f"text must be a str, not {type(text).__name__}")
        before, behind = finders
        if before is None and behind is None:
            return [self._prepare(self._normalize(text))]
        parts: list[str | int] = []
        for part in before.split(text) if before else [text]:
            if isinstance(part, int):
                parts.append(part)
                continue
            part = self._normalize(part)
            found = behind.split(part) if behind else [part]
            parts += [self._prepare(one) if isinstance(one, str) else one for one in found]
        return parts

    def _joined(self, parts: list[str | int], encoded: list[Ids]) -> Ids:
        """The ids of a text, given its parts and the ids of those that are text."""
        if len(parts) == 1 and encoded:
            return encoded[0]
        texts = iter(encoded)
        ids = [np.array([part], np.int32) if isinstance(part, int) else next(texts) for part in parts]
        return np.concatenate([np.zeros(0, np.int32), *ids])

    def _in_template(self, ids: Ids) -> Ids:
        return np.concatenate([np.array(self.prefix, np.int32), ids, np.array(self.suffix, np.int32)])

    def _encode_texts(self, texts: list[str], threads: int | None) -> list[Ids]:
        if threads is not None and threads < 1:
            raise TokenizerError(f"threads is {threads}; it must be 1 or more")
        size = sum(map(len, texts))
        if size <= _WORTH_A_THREAD or threads == 1:
            return [self._encode(texts[0])] if len(texts) == 1 else self._encode_batch(texts)
        threads = threads or _native.num_threads()
        share = max(_WORTH_A_THREAD, size // (4 * threads))
        divided = [self._divide(text, share) if len(text) > 2 * share else [text] for text in texts]
        runs = _runs([part for parts in divided for part in parts], share)
        if threads == 1 or len(runs) == 1:
            return [self._encode(texts[0])] if len(texts) == 1 else self._encode_batch(texts)
        with ThreadPoolExecutor(min(threads, len(runs))) as pool:
            encoded = iter([ids for run in pool.map(self._encode_batch, runs) for ids in run])
        return [
            next(encoded) if len(parts) == 1 else np.concatenate([next(encoded) for _ in parts]) for parts in divided
        ]

    def _finders_of(self, allowed: AllowedSpecial) -> tuple[Finder | None, Finder | None]:
        """What looks for added tokens before and behind the normalizer."""
        if isinstance(allowed, str):
            if allowed not in ("none", "all"):
                raise TokenizerError(
                    f'allowed_special is {shorten(allowed)}; it must be "none", "all" or a collection of special tokens'
                )
            spellings = frozenset(self.special_tokens if allowed == "all" else ())
        else:
            spellings = frozenset(allowed)
        return self._finders_for({spelling: spelling for spelling in spellings})

    def _finders_for(self, spelled: Mapping[str, str]) -> tuple[Finder | None, Finder | None]:
        """The same for special tokens that are spelled so in the text."""
        key = frozenset(spelled.items())
        if key not in self._finders:
            if not spelled.keys() <= self.special_tokens.keys():
                unknown = min(spelled.keys() - self.special_tokens.keys())
                raise TokenizerError(
                    f"{shorten(unknown)} is no special token of this tokenizer; it has {list(self.special_tokens)}"
                )
            looked_for = [
                (token, spelled.get(token.spelling, token.spelling))
                for token in self.added_tokens
                if not token.special or token.spelling in spelled
            ]
            # No normalizer is for a code.
            behind = [token for token, spelling in looked_for if token.normalized and spelling == token.spelling]
            before = [(token, spelling) for token, spelling in looked_for if token not in behind]
            self._finders[key] = (
                Finder([token for token, _ in before], [spelling for _, spelling in before]) if before else None,
                Finder(behind, [self._normalize(token.spelling) for token in behind]) if behind else None,
            )
        return self._finders[key]

    # ids -> text

    def decode_bytes(self, ids: Sequence[int] | npt.NDArray[Any]) -> bytes:
        """The bytes that ids (n) stand for. Raises TokenizerError for an id outside the vocabulary."""
        return self.vocabulary.decode(ids)

    def decode(self, ids: Sequence[int] | npt.NDArray[Any]) -> str:
        """The text that ids (n) stand for; bytes that are not UTF-8 become U+FFFD. Raises as decode_bytes does."""
        return self.decode_bytes(ids).decode("utf-8", "replace")

    def count_bytes(self, ids: npt.NDArray[Any]) -> int:
        """The bytes of the text that ids (n) stand for; special tokens stand for none. Raises as decode_bytes does."""
        return len(self.decode_bytes(ids[~np.isin(ids, list(self.special_tokens.values()))]))

    def decoder(self, after: Iterable[int] = ()) -> StreamDecoder:
        """For ids that come one at a time, behind the ids `after`, such as a prompt's."""
        decoder = self._stream_decoder()
        for token in after:
            decoder.push(token)
        return decoder

    def _stream_decoder(self) -> StreamDecoder:
        return StreamDecoder(self.vocabulary)

    # states

    def _header(self) -> dict[str, Any]:
        """What this kind adds to the header."""
        return {name: getattr(self, name) for name in self.rules}

    def to_state(self) -> State:
        """(header, arrays): JSON values, and the vocabulary as arrays; the way back is `tokenizers.from_state`."""
        others = [token.to_header() for token in self.added_tokens if not token.plain]
        header = {
            "kind": self.kind,
            "version": VERSION,
            "vocab_size": self.vocab_size,
            "special_tokens": self.special_tokens,
            **({"added_tokens": others} if others else {}),
            **({"prefix": list(self.prefix)} if self.prefix else {}),
            **({"suffix": list(self.suffix)} if self.suffix else {}),
            **self._header(),
        }
        return header, {"tokens": self.vocabulary.tokens, "offsets": self.vocabulary.offsets}

    @classmethod
    def from_state(cls, header: Mapping[str, Any], arrays: Mapping[str, npt.NDArray[Any]]) -> Tokenizer:
        """The tokenizer that to_state() came from. The arrays are kept as they are. Raises TokenizerError for anything
        that no to_state() returns: a checkpoint may come from anywhere."""
        return cls(**arguments_of(header, arrays, cls.rules))

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self).from_state, self.to_state()


def _runs(texts: list[str], share: int) -> list[list[str]]:
    """The texts in order, in runs of about equal length: a few per thread, so that none waits long for the others."""
    runs: list[list[str]] = [[]]
    size = 0
    for text in texts:
        if size >= share:
            runs.append([])
            size = 0
        runs[-1].append(text)
        size += len(text)
    return runs

"""SentencePiece's own file (tokenizer.model): a protocol buffer, ModelProto of sentencepiece_model.proto.

Read are the pieces with scores and types, and what the trainer's and the normaliser's settings say about encoding. BPE
is supported; other models, and settings that change ids in other ways, are refused by name.
"""

from __future__ import annotations

import struct
from dataclasses import replace
from pathlib import Path

import numpy as np

from gollm.errors import TokenizerError
from gollm.system.strict_json import shorten
from gollm.tokenizers.files import side_files
from gollm.tokenizers.files.added_tokens import place
from gollm.tokenizers.files.format import TokenizerFile, TokenizerFormat, naming, read_bytes
from gollm.tokenizers.files.piece_scores import scores_of
from gollm.tokenizers.files.protobuf import Value, bytes_field, fields, float_field, number_field
from gollm.tokenizers.files.side_files import Beside
from gollm.tokenizers.sentencepiece import MARK, PieceType, SentencePieceTokenizer
from gollm.tokenizers.vocabulary import MAX_VOCAB_SIZE, Vocabulary

_PIECES, _TRAINER, _NORMALIZER, _DENORMALIZER = 1, 2, 3, 5  # fields of ModelProto
_PIECE, _SCORE, _TYPE = 1, 2, 3  # of a piece
_MODEL_TYPE, _VOCAB_SIZE, _SPACE_AS_SUFFIX, _BYTE_FALLBACK = 3, 4, 24, 35  # of the trainer's settings
_UNKNOWN_ID, _BEGIN_ID, _END_ID, _PAD_ID = 40, 41, 42, 43
_NAME, _CHARSMAP, _DUMMY_PREFIX, _REMOVE_SPACES, _ESCAPE_SPACES = 1, 2, 3, 4, 5  # of the normaliser's

_BPE = 2
_MODEL_TYPES = {1: "unigram", 2: "bpe", 3: "word", 4: "char"}
_UNUSED = 5
_BYTE_OF_NAME = {b"<0x%02X>" % byte: bytes([byte]) for byte in range(256)}
_KNOWN_TYPES = frozenset(PieceType) - {PieceType.LITERAL}


def recognises(file: TokenizerFile) -> bool:
    """Whether a file may be a ModelProto: it begins with a piece, which begins with its text."""
    head = file.first_bytes
    return len(head) >= 3 and head[0] == head[2] == 0x0A and head[1] != ord("{")


def read(file: TokenizerFile) -> SentencePieceTokenizer:
    """Raises TokenizerError for a file that is damaged or that needs what is not supported."""
    path = file.path
    with naming(path):
        tokenizer = _parse(read_bytes(path))
        beside = side_files.read(path.parent) if path.name == "tokenizer.model" else None
        return tokenizer if beside is None else _with_added(tokenizer, beside, path)


def _parse(data: bytes) -> SentencePieceTokenizer:
    pieces: list[tuple[bytes, float, int]] = []
    trainer: dict[int, Value] = {}
    normalizer: dict[int, Value] = {}
    for number, value in fields(data):
        if number == _PIECES:
            if len(pieces) == MAX_VOCAB_SIZE:
                raise TokenizerError(f"more than {MAX_VOCAB_SIZE} pieces; no tokenizer is that large")
            pieces.append(_piece(len(pieces), _message("a piece", value)))
        elif number == _TRAINER:
            trainer.update(fields(_message("trainer_spec", value)))
        elif number == _NORMALIZER:
            normalizer.update(fields(_message("normalizer_spec", value)))
        elif number == _DENORMALIZER and dict(fields(_message("denormalizer_spec", value))).get(_CHARSMAP):
            raise TokenizerError("the model has a denormalizer_spec that changes text, which is not supported")
    _check_trainer(trainer)
    if not _number(normalizer, _ESCAPE_SPACES, 1):
        raise TokenizerError("the model has escape_whitespaces off, which is not supported")
    tokens = [token_of(i, text, kind_of(text, kind)) for i, (text, _, kind) in enumerate(pieces)]
    types = np.array([kind_of(text, kind) for text, _, kind in pieces], np.uint8)
    if bool((types == PieceType.BYTE).any()) != bool(_number(trainer, _BYTE_FALLBACK, 0)):
        raise TokenizerError("byte_fallback must be on if, and only if, there are pieces for bytes")
    charsmap = normalizer.get(_CHARSMAP, b"")
    if not isinstance(charsmap, bytes):
        raise TokenizerError("normalizer_spec: precompiled_charsmap must be bytes")
    begin = _number(trainer, _BEGIN_ID, 1)
    tokenizer = SentencePieceTokenizer(
        Vocabulary.of(tokens),
        types,
        scores=np.array([score for _, score, _ in pieces], np.float32),
        charsmap=np.frombuffer(charsmap, np.uint8) if charsmap else None,
        dummy_prefix="always" if _number(normalizer, _DUMMY_PREFIX, 1) else "never",
        remove_extra_spaces=bool(_number(normalizer, _REMOVE_SPACES, 1)),
        prefix=(begin,) if begin < len(types) and types[begin] == PieceType.CONTROL else (),
    )
    tokenizer.check()
    return tokenizer


def _with_added(tokenizer: SentencePieceTokenizer, beside: Beside, path: Path) -> SentencePieceTokenizer:
    """With the added tokens of the files beside it behind the pieces. They are looked for in the text as it is."""
    assert tokenizer.scores is not None
    tokens, types, added = list(tokenizer.vocabulary), tokenizer.types.tolist(), []
    pieces = map(piece_of, tokens, types)
    vocab = {piece.decode("utf-8", "replace"): i for i, piece in enumerate(pieces)}
    n = len(tokens)
    for token in sorted(place(beside.tokens, vocab, path), key=lambda token: token.id):
        kind = PieceType(types[token.id]) if token.id < n else PieceType.CONTROL
        if kind == PieceType.USER_DEFINED:  # found everywhere already
            continue
        if token.id >= n:
            if token.id != len(tokens):
                raise TokenizerError(f"the added token {token.spelling!r} has id {token.id}; {len(tokens)} is next")
            tokens.append(token.spelling.encode())
            types.append(int(kind))
        added.append(replace(token, normalized=False, ordinary=kind in (PieceType.NORMAL, PieceType.BYTE)))
    template = beside.template(vocab)
    dummy_prefix = tokenizer.dummy_prefix
    if len(tokens) > n and beside.kind == "LlamaTokenizer" and dummy_prefix == "always":
        dummy_prefix = "missing" if beside.settings.get("legacy") is True else "first"  # that class' Metaspace
    return SentencePieceTokenizer(
        Vocabulary.of(tokens),
        np.array(types, np.uint8),
        scores=np.concatenate([tokenizer.scores, np.zeros(len(tokens) - n, np.float32)]),
        charsmap=tokenizer.charsmap,
        dummy_prefix=dummy_prefix,
        remove_extra_spaces=tokenizer.remove_extra_spaces,
        added_tokens=[token for token in added if not token.plain],
        prefix=template.get("prefix", tokenizer.prefix),
        suffix=template.get("suffix", ()),
    )


def _message(name: str, value: Value) -> bytes:
    if not isinstance(value, bytes):
        raise TokenizerError(f"{name} is no message")
    return value


def _number(message: dict[int, Value], field: int, default: int) -> int:
    value = message.get(field, default)
    if not isinstance(value, int):
        raise TokenizerError(f"field {field} must be a number")
    return value


def _piece(index: int, data: bytes) -> tuple[bytes, float, int]:
    """(text, score, type)"""
    message = dict(fields(data))
    text, score = message.get(_PIECE, b""), message.get(_SCORE, b"\0\0\0\0")
    kind = _number(message, _TYPE, PieceType.NORMAL)
    if not isinstance(text, bytes) or not isinstance(score, bytes) or len(score) != 4:
        raise TokenizerError(f"piece {index} must have a text and a score")
    if kind == _UNUSED:
        raise TokenizerError(f"piece {index} is marked as unused, which is not supported")
    if kind not in _KNOWN_TYPES:
        raise TokenizerError(f"piece {index} is of type {kind}, which is not known")
    return text, struct.unpack("<f", score)[0], kind


def kind_of(text: bytes, kind: int) -> int:
    """What a piece of that spelling and type is for SentencePieceTokenizer."""
    return PieceType.LITERAL if kind == PieceType.USER_DEFINED and b" " in text else kind


def token_of(index: int, text: bytes, kind: int) -> bytes:
    """What a piece stands for. Raises TokenizerError."""
    if kind in (PieceType.CONTROL, PieceType.UNKNOWN):
        return text
    if kind == PieceType.LITERAL:
        if MARK.encode() in text:
            raise TokenizerError(f"piece {index} is {text!r}; a piece with spaces and U+2581 is not supported")
        return text
    if kind == PieceType.BYTE:
        if len(text) != 6 or not text.startswith(b"<0x") or not text.endswith(b">"):
            raise TokenizerError(
                f"piece {index} stands for a byte, but is spelled {shorten(text)} instead of <0x00> to <0xFF>"
            )
        try:
            return bytes.fromhex(text[3:5].decode("ascii"))
        except (ValueError, UnicodeDecodeError):
            raise TokenizerError(f"piece {index} stands for a byte, but is spelled {shorten(text)}") from None
    if b" " in text:
        raise TokenizerError(f"piece {index} is {shorten(text)}; a space must be written as U+2581")
    return text.replace(MARK.encode(), b" ")


def _check_trainer(trainer: dict[int, Value]) -> None:
    kind = _number(trainer, _MODEL_TYPE, 1)
    if kind != _BPE:
        raise TokenizerError(f"a SentencePiece model of type {_MODEL_TYPES.get(kind, kind)}; supported is bpe")
    if _number(trainer, _SPACE_AS_SUFFIX, 0):
        raise TokenizerError("the model has treat_whitespace_as_suffix on, which is not supported")


def to_files(tokenizer: SentencePieceTokenizer, path: Path) -> dict[Path, bytes]:
    if tokenizer.dummy_prefix not in ("always", "never") or tokenizer.split_spaces or not tokenizer.fuse_unknown:
        raise TokenizerError(
            f"cannot write {path}: a SentencePiece model has no dummy_prefix {shorten(tokenizer.dummy_prefix)}, "
            "split_spaces or unfused unknown tokens"
        )
    unknown = np.flatnonzero(tokenizer.types == PieceType.UNKNOWN).tolist()
    if not unknown:
        raise TokenizerError(f"cannot write {path}: a SentencePiece model needs an unknown token, this one has none")
    scores, types = scores_of(tokenizer).tolist(), tokenizer.types.tolist()
    out = bytearray()
    for token, score, kind in zip(tokenizer.vocabulary, scores, types, strict=True):
        out += bytes_field(
            _PIECES,
            bytes_field(_PIECE, piece_of(token, kind))
            + float_field(_SCORE, score)
            + number_field(_TYPE, PieceType.USER_DEFINED if kind == PieceType.LITERAL else kind),
        )
    begin = tokenizer.prefix[0] if tokenizer.prefix else -1
    out += bytes_field(
        _TRAINER,
        number_field(_MODEL_TYPE, _BPE)
        + number_field(_VOCAB_SIZE, tokenizer.vocab_size)
        + number_field(_BYTE_FALLBACK, int(PieceType.BYTE in types))
        + number_field(_UNKNOWN_ID, unknown[0])
        + number_field(_BEGIN_ID, begin)
        + number_field(_END_ID, tokenizer.special_tokens.get("</s>", -1))
        + number_field(_PAD_ID, tokenizer.special_tokens.get("<pad>", -1)),
    )
    out += bytes_field(
        _NORMALIZER,
        bytes_field(_NAME, b"identity" if tokenizer.charsmap is None else b"user_defined")
        + (b"" if tokenizer.charsmap is None else bytes_field(_CHARSMAP, tokenizer.charsmap.tobytes()))
        + number_field(_DUMMY_PREFIX, int(tokenizer.dummy_prefix == "always"))
        + number_field(_REMOVE_SPACES, int(tokenizer.remove_extra_spaces))
        + number_field(_ESCAPE_SPACES, 1),
    )
    return {path: bytes(out)}


def piece_of(token: bytes, kind: int) -> bytes:
    """How a token is spelled."""
    if kind == PieceType.BYTE:
        return b"<0x%02X>" % token[0]
    as_it_is = kind in (PieceType.CONTROL, PieceType.UNKNOWN, PieceType.LITERAL)
    return token if as_it_is else token.replace(b" ", MARK.encode())


FORMAT = TokenizerFormat("sentencepiece", recognises, read, (SentencePieceTokenizer,), to_files, (".model",))

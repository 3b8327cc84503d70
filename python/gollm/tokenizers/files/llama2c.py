"""llama2.c's tokenizer.bin (karpathy/llama2.c, tokenizer.py and run.c).

uint32 length of the longest token, then for every token float32 score, int32 length, bytes; all little-endian. The
tokens are SentencePiece's with spaces instead of U+2581: 0 is "<unk>", 1 and 2 are begin and end with a line break on
either side, 3 to 258 are the bytes, "<0x00>" to "<0xFF>".
"""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np

from gollm.errors import TokenizerError
from gollm.system.strict_json import shorten
from gollm.tokenizers.files.format import TokenizerFile, TokenizerFormat, naming, read_bytes
from gollm.tokenizers.files.piece_scores import scores_of
from gollm.tokenizers.sentencepiece import PieceType, SentencePieceTokenizer
from gollm.tokenizers.vocabulary import MAX_VOCAB_SIZE, Vocabulary

_ENTRY = struct.Struct("<fi")
_FIRST_BYTE = 3
_HEAD = [b"<unk>", b"\n<s>\n", b"\n</s>\n", *(b"<0x%02X>" % byte for byte in range(256))]
_HEAD_TOKENS = [b"<unk>", b"<s>", b"</s>", *(bytes([byte]) for byte in range(256))]
_HEAD_TYPES = [PieceType.UNKNOWN, PieceType.CONTROL, PieceType.CONTROL, *[PieceType.BYTE] * 256]


def recognises(file: TokenizerFile) -> bool:
    """Whether a file may be a tokenizer.bin: the length of its longest token is below 65536, and no text has zeros."""
    return len(file.first_bytes) >= 4 and file.first_bytes[2:4] == b"\0\0"


def read(file: TokenizerFile, vocab_size: int | None = None) -> SentencePieceTokenizer:
    """The tokenizer of a file, which must have `vocab_size` tokens if that is given. Raises TokenizerError."""
    path = file.path
    data = read_bytes(path)
    at = 4
    tokens: list[bytes] = []
    scores: list[float] = []
    while at < len(data):
        if len(tokens) == MAX_VOCAB_SIZE:
            raise TokenizerError(f"{path}: more than {MAX_VOCAB_SIZE} tokens; no tokenizer is that large")
        if len(data) - at < _ENTRY.size:
            raise TokenizerError(f"{path}: the file ends inside token {len(tokens)}")
        score, length = _ENTRY.unpack_from(data, at)
        at += _ENTRY.size
        if not 0 < length <= len(data) - at:
            raise TokenizerError(
                f"{path}: token {len(tokens)} is {length} bytes long; {len(data) - at} bytes are left in the file"
            )
        tokens.append(data[at : at + length])
        scores.append(score)
        at += length
    if vocab_size is not None and len(tokens) != vocab_size:
        raise TokenizerError(
            f"{path} has {len(tokens)} tokens, but {vocab_size} are wanted; it belongs to another model"
        )
    if tokens[: len(_HEAD)] != _HEAD:
        wrong = next((i for i, token in enumerate(_HEAD) if tokens[i : i + 1] != [token]), 0)
        found = repr(tokens[wrong]) if wrong < len(tokens) else "missing"
        raise TokenizerError(
            f"{path} is no tokenizer.bin of llama2.c: token {wrong} is {found}; it must be {shorten(_HEAD[wrong])}"
        )
    types = np.full(len(tokens), PieceType.NORMAL, np.uint8)
    types[: len(_HEAD)] = _HEAD_TYPES
    with naming(path):
        tokenizer = SentencePieceTokenizer(
            Vocabulary.of(_HEAD_TOKENS + tokens[len(_HEAD) :]), types, scores=np.array(scores, np.float32), prefix=(1,)
        )
        tokenizer.check()
    return tokenizer


def to_files(tokenizer: SentencePieceTokenizer, path: Path) -> dict[Path, bytes]:
    """Raises TokenizerError for a tokenizer that llama2.c would not read as it is."""
    tokens = list(tokenizer.vocabulary)
    normal = tokenizer.types[len(_HEAD) :] == PieceType.NORMAL
    if (
        tokens[: len(_HEAD)] != _HEAD_TOKENS
        or tokenizer.types[: len(_HEAD)].tolist() != _HEAD_TYPES
        or not normal.all()
    ):
        raise TokenizerError(
            f"cannot write {path}: llama2.c needs <unk>, <s>, </s> and the 256 bytes as tokens 0 to 258, and "
            "nothing but ordinary pieces behind them"
        )
    if tokenizer.dummy_prefix != "always" or tokenizer.remove_extra_spaces or tokenizer.charsmap is not None:
        raise TokenizerError(
            f"cannot write {path}: llama2.c puts a space before every text and changes nothing else in it; this "
            "tokenizer does otherwise"
        )
    tokens[: len(_HEAD)] = _HEAD
    entries = zip(tokens, scores_of(tokenizer).tolist(), strict=True)
    data = b"".join(_ENTRY.pack(score, len(token)) + token for token, score in entries)
    return {path: struct.pack("<I", max(map(len, tokens))) + data}


FORMAT = TokenizerFormat("llama2.c", recognises, read, (SentencePieceTokenizer,), to_files, ("tokenizer.bin",))

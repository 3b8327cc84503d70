"""tiktoken's rank files (*.tiktoken); LLaMA-3's tokenizer.model is one too.

    IQ== 0
    Ig== 1
    ...
    IHRoZQ== 262

One line a token: its bytes in base64, its rank, which is its id. tiktoken joins the adjacent pair that makes the token
of the lowest rank, however that token may be divided into two, and takes a piece that is a token as it stands. Special
tokens and the pattern are not in the file: they are arguments, here as there. An empty token has an id, but no text.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from gollm.errors import TokenizerError
from gollm.system.strict_json import shorten
from gollm.tokenizers.bpe import BPETokenizer
from gollm.tokenizers.files.format import TokenizerFile, TokenizerFormat, naming, read_bytes
from gollm.tokenizers.vocabulary import MAX_VOCAB_SIZE, Vocabulary

_NOT_BASE64 = re.compile(rb"[^A-Za-z0-9+/=]")  # tiktoken's loader passes over it, a byte order mark too
_MAX_WORK = 1 << 32  # bytes looked at while tokens are divided: the sum of their lengths squared


_LINE = re.compile(rb"(?:\xef\xbb\xbf)?[\r\n]*[ \t]*[A-Za-z0-9+/]*={0,2}[ \t]+\d+[ \t]*[\r\n]")


def recognises(file: TokenizerFile) -> bool:
    return _LINE.match(file.first_bytes) is not None


def read(
    file: TokenizerFile,
    pattern: str | Sequence[str] | None = None,
    special_tokens: Mapping[str, int] | Iterable[str] = (),
) -> BPETokenizer:
    path = file.path
    if pattern is None:
        raise TokenizerError(
            f"{path} is a rank file of tiktoken, which does not say how text is cut into pieces; give its pattern, for "
            'example tokenizers.load(path, pattern="cl100k")'
        )
    ranks = _ranks(path)
    with naming(path):
        special = _special(special_tokens, ranks)
        tokens = [b""] * (max([*ranks.values(), *special.values()]) + 1)
        for token, rank in ranks.items():
            tokens[rank] = token
        for spelling, index in special.items():
            if tokens[index]:
                raise TokenizerError(f"special token {shorten(spelling)} has id {index}, which is another token's")
            tokens[index] = spelling.encode("utf-8", "replace")
        merges = np.array(splits(ranks), np.int32).reshape(-1, 3)
        tokenizer = BPETokenizer(
            Vocabulary.of(tokens), merges, special, pattern, ignore_merges=True, lowest_id_first=True
        )
        tokenizer.check()
    return tokenizer


def _ranks(path: Path) -> dict[bytes, int]:
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(read_bytes(path).splitlines(), 1):
        if not line:
            continue
        parts = line.split()
        try:
            spelled, rank = _NOT_BASE64.sub(b"", parts[0]), int(parts[1][:10])
            token = base64.b64decode(spelled) if spelled.strip(b"=") else b""  # Whisper's has a line "= 50256"
            if len(parts) != 2 or not parts[1].isdigit() or not 0 <= rank < MAX_VOCAB_SIZE:
                raise ValueError
        except (IndexError, ValueError):  # binascii.Error is a ValueError
            shown = shorten(line.decode("utf-8", "replace"))
            raise TokenizerError(
                f"{path}, line {number}: {shown} is not a token in base64, a space and a rank below {MAX_VOCAB_SIZE}"
            ) from None
        if ranks.setdefault(token, rank) != rank:
            raise TokenizerError(f"{path}, line {number}: the token {shorten(token)} has two ranks")
    if len(set(ranks.values())) < len(ranks):
        raise TokenizerError(f"{path}: two tokens have the same rank")
    for byte in range(256):
        if bytes([byte]) not in ranks:
            raise TokenizerError(f"{path}: there is no token for the byte 0x{byte:02x}; tiktoken needs all 256")
    return ranks


def _special(special_tokens: Mapping[str, int] | Iterable[str], ranks: Mapping[bytes, int]) -> dict[str, int]:
    if isinstance(special_tokens, str):
        raise TokenizerError(
            f"special_tokens is {shorten(special_tokens)}; it must be spellings, or spellings with their ids"
        )
    if not isinstance(special_tokens, Mapping):
        special_tokens = {spelling: i for i, spelling in enumerate(special_tokens, max(ranks.values()) + 1)}
    for spelling, index in special_tokens.items():
        if not isinstance(spelling, str) or type(index) is not int or not 0 <= index < MAX_VOCAB_SIZE:
            raise TokenizerError(
                f"special token {shorten(spelling)} has id {shorten(index)}; it must be text with an id"
            )
    return dict(special_tokens)


def splits(ranks: Mapping[bytes, int]) -> list[tuple[int, int, int]]:
    """All (left, right, result) in which a token is two others: what tiktoken may join.

    >>> splits({b"a": 0, b"b": 1, b"ab": 2, b"aba": 3, b"ba": 4})
    [(0, 1, 2), (0, 4, 3), (2, 0, 3), (1, 0, 4)]
    """
    work = sum(len(token) ** 2 for token in ranks)
    if work > _MAX_WORK:
        raise TokenizerError("the tokens are too long for a vocabulary; divided in all ways they would take forever")
    rows: list[tuple[int, int, int]] = []
    for token, rank in ranks.items():
        for cut in range(1, len(token)):
            left = ranks.get(token[:cut])
            if left is not None and (right := ranks.get(token[cut:])) is not None:
                rows.append((left, right, rank))
    return rows


def to_files(tokenizer: BPETokenizer, path: Path) -> dict[Path, bytes]:
    refuse_other_ids(tokenizer)
    lines = [f"{base64.b64encode(token).decode()} {rank}\n" for token, rank in _ordinary(tokenizer).items()]
    return {path: "".join(lines).encode()}


def _ordinary(tokenizer: BPETokenizer) -> dict[bytes, int]:
    outside = set(tokenizer._outside)
    ranks: dict[bytes, int] = {}
    for index, token in enumerate(tokenizer.vocabulary):
        if token and index not in outside and ranks.setdefault(token, index) != index:
            raise TokenizerError(
                f"tokens {ranks[token]} and {index} are the same, {shorten(token)}; tiktoken has each once"
            )
    return ranks


def refuse_other_ids(tokenizer: BPETokenizer) -> None:
    """Raises TokenizerError where tiktoken would give other ids."""
    for name in ("normalizer", "add_prefix_space", "unknown_token"):
        if getattr(tokenizer, name):
            raise TokenizerError(f"tiktoken has no {name}, and this tokenizer's is {shorten(getattr(tokenizer, name))}")
    if not isinstance(tokenizer.pattern, str):
        raise TokenizerError(f"tiktoken has one pattern, and this tokenizer {len(tokenizer.pattern)}")
    for added in tokenizer.added_tokens:
        if not added.plain:
            raise TokenizerError(
                f"tiktoken has special tokens only, and {shorten(added.spelling)} is of another kind: {added}"
            )
    ranks = _ordinary(tokenizer)
    for byte in range(256):
        if bytes([byte]) not in ranks:
            raise TokenizerError(f"tiktoken needs a token for each byte, and this tokenizer has none for 0x{byte:02x}")
    results = tokenizer.merges[:, 2]
    falls = np.flatnonzero(np.diff(results) < 0)
    if len(falls) and not tokenizer.lowest_id_first:
        first, second = results[falls[0]], results[falls[0] + 1]
        raise TokenizerError(
            f"tiktoken joins the pair first that makes the lowest id, and this tokenizer's merge {falls[0]} makes "
            f"token {first}, the next one {second}: its ranks are not in the order of its ids"
        )
    # A token that merging does not make must have all its divisions among the merges, as tiktoken has them.
    unreached = {tokenizer.vocabulary[token]: token for token in tokenizer.unreached()}
    merges = {(left, right) for left, right, _ in tokenizer.merges.tolist()}
    for token, index in unreached.items():
        parts = ((token[:cut], token[cut:]) for cut in range(1, len(token)))
        known = [(ranks[left], ranks[right]) for left, right in parts if left in ranks and right in ranks]
        if not tokenizer.ignore_merges or not merges.issuperset(known):
            raise TokenizerError(
                f"token {index}, {shorten(token)}, is made by no merges; tiktoken would make it wherever its bytes are"
            )


FORMAT = TokenizerFormat("tiktoken", recognises, read, (BPETokenizer,), to_files, (".tiktoken",))

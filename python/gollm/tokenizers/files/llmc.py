"""llm.c's gpt2_tokenizer.bin (karpathy/llm.c, write_tokenizer in train_gpt2.py).

256 int32: 20240328, version, number of tokens, and in version 2 the token that ends a text; then for each token a byte
with its length, and its bytes. llm.c only decodes with it; as GPT-2's ids are the order in which its merges were
learned, the file says how to encode, too.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from gollm.errors import TokenizerError
from gollm.system.strict_json import shorten
from gollm.tokenizers.bpe import BPETokenizer
from gollm.tokenizers.files import tiktoken
from gollm.tokenizers.files.format import TokenizerFile, TokenizerFormat, naming, read_bytes
from gollm.tokenizers.vocabulary import MAX_VOCAB_SIZE, Vocabulary

MAGIC = 20240328
_HEADER = 1024
_GPT2_END = 50256  # in version 1, which does not say
_PATTERN = "gpt2"
_MAX_WORK = 1 << 23  # the sum of all tokens' lengths squared, bytes that are looked at; GPT-2's is a third of it


def recognises(file: TokenizerFile) -> bool:
    return file.first_bytes.startswith(MAGIC.to_bytes(4, "little"))


def read(file: TokenizerFile, vocab_size: int | None = None) -> BPETokenizer:
    """The tokenizer of a file, which has at most `vocab_size` tokens if that is given. Raises TokenizerError."""
    path = file.path
    data = read_bytes(path)
    if not recognises(file) or len(data) < _HEADER:
        raise TokenizerError(f"{path} is no gpt2_tokenizer.bin of llm.c: it does not begin as one")
    version, n, end = (int(value) for value in np.frombuffer(data, "<i4", 3, 4))
    if version not in (1, 2):
        raise TokenizerError(f"{path}: its version is {version}; gollm reads 1 and 2")
    if version == 1:
        end = _GPT2_END
    if not 0 <= end < n <= MAX_VOCAB_SIZE:
        raise TokenizerError(
            f"{path}: it has {n} tokens, of which {end} ends a text; at most {MAX_VOCAB_SIZE} are possible"
        )
    if vocab_size is not None and n > vocab_size:
        raise TokenizerError(
            f"{path} has {n} tokens, but {vocab_size} at most are possible; it belongs to another model"
        )
    tokens: list[bytes] = []
    at = _HEADER
    for token in range(n):
        length = data[at] if at < len(data) else 0
        if not length or at + 1 + length > len(data):
            raise TokenizerError(f"{path}: the file ends inside token {token}, or it is empty")
        tokens.append(data[at + 1 : at + 1 + length])
        at += 1 + length
    if at != len(data):
        raise TokenizerError(f"{path}: {len(data) - at} bytes are left behind its {n} tokens")
    ranks = {token: i for i, token in enumerate(tokens) if i != end}
    if len(ranks) != n - 1:
        raise TokenizerError(f"{path}: two of its tokens are the same")
    with naming(path):
        merges = np.array(_merges(ranks), np.int32).reshape(-1, 3)
        tokenizer = BPETokenizer(Vocabulary.of(tokens), merges, {tokens[end].decode("utf-8", "replace"): end}, _PATTERN)
        tokenizer.check()
    return tokenizer


def _merges(ranks: Mapping[bytes, int]) -> list[tuple[int, int, int]]:
    """(left, right, result) for each token of more than one byte: the two that the merges before its own leave of it.

    >>> letters = {bytes([i]): i for i in range(256)}
    >>> _merges({**letters, b"ab": 256, b"bc": 257, b"abc": 258})
    [(97, 98, 256), (98, 99, 257), (256, 99, 258)]
    """
    for byte in range(256):
        if bytes([byte]) not in ranks:
            raise TokenizerError(f"there is no token for the byte 0x{byte:02x}")
    if sum(len(token) ** 2 for token in ranks) > _MAX_WORK:
        raise TokenizerError("its tokens are too long for a vocabulary; finding out how they were made would take long")
    rows: list[tuple[int, int, int]] = []
    for token, rank in sorted(ranks.items(), key=lambda item: item[1]):
        if len(token) == 1:
            continue
        parts = [token[i : i + 1] for i in range(len(token))]
        while len(parts) > 2:
            joined = [ranks.get(a + b, rank) for a, b in itertools.pairwise(parts)]
            lowest = min(joined)
            if lowest >= rank:
                raise TokenizerError(f"no merges of the tokens before token {rank}, {shorten(token)}, lead to it")
            at = joined.index(lowest)
            parts[at : at + 2] = [parts[at] + parts[at + 1]]
        rows.append((ranks[parts[0]], ranks[parts[1]], rank))
    return rows


def to_files(tokenizer: BPETokenizer, path: Path) -> dict[Path, bytes]:
    if tokenizer.pattern != _PATTERN or len(tokenizer.special_tokens) != 1:
        raise TokenizerError(
            f"cannot write {path}: llm.c's tokenizer has GPT-2's pattern and one special token; this one has "
            f"{shorten(tokenizer.pattern)} and {list(tokenizer.special_tokens)}"
        )
    tiktoken.refuse_other_ids(tokenizer)
    tokens = list(tokenizer.vocabulary)
    longest = max(tokens, key=len)
    if len(longest) > 255 or not all(tokens):
        raise TokenizerError(f"cannot write {path}: llm.c's tokens have 1 to 255 bytes, and one has {len(longest)}")
    header = np.zeros(_HEADER // 4, "<i4")
    header[:4] = (MAGIC, 2, len(tokens), *tokenizer.special_tokens.values())
    return {path: header.tobytes() + b"".join(bytes([len(token)]) + token for token in tokens)}


FORMAT = TokenizerFormat("llm.c", recognises, read, (BPETokenizer,), to_files, ("gpt2_tokenizer.bin",))

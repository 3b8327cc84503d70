"""The tokenizer of a GGUF file, its chat template, and what it says about generating.

    tokenizer.ggml.model         "gpt2" byte-level BPE, "llama" SentencePiece, "none" for a model of bare token ids
    tokenizer.ggml.pre           how byte-level BPE cuts text: a name for a pattern
    tokenizer.ggml.tokens        spellings by id; ordinary ones of BPE in GPT-2's byte alphabet
    tokenizer.ggml.token_type    1 ordinary, 2 unknown, 3 control, 4 added, 5 unused, 6 a byte
    tokenizer.ggml.merges        "left right", of BPE
    tokenizer.ggml.bos_token_id, eos_token_id, eot_token_id, eom_token_id, padding_token_id
    tokenizer.ggml.add_bos_token, add_eos_token
    tokenizer.chat_template
    general.sampling.temp, top_k, top_p

Source: src/llama-vocab.cpp of github.com/ggml-org/llama.cpp.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

from gollm.errors import FormatError, TokenizerError
from gollm.generation import GenerationDefaults
from gollm.interop.gguf_config import Key
from gollm.interop.gguf_header import Header
from gollm.tokenizers import BPETokenizer, Tokenizer
from gollm.tokenizers.gpt2_files import build, to_vocab

_GGML = "tokenizer.ggml."
ORDINARY, UNKNOWN, CONTROL, ADDED, UNUSED, BYTE = range(1, 7)
_STOP_KEYS = ("eos_token_id", "eot_token_id", "eom_token_id")

# Names of llama.cpp for patterns that gollm has.
_PATTERNS = {
    "gpt-2": "gpt2", "mpt": "gpt2", "olmo": "gpt2", "phi-2": "gpt2",
}  # fmt: skip

_END_OF_TEXT = "<|endoftext|>"  # of tokenizers that gollm trains

# Embeddings often have some rows more than there are tokens; llama.cpp wants a token for each.
_PADDING = "[PAD{}]"


# --- reading ---------------------------------------------------------------------------------------------------------


def read_tokenizer(header: Header) -> tuple[Tokenizer | None, str]:
    """The tokenizer, or why there is none: token ids are enough for a model to work."""
    model = header.get(_GGML + "model", str, "none")
    if model in ("none", "no_vocab"):
        return None, ""
    try:
        if model == "gpt2":
            return _read_bpe(header), ""
        raise TokenizerError(f"its tokenizer is of the kind {model!r}; gollm reads gpt2 and llama")
    except TokenizerError as error:
        return None, str(error)


def _tokens(header: Header) -> tuple[list[str], list[int]]:
    """Spellings and types, without unused tokens at the end."""
    tokens = header.get(_GGML + "tokens", list)
    types = header.get(_GGML + "token_type", np.ndarray, np.full(len(tokens), ORDINARY))
    if types.shape != (len(tokens),):
        raise TokenizerError(f"its tokenizer has {len(tokens)} tokens and {len(types)} types of tokens")
    n = len(tokens)
    while n and types[n - 1] == UNUSED and re.fullmatch(r"\[PAD\d+\]", tokens[n - 1]):
        n -= 1
    return tokens[:n], types[:n].tolist()


def _read_bpe(header: Header) -> BPETokenizer:
    pre = header.get(_GGML + "pre", str, "default")
    if pre not in _PATTERNS:
        raise TokenizerError(f"its tokenizer cuts text by the rule {pre!r}; gollm knows {', '.join(_PATTERNS)}")
    tokens, types = _tokens(header)
    vocab = {token: i for i, token in enumerate(tokens)}
    if len(vocab) < len(tokens):
        double = next(token for i, token in enumerate(tokens) if vocab[token] != i)
        raise TokenizerError(f"its tokenizer has the token {double!r} twice")
    merges = []
    for merge in header.get(_GGML + "merges", list):
        left, _, right = merge.partition(" ")
        merges.append((left, right))
    special = [token for token, kind in zip(tokens, types, strict=True) if kind not in (ORDINARY, BYTE)]
    tokenizer = build(vocab, merges, special, Path("its tokenizer"))
    prefix, suffix = _template(header, add_bos=False)
    return BPETokenizer(
        tokenizer.vocabulary,
        tokenizer.merges,
        tokenizer.special_tokens,
        _PATTERNS[pre],
        prefix=prefix,
        suffix=suffix,
    )


def _template(header: Header, *, add_bos: bool) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The tokens before and behind a text; `add_bos` is what the kind of tokenizer does by itself."""
    bos = header.get(_GGML + "bos_token_id", int, -1)
    eos = header.get(_GGML + "eos_token_id", int, -1)
    before = header.get(_GGML + "add_bos_token", bool, add_bos) and bos >= 0
    behind = header.get(_GGML + "add_eos_token", bool, False) and eos >= 0
    return (bos,) if before else (), (eos,) if behind else ()


def read_defaults(header: Header, vocab_size: int) -> GenerationDefaults:
    def token(name: str) -> int | None:
        index = header.get(_GGML + name, int, -1)
        return index if 0 <= index < vocab_size else None  # some files have 2^32 - 1 for none

    stop = dict.fromkeys(index for name in _STOP_KEYS if (index := token(name)) is not None)
    temperature = header.get("general.sampling.temp", float, -1.0)
    top_k = header.get("general.sampling.top_k", int, -1)
    top_p = header.get("general.sampling.top_p", float, -1.0)
    return GenerationDefaults(
        stop_tokens=tuple(stop),
        bos_token=token("bos_token_id"),
        pad_token=token("padding_token_id"),
        temperature=temperature if 0 <= temperature < np.inf else None,
        top_k=top_k if top_k >= 0 else None,
        top_p=top_p if 0 < top_p <= 1 else None,
        chat_template=header.get("tokenizer.chat_template", str, "") or None,
    )


# --- writing ---------------------------------------------------------------------------------------------------------


def tokenizer_keys(tokenizer: Tokenizer | None, vocab_size: int, defaults: GenerationDefaults) -> list[Key]:
    """(key, type, value) for a tokenizer and the defaults. FormatError for a tokenizer that GGUF has not."""
    sampling: list[Key] = [
        ("general.sampling.temp", "FLOAT32", defaults.temperature),
        ("general.sampling.top_k", "INT32", defaults.top_k),
        ("general.sampling.top_p", "FLOAT32", defaults.top_p),
        ("tokenizer.chat_template", "STRING", defaults.chat_template),
    ]
    keys = [key for key in sampling if key[2] is not None]
    if tokenizer is None:
        return [*keys, (_GGML + "model", "STRING", "none")]
    if tokenizer.vocab_size > vocab_size:
        raise FormatError(f"the tokenizer has {tokenizer.vocab_size} tokens, and the model only {vocab_size}")
    if not isinstance(tokenizer, BPETokenizer):
        raise FormatError(f"GGUF has no {tokenizer.kind} tokenizers; it holds byte-level BPE and SentencePiece")
    return [*keys, *_bpe_keys(tokenizer, vocab_size), *_token_keys(tokenizer, defaults)]


def _bpe_keys(tokenizer: BPETokenizer, vocab_size: int) -> list[Key]:
    names = {pattern: name for name, pattern in reversed(_PATTERNS.items())}
    if tokenizer.pattern not in names:
        raise FormatError(f"llama.cpp has no name for the pattern {tokenizer.pattern!r} of this tokenizer")
    vocab, merges = to_vocab(tokenizer)
    if not merges:
        raise FormatError("the tokenizer has no merges, and GGUF's list of them cannot be empty")
    special = set(tokenizer.special_tokens.values())
    n_padding = vocab_size - len(vocab)
    return [
        (_GGML + "model", "STRING", "gpt2"),
        (_GGML + "pre", "STRING", names[tokenizer.pattern]),
        (_GGML + "tokens", "STRING", [*vocab, *(_PADDING.format(i) for i in range(len(vocab), vocab_size))]),
        (
            _GGML + "token_type",
            "INT32",
            [CONTROL if i in special else ORDINARY for i in range(len(vocab))] + [UNUSED] * n_padding,
        ),
        (_GGML + "merges", "STRING", [f"{left} {right}" for left, right in merges]),
    ]


def _token_keys(tokenizer: Tokenizer, defaults: GenerationDefaults) -> list[Key]:
    """The ids of tokens with a meaning. llama.cpp takes token 11 for one that is not named: each has to be."""
    if len(tokenizer.prefix) > 1 or len(tokenizer.suffix) > 1:
        raise FormatError(
            f"llama.cpp puts at most one token before and one behind a text, and this tokenizer "
            f"{len(tokenizer.prefix)} and {len(tokenizer.suffix)}"
        )
    end = tokenizer.special_tokens.get(_END_OF_TEXT)
    stop = [*tokenizer.suffix, *defaults.stop_tokens, *([] if end is None else [end])] or [_never(tokenizer)]
    stop = list(dict.fromkeys(stop))
    bos = next(iter([*tokenizer.prefix, *([] if defaults.bos_token is None else [defaults.bos_token]), stop[0]]))
    keys: list[Key] = [(_GGML + "bos_token_id", "UINT32", bos)]
    keys += [(_GGML + name, "UINT32", index) for name, index in zip(_STOP_KEYS, stop, strict=False)]
    if defaults.pad_token is not None:
        keys.append((_GGML + "padding_token_id", "UINT32", defaults.pad_token))
    return [
        *keys,
        (_GGML + "add_bos_token", "BOOL", bool(tokenizer.prefix)),
        (_GGML + "add_eos_token", "BOOL", bool(tokenizer.suffix)),
    ]


def _never(tokenizer: Tokenizer) -> int:
    """A token that no text has: the byte 255, which is not in UTF-8; else the last token."""
    tokens: list[Any] = list(tokenizer.vocabulary)
    return tokens.index(b"\xff") if b"\xff" in tokens else len(tokens) - 1

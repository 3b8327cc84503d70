"""The tokenizer of a GGUF file, its chat template, and what it says about generating.

    tokenizer.ggml.model         "gpt2" byte-level BPE, "llama" SentencePiece, "none" for a model of bare token ids
    tokenizer.ggml.pre           how byte-level BPE cuts text: a name for a pattern
    tokenizer.ggml.tokens        spellings by id: of BPE in GPT-2's byte alphabet, of SentencePiece as in its own files
    tokenizer.ggml.token_type    1 ordinary, 2 unknown, 3 control, 4 added, 5 unused, 6 a byte
    tokenizer.ggml.merges        "left right", of BPE
    tokenizer.ggml.scores        of SentencePiece
    tokenizer.ggml.bos_token_id, eos_token_id, eot_token_id, eom_token_id, unknown_token_id, padding_token_id
    tokenizer.ggml.add_bos_token, add_eos_token, add_space_prefix
    tokenizer.chat_template
    general.sampling.temp, top_k, top_p

There is no place for Unicode normalisation, so that llama.cpp leaves it out.
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
from gollm.strict_json import shorten
from gollm.tokenizers import BPETokenizer, SentencePieceTokenizer, Tokenizer
from gollm.tokenizers.added_tokens import AddedToken
from gollm.tokenizers.base import END_OF_TEXT
from gollm.tokenizers.gpt2_files import build, to_vocab
from gollm.tokenizers.piece_scores import scores_of
from gollm.tokenizers.sentencepiece import PieceType
from gollm.tokenizers.sentencepiece_model import piece_of, token_of
from gollm.tokenizers.vocabulary import Vocabulary

_GGML = "tokenizer.ggml."
ORDINARY, UNKNOWN, CONTROL, ADDED, UNUSED, BYTE = range(1, 7)
_STOP_KEYS = ("eos_token_id", "eot_token_id", "eom_token_id")

_PIECE_TYPES = {int(kind) for kind in PieceType}

# llama.cpp's names -> pattern, and whether a piece that is a token is not merged. The first name of several is written.
_RULES = {
    "gpt-2": ("gpt2", False), "mpt": ("gpt2", False), "olmo": ("gpt2", False), "phi-2": ("gpt2", False),
    "llama-bpe": ("llama3", True), "llama3": ("llama3", True), "llama-v3": ("llama3", True),
    "dbrx": ("llama3", False), "smaug-bpe": ("llama3", False),
    "qwen2": ("qwen2", False), "deepseek-r1-qwen": ("qwen2", False), "stablelm2": ("qwen2", False),
    "gpt-4o": ("o200k", False), "llama4": ("o200k", False),
    "smollm": ("smollm", False), "starcoder": ("smollm", False), "refact": ("smollm", False),
}  # fmt: skip
_NAMES = {rule: name for name, rule in reversed(_RULES.items())} | {
    # No name means cl100k's pattern, which is LLaMA-3's but for white space at the end of a text.
    ("cl100k", True): "llama-bpe",
    ("cl100k", False): "dbrx",
}

# Embeddings often have some rows more than there are tokens; llama.cpp wants a token for each.
_NOTHING = re.compile(r"\[PAD\d+\]")


# --- reading ---------------------------------------------------------------------------------------------------------


def read_tokenizer(header: Header) -> tuple[Tokenizer | None, str]:
    """The tokenizer, or why there is none: token ids are enough for a model to work."""
    model = header.get(_GGML + "model", str, "none")
    if model in ("none", "no_vocab"):
        return None, ""
    try:
        if model == "gpt2":
            return _read_bpe(header), ""
        if model == "llama":
            return _read_sentencepiece(header), ""
        raise TokenizerError(f"its tokenizer is of the kind {shorten(model)}; gollm reads gpt2 and llama")
    except TokenizerError as error:
        return None, str(error)


def _tokens(header: Header) -> tuple[list[str], list[int]]:
    """Spellings and types, without tokens at the end that stand for nothing."""
    tokens = header.get(_GGML + "tokens", list)
    types = header.get(_GGML + "token_type", np.ndarray, np.full(len(tokens), ORDINARY))
    if types.shape != (len(tokens),):
        raise TokenizerError(f"its tokenizer has {len(tokens)} tokens and {len(types)} types of tokens")
    n = len(tokens)
    while n and _is_nothing(tokens[n - 1], types[n - 1]):
        n -= 1
    return tokens[:n], types[:n].tolist()


def _is_nothing(token: str, kind: int) -> bool:
    return kind == UNUSED and _NOTHING.fullmatch(token) is not None


def _read_bpe(header: Header) -> BPETokenizer:
    pre = header.get(_GGML + "pre", str, "default")
    if pre not in _RULES:
        raise TokenizerError(f"its tokenizer cuts text by the rule {shorten(pre)}; gollm knows {', '.join(_RULES)}")
    vocab: dict[str, int] = {}
    added: list[AddedToken] = []
    for i, (token, kind) in enumerate(zip(*_tokens(header), strict=True)):
        if _is_nothing(token, kind):
            continue
        if vocab.setdefault(token, i) != i:
            raise TokenizerError(f"its tokenizer has the token {shorten(token)} twice")
        if kind not in (ORDINARY, BYTE):
            added.append(AddedToken(token, i, special=kind != ADDED))
    merges = [
        (left, right) for left, _, right in (merge.partition(" ") for merge in header.get(_GGML + "merges", list))
    ]
    pattern, ignore_merges = _RULES[pre]
    return build(
        vocab,
        merges,
        added,
        Path("its tokenizer"),
        pattern=pattern,
        ignore_merges=ignore_merges,
        **_template(header, add_bos=pattern == "llama3" and ignore_merges),
    )


def _read_sentencepiece(header: Header) -> SentencePieceTokenizer:
    tokens, types = _tokens(header)
    scores = header.get(_GGML + "scores", np.ndarray)[: len(tokens)].astype(np.float32)
    known = [kind if kind in _PIECE_TYPES else CONTROL for kind in types]
    pieces = [token_of(i, token.encode(), kind) for i, (token, kind) in enumerate(zip(tokens, known, strict=True))]
    tokenizer = SentencePieceTokenizer(
        Vocabulary.of(pieces),
        np.array(known, np.uint8),
        scores=scores,
        dummy_prefix="always" if header.get(_GGML + "add_space_prefix", bool, True) else "never",
        **_template(header, add_bos=True),
    )
    tokenizer.check()
    return tokenizer


def _template(header: Header, *, add_bos: bool) -> dict[str, Any]:
    """The tokens before and behind a text; `add_bos` is what the kind of tokenizer does by itself."""
    bos = header.get(_GGML + "bos_token_id", int, -1)
    eos = header.get(_GGML + "eos_token_id", int, -1)
    before = header.get(_GGML + "add_bos_token", bool, add_bos) and bos >= 0
    behind = header.get(_GGML + "add_eos_token", bool, False) and eos >= 0
    return {"prefix": (bos,) if before else (), "suffix": (eos,) if behind else ()}


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
    if isinstance(tokenizer, BPETokenizer):
        keys += _bpe_keys(tokenizer, vocab_size)
    elif isinstance(tokenizer, SentencePieceTokenizer):
        keys += _sentencepiece_keys(tokenizer, vocab_size)
    else:
        raise FormatError(f"GGUF has no {tokenizer.kind} tokenizers; it holds byte-level BPE and SentencePiece")
    return keys + _id_keys(tokenizer, defaults)


def _bpe_keys(tokenizer: BPETokenizer, vocab_size: int) -> list[Key]:
    rule: Any = (tokenizer.pattern, tokenizer.ignore_merges)
    if rule not in _NAMES or tokenizer.add_prefix_space:
        raise FormatError(
            f"llama.cpp has no name for this tokenizer's rules: pattern {tokenizer.pattern!r}, ignore_merges "
            f"{tokenizer.ignore_merges} and add_prefix_space {tokenizer.add_prefix_space}"
        )
    vocab, merges = to_vocab(tokenizer)
    if not merges:
        raise FormatError("the tokenizer has no merges, and ggml's package writes no empty list of them")
    if tokenizer.lowest_id_first:  # the order of the list is all that the format has
        merges = [merges[i] for i in tokenizer.merges[:, 2].argsort(kind="stable")]
    names = {index: name for name, index in vocab.items()}
    kinds = dict.fromkeys(names, ORDINARY)
    kinds |= {token.id: CONTROL if token.special else ADDED for token in tokenizer.added_tokens}
    return [
        (_GGML + "model", "STRING", "gpt2"),
        (_GGML + "pre", "STRING", _NAMES[rule]),
        *_token_keys(names, kinds, vocab_size),
        (_GGML + "merges", "STRING", [f"{left} {right}" for left, right in merges]),
    ]


def _sentencepiece_keys(tokenizer: SentencePieceTokenizer, vocab_size: int) -> list[Key]:
    if tokenizer.charsmap is not None or tokenizer.remove_extra_spaces:
        raise FormatError("this tokenizer normalises text (charsmap or extra spaces), which llama.cpp does not")
    if tokenizer.split_spaces and any(b" " in token.lstrip(b" ") for token in tokenizer.vocabulary):
        raise FormatError("this tokenizer never joins a space with what is before it, and llama.cpp would")
    kinds = dict(enumerate(tokenizer.types.tolist()))
    pieces = [piece_of(token, kinds[i]) for i, token in enumerate(tokenizer.vocabulary)]
    if len({token for i, token in enumerate(tokenizer.vocabulary) if kinds[i] == BYTE}) < 256:
        raise FormatError("this tokenizer does not have a token for each byte, which llama.cpp needs")
    try:
        scores = scores_of(tokenizer)
        names = {i: piece.decode() for i, piece in enumerate(pieces)}
    except (TokenizerError, UnicodeDecodeError) as error:
        raise FormatError(f"GGUF cannot hold this tokenizer: {error}") from None
    unknown: list[Key] = [(_GGML + "unknown_token_id", "UINT32", i) for i, kind in kinds.items() if kind == UNKNOWN]
    return [
        (_GGML + "model", "STRING", "llama"),
        *_token_keys(names, kinds, vocab_size),
        (_GGML + "scores", "FLOAT32", [*scores.tolist(), *[0.0] * (vocab_size - len(scores))]),
        (_GGML + "add_space_prefix", "BOOL", tokenizer.dummy_prefix != "never"),
        *unknown[:1],
    ]


def _token_keys(names: dict[int, str], kinds: dict[int, int], vocab_size: int) -> list[Key]:
    """Spellings and types, with a spelling for every id that stands for nothing."""
    ids = range(vocab_size)
    return [
        (_GGML + "tokens", "STRING", [names.get(i, f"[PAD{i}]") for i in ids]),
        (_GGML + "token_type", "INT32", [kinds.get(i, UNUSED) for i in ids]),
    ]


def _id_keys(tokenizer: Tokenizer, defaults: GenerationDefaults) -> list[Key]:
    """The ids of tokens with a meaning. llama.cpp takes token 11 for one that BPE does not name: each has to be."""
    if len(tokenizer.prefix) > 1 or len(tokenizer.suffix) > 1:
        raise FormatError(
            f"llama.cpp puts at most one token before and one behind a text, and this tokenizer "
            f"{len(tokenizer.prefix)} and {len(tokenizer.suffix)}"
        )
    ends = [tokenizer.special_tokens[end] for end in END_OF_TEXT if end in tokenizer.special_tokens]
    stop = list(dict.fromkeys([*tokenizer.suffix, *(defaults.stop_tokens or ends)])) or [_never(tokenizer)]
    named = [*tokenizer.prefix, *([] if defaults.bos_token is None else [defaults.bos_token]), stop[0]]
    keys: list[Key] = [(_GGML + "bos_token_id", "UINT32", named[0])]
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
    tokens = list(tokenizer.vocabulary)
    return tokens.index(b"\xff") if b"\xff" in tokens else len(tokens) - 1

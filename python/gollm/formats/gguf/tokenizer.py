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
    tokenizer.chat_template.NAME, tokenizer.chat_templates: further templates and their names
    general.sampling.temp, top_k, top_p, min_p, penalty_repeat

What a file says beside the vocabulary never costs the model: what is odd is left out with a warning.
Source: src/llama-vocab.cpp of github.com/ggml-org/llama.cpp.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

import numpy as np

from gollm.errors import FormatError, TokenizerError, warn
from gollm.formats.gguf.config import Key
from gollm.formats.gguf.header import GGUFHeader
from gollm.formats.gguf.pretokenizers import RULE_NAMES, RULES
from gollm.model.generation_defaults import GenerationDefaults, possible, sound
from gollm.system.strict_json import shorten
from gollm.tokenizers import BPETokenizer, SentencePieceTokenizer, Tokenizer
from gollm.tokenizers.added_tokens import AddedToken
from gollm.tokenizers.base import END_OF_TEXT
from gollm.tokenizers.files.gpt2 import bpe_tokenizer, to_vocab
from gollm.tokenizers.files.piece_scores import scores_of
from gollm.tokenizers.files.sentencepiece import piece_of, token_of
from gollm.tokenizers.sentencepiece import PieceType
from gollm.tokenizers.vocabulary import Vocabulary

_GGML = "tokenizer.ggml."
_TEMPLATE = "tokenizer.chat_template"
ORDINARY, UNKNOWN, CONTROL, ADDED, UNUSED, BYTE = range(1, 7)
_STOP_KEYS = ("eos_token_id", "eot_token_id", "eom_token_id")
_IDS = ("bos_token_id", "unknown_token_id", "padding_token_id", *_STOP_KEYS)
_NO_TOKEN = (-1, 2**32 - 1)

# Key -> the name in GenerationDefaults, and the type.
_SAMPLING: dict[str, tuple[str, type[int] | type[float]]] = {
    "general.sampling.temp": ("temperature", float),
    "general.sampling.top_k": ("top_k", int),
    "general.sampling.top_p": ("top_p", float),
    "general.sampling.min_p": ("min_p", float),
    "general.sampling.penalty_repeat": ("repetition_penalty", float),
}
_TYPES: dict[type, Literal["INT32", "FLOAT32"]] = {int: "INT32", float: "FLOAT32"}

_PIECE_TYPES = {int(kind) for kind in PieceType}

# Embeddings often have some rows more than there are tokens; llama.cpp wants a token for each. Older files call these
# unknown instead of unused.
_NOTHING = re.compile(r"\[PAD\d+\]")


# --- reading ---------------------------------------------------------------------------------------------------------


def read_ids(header: GGUFHeader, vocab_size: int) -> dict[str, int]:
    """The tokens with a meaning, by the names of their keys."""
    tokens = header.values.get(_GGML + "tokens")
    n = len(tokens) if isinstance(tokens, list) else vocab_size
    found: dict[str, int] = {}
    for name in _IDS:
        index = header.side(_GGML + name, int)
        if index is None or index in _NO_TOKEN:
            continue
        if 0 <= index < n:
            found[name] = index
        else:
            warn(f"{header.where}: {_GGML}{name} is {index}, and there are {n} tokens, so it is left out")
    return found


def read_tokenizer(header: GGUFHeader, ids: dict[str, int]) -> tuple[Tokenizer | None, str]:
    """The tokenizer, or why there is none: token ids are enough for a model to work."""
    try:
        model = header.get(_GGML + "model", str, "none")
        if model in ("none", "no_vocab"):
            return None, ""
        if model == "gpt2":
            return _read_bpe(header, ids), ""
        if model == "llama":
            return _read_sentencepiece(header, ids), ""
        raise TokenizerError(f"its tokenizer is of the kind {shorten(model)}; gollm reads gpt2 and llama")
    except (FormatError, TokenizerError) as error:
        return None, str(error)


def _tokens(header: GGUFHeader) -> tuple[list[str], list[int]]:
    """Spellings and types, without tokens at the end that stand for nothing."""
    tokens = header.get(_GGML + "tokens", list)
    types = header.get(_GGML + "token_type", np.ndarray, np.full(len(tokens), ORDINARY))
    if len(types) < len(tokens):
        raise TokenizerError(f"its tokenizer has {len(tokens)} tokens and {len(types)} types of tokens")
    n = len(tokens)
    while n and _is_nothing(tokens[n - 1], types[n - 1]):
        n -= 1
    return tokens[:n], types[:n].tolist()


def _is_nothing(token: str, kind: int) -> bool:
    return kind in (UNKNOWN, UNUSED) and _NOTHING.fullmatch(token) is not None


def _read_bpe(header: GGUFHeader, ids: dict[str, int]) -> BPETokenizer:
    name = header.get(_GGML + "pre", str, "default")
    rule = RULES.get(name)
    if rule is None:
        raise TokenizerError(
            f"its tokenizer cuts text by the rule {shorten(name)}, which gollm does not know; use the model's own "
            "tokenizer.json with --tokenizer"
        )
    vocab: dict[str, int] = {}
    added: list[AddedToken] = []
    for i, (token, kind) in enumerate(zip(*_tokens(header), strict=True)):
        if _is_nothing(token, kind):
            continue
        if vocab.setdefault(token, i) != i:
            raise TokenizerError(f"its tokenizer has the token {shorten(token)} twice")
        if kind not in (ORDINARY, BYTE):
            added.append(AddedToken(token, i, special=kind != ADDED, ordinary=True))
    merges = [_halves(merge) for merge in header.get(_GGML + "merges", list)]
    return bpe_tokenizer(
        vocab,
        list(dict.fromkeys(merges)),  # of a merge that is listed twice llama.cpp keeps the first place
        added,
        Path("its tokenizer"),
        pattern=rule.pattern,
        normalizer=rule.normalizer,
        ignore_merges=rule.ignore_merges,
        **_template(header, ids, add_bos=rule.add_bos),
    )


def _halves(merge: str) -> tuple[str, str]:
    """What is joined. As in llama.cpp, the first may begin with a space."""
    at = merge.find(" ", 1)
    return (merge[:at], merge[at + 1 :]) if at > 0 else (merge, "")


def _read_sentencepiece(header: GGUFHeader, ids: dict[str, int]) -> SentencePieceTokenizer:
    tokens, types = _tokens(header)
    scores = header.get(_GGML + "scores", np.ndarray, np.zeros(len(tokens)))[: len(tokens)].astype(np.float32)
    unknown = ids.get("unknown_token_id", types.index(UNKNOWN) if UNKNOWN in types else -1)
    known = [kind if kind in _PIECE_TYPES and kind != UNKNOWN else CONTROL for kind in types]
    if 0 <= unknown < len(types) and types[unknown] in (UNKNOWN, CONTROL):  # phi-3's says that it is a control token
        known[unknown] = UNKNOWN
    pieces = [token_of(i, token.encode(), kind) for i, (token, kind) in enumerate(zip(tokens, known, strict=True))]
    tokenizer = SentencePieceTokenizer(
        Vocabulary.of(pieces),
        np.array(known, np.uint8),
        scores=scores,
        dummy_prefix="never" if header.side(_GGML + "add_space_prefix", bool) is False else "always",
        added_tokens=_phi3_tokens(header, pieces, known),
        **_template(header, {"bos_token_id": 1, "eos_token_id": 2} | ids, add_bos=True),
    )
    tokenizer.check()
    return tokenizer


def _phi3_tokens(header: GGUFHeader, pieces: list[bytes], types: list[int]) -> list[AddedToken]:
    """Phi-3's special tokens take the white space behind them, which no key says: llama.cpp looks at the name."""
    name = header.values.get("general.name")
    if not isinstance(name, str) or not re.search("phi-?3", name.lower()):
        return []
    special = [
        (piece.decode(), i) for i, (piece, kind) in enumerate(zip(pieces, types, strict=True)) if kind == CONTROL
    ]
    return [AddedToken(piece, i, rstrip=piece not in ("<s>", "<unk>", "<|endoftext|>")) for piece, i in special]


def _template(header: GGUFHeader, ids: dict[str, int], *, add_bos: bool) -> dict[str, Any]:
    """The tokens before and behind a text; `add_bos` is what the kind of tokenizer does by itself."""
    before, behind = (header.side(_GGML + f"add_{name}_token", bool) for name in ("bos", "eos"))
    prefix, suffix = ids.get("bos_token_id"), ids.get("eos_token_id")
    return {
        "prefix": (prefix,) if prefix is not None and (add_bos if before is None else before) else (),
        "suffix": (suffix,) if suffix is not None and behind else (),
    }


def read_defaults(header: GGUFHeader, ids: dict[str, int]) -> GenerationDefaults:
    values = {
        name: sound(name, header.side(key, kind), f"{header.where}: {key}") for key, (name, kind) in _SAMPLING.items()
    }
    values["chat_template"] = sound(
        "chat_template", header.side(_TEMPLATE, str) or None, f"{header.where}: {_TEMPLATE}"
    )
    values["chat_templates"] = {
        name: text
        for key, text in header.values.items()
        if (name := key.removeprefix(_TEMPLATE + ".")) != key
        and sound("chat_templates", {name: text}, f"{header.where}: {key}") is not None
    }
    return GenerationDefaults(
        stop_tokens=tuple(dict.fromkeys(ids[name] for name in _STOP_KEYS if name in ids)),
        bos_token=ids.get("bos_token_id"),
        pad_token=ids.get("padding_token_id"),
        **values,
    )


# --- writing ---------------------------------------------------------------------------------------------------------


def tokenizer_keys(tokenizer: Tokenizer | None, vocab_size: int, defaults: GenerationDefaults) -> list[Key]:
    """(key, type, value) for a tokenizer and the defaults. FormatError for a tokenizer that GGUF has not."""
    keys = _sampling_keys(defaults)
    if defaults.chat_template is not None:
        keys.append((_TEMPLATE, "STRING", defaults.chat_template))
    named = _named_templates(defaults)
    keys += [(f"{_TEMPLATE}.{name}", "STRING", text) for name, text in named.items()]
    if named:
        keys.append((_TEMPLATE + "s", "STRING", list(named)))
    if tokenizer is None:
        return [*keys, (_GGML + "model", "STRING", "none")]
    if tokenizer.vocab_size > vocab_size:
        raise FormatError(f"the tokenizer has {tokenizer.vocab_size} tokens, and the model only {vocab_size}")
    stripping = [
        token.spelling for token in tokenizer.added_tokens if token.lstrip or token.rstrip or token.single_word
    ]
    if stripping:
        warn(
            f"GGUF has no place for lstrip, rstrip and single_word of the added token {shorten(stripping[0])}"
            f"{f' and {len(stripping) - 1} others' if len(stripping) > 1 else ''}, so they are left out"
        )
    if isinstance(tokenizer, BPETokenizer):
        keys += _bpe_keys(tokenizer, vocab_size)
    elif isinstance(tokenizer, SentencePieceTokenizer):
        keys += _sentencepiece_keys(tokenizer, vocab_size)
    else:
        raise FormatError(f"GGUF has no {tokenizer.kind} tokenizers; it holds byte-level BPE and SentencePiece")
    return keys + _id_keys(tokenizer, defaults)


def _sampling_keys(defaults: GenerationDefaults) -> list[Key]:
    keys: list[Key] = []
    for key, (name, kind) in _SAMPLING.items():
        value = getattr(defaults, name)
        if value is None:
            continue
        with np.errstate(over="ignore"):
            stored = float(np.float32(value)) if kind is float else value
        if possible(name, stored):
            keys.append((key, _TYPES[kind], stored))
        else:
            warn(f"GGUF holds {name} in float32, where {value!r} becomes {stored}, so it is left out")
    return keys


def _named_templates(defaults: GenerationDefaults) -> dict[str, str]:
    """Names have letters, digits and underscores only, as ggml's package writes them."""
    named: dict[str, str] = {}
    for name, text in defaults.chat_templates.items():
        short = re.sub(r"[^0-9A-Za-z]", "_", name)
        if short in named:
            warn(f"GGUF has one name, {short}, for two chat templates, so {shorten(name)} is left out")
            continue
        if short != name:
            warn(f"GGUF has only letters, digits and _ in names: the chat template {shorten(name)} becomes {short}")
        named[short] = text
    return named


def _bpe_keys(tokenizer: BPETokenizer, vocab_size: int) -> list[Key]:
    name = RULE_NAMES.get((tokenizer.pattern, tokenizer.ignore_merges, tokenizer.normalizer))
    if name is None and tokenizer.normalizer is not None:
        name = RULE_NAMES.get((tokenizer.pattern, tokenizer.ignore_merges, None))
        if name is not None:
            warn(
                f"GGUF has no place for the normalizer {tokenizer.normalizer}, so it is left out: text that is not "
                "normalized becomes other ids"
            )
    if name is None or tokenizer.add_prefix_space:
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
        (_GGML + "pre", "STRING", name),
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
    kinds = {i: UNUSED if kind == PieceType.LITERAL else kind for i, kind in kinds.items()}  # no text is encoded to it
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

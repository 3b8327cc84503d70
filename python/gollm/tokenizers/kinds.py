"""The kinds of tokenizers, and the way back from a state to one of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy.typing as npt

from gollm.errors import TokenizerError
from gollm.system.strict_json import shorten
from gollm.tokenizers.base import Tokenizer
from gollm.tokenizers.bpe import BPETokenizer
from gollm.tokenizers.character import CharacterTokenizer
from gollm.tokenizers.sentencepiece import SentencePieceTokenizer
from gollm.tokenizers.word import WordTokenizer
from gollm.tokenizers.wordpiece import WordPieceTokenizer

KINDS: dict[str, type[Tokenizer]] = {
    kind.kind: kind
    for kind in (CharacterTokenizer, WordTokenizer, BPETokenizer, SentencePieceTokenizer, WordPieceTokenizer)
}


def from_state(header: Mapping[str, Any], arrays: Mapping[str, npt.NDArray[Any]]) -> Tokenizer:
    """The tokenizer whose `to_state` returned these. Raises TokenizerError for anything else."""
    kind = header.get("kind") if isinstance(header, Mapping) else None
    if not isinstance(kind, str) or kind not in KINDS:
        raise TokenizerError(f"tokenizer state: kind is {shorten(kind)}; known are {', '.join(KINDS)}")
    return KINDS[kind].from_state(header, arrays)

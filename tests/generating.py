"""Generating with a bare decoder, as tests do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gollm.inference.engine import pieces
from gollm.language_model import LanguageModel
from gollm.model.decoder import Decoder


def tokens_after(decoder: Decoder, prompt: Sequence[int], **options: Any) -> list[int]:
    """The token ids that continue a prompt; `options` are fields of gollm.Sampling."""
    return [token for piece in pieces(LanguageModel(decoder), prompt, **options) for token in piece.tokens]

"""The tokens of a prompt, as they are written beside a picture."""

from __future__ import annotations

from gollm.inference.generation import prompt_ids
from gollm.language_model import LanguageModel
from gollm.tokenizers import Tokenizer

_SIGNS = str.maketrans({" ": "·", "\n": "⏎", "\t": "⇥", "\r": "␍"})


def prompt_tokens(model: LanguageModel, prompt: str, max_tokens: int) -> list[int]:
    """The ids of a prompt, framed as documents are in training; the first max_tokens where there are more.

    Raises GenerationError for an empty prompt, one that is longer than the context, and a model without a tokenizer."""
    return prompt_ids(model, prompt)[:max_tokens]


def label(tokenizer: Tokenizer | None, token: int) -> str:
    """A token in print: spaces and line ends have signs, bytes that are not UTF-8 are in hexadecimal. One that the
    tokenizer does not know, since models may have more rows than it has tokens, is a number.

    >>> _printed(b" the"), _printed(b"\\n"), _printed("é".encode()), _printed(b"\\xc3")
    ('·the', '⏎', 'é', '‹c3›')
    """
    return _printed(tokenizer.vocabulary[token]) if tokenizer and token < tokenizer.vocab_size else f"#{token}"


def labels(tokenizer: Tokenizer | None, ids: list[int]) -> list[str]:
    """label() of each."""
    return [label(tokenizer, token) for token in ids]


def _printed(token: bytes) -> str:
    try:
        text = token.decode()
    except UnicodeDecodeError:
        return f"‹{token.hex()}›"
    return "".join(c if c.isprintable() else f"‹{ord(c):x}›" for c in text.translate(_SIGNS))

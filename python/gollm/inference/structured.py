"""Texts that must be JSON of a schema, match a regular expression, or follow a grammar.

llguidance (extra `structured`) says after each token which ones may come next. A stop token is allowed exactly where
the text may end.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary, WeakMethod

import numpy as np

from gollm.errors import GenerationError
from gollm.inference.sampling import Sampling
from gollm.kernels import Array
from gollm.system.strict_json import shorten
from gollm.tokenizers import Tokenizer

if TYPE_CHECKING:
    import llguidance

# JSON as json.dumps writes it. Without a bound on white space a small model may write nothing else. A schema's own
# "x-guidance" goes before this.
_JSON_STYLE = {"item_separator": ", ", "key_separator": ": ", "whitespace_flexible": False}


class StructuredText:
    """What one text may go on with. It keeps track of the text by itself."""

    def __init__(self, matcher: llguidance.LLMatcher) -> None:
        self._matcher = matcher
        self._n_known = 0

    def copy(self) -> StructuredText:
        """For another text that begins as this one."""
        copy = StructuredText(self._matcher.deep_copy())
        copy._n_known = self._n_known
        return copy

    def apply(self, generated: Array, logits: Array) -> None:
        """Logits (V,) of tokens that cannot come next become -inf. generated: (N,) the text so far, without the prompt;
        each call has the tokens of the one before, and perhaps more."""
        new = generated[self._n_known :].tolist()
        if new and not self._matcher.consume_tokens(new):
            raise GenerationError(f"a structured text cannot go on: {_first_line(self._matcher.get_error())}")
        self._n_known += len(new)
        bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        if self._matcher.is_error():
            raise GenerationError(f"a structured text cannot go on: {_first_line(self._matcher.get_error())}")
        logits[np.unpackbits(bits, count=len(logits), bitorder="little") == 0] = -np.inf


def structured_text(
    sampling: Sampling, tokenizer: Tokenizer | None, stop_tokens: Sequence[int]
) -> StructuredText | None:
    """What a new text must be; None where it may be anything.

    Raises GenerationError for a schema, expression or grammar that cannot be used, for a model without a tokenizer or
    without a stop token, and where llguidance is not installed."""
    given = [(name, getattr(sampling, name)) for name in ("json_schema", "regex", "grammar")]
    for name, value in given:
        if value is None:
            continue
        if tokenizer is None:
            raise GenerationError(f"{name} is given, but this model has no tokenizer; give one to gollm.load")
        if not stop_tokens:
            raise GenerationError(f"{name} is given, but this model has no stop token that could end such a text")
        try:
            import llguidance
        except ImportError:
            raise GenerationError(f"{name} needs llguidance; install it: pip install 'gollm[structured]'") from None
        grammar = _grammar(name, value)
        vocabulary = _vocabulary(tokenizer, tuple(stop_tokens))
        failed, why = llguidance.LLMatcher.validate_grammar_with_warnings(grammar, vocabulary)
        if failed:
            raise GenerationError(f"{name} is {shorten(value)}, which cannot be used: {_first_line(why[0])}")
        return StructuredText(llguidance.LLMatcher(vocabulary, grammar, log_level=0))
    return None


def _grammar(name: str, value: str | Mapping[str, Any]) -> str:
    """In llguidance's own form."""
    import llguidance

    try:
        if name == "json_schema":
            schema = json.loads(value) if isinstance(value, str) else dict(value)
            return str(llguidance.LLMatcher.grammar_from_json_schema(schema, defaults=_JSON_STYLE))
        return str(llguidance.grammar_from(name, value))
    except (ValueError, TypeError, RecursionError) as error:
        raise GenerationError(f"{name} is {shorten(value)}, which cannot be used: {_first_line(str(error))}") from None


_vocabularies: WeakKeyDictionary[Tokenizer, dict[tuple[int, ...], llguidance.LLTokenizer]] = WeakKeyDictionary()


def _vocabulary(tokenizer: Tokenizer, stop_tokens: tuple[int, ...]) -> llguidance.LLTokenizer:
    """The tokenizer as llguidance knows it; making it takes a while."""
    import llguidance

    known = _vocabularies.setdefault(tokenizer, {})
    if stop_tokens not in known:
        own = llguidance.TokenizerWrapper(_Words(tokenizer, stop_tokens))
        known[stop_tokens] = llguidance.LLTokenizer(own, eos_token=list(stop_tokens))
    return known[stop_tokens]


class _Words:
    """A tokenizer as llguidance.TokenizerWrapper takes it; it does not keep the tokenizer alive."""

    def __init__(self, tokenizer: Tokenizer, stop_tokens: Sequence[int]) -> None:
        self.tokens = tokenizer.written
        self.special_token_ids = sorted({*tokenizer.special_tokens.values(), *stop_tokens})
        self.eos_token_id = stop_tokens[0]
        self.bos_token_id = None
        self._encode = WeakMethod(tokenizer.encode)
        special = set(self.special_token_ids)
        self._ids = {word: token for token, word in enumerate(self.tokens) if word and token not in special}
        self._size = max(map(len, self._ids), default=0)

    def __call__(self, text: bytes | str) -> list[int]:
        """Ids that are written exactly as the text: a tokenizer's own, or where it writes more, such as a space that
        comes before a text, the longest tokens from the left."""
        written = text.encode() if isinstance(text, str) else text
        encode = self._encode()
        assert encode is not None  # whoever generates has the tokenizer
        ids: list[int] = encode(written.decode("utf-8", "replace")).tolist()
        return ids if b"".join(self.tokens[token] for token in ids) == written else self._longest(written)

    def _longest(self, written: bytes) -> list[int]:
        ids = []
        while written:
            size = next((n for n in range(min(len(written), self._size), 0, -1) if written[:n] in self._ids), 0)
            if size == 0:
                break
            ids.append(self._ids[written[:size]])
            written = written[size:]
        return ids


def _first_line(text: str) -> str:
    return shorten(text.strip().split("\n")[0], 200)

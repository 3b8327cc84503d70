"""A model for EleutherAI's lm-evaluation-harness, with whose tasks models are compared.

    python -m gollm.evaluation.harness --model gollm --model_args path=runs/mine --tasks arc_easy

is the harness' own command, which knows gollm's models then; from a program, its simple_evaluate() takes a
HarnessModel. Texts are encoded and cut as the harness' backend for transformers does, and give the same figures.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from lm_eval.api.model import LM
from lm_eval.api.registry import register_model
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from gollm.errors import EvaluationError
from gollm.evaluation.continuations import score_pairs
from gollm.inference.engine import Engine
from gollm.language_model import load
from gollm.tokenizers import Tokenizer

MAX_TOKENS = 256  # of a generated text, where a task does not say


@register_model("gollm")
class HarnessModel(LM):  # type: ignore[misc]
    """The model at `path`, in any format that gollm reads. What the harness says of devices and batches is not
    needed."""

    def __init__(self, path: str, tokenizer: str | None = None, max_gen_toks: int = MAX_TOKENS, **_: Any) -> None:
        """Raises EvaluationError for a model without a tokenizer."""
        super().__init__()
        self.model = load(path, tokenizer=tokenizer)
        if self.model.tokenizer is None:
            raise EvaluationError(f"{path} has no tokenizer ({self.model.without_tokenizer}); name one: tokenizer=PATH")
        self._tokenizer: Tokenizer = self.model.tokenizer
        self._max_tokens = int(max_gen_toks)

    @property
    def tokenizer_name(self) -> str:
        return self._tokenizer.kind

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        """Of each (context, continuation): its log-probability, and whether it is what greedy decoding writes."""
        return [
            (score.logprob, score.greedy)
            for score in score_pairs(self.model, [self._pair(*one.args) for one in requests])
        ]

    def loglikelihood_rolling(self, requests: Sequence[Any]) -> list[float]:
        """Of each (text,), cut into windows of the context: its log-probability behind the BOS or EOS token."""
        pairs, owners = [], []
        for number, one in enumerate(requests):
            windows = get_rolling_token_windows(
                token_list=self._ids(one.args[0]),
                prefix_token=self._prefix,
                max_seq_len=self.model.config.context,
                context_len=1,
            )
            for window in map(make_disjoint_window, windows):
                pairs.append(window)
                owners.append(number)
        totals = [0.0] * len(requests)
        for owner, score in zip(owners, score_pairs(self.model, pairs), strict=True):
            totals[owner] += score.logprob
        return totals

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """The text behind each (context, options), which ends before the first of the stop strings `until`."""
        context, special = self.model.config.context, self._tokenizer.special_tokens
        spelled = {index: text for text, index in special.items()}
        with Engine(self.model) as engine:
            streams = []
            for one in requests:
                prompt, options = one.args
                until = options.get("until") or []
                stop = [until] if isinstance(until, str) else list(until)
                stop += [spelled[token] for token in self.model.defaults.stop_tokens if token in spelled]
                n = min(int(options.get("max_gen_toks", self._max_tokens)), context - 1)
                sampled = options.get("do_sample", False)
                streams.append(
                    engine.submit(
                        self._ids(prompt)[-(context - n) :] or [self._prefix],
                        max_new_tokens=n,
                        stop=tuple(dict.fromkeys(text for text in stop if text)),
                        temperature=float(options.get("temperature", 1.0)) if sampled else 0.0,
                    )
                )
            return [stream.result().text for stream in streams]

    @property
    def _prefix(self) -> int:
        """The token before a text's first one."""
        framing, bos = self._tokenizer.framing, self.model.defaults.bos_token
        found = bos if bos is not None else next(iter([*framing.begin, *self.model.defaults.stop_tokens]), None)
        if found is None:
            found = next(iter(framing.end), None)
        if found is None:
            raise EvaluationError("this model has neither a BOS nor an EOS token, which a text's first token follows")
        return found

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = [*self._tokenizer.framing.begin, *self._tokenizer.encode(text).tolist()]
        return ids

    def _pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """Ids of both: those of the whole text, cut where the context's end."""
        if not context:
            return [self._prefix], self._tokenizer.encode(continuation).tolist()
        n_spaces = len(context) - len(context.rstrip())
        if n_spaces:
            context, continuation = context[:-n_spaces], context[-n_spaces:] + continuation
        prompt, whole = self._ids(context), self._ids(context + continuation)
        return prompt, whole[len(prompt) :]


if __name__ == "__main__":
    from lm_eval.__main__ import cli_evaluate

    sys.exit(cli_evaluate())

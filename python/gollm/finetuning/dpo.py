"""Direct preference optimisation (Rafailov et al. 2023): the model learns to prefer one answer to another.

Of each pair, csrc/preference.c compares by how much more the model prefers the chosen answer than the model did that
training started from. What that one thought of both, the reference, is computed once, before the first step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gollm.data.records import read_records
from gollm.errors import DataError
from gollm.finetuning import sft
from gollm.finetuning.lessons import Lesson, pair_of
from gollm.finetuning.options import FinetuneOptions
from gollm.finetuning.padding import PAD, padded, rounded
from gollm.finetuning.rendering import TokenSequence, rendered
from gollm.finetuning.task import Base, Task, held_out, longest_allowed
from gollm.inference.chat_template import ChatTemplate
from gollm.kernels import Array
from gollm.model.batch import Batch
from gollm.model.decoder import Decoder
from gollm.nn import ops
from gollm.nn.ops import IGNORE_INDEX, PREFERENCES
from gollm.nn.tape import activations_as, no_grad, products_in
from gollm.nn.tensor import Tensor
from gollm.system.files import open_regular, replacing

BATCH = 4  # pairs whose reference is computed at once


@dataclass(frozen=True)
class Pair:
    """The chosen answer and the rejected one, each behind its prompt; number: its row in the table of references."""

    chosen: TokenSequence
    rejected: TokenSequence
    number: int

    @property
    def length(self) -> int:
        return max(self.chosen.length, self.rejected.length)

    @property
    def content(self) -> bytes:
        return self.chosen.content + b"|" + self.rejected.content


class Preference:
    """An objective (gollm.training.objective). A batch of P pairs is

    inputs, targets  (2P, T) int32: row 2p is the chosen answer of pair p, row 2p + 1 the rejected one
    norms            (2P, 1) float64: what the sum of a row's losses is divided by
    reference        (P, 2) float32: the same of the reference model

    `each` receives each pair's loss, and the margin by which it prefers the chosen answer: (2, P)."""

    def __init__(self, kind: str, beta: float) -> None:
        self.kind, self.beta = PREFERENCES[kind], beta

    def count(self, batch: Sequence[Array]) -> float:
        return batch[3].size // 2

    def each_shape(self, batch: Sequence[Array]) -> tuple[int, ...]:
        return 2, batch[3].shape[0]

    def loss(self, model: Decoder, batch: Sequence[Array], denominator: Array | None, each: Array | None) -> Tensor:
        reference = batch[3]
        if denominator is None:
            denominator = np.array(reference.shape[:1], np.float64)
        if each is None:
            each = model.parameters.kernels.from_host(np.empty((2, reference.shape[0]), np.float32))
        nll = answer_losses(model, *batch[:3])
        return ops.preference(
            nll,
            reference=reference,
            denominator=denominator,
            beta=self.beta,
            kind=self.kind,
            losses=each[0],
            margins=each[1],
        )

    def metrics(self, batches: Sequence[Array], each: Array) -> dict[str, float]:
        """The mean margin, and how often it is above 0."""
        margins = each[:, 1]
        return {"margin": float(margins.mean(dtype=np.float64)), "accuracy": float((margins > 0).mean())}


def answer_losses(model: Decoder, inputs: Array, targets: Array, norms: Array) -> Tensor:
    """The negative log-probabilities of answers, by their norms.  (2P, T), (2P, T), (2P, 1) -> (P, 2)"""
    with products_in(model.compute_dtype):
        with activations_as(model.activation_dtype):
            x = model.hidden(Batch.of_sequences(inputs))
        rows = [
            ops.cross_entropy(ops.row(x, index=i), model.head, targets[i : i + 1], denominator=norms[i])
            for i in range(inputs.shape[0])
        ]
        return ops.stack(*rows, shape=(inputs.shape[0] // 2, 2))


class Pairs:
    """Pairs and what the reference model thinks of them: a table that `begin` fills before training."""

    def __init__(self, pairs: Sequence[Pair], normalised: bool, longest: int) -> None:
        self.pairs, self.normalised, self.longest = pairs, normalised, longest
        self.references = np.zeros((len(pairs), 2), np.float32)

    def collate(self, pairs: Sequence[Pair], length: int) -> tuple[Array, ...]:
        rows = [answer for pair in pairs for answer in (pair.chosen, pair.rejected)]
        targets = padded([row.targets for row in rows], length, IGNORE_INDEX)
        counts = (targets != IGNORE_INDEX).sum(axis=1, keepdims=True).astype(np.float64)
        return (
            padded([row.inputs for row in rows], length, PAD),
            targets,
            counts if self.normalised else np.ones_like(counts),
            self.references[[pair.number for pair in pairs]],
        )

    def begin(self, model: Decoder, folder: Path) -> None:
        """Computes the table with the model that training starts from, or takes it from the run folder."""
        path = folder / "reference.npy"
        if path.is_file():
            try:
                with open_regular(path, buffering=-1) as file:
                    saved = np.lib.format.read_array(file, allow_pickle=False)
            except (OSError, ValueError, EOFError):
                saved = np.empty(0)
            if saved.shape == self.references.shape and saved.dtype == np.float32:
                self.references[...] = saved
                return
        in_order = sorted(self.pairs, key=lambda pair: pair.length)
        with no_grad():
            for i in range(0, len(in_order), BATCH):
                pairs = in_order[i : i + BATCH]
                length = rounded(max(pair.length for pair in pairs), self.longest)
                found = answer_losses(model, *self.collate(pairs, length)[:3])
                self.references[[pair.number for pair in pairs]] = found.data
        with replacing(path, DataError) as file:
            np.save(file, self.references, allow_pickle=False)


def dpo(options: FinetuneOptions, base: Base) -> Task:
    """Raises DataError, with file and line, for data that cannot be learned from."""
    longest = longest_allowed(options, base.config)
    defaults = sft.with_template(base)
    template = ChatTemplate(defaults.chat_template or "", base.tokenizer, defaults)
    stop_tokens = {*defaults.stop_tokens, *base.tokenizer.framing.end[:1]}
    records = read_records(options.data)
    if options.validation_data:
        parts = [records, read_records(options.validation_data)]
    else:
        parts = [*held_out(records, options.validation_fraction)]
    n_long = 0
    found: list[list[Pair]] = [[], []]
    for part, pairs in zip(parts, found, strict=True):
        for record in part:
            answers = [_answer(lesson, template, stop_tokens) for lesson in pair_of(record)]
            kept, n = sft.fitting(answers, longest, options.too_long)
            n_long += n
            if len(kept) == 2:
                pairs.append(Pair(kept[0], kept[1], len(found[0]) + len(found[1])))
    everything = Pairs([*found[0], *found[1]], options.dpo_normalize, longest)
    prompt, shown = sft.sample_prompt(options.sample_prompt, pair_of((parts[1] or parts[0])[0])[0], template)
    long = f"; {n_long:,} answers longer than {longest:,} tokens were cut" if n_long else ""
    return Task(
        train=found[0],
        validation=found[1],
        collate=everything.collate,
        objective=Preference(options.dpo_loss, options.dpo_beta),
        longest=longest,
        defaults=defaults,
        prompt=prompt if len(prompt) <= base.config.context else prompt[:0],
        shown=shown,
        summary=f"{len(found[0]):,} training pairs, {len(found[1]):,} validation pairs{long}",
        begin=everything.begin,
    )


def _answer(lesson: Lesson, template: ChatTemplate, stop_tokens: set[int]) -> TokenSequence:
    sequences = rendered(lesson, template, stop_tokens)
    if len(sequences) != 1:
        raise DataError(
            f"{lesson.where}: its answer has several messages, which the chat template does not write as one"
        )
    return sequences[0]

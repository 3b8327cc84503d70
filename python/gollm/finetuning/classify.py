"""Classification: the model learns to tell the label of a text at its last token, by a head with a row a label."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gollm.data.records import Record, read_records
from gollm.errors import DataError, TokenizerError
from gollm.finetuning.options import FinetuneOptions
from gollm.finetuning.padding import pair_of
from gollm.finetuning.task import Base, Task, held_out, longest_allowed
from gollm.kernels import Array
from gollm.model.batch import Batch
from gollm.model.decoder import Decoder
from gollm.nn import ops
from gollm.nn.ops import IGNORE_INDEX
from gollm.nn.storage import Storage
from gollm.nn.tape import activations_as, products_in
from gollm.nn.tensor import Tensor
from gollm.system.strict_json import shorten


@dataclass(frozen=True)
class LabelledText:
    """inputs: (n,) int32, a text framed as documents are; label: its number"""

    inputs: Array
    label: int

    @property
    def targets(self) -> Array:
        """(n,): the label counts at the last token"""
        targets = np.full(len(self.inputs), IGNORE_INDEX, np.int32)
        targets[-1] = self.label
        return targets

    @property
    def length(self) -> int:
        return len(self.inputs)

    @property
    def content(self) -> bytes:
        return self.inputs.tobytes() + bytes(str(self.label), "ascii")


class Labels:
    """An objective (gollm.training.objective): the cross-entropy of labels, each times its weight, by the sum of the
    weights. `each` receives the logits, (B, T, labels)."""

    def __init__(self, weights: Sequence[float]) -> None:
        self.weights = np.array(weights)
        self.factors = self.weights.astype(np.float32)[None]  # of the labels' sums of losses

    def count(self, batch: Sequence[Array]) -> float:
        targets = batch[1]
        return float(self.weights[targets[targets != IGNORE_INDEX]].sum())

    def each_shape(self, batch: Sequence[Array]) -> tuple[int, ...]:
        return *batch[1].shape, len(self.weights)

    def loss(self, model: Decoder, batch: Sequence[Array], denominator: Array | None, each: Array | None) -> Tensor:
        inputs, targets, *of_label = batch
        kernels = model.parameters.kernels
        if denominator is None:
            denominator = np.array([self.count(batch)])
        with products_in(model.compute_dtype):
            with activations_as(model.activation_dtype):
                x = model.hidden(Batch.of_sequences(inputs))
            if each is not None:
                logits = ops.linear(x, model.head).storage
                widen = kernels.from_bf16 if logits.is_plain_bfloat16 else kernels.copy
                widen(y=each.reshape(-1), x=logits.reshape(-1))
            if not of_label:
                return ops.cross_entropy(x, model.head, targets, denominator=denominator)
            parts = [ops.cross_entropy(x, model.head, one, denominator=denominator) for one in of_label]
            factors = Tensor(Storage(kernels.from_host(self.factors), kernels=kernels))
            return ops.linear(ops.stack(*parts, shape=(1, len(parts))), factors)

    def metrics(self, batches: Sequence[Array], each: Array) -> dict[str, float]:
        targets = batches[1]
        counted = targets != IGNORE_INDEX
        return {"accuracy": float((each.argmax(-1)[counted] == targets[counted]).mean())}

    def collate(self, texts: Sequence[LabelledText], length: int) -> tuple[Array, ...]:
        """Inputs and targets; with weights that differ, also the targets of each label alone."""
        inputs, targets = pair_of(texts, length)
        if len(set(self.weights)) == 1:
            return inputs, targets
        alone = (np.where(targets == i, targets, np.int32(IGNORE_INDEX)) for i in range(len(self.weights)))
        return inputs, targets, *alone


def classify(options: FinetuneOptions, base: Base) -> Task:
    """Raises DataError, with file and line, for data that cannot be learned from."""
    longest = longest_allowed(options, base.config)
    records = read_records(options.data)
    if options.validation_data:
        train, validation = records, read_records(options.validation_data)
    else:
        train, validation = held_out(records, options.validation_fraction)
    labels = sorted({label_of(record, options.label_field) for record in train})
    if len(labels) < 2:
        raise DataError(f"all texts have the label {shorten(labels[0])}; a classifier needs two labels or more")
    n_long = 0
    parts: list[list[LabelledText]] = [[], []]
    for part, texts in zip((train, validation), parts, strict=True):
        for record in part:
            label = label_of(record, options.label_field)
            if label not in labels:
                raise DataError(f"{record.where} has the label {shorten(label)}, which no training text has")
            ids = ids_of(base, text_of(record, options.text_field), record.where)
            if len(ids) > longest and options.too_long == "refuse":
                raise DataError(
                    f"{record.where} has {len(ids):,} tokens, more than the longest sequence allowed, {longest:,}; "
                    "shorten it, cut long texts with --too-long truncate, or raise --context if the model allows it"
                )
            n_long += len(ids) > longest
            texts.append(LabelledText(ids[:longest], labels.index(label)))
    counts = Counter(text.label for text in parts[0])
    weights = [1.0] * len(labels)
    if options.class_weights == "balanced":
        weights = [len(parts[0]) / (len(labels) * counts[i]) for i in range(len(labels))]
    objective = Labels(weights)
    long = f"; {n_long:,} texts longer than {longest:,} tokens were cut" if n_long else ""
    shares = ", ".join(f"{counts[i]:,} {label}" for i, label in enumerate(labels[:8]))
    return Task(
        train=parts[0],
        validation=parts[1],
        collate=objective.collate,
        objective=objective,
        longest=longest,
        defaults=base.defaults,
        prompt=np.empty(0, np.int32),
        shown="",
        summary=f"{len(parts[0]):,} training texts ({shares}), {len(parts[1]):,} validation texts{long}",
        config=dataclasses.replace(base.config, labels=tuple(labels)),
    )


def label_of(record: Record, field: str) -> str:
    label = record.values.get(field)
    if not isinstance(label, str | int) or isinstance(label, bool) or str(label) == "":
        raise DataError(f"{record.where}: the label, field {field!r}, is {shorten(label)}; it must be text or a number")
    return str(label)


def text_of(record: Record, field: str) -> str:
    text = record.values.get(field)
    if not isinstance(text, str) or not text.strip():
        raise DataError(
            f"{record.where}: the text, field {field!r}, is {shorten(text)}; name its field with --text-field"
        )
    return text


def ids_of(base: Base, text: str, where: str) -> Array:
    try:
        ids = np.array([*base.tokenizer.framing.begin, *base.tokenizer.encode(text)], np.int32)
    except TokenizerError as error:
        raise DataError(f"{where}: {error}") from None
    if not len(ids):
        raise DataError(f"{where}: the text has no tokens")
    return ids

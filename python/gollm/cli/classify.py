"""gollm classify"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

from gollm.options import PathText, Positional

if TYPE_CHECKING:
    from gollm.evaluation.classification import Classification


@dataclass(frozen=True)
class Options:
    """Classify texts. If the records have labels, also print accuracy, F1 and a confusion matrix."""

    model: Annotated[Path, Positional]  # classifier trained by gollm finetune --task classify
    # records: JSON Lines, JSON or CSV files, folders, wildcards, or - for standard input
    data: Annotated[tuple[PathText, ...], Positional] = ()
    text: str | None = None  # a single text, instead of records
    text_field: str = "text"  # field with the text
    label_field: str = "label"  # field with the true label, if there is one
    json: bool = False  # print JSON lines: the label and probabilities of each text, then the metrics

    ALIASES: ClassVar[Mapping[str, str]] = {"corpus": "data"}


def run(options: Options) -> None:
    import gollm
    from gollm.cli.process import Usage
    from gollm.data.records import Record, read_records
    from gollm.evaluation.classification import classify, judged
    from gollm.finetuning.classify import label_of, text_of

    if (options.text is None) == (not options.data):
        raise Usage("give either records to classify, or one --text")
    if options.text is None:
        records = read_records(options.data)
    else:
        records = [Record({options.text_field: options.text}, "--text")]
    texts = [text_of(record, options.text_field) for record in records]
    model = gollm.load(options.model)
    probabilities = classify(model, texts)
    labels = model.config.labels or ()
    told = [labels[i] for i in probabilities.argmax(axis=1)]
    for label, row in zip(told, probabilities.tolist(), strict=True):
        if options.json:
            print(json.dumps({"label": label, "probabilities": dict(zip(labels, row, strict=True))}))
        else:
            print(f"{label}\t{max(row):.4f}")
    if all(options.label_field in record.values for record in records):
        true = [label_of(record, options.label_field) for record in records]
        _report(judged(labels, true, told), options.json)


def _report(found: Classification, as_json: bool) -> None:
    accuracy, error = found.accuracy
    if as_json:
        figures = {"accuracy": accuracy, "standard_error": error, "f1": found.f1, "macro_f1": found.macro_f1}
        print(json.dumps({"figures": figures, "confusion": found.confusion.tolist()}))
        return
    width = max(map(len, (*found.labels, "accuracy")))
    print(f"\n{'accuracy':<{width}}  {found.accuracy}\n{'macro F1':<{width}}  {found.macro_f1:.4f}\n")
    columns = [max(len(label), 6) for label in found.labels]
    print(f"{'true':<{width}}  {'F1':>6}  told: " + "  ".join(map(str.rjust, found.labels, columns)))
    for label, row in zip(found.labels, found.confusion.tolist(), strict=True):
        cells = "  ".join(f"{n:>{size}}" for n, size in zip(row, columns, strict=True))
        print(f"{label:<{width}}  {found.f1[label]:6.4f}        {cells}")

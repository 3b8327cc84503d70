"""gollm eval answers"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

from gollm.options import PathText, Positional, PositiveInt


@dataclass(frozen=True)
class Options:
    """Generate answers for a dataset of conversations and compare them with the references: exact match, BLEU and chrF
    (by sacrebleu), and measures of diversity."""

    model: Annotated[Path, Positional]  # model in any format, or a run folder (best checkpoint)
    # conversations in the formats of gollm finetune; the last answer is the reference
    data: Annotated[tuple[PathText, ...], Positional]
    limit: PositiveInt | None = None  # maximum number of conversations (default: all)
    max_new_tokens: PositiveInt = 256  # maximum number of tokens per answer
    tokenizer: Path | None = None  # tokenizer file or folder, for a model without a tokenizer
    out: PathText | None = None  # output file, with a JSON line for each answer
    json: bool = False  # print one JSON document

    ALIASES: ClassVar[Mapping[str, str]] = {"corpus": "data"}


def run(options: Options) -> None:
    from tqdm import tqdm

    import gollm
    from gollm.cli.evaluations import note
    from gollm.data.records import read_records
    from gollm.errors import EvaluationError
    from gollm.evaluation.answers import Asked, answer_all
    from gollm.finetuning.lessons import lesson_of
    from gollm.system.files import replacing

    lessons = [lesson_of(record) for record in read_records(options.data)[: options.limit]]
    asked = [
        Asked(lesson.messages[: lesson.answers[-1]], str(lesson.messages[lesson.answers[-1]].get("content") or ""))
        for lesson in lessons
    ]
    model = gollm.load(options.model, tokenizer=options.tokenizer)
    with tqdm(total=len(asked), unit=" answers", leave=False, disable=None) as bar:
        found = answer_all(model, asked, max_new_tokens=options.max_new_tokens, progress=bar.update)
    if options.out is not None:
        with replacing(options.out, EvaluationError) as file:
            for lesson, one, answer in zip(lessons, asked, found.answers, strict=True):
                line = {"where": lesson.where, "answer": answer, "reference": one.reference}
                file.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")
    values = {name: value for name, value in dataclasses.asdict(found).items() if name != "answers"}
    note(options.model, "answers", {" ".join(options.data): found.exact_match.value})
    if options.json:
        print(json.dumps({"model": str(options.model), **values}))
        return
    rows = [
        ("answers", f"{found.n_answers:,}"),
        ("exact match", str(found.exact_match)),
        ("BLEU", "not measured: install sacrebleu" if found.bleu is None else f"{found.bleu:.2f}"),
        ("chrF", "not measured: install sacrebleu" if found.chrf is None else f"{found.chrf:.2f}"),
        ("distinct-1, -2", f"{found.distinct_1:.4f}, {found.distinct_2:.4f}"),
        ("repetition", f"{found.repetition:.4f}"),
    ]
    print("\n".join(f"{name:16}{text}" for name, text in rows))

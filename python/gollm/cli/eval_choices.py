"""gollm eval choices"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

from gollm.options import NonNegativeInt, PathText, Positional, PositiveInt


@dataclass(frozen=True)
class Options:
    """Compute a model's accuracy on multiple-choice questions. The model's answer is the choice with the highest
    log-probability, with and without normalisation by length in bytes."""

    model: Annotated[Path, Positional]  # model in any format, or a run folder (best checkpoint)
    # JSON Lines files with "question", "choices" and "answer", folders, or wildcards
    data: Annotated[tuple[PathText, ...], Positional]
    few_shot: NonNegativeInt = 0  # number of solved examples before each question, from the same file
    limit: PositiveInt | None = None  # maximum number of questions per file (default: all)
    tokenizer: Path | None = None  # tokenizer file or folder, for a model without a tokenizer
    json: bool = False  # print one JSON document

    ALIASES: ClassVar[Mapping[str, str]] = {"corpus": "data"}


def run(options: Options) -> None:
    from tqdm import tqdm

    import gollm
    from gollm.cli.evaluations import note
    from gollm.data import Files, open_source
    from gollm.data.records import read_records
    from gollm.errors import DataError
    from gollm.evaluation.choices import answer_questions, question_of

    source = open_source(options.data)
    if not isinstance(source, Files):
        raise DataError(f"{source.name} is no file of questions; use JSON Lines")
    questions_of = {str(path): [question_of(record) for record in read_records(path)] for path in source.paths}
    model = gollm.load(options.model, tokenizer=options.tokenizer)
    found = {}
    for name, questions in questions_of.items():
        chosen = questions if options.limit is None else questions[: options.few_shot + options.limit]
        with tqdm(total=len(chosen), unit=" questions", leave=False, disable=None) as bar:
            found[name] = answer_questions(model, chosen, few_shot=options.few_shot, progress=bar.update)
    note(options.model, "choices", {name: result.normalized_accuracy.value for name, result in found.items()})
    if options.json:
        print(
            json.dumps({"model": str(options.model), "files": {n: dataclasses.asdict(one) for n, one in found.items()}})
        )
        return
    width = max(map(len, (*found, "file")))
    print(f"{'file':<{width}}  {'questions':>9}  {'accuracy':>16}  {'normalised':>16}")
    for name, result in found.items():
        print(f"{name:<{width}}  {result.n_questions:>9,}  {result.accuracy!s:>16}  {result.normalized_accuracy!s:>16}")

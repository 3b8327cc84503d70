"""gollm eval core"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from gollm.options import Positional, PositiveInt


@dataclass(frozen=True)
class Options:
    """Compute the CORE metric of a model: the centred accuracy, averaged over a set of tasks. Random guessing gives 0,
    a perfect score 1. The tasks are local files in the layout of DataComp-LM and nanochat."""

    model: Annotated[Path, Positional]  # model in any format, or a run folder (best checkpoint)
    folder: Annotated[Path, Positional]  # folder with core.yaml, eval_data/ and eval_meta_data.csv
    limit: PositiveInt | None = None  # maximum number of items per task, sampled at random (default: all)
    tokenizer: Path | None = None  # tokenizer file or folder, for a model without a tokenizer
    json: bool = False  # print one JSON document


def run(options: Options) -> None:
    from tqdm import tqdm

    import gollm
    from gollm.cli.evaluations import note
    from gollm.evaluation import evaluate_core, read_core_tasks

    tasks = read_core_tasks(options.folder)
    model = gollm.load(options.model, tokenizer=options.tokenizer)
    with tqdm(unit=" texts", leave=False, disable=None) as bar:
        found = evaluate_core(model, tasks, limit=options.limit, progress=bar.update)
    centred = {task.name: task.centred_accuracy.value for task in found.tasks}
    note(options.model, "core", {**centred, "CORE": found.core.value})
    if options.json:
        print(json.dumps({"model": str(options.model), **dataclasses.asdict(found)}))
        return
    width = max(map(len, (*centred, "task")))
    print(f"{'task':<{width}}  {'items':>7}  {'examples':>8}  {'accuracy':>16}  {'chance':>6}  {'centred':>16}")
    for task in found.tasks:
        figures = f"{task.accuracy!s:>16}  {task.chance:>6.4f}  {task.centred_accuracy!s:>16}"
        print(f"{task.name:<{width}}  {task.n_items:>7,}  {task.few_shot:>8}  {figures}")
    print(f"{'CORE':<{width}}  {'':>7}  {'':>8}  {'':>16}  {'':>6}  {found.core!s:>16}")
    if n_cut := sum(task.n_cut for task in found.tasks):
        print(f"{n_cut:,} texts were longer than the context ({model.config.context} tokens) and lost their beginning")

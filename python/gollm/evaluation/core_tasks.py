"""A folder of in-context tasks, as DataComp-LM (Li et al. 2024) and nanochat have it for their CORE metric:

    core.yaml              icl_tasks:
                             - label: hellaswag
                               dataset_uri: hellaswag.jsonl
                               num_fewshot: [10]
                               icl_task_type: multiple_choice
                               continuation_delimiter: " "
    eval_data/             the files that dataset_uri names, JSON Lines
    eval_meta_data.csv     what guessing reaches, in per cent: the columns "Eval Task" and "Random baseline"

A line is one item, by the task's type:

    multiple_choice        {"query": "2 + 2 =", "choices": ["3", "4"], "gold": 1}
    schema                 {"context_options": ["The cat", "The stone"], "continuation": "sleeps.", "gold": 0}
    language_modeling      {"context": "One, two,", "continuation": "three"}

Without eval_meta_data.csv, guessing reaches the mean of 1 / options, and nothing where a text has to be continued.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gollm.data.records import Record, read_records
from gollm.errors import DataError
from gollm.options import load_file
from gollm.system.strict_json import shorten

KINDS = ("multiple_choice", "schema", "language_modeling")
_KEYS = ("label", "dataset_uri", "num_fewshot", "icl_task_type", "continuation_delimiter")
_UNUSED = ("has_categories", "max_seq_len", "batch_size", "metric_names")  # which do not change the figures


@dataclass(frozen=True)
class CoreItem:
    """options: contexts with their continuations, of which the one numbered `gold` is right. Where a text has to be
    continued, it is the only one."""

    options: tuple[tuple[str, str], ...]
    gold: int


@dataclass(frozen=True)
class CoreTask:
    """kind: one of KINDS; delimiter: what stands between a context and its continuation; chance: the accuracy of
    guessing."""

    name: str
    kind: str
    few_shot: int
    delimiter: str
    chance: float
    items: tuple[CoreItem, ...]


def read_core_tasks(folder: str | Path) -> list[CoreTask]:
    """The tasks of a folder, in the order of its core.yaml. Raises DataError for a folder without it and, with file
    and line, for a task or an item that cannot be used, ConfigError for a core.yaml that cannot be read."""
    root = Path(folder)
    path = root / "core.yaml"
    if not os.path.exists(path):
        raise DataError(f"there is no core.yaml in {root}; name the folder that holds it, with the tasks' files")
    entries = load_file(path).get("icl_tasks")
    if not isinstance(entries, list) or not entries or not all(isinstance(entry, dict) for entry in entries):
        raise DataError(f"{path}: icl_tasks is {shorten(entries)}; it must be a list of tasks")
    baselines = _baselines(root / "eval_meta_data.csv")
    tasks = [_task(root, entry, f"{path}: task {number}", baselines) for number, entry in enumerate(entries, 1)]
    names = [task.name for task in tasks]
    for name in names:
        if names.count(name) > 1:
            raise DataError(f"{path}: {names.count(name)} tasks have the label {shorten(name)}; give each its own")
    return tasks


def _task(root: Path, entry: Mapping[str, Any], where: str, baselines: Mapping[str, float] | None) -> CoreTask:
    name, uri, shots, kind = (entry.get(key) for key in _KEYS[:4])
    delimiter = entry.get("continuation_delimiter", " ")
    for key, value in (("label", name), ("dataset_uri", uri)):
        if not isinstance(value, str) or not value:
            raise DataError(f"{where}: {key} is {shorten(value)}; it must be text")
    where = f"{root / 'core.yaml'}: task {name}"
    if unknown := next((key for key in entry if key not in (*_KEYS, *_UNUSED)), None):
        raise DataError(f"{where}: gollm does not know {shorten(unknown)}; its keys are {', '.join(_KEYS)}")
    if kind not in KINDS:
        raise DataError(f"{where}: icl_task_type is {shorten(kind)}; gollm knows {', '.join(KINDS)}")
    if not isinstance(delimiter, str):
        raise DataError(f"{where}: continuation_delimiter is {shorten(delimiter)}; it must be text")
    few_shot = shots[0] if isinstance(shots, list) and len(shots) == 1 else shots
    if type(few_shot) is not int or few_shot < 0:
        raise DataError(f"{where}: num_fewshot is {shorten(shots)}; it must be one number, 0 or more")
    items = tuple(_item(record, kind) for record in read_records(root / "eval_data" / str(uri)))
    if baselines is None:
        chance = 0.0 if kind == "language_modeling" else float(np.mean([1 / len(item.options) for item in items]))
    elif str(name) in baselines:
        chance = baselines[str(name)]
    else:
        raise DataError(f"{root / 'eval_meta_data.csv'} has no random baseline of the task {name}; add a line for it")
    return CoreTask(str(name), kind, few_shot, delimiter, chance, items)


def _baselines(path: Path) -> dict[str, float] | None:
    """What guessing reaches in each task; None where there is no such file."""
    if not path.exists():
        return None
    found = {}
    for record in read_records(path):
        name, value = (record.values.get(key) for key in ("Eval Task", "Random baseline"))
        try:
            percent = float(str(value))
        except ValueError:
            percent = math.nan
        if not name or not 0 <= percent < 100:
            raise DataError(
                f"{record.where}: the random baseline of {shorten(name)} is {shorten(value)}; it must be a number from "
                "0 to below 100, in per cent, in the columns 'Eval Task' and 'Random baseline'"
            )
        found[str(name)] = percent / 100
    return found


def _item(record: Record, kind: str) -> CoreItem:
    if kind == "language_modeling":
        return CoreItem(((_text(record, "context").strip(), _text(record, "continuation", filled=True)),), 0)
    if kind == "multiple_choice":
        query = _text(record, "query")
        options = tuple((query, choice) for choice in _texts(record, "choices"))
    else:
        continuation = _text(record, "continuation", filled=True)
        options = tuple((context, continuation) for context in _texts(record, "context_options"))
    gold = record.values.get("gold")
    if type(gold) is not int or not 0 <= gold < len(options):
        raise DataError(f"{record.where}: gold is {shorten(gold)}; it must be a number from 0 to {len(options) - 1}")
    return CoreItem(options, gold)


def _text(record: Record, field: str, *, filled: bool = False) -> str:
    value = record.values.get(field)
    if not isinstance(value, str) or (filled and not value.strip()):
        raise DataError(f"{record.where}: {field} is {shorten(value)}; it must be text")
    return value


def _texts(record: Record, field: str) -> list[str]:
    values = record.values.get(field)
    if not isinstance(values, list) or len(values) < 2 or not all(isinstance(one, str) and one for one in values):
        raise DataError(f"{record.where}: {field} is {shorten(values)}; it must be a list of two texts or more")
    return values

"""CORE: the same items right as by nanochat's procedure, written out over whole texts; figures by hand."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest

from finetuning.conftest import small_model, write_lines
from gollm.errors import ConfigError, DataError, EvaluationError
from gollm.evaluation import CoreItem, CoreTask, evaluate_core, read_core_tasks

MODEL = small_model(context=256, seed=3)
for parameter in MODEL.decoder.parameters.values():
    parameter.data[...] *= 3  # far from uniform
WORDS = ("tea", "a cat", "the dog", "seven", "no", "yes, it is", "blue")


def items(kind, n=9):
    rng = random.Random(5)
    some = lambda most: " ".join(rng.choices(WORDS, k=rng.randint(1, most)))  # noqa: E731
    for i in range(n):
        if kind == "multiple_choice":
            yield {"query": some(4), "choices": [f"the {i}", f"the {some(2)}", "no"], "gold": i % 3}
        elif kind == "schema":
            yield {"context_options": [some(3), "why " + some(3)], "continuation": some(4), "gold": i % 2}
        else:
            yield {"context": f" {some(3)}  ", "continuation": some(1), "category": "x"}


@pytest.fixture
def folder(tmp_path):
    tasks = []
    for kind, shots in (("multiple_choice", 2), ("schema", 0), ("language_modeling", 1)):
        (tmp_path / "eval_data" / kind).mkdir(parents=True)
        write_lines(tmp_path / "eval_data" / kind / "a.jsonl", list(items(kind)))
        task = {"label": kind, "dataset_uri": f"{kind}/a.jsonl", "num_fewshot": [shots], "icl_task_type": kind}
        tasks.append({**task, "has_categories": True})
    tasks[0]["continuation_delimiter"] = "\nAnswer: "
    (tmp_path / "core.yaml").write_text(json.dumps({"icl_tasks": tasks}))
    return tmp_path


def probabilities(ids):
    logits = MODEL.logits(ids)[0].astype(np.float64)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def expected(kind, data, shots, delimiter):
    """nanochat/core_eval.py: whole texts, the positions that count found by comparing their tokens."""
    right = []
    for idx, item in enumerate(data):
        others = [i for i in range(len(data)) if i != idx]
        examples = [data[i] for i in random.Random(1234 + idx).sample(others, shots)]
        if kind == "multiple_choice":
            text = "".join(f"{e['query']}{delimiter}{e['choices'][e['gold']]}\n\n" for e in examples)
            texts = [f"{text}{item['query']}{delimiter}{choice}" for choice in item["choices"]]
        elif kind == "schema":
            text = "".join(f"{e['context_options'][e['gold']]}{delimiter}{e['continuation']}\n\n" for e in examples)
            texts = [f"{text}{context}{delimiter}{item['continuation']}" for context in item["context_options"]]
        else:
            text = "".join(f"{e['context'].strip()}{delimiter}{e['continuation']}\n\n" for e in examples)
            text += item["context"].strip() + delimiter
            texts = [text.strip(), text + item["continuation"]]
        bos = MODEL.tokenizer.special_tokens["<|endoftext|>"]
        rows = [[bos, *MODEL.tokenizer.encode(text).tolist()] for text in texts]
        if kind == "language_modeling":
            begin = len(rows[0])
            assert rows[1][:begin] == rows[0]
            right.append(bool((probabilities(rows[1])[begin - 1 : -1].argmax(-1) == rows[1][begin:]).all()))
            continue
        n = 0
        while len({row[n] if kind == "multiple_choice" else row[-1 - n] for row in rows}) == 1:
            n += 1
        begins = [n if kind == "multiple_choice" else len(row) - n for row in rows]
        losses = []
        for row, begin in zip(rows, begins, strict=True):
            log_p = probabilities(row)
            losses.append(-np.mean([log_p[i - 1, row[i]] for i in range(begin, len(row))]))
        right.append(int(np.argmin(losses)) == item["gold"])
    return right


@pytest.mark.parametrize("limit", [None, 6])
def test_the_items_that_nanochats_procedure_has_right(folder, limit, monkeypatch):
    monkeypatch.setattr("gollm.evaluation.core.ITEMS_AT_ONCE", 4)
    tasks = read_core_tasks(folder)
    seen = []
    found = evaluate_core(MODEL, tasks, limit=limit, progress=seen.append)
    assert sum(seen) == (limit or 9) * (3 + 2 + 1)
    centred = []
    for task, result, chance in zip(tasks, found.tasks, (1 / 3, 1 / 2, 0), strict=True):
        data = list(items(task.kind))
        order = list(range(len(data)))
        random.Random(1337).shuffle(order)
        order = order[:limit]
        right = expected(task.kind, [data[i] for i in order], task.few_shot, task.delimiter)
        assert [result.right[i] for i in order] == right
        assert sum(one is None for one in result.right) == 9 - len(order)
        p, n = np.mean(right), len(right)
        assert result.accuracy.value == pytest.approx(p) and result.chance == pytest.approx(chance)
        centred.append((p - chance) / (1 - chance))
        assert result.centred_accuracy.value == pytest.approx(centred[-1])
        error = np.sqrt(p * (1 - p) / (n - 1)) / (1 - chance)
        assert result.centred_accuracy.standard_error == pytest.approx(error)
    assert found.core.value == pytest.approx(np.mean(centred))
    errors = [one.centred_accuracy.standard_error for one in found.tasks]
    assert found.core.standard_error == pytest.approx(np.sqrt(np.square(errors).sum()) / 3)
    assert 0 < sum(bool(right) for task in found.tasks for right in task.right) < 27


def test_a_text_is_continued_exactly_or_not():
    ids = MODEL.tokenizer.encode("One").tolist()
    bos = MODEL.tokenizer.special_tokens["<|endoftext|>"]
    log_p = probabilities([bos, *ids, *MODEL.tokenizer.encode(" x").tolist()])
    best = MODEL.tokenizer.decode([int(log_p[len(ids)].argmax())])
    tasks = [
        CoreTask("a", "language_modeling", 0, "", 0.0, (CoreItem((("One", text),), 0),)) for text in (best, best + "~~")
    ]
    assert [task.right for task in evaluate_core(MODEL, tasks).tasks] == [(True,), (False,)]


def test_long_texts_lose_their_beginning():
    def solve(context):
        task = CoreTask("long", "multiple_choice", 0, " ", 0.5, (CoreItem(((context, "no"), (context, "yes")), 0),))
        return evaluate_core(MODEL, [task]).tasks[0]

    assert solve("tea " * 100).n_cut == 2 and solve("tea").n_cut == 0
    long = CoreTask("long", "language_modeling", 0, " ", 0.0, (CoreItem((("tea", "tea " * 100),), 0),))
    with pytest.raises(EvaluationError, match="tokens, more than this model's context"):
        evaluate_core(MODEL, [long])


def test_chance_comes_from_the_folders_table(folder):
    table = "Eval Task,Task Category,Random baseline\nmultiple_choice,x,40\nschema,x,50\nlanguage_modeling,x,0\n"
    (folder / "eval_meta_data.csv").write_text(table)
    assert [task.chance for task in read_core_tasks(folder)] == [0.4, 0.5, 0.0]
    (folder / "eval_meta_data.csv").write_text(table.replace("schema,", "winograd,"))
    with pytest.raises(DataError, match=r"eval_meta_data\.csv has no random baseline of the task schema"):
        read_core_tasks(folder)
    (folder / "eval_meta_data.csv").write_text(table.replace("40", "100"))
    with pytest.raises(DataError, match="line 2: the random baseline of 'multiple_choice' is '100'; it must be"):
        read_core_tasks(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"label": None}, "core.yaml: task 1: label is None; it must be text"),
        ({"icl_task_type": "chess"}, "task a: icl_task_type is 'chess'; gollm knows multiple_choice, schema,"),
        ({"num_fewshot": [0, 5]}, "task a: num_fewshot is [0, 5]; it must be one number, 0 or more"),
        ({"num_fewshot": True}, "num_fewshot is True"),
        ({"prompt_string": "Hi"}, "task a: gollm does not know 'prompt_string'; its keys are label,"),
        ({"continuation_delimiter": 3}, "continuation_delimiter is 3; it must be text"),
        ({"dataset_uri": "nowhere.jsonl"}, "nowhere.jsonl"),
        ({"icl_task_type": "schema"}, "a.jsonl, line 1: continuation is None; it must be text"),
        ({"icl_task_type": "language_modeling"}, "a.jsonl, line 1: context is None; it must be text"),
    ],
)
def test_mistakes_in_tasks(tmp_path, changes, message):
    (tmp_path / "eval_data").mkdir()
    write_lines(tmp_path / "eval_data" / "a.jsonl", list(items("multiple_choice")))
    task = {"label": "a", "dataset_uri": "a.jsonl", "num_fewshot": 0, "icl_task_type": "multiple_choice", **changes}
    (tmp_path / "core.yaml").write_text(json.dumps({"icl_tasks": [task]}))
    with pytest.raises(DataError) as error:
        read_core_tasks(tmp_path)
    assert message in str(error.value)


def test_mistakes(tmp_path):
    with pytest.raises(DataError, match=r"there is no core\.yaml in .*; name the folder that holds it"):
        read_core_tasks(tmp_path)
    (tmp_path / "core.yaml").write_text("icl_tasks: [")
    with pytest.raises(ConfigError, match=r"core\.yaml: .* not valid YAML"):
        read_core_tasks(tmp_path)
    (tmp_path / "core.yaml").write_text("icl_tasks: 3\n")
    with pytest.raises(DataError, match="icl_tasks is 3; it must be a list of tasks"):
        read_core_tasks(tmp_path)
    item = CoreItem((("a", "b"), ("a", "c")), 0)
    with pytest.raises(EvaluationError, match="the task t has 2 items and wants 2 examples beside each; use more"):
        evaluate_core(MODEL, [CoreTask("t", "multiple_choice", 2, " ", 0.5, (item, item))])
    with pytest.raises(EvaluationError, match="there are no tasks"):
        evaluate_core(MODEL, [])
    with pytest.raises(EvaluationError, match="limit is -1; it must be a whole number, 1 or more"):
        evaluate_core(MODEL, [CoreTask("t", "multiple_choice", 0, " ", 0.5, (item, item))], limit=-1)

"""lm-evaluation-harness with gollm's model and with its own backend for transformers: figures and seconds, in turns.

    python bench/harness.py FOLDER [TURNS]          # a folder in the format of transformers, which both read

Two tasks are defined here: 45 sums as multiple choice, behind five solved ones, and 12 texts to go on with.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

N_SUMS, FEW_SHOT = 45, 5
TASKS = {
    "sums": {
        "output_type": "multiple_choice",
        "doc_to_text": "Question: {{question}}\nAnswer:",
        "doc_to_choice": "choices",
        "doc_to_target": "answer",
        "fewshot_config": {"sampler": "first_n"},
        "num_fewshot": FEW_SHOT,
    },
    "stories": {
        "output_type": "generate_until",
        "doc_to_text": "{{question}}",
        "doc_to_target": "{{answer}}",
        "generation_kwargs": {"until": ["\n\n"], "do_sample": False, "max_gen_toks": 48},
        "metric_list": [{"metric": "exact_match"}],
    },
}


def write_tasks(folder: Path) -> None:
    sums = [
        {"question": f"{7 * i % 23} + {5 * i % 17} = ?", "choices": [str(n) for n in range(s, s + 4)], "answer": i % 4}
        for i in range(N_SUMS)
        for s in [7 * i % 23 + 5 * i % 17 - i % 4]
    ]
    animals = ("fox", "owl", "cat", "bear", "frog", "crow", "hare", "goat", "swan", "mole", "toad", "wolf")
    stories = [{"question": f"Once upon a time, a {one} went out to", "answer": ""} for one in animals]
    for name, docs in (("sums", sums), ("stories", stories)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(doc) + "\n" for doc in docs))
        data = {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(folder / f"{name}.jsonl")}}}
        task = {"task": name, "test_split": "test", **data, **TASKS[name]}
        (folder / f"{name}.yaml").write_text(json.dumps(task))


def main(model: str, turns: str = "3") -> None:
    with tempfile.TemporaryDirectory() as folder:
        os.environ |= {"HF_DATASETS_CACHE": folder, "HF_HUB_OFFLINE": "1"}
        from lm_eval import simple_evaluate
        from lm_eval.models.huggingface import HFLM
        from lm_eval.tasks import TaskManager

        from gollm.evaluation.harness import HarnessModel

        write_tasks(Path(folder))
        manager = TaskManager(include_path=folder, include_defaults=False)
        theirs = HFLM(pretrained=model, device="cpu", dtype="float32", batch_size=8)
        models: dict[str, Any] = {"gollm": HarnessModel(model), "transformers": theirs}
        for task in TASKS:
            seconds: dict[str, list[float]] = {name: [] for name in models}
            answers: dict[str, list[Any]] = {}
            for _ in range(int(turns)):
                for name, lm in models.items():
                    started = time.perf_counter()
                    found = simple_evaluate(
                        lm, tasks=[task], task_manager=manager, bootstrap_iters=0, verbosity="ERROR"
                    )
                    seconds[name].append(time.perf_counter() - started)
                    answers[name] = [answer for one in found["samples"][task] for (answer,) in one["resps"]]
            ours, others = (statistics.median(seconds[name]) for name in models)
            print(f"{task}: gollm {ours:.2f} s, transformers {others:.2f} s, {others / ours:.2f} times")
            pairs = list(zip(*answers.values(), strict=True))
            if task == "sums":
                print(f"  largest difference of a log-probability: {max(abs(a[0] - b[0]) for a, b in pairs):.1e}")
            else:
                print(f"  the same texts: {sum(a == b for a, b in pairs)} of {len(pairs)}")


if __name__ == "__main__":
    main(*sys.argv[1:])

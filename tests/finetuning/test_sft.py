"""gollm finetune --task sft: a run like any other, whose model answers."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import gollm
from gollm import Decoder, FinetuneOptions, LanguageModel, ModelConfig, TrainOptions
from gollm.errors import ConfigError, DataError, TrainingError
from gollm.finetuning.rendering import DEFAULT_TEMPLATE
from gollm.tokenizers import CharacterTokenizer

from .conftest import SHAPE, small_model, sums, write_lines

# Kills itself in the middle of a run, between a checkpoint and the next.
SUICIDE = """
import json, os, signal, sys
import gollm

class Kill(gollm.training.Callback):
    def on_step(self, trainer, metrics):
        if trainer.step == int(sys.argv[2]):
            os.kill(os.getpid(), signal.SIGKILL)

gollm.finetune(gollm.FinetuneOptions(**json.loads(sys.argv[1])), [Kill()])
"""


def killed(options, step):
    command = [sys.executable, "-c", SUICIDE, json.dumps(options), str(step)]
    process = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert process.returncode == -signal.SIGKILL, process.stderr


def check_resumed(options, tmp_path, files, **run):
    """Killed twice and resumed, a run ends with the bytes of one that was not."""
    whole = gollm.finetune(options(**run, out=str(tmp_path / "whole")))
    out = str(tmp_path / "killed")
    killed(options(**run, out=out).to_dict(), 5)
    killed({"resume": out}, 8)
    resumed = gollm.finetune(FinetuneOptions(resume=out))
    assert resumed.steps == whole.steps and resumed.validation_loss == whole.validation_loss
    for name in files:
        assert (whole.folder / name).read_bytes() == (resumed.folder / name).read_bytes(), name


def test_the_model_learns_to_answer(finetune):
    result = finetune(steps=400, lr=1e-2, batch_size=16, warmup_steps=20)
    model = gollm.load(result.checkpoint)
    answers = [model.chat([{"role": "user", "content": f"{i % 7}+{i % 5}="}], temperature=0) for i in range(35)]
    right = sum(answer.rstrip("!") == str(i % 7 + i % 5) for i, answer in enumerate(answers))
    assert right >= 25


@pytest.mark.parametrize("mask", ["assistant", "none"])
def test_killed_and_resumed_the_bytes_are_the_same(options, tmp_path, mask):
    run = {"steps": 10, "checkpoint_every": 3, "eval_every": 2, "grad_accumulation": 2, "mask": mask}
    check_resumed(options, tmp_path, ["best.golm", "step-00000009.golm", "step-00000010.golm"], **run)


def test_the_default_template_is_saved_with_the_model(finetune, tmp_path):
    small_model(template=None).save(tmp_path / "plain.golm")
    result = finetune(model=str(tmp_path / "plain.golm"), sample_tokens=3)
    model = gollm.load(result.checkpoint)
    assert model.defaults.chat_template == DEFAULT_TEMPLATE
    model.chat([{"role": "user", "content": "1+1="}], max_new_tokens=2)


def test_data_that_is_too_long(finetune, options, tmp_path):
    records = [*sums(30), {"prompt": "x" * 100, "completion": "y"}, {"prompt": "1", "completion": "2" * 90}]
    data = (str(write_lines(tmp_path / "long.jsonl", records)),)
    with pytest.raises(DataError, match=r"long.jsonl, line 31 has 1\d\d tokens.*96, and 1 others are longer, too"):
        finetune(data=data)
    assert finetune(data=data, too_long="truncate").steps == 6
    with pytest.raises(ConfigError, match="--context is 97, but this model reads at most 96 tokens"):
        finetune(context=97, out=str(tmp_path / "other"))


def test_text_that_the_tokenizer_cannot_write(finetune, tmp_path):
    data = (str(write_lines(tmp_path / "odd.jsonl", [*sums(3), {"prompt": "1 \u20ac", "completion": "2"}])),)
    with pytest.raises(DataError, match=r"odd\.jsonl, line 4: the character '\u20ac' \(U\+20AC\) at position"):
        finetune(data=data)
    tokenizer = CharacterTokenizer.train(iter(["0123456789+=!"]), None, special_tokens=["<|endoftext|>"])
    model = Decoder(ModelConfig(**{**SHAPE, "vocab_size": tokenizer.vocab_size}))
    LanguageModel(model, tokenizer).save(tmp_path / "digits.golm")
    with pytest.raises(
        ConfigError, match=r"no chat template, and its tokenizer cannot write the plain one, which begins"
    ):
        finetune(model=str(tmp_path / "digits.golm"))


def test_a_run_knows_its_command(finetune, tmp_path):
    folder = str(finetune(steps=2).folder)
    with pytest.raises(TrainingError, match="is one of gollm finetune; go on with: gollm finetune --resume"):
        gollm.train(TrainOptions(resume=folder))
    with pytest.raises(ConfigError, match=r"--mask is none, but the run in .* has assistant"):
        gollm.finetune(FinetuneOptions(resume=folder, mask="none"))
    with pytest.raises(ConfigError, match="--model and --data are needed"):
        FinetuneOptions(model="x.golm")


def test_validation_data_of_its_own(finetune, tmp_path):
    data = write_lines(tmp_path / "validation.json", sums(9))
    result = finetune(validation_data=(str(data),), eval_every=3)
    lines = [json.loads(line) for line in Path(result.folder, "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "validation_loss" in line] == [3, 6]

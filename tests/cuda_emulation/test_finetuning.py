"""Fine-tuning and gradient checks on an emulated GPU, through the front doors: the CPU's losses."""

import json

import numpy as np
import pytest

import gollm
from finetuning.conftest import small_model, sums, write_lines
from gollm import FinetuneOptions
from gollm.cli.main import main
from gollm.errors import DTypeError
from gollm.formats.golm.checkpoint import open_checkpoint

PAIRS = [{"prompt": one["prompt"], "chosen": one["completion"], "rejected": "no"} for one in sums(12)]
LABELLED = [{"text": one["prompt"], "label": "long" if i % 3 else "short"} for i, one in enumerate(sums(12))]
RECORDS = {"sft": sums(12), "dpo": PAIRS, "classify": LABELLED}
TASKS = {
    "all weights": {"task": "sft"},
    "LoRA": {"task": "sft", "lora_rank": 2, "lora_dropout": 0.2},
    "preferences": {"task": "dpo", "lora_rank": 2},
    "labels": {"task": "classify", "class_weights": "balanced"},
    "labels by LoRA": {"task": "classify", "lora_rank": 2},
}
LR = 1e-2


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    path = tmp_path_factory.mktemp("base") / "base.golm"
    small_model(d_model=16, n_heads=2, n_kv_heads=1, context=64).save(path)
    return path


@pytest.fixture
def finetune(base, tmp_path, gpu):
    """finetune("name", task="sft", steps=3): the metrics of a run in tmp_path/name."""

    def run(name, **changes):
        out = tmp_path / name
        if "resume" in changes:
            options = FinetuneOptions(**{**changes, "resume": str(out)})
        else:
            data = write_lines(tmp_path / f"{changes['task']}.jsonl", RECORDS[changes["task"]])
            usual = {"model": str(base), "data": (str(data),), "steps": 3, "batch_size": 2, "lr": LR}
            usual |= {"eval_batches": 1, "validation_fraction": 0.2, "sample_tokens": 0, "out": str(out)}
            options = FinetuneOptions(**{**usual, **changes})
        gollm.finetune(options)
        return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]

    return run


def losses(metrics):
    return [line["loss"] for line in metrics]


@pytest.mark.parametrize("task", TASKS)
def test_losses_follow_the_cpus(finetune, task):
    on_cpu = finetune("cpu", **TASKS[task])
    on_gpu = finetune("gpu", device="cuda", **TASKS[task])
    narrow = finetune("bf16", device="cuda", dtype="bfloat16", **TASKS[task])
    for name in on_cpu[0].keys() & {"loss", "grad_norm", "accuracy"}:
        expected = [line[name] for line in on_cpu]
        np.testing.assert_allclose([line[name] for line in on_gpu], expected, rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(losses(narrow), losses(on_cpu), rtol=3e-2)
    expected = on_cpu[-1]["validation_loss"]
    assert on_gpu[-1]["validation_loss"] == pytest.approx(expected, rel=1e-3)
    assert narrow[-1]["validation_loss"] == pytest.approx(expected, rel=3e-2)


def test_adapters_over_quantised_weights(finetune, base, tmp_path):
    quantised = tmp_path / "int8.golm"
    assert main(["quantize", str(base), str(quantised), "--weights", "int8"]) == 0
    options = {"model": str(quantised), **TASKS["LoRA"]}
    on_cpu, on_gpu = (finetune(device, device=device, **options) for device in ("cpu", "cuda"))
    np.testing.assert_allclose(losses(on_gpu), losses(on_cpu), rtol=2e-2)  # activations have 8 bits, too
    with pytest.raises(DTypeError, match="is quantised, and such a model computes in float32; use the dtype float32"):
        finetune("narrow", device="cuda", dtype="bfloat16", **options)
    assert not (tmp_path / "narrow" / "metrics.jsonl").exists()


def test_weights_of_16_bits_are_those_of_a_bfloat16_model(finetune, base, tmp_path):
    stored = tmp_path / "bf16.golm"
    assert main(["quantize", str(base), str(stored), "--weights", "bf16"]) == 0
    options = {"device": "cuda", "dtype": "bfloat16", **TASKS["LoRA"]}
    assert losses(finetune("stored", model=str(stored), **options)) == losses(finetune("rounded", **options))


@pytest.mark.parametrize("devices", [("cuda", "cpu"), ("cpu", "cuda")])
def test_a_run_goes_on_on_either_device(finetune, devices):
    options = {"schedule": "constant", "warmup_steps": 0, **TASKS["LoRA"]}
    whole = finetune("whole", steps=4, **options)
    finetune("run", steps=2, device=devices[0], **options)
    resumed = finetune("run", resume=True, steps=4, device=devices[1])
    np.testing.assert_allclose(losses(resumed), losses(whole), rtol=1e-3)


@pytest.mark.parametrize("rounding", ["nearest", "stochastic"])
def test_a_resumed_run_ends_with_the_same_bytes(finetune, tmp_path, rounding):
    options = {"schedule": "constant", "warmup_steps": 0, "device": "cuda", "dtype": "bfloat16", "rounding": rounding}
    options |= TASKS["LoRA"]
    finetune("whole", steps=4, **options)
    finetune("run", steps=2, **options)
    finetune("run", resume=True, steps=4)
    found, expected = (open_checkpoint(tmp_path / name / "step-00000004.golm") for name in ("run", "whole"))
    with found, expected:
        for group in ("tensors", "training_tensors"):
            for name, values in getattr(expected, group).items():
                assert values.tobytes() == getattr(found, group)[name].tobytes(), name


def test_gollm_finetune(base, tmp_path, gpu, capsys):
    data = write_lines(tmp_path / "sums.jsonl", sums(12))
    words = ["finetune", str(base), str(data), "--steps", "2", "--batch-size", "2", "--sample-tokens", "3"]
    words += ["--lora-rank", "2", "--device", "cuda", "--dtype", "bfloat16", "--out", str(tmp_path / "run")]
    assert main(words) == 0
    text = capsys.readouterr().out
    assert "emulated GPU, compute capability 8.0" in text and "step 2/2 | loss" in text
    assert (tmp_path / "run" / "adapter" / "adapter_config.json").exists()
    assert main(["generate", str(tmp_path / "run"), "--prompt", "1+1=", "--max-new-tokens", "3"]) == 0


def test_gollm_gradcheck(gpu, capsys):
    shape = ["--n-layers", "1", "--d-model", "16", "--n-heads", "2", "--vocab-size", "11", "--context", "8"]
    assert main(["gradcheck", *shape, "--tokens", "5", "--samples", "2", "--device", "cuda"]) == 0
    assert "gradients are right" in capsys.readouterr().out

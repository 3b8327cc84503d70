"""Training on an emulated GPU, through the front doors: the CPU's losses, the same bits each time, and checkpoints that
either device goes on from."""

import dataclasses
import json

import numpy as np
import pytest

import gollm
from gollm import TrainOptions
from gollm.cli.main import main
from gollm.errors import DTypeError
from gollm.formats.golm.checkpoint import open_checkpoint
from gollm.kernels import cpu
from gollm.model.config import ModelConfig
from gollm.model.decoder import Decoder
from gollm.nn import dtypes
from gollm.nn.optimizer import SGD, AdamW
from gollm.training import prepare_job
from gollm.training.objective import forward_backward

MODELS = {
    "GPT-2": {"preset": "tiny", "n_layers": 2, "d_model": 16, "n_heads": 2, "dropout": 0.2},
    "LLaMA": {
        "preset": "gollm-85m",
        "n_layers": 2,
        "n_heads": 4,
        "n_kv_heads": 2,
        "d_model": 32,
        "d_ff": 48,
        "sliding_window": 9,
        "tied_head": False,
    },
}
SMALL = {"context": 16, "batch_size": 3, "tokenizer": "character", "lr": 5e-3, "sample_tokens": 0, "eval_batches": 2}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    rng = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("corpus") / "words.txt"
    path.write_text(" ".join("".join(rng.choice(["ba", "ko", "ri", "nu"], rng.integers(1, 4))) for _ in range(1000)))
    return path


@pytest.fixture
def train(corpus, tmp_path, monkeypatch, gpu):
    """train("name", model, steps=3): the metrics of a run in tmp_path/name."""
    monkeypatch.setenv("GOLLM_CACHE", str(tmp_path / "cache"))

    def run(name, model="GPT-2", **changes):
        out = tmp_path / name
        if "resume" in changes:
            options = TrainOptions(resume=str(out), **{k: v for k, v in changes.items() if k != "resume"})
        else:
            options = TrainOptions(data=(str(corpus),), out=str(out), **{**SMALL, **MODELS[model], **changes})
        gollm.train(options)
        return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]

    return run


def losses(metrics):
    return [line["loss"] for line in metrics]


STOCHASTIC = {"device": "cuda", "dtype": "bfloat16", "rounding": "stochastic"}


@pytest.mark.parametrize("model", MODELS)
def test_losses_follow_the_cpus(train, model):
    options = {"steps": 5, "grad_accumulation": 2, "eval_every": 5}
    on_cpu = train("cpu", model, device="cpu", **options)
    on_gpu = train("gpu", model, device="cuda", **options)
    narrow = train("bf16", model, device="cuda", dtype="bfloat16", **options)
    alone = train("alone", model, **STOCHASTIC, **options)
    for name in ("loss", "grad_norm"):
        expected = [line[name] for line in on_cpu]
        np.testing.assert_allclose([line[name] for line in on_gpu], expected, rtol=2e-4)
        # A norm of a few thousand bfloat16 numbers, each within 2^-9 of itself; the losses average that.
        for run in (narrow, alone):
            found = [line[name] for line in run]
            np.testing.assert_allclose(found, expected, rtol=2e-2 if name == "loss" else 1e-1)
    assert on_gpu[-1]["validation_loss"] == pytest.approx(on_cpu[-1]["validation_loss"], rel=2e-4)
    assert losses(narrow)[-1] < losses(narrow)[0] and losses(alone)[-1] < losses(alone)[0]


@pytest.mark.parametrize(
    "options",
    [
        {"device": "cuda", "dtype": "float32", "optimizer": "sgd", "lr": 0.1},
        {"device": "cuda", "dtype": "bfloat16", "optimizer": "sgd", "lr": 0.1},
        STOCHASTIC,
    ],
)
def test_two_runs_have_the_same_bits(train, tmp_path, options):
    options = {"steps": 3, "recompute": "block", **options}
    first, second = (train(name, **options) for name in ("first", "second"))
    assert losses(first) == losses(second)
    assert (tmp_path / "first/step-00000003.golm").read_bytes() == (tmp_path / "second/step-00000003.golm").read_bytes()


@pytest.mark.parametrize("devices", [("cuda", "cpu"), ("cpu", "cuda")])
def test_a_run_goes_on_on_either_device(train, devices):
    """The same data and dropout masks: the losses are those of a run that was not interrupted."""
    options = {"schedule": "constant", "warmup_steps": 0}
    whole = train("whole", steps=4, device="cpu", **options)
    train("run", steps=2, device=devices[0], **options)
    resumed = train("run", resume=True, steps=4, device=devices[1])
    np.testing.assert_allclose(losses(resumed), losses(whole), rtol=1e-3)


@pytest.mark.parametrize("rounding", ["nearest", "stochastic"])
def test_a_resumed_run_ends_with_the_same_bytes(train, tmp_path, rounding):
    options = {**STOCHASTIC, "rounding": rounding, "schedule": "constant", "warmup_steps": 0}
    train("whole", steps=4, **options)
    train("run", steps=2, **options)
    train("run", resume=True, steps=4)
    found, expected = (open_checkpoint(tmp_path / name / "step-00000004.golm") for name in ("run", "whole"))
    with found, expected:
        for group in ("tensors", "training_tensors"):
            for name, values in getattr(expected, group).items():
                assert values.tobytes() == getattr(found, group)[name].tobytes(), name
                assert group != "tensors" or values.dtype == np.float32
                if rounding == "stochastic" and group == "tensors":
                    assert (values.view(np.uint32) & 0xFFFF == 0).all(), name


def test_masters_move_by_less_than_bfloat16_can_say(gpu):
    config = ModelConfig(n_layers=1, n_heads=2, d_model=16, context=8, vocab_size=11)
    model = Decoder(config).initialise(1).to(gpu, dtypes.bfloat16)
    before = model.parameters["token_embedding"].data.copy()
    optimizer, tokens = AdamW(model.parameters, weight_decay=0.0), np.arange(8, dtype=np.int32).reshape(1, 1, 8)
    forward_backward(model, np.zeros(1, np.int64), tokens, tokens)
    optimizer.step(1e-6)
    after = model.parameters["token_embedding"].data
    moved = np.abs(after - before)
    assert (
        moved.max() == pytest.approx(1e-6, rel=0.05)
        and model.parameters["token_embedding"].storage.dtype is dtypes.bfloat16
    )
    read = model.parameters["token_embedding"].storage.host()
    np.testing.assert_allclose(read, after, rtol=2**-8)


def test_weights_without_masters(gpu):
    """They have the dtype that kernels read, the bits of the CPU's kernel, and take 2 bytes; their gaps stay zero."""
    config = ModelConfig(n_layers=1, n_heads=2, d_model=20, context=8, vocab_size=11)
    models = [Decoder(config).initialise(1).to(gpu, dtypes.bfloat16, masters=masters) for masters in (True, False)]
    model = models[1].parameters
    assert model.weights is model.read_weights and model.weights.nbytes == 2 * model.size
    tokens = np.arange(8, dtype=np.int32).reshape(1, 1, 8)
    losses = [forward_backward(one, np.zeros(1, np.int64), tokens, tokens)[0].item() for one in models]
    assert losses[0] == losses[1]  # both read the same weights
    w, g = gpu.to_host(model.weights).copy(), gpu.to_host(model.gradients)
    optimizer = AdamW(model, weight_decay=0.1, max_grad_norm=0.0, seed=5)
    optimizer.step(1e-2)
    g = (g.astype(np.uint32) << 16).view(np.float32)
    m, v, numbers = np.zeros_like(g), np.zeros_like(g), {"eps": 1e-8, "weight_decay": 0.1, "n_decay": model.n_decay}
    cpu.adamw_bf16(w=w, m=m, v=v, g=g, lr=np.array([1e-2]), step=np.ones(1, np.int64), grad_scale=np.ones(1),
                   beta1=0.9, beta2=0.95, seed=5, **numbers)  # fmt: skip
    found = gpu.to_host(model.weights)
    # Few weights lie so close to the border that the last bit of a float, which FMA changes, decides.
    assert np.abs(found.astype(int) - w).max() <= 1 and (found != w).sum() <= 2
    for name in model:
        offset, end = model.offsets[name], model.offsets[name] + model[name].size
        assert (found[end : offset + -(-model[name].size // 16) * 16] == 0).all()
    with pytest.raises(DTypeError, match="only AdamW can train"):
        SGD(model)
    again = models[1].parameters["token_embedding"].data
    models[1].parameters._gradients = None  # as before training: a model can move then
    models[1].to(cpu)
    assert models[1].parameters.weights.dtype == np.float32
    np.testing.assert_array_equal(models[1].parameters["token_embedding"].data, again)


def test_a_run_without_masters_takes_less_memory_and_goes_on_with_them(train, tmp_path, corpus, monkeypatch):
    options = {"schedule": "constant", "warmup_steps": 0}
    train("whole", steps=4, device="cpu", **options)
    train("run", steps=2, **STOCHASTIC, **options)
    resumed = train("run", resume=True, steps=4, device="cpu", dtype="float32", rounding="nearest")
    whole = [json.loads(line) for line in (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()]
    np.testing.assert_allclose(losses(resumed), losses(whole), rtol=2e-2)
    sizes = {}
    for rounding in ("nearest", "stochastic"):
        run = TrainOptions(
            data=(str(corpus),),
            out=str(tmp_path / f"job-{rounding}"),
            **{**SMALL, **MODELS["GPT-2"], **STOCHASTIC, "rounding": rounding},
        )
        with prepare_job(run) as job:
            sizes[rounding] = job.estimate.state_bytes
    n = job.estimate.n_parameters
    assert sizes["nearest"] - sizes["stochastic"] == pytest.approx(4 * n, rel=0.1)


def test_gollm_train(corpus, tmp_path, gpu, capsys, monkeypatch):
    monkeypatch.setenv("GOLLM_CACHE", str(tmp_path / "cache"))
    shape = {**SMALL, **MODELS["GPT-2"], "sample_tokens": 5, "steps": 2}
    flags = [word for name, value in shape.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    assert (
        main(["train", str(corpus), *flags, "--device", "cuda", "--dtype", "bfloat16", "--out", str(tmp_path / "run")])
        == 0
    )
    text = capsys.readouterr().out
    assert "emulated GPU, compute capability 8.0" in text and "of the GPU's 4.29 GB" in text
    assert "step 2/2 | loss" in text and "of peak" not in text and "--- a sample after step 2" in text
    assert "device: cuda" in (tmp_path / "run" / "config.yaml").read_text()
    assert dataclasses.asdict(TrainOptions())["device"] == "cpu"

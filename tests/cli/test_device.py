"""--device and --dtype where there is no GPU: one clear line, and 2; auto says nothing."""

import pytest

import gollm
from gollm import TrainOptions, cuda
from gollm.cli.main import main
from gollm.errors import ConfigError, DeviceError
from gollm.language_model import LanguageModel
from gollm.model.config import ModelConfig
from gollm.model.decoder import Decoder
from gollm.tokenizers import CharacterTokenizer

REASON = "no NVIDIA GPU can be used: CUDA driver version is insufficient"


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch):
    monkeypatch.setattr(cuda, "unavailable_reason", lambda: REASON)
    monkeypatch.setattr(cuda, "is_available", lambda: False)
    cuda.kernels.cache_clear()


@pytest.fixture
def model(tmp_path):
    tokenizer = CharacterTokenizer.train(["abc "])
    decoder = Decoder(ModelConfig(n_layers=1, n_heads=1, d_model=8, context=16, vocab_size=tokenizer.vocab_size))
    LanguageModel(decoder.initialise(1), tokenizer).save(tmp_path / "model.golm")
    (tmp_path / "text.txt").write_text("abc " * 100)
    return tmp_path / "model.golm"


@pytest.mark.parametrize("device", [["--device", "cuda"], ["--dtype", "bfloat16"]])
@pytest.mark.parametrize("command", ["train", "finetune", "generate", "chat", "eval"])
def test_what_is_not_there_is_one_line(model, command, device, capsys, tmp_path):
    words = {
        "train": [str(tmp_path / "text.txt"), "--tokenizer", "character", "--out", str(tmp_path / "run")],
        "finetune": [str(model), str(tmp_path / "text.txt"), "--out", str(tmp_path / "run")],
        "generate": [str(model)],
        "chat": [str(model)],
        "eval": [str(model), "--data", str(tmp_path / "text.txt")],
    }
    assert main([command, *words[command], *device]) == 2
    said = capsys.readouterr()
    assert said.err.count("\n") == 1 and not said.out
    expected = REASON if device[0] == "--device" else "dtype is bfloat16, which models have on a GPU only"
    assert expected in said.err and "use " in said.err
    assert not (tmp_path / "run").exists()


def test_gradcheck_without_a_gpu(capsys):
    assert main(["gradcheck", "--device", "cuda"]) == 2
    said = capsys.readouterr()
    assert said.err.count("\n") == 1 and not said.out and REASON in said.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            [],
            "--rounding is stochastic, which is for weights of bfloat16, and --dtype is float32; use --dtype bfloat16",
        ),
        (["--dtype", "bfloat16", "--optimizer", "sgd"], "--optimizer is sgd; use --optimizer adamw or"),
    ],
)
@pytest.mark.parametrize("command", ["train", "finetune"])
def test_stochastic_rounding_where_there_is_none(model, tmp_path, command, words, message, capsys):
    data = [str(tmp_path / "text.txt")] if command == "train" else [str(model), str(tmp_path / "text.txt")]
    assert main([command, *data, "--rounding", "stochastic", *words]) == 2
    said = capsys.readouterr()
    assert said.err.count("\n") == 1 and not said.out and message in said.err


def test_auto_takes_the_cpu(model, capsys):
    assert main(["generate", str(model), "--prompt", "a", "--max-new-tokens", "3", "--device", "auto"]) == 0
    assert "warning" not in capsys.readouterr().err


def test_programs_are_told_by_an_exception(model, tmp_path):
    with pytest.raises(DeviceError, match="the device is cuda, but no NVIDIA GPU"):
        gollm.load(model, device="cuda")
    with pytest.raises(DeviceError, match="the device is cuda"):
        gollm.train(TrainOptions(data=(str(tmp_path / "text.txt"),), device="cuda"))
    with pytest.raises(ConfigError, match="device is 'gpu'; it must be one of auto, cpu, cuda"):
        gollm.load(model, device="gpu")
    with pytest.raises(ConfigError, match="device"):
        TrainOptions(device="gpu")
    with pytest.raises(ConfigError, match="dtype is 'float8'; it must be one of float32, bfloat16"):
        gollm.load(model, dtype="float8")

"""A whole run: its folder, its callbacks, the ways to start it, and going on with it."""

import json
import math
import sys

import numpy as np
import pytest

import gollm
from gollm import Trainer, TrainOptions, tokenizers
from gollm.data import TokenDataset, open_source, prepare
from gollm.errors import CheckpointError, ConfigError, DataError, TrainingError
from gollm.formats.golm.checkpoint import open_checkpoint
from gollm.model.config import ModelConfig
from gollm.model.decoder import Decoder
from gollm.options import from_mapping, load_file
from gollm.tokenizers import CharacterTokenizer
from gollm.training import Callback, Run
from gollm.training.run_folder import RunFolder

from .conftest import metrics


def names(folder):
    return sorted(path.name for path in folder.iterdir() if path.name != ".lock")


# -- what a run leaves


def test_run_folder(train, tmp_path):
    result = train(steps=9, eval_every=3, checkpoint_every=2, keep_checkpoints=3)
    assert names(result.folder) == [
        "best.golm",
        "config.yaml",
        "files.txt",
        "metrics.jsonl",
        "step-00000006.golm",
        "step-00000008.golm",
        "step-00000009.golm",
        "tokenizer.json",
    ]
    assert result.checkpoint == tmp_path / "run" / "step-00000009.golm"


def test_the_files_are_listed(train, corpus, tmp_path):
    (tmp_path / "new\nline.txt").write_text("ba ko " * 20)
    result = train(data=(str(corpus), str(tmp_path / "new\nline.txt")))
    assert (result.folder / "files.txt").read_text() == f"{corpus}\n{tmp_path}/new\\nline.txt\n"


def test_metrics(train):
    result = train(steps=8, eval_every=4, sample_every=3, sample_tokens=5, lr=1e-3, warmup_steps=4, schedule="constant")
    lines = metrics(result.folder)
    always = {"step", "loss", "grad_norm", "lr", "ms", "tokens_per_second", "memory_bytes"}
    for line in lines:
        assert set(line) - {"validation_loss", "validation_bits_per_byte", "sample"} == always
        assert line["tokens_per_second"] == pytest.approx(64 / line["ms"] * 1e3, rel=1e-2)
        if "validation_loss" in line:  # each character of this corpus is a token and a byte
            assert line["validation_bits_per_byte"] == pytest.approx(line["validation_loss"] / math.log(2), rel=1e-12)
    assert [line["lr"] for line in lines] == pytest.approx([2.5e-4, 5e-4, 7.5e-4] + 5 * [1e-3])
    assert [line["step"] for line in lines if "validation_loss" in line] == [4, 8]
    assert [line["step"] for line in lines if "sample" in line] == [3, 6, 8]
    assert result.loss == lines[-1]["loss"]
    assert result.validation_loss == lines[-1]["validation_loss"]
    assert result.best_validation_loss == min(lines[3]["validation_loss"], lines[7]["validation_loss"])


def test_the_best_checkpoint_has_the_lowest_validation_loss(options, train):
    """A learning rate that ruins the model in the end: best.golm is not the last one."""
    result = train(steps=30, eval_every=5, lr=0.5, schedule="linear", warmup_steps=30, eval_batches=4)
    losses = {m["step"]: m["validation_loss"] for m in metrics(result.folder) if "validation_loss" in m}
    assert min(losses, key=losses.get) < 30
    assert result.best_validation_loss == min(losses.values()) < losses[30]
    model = gollm.load(result.folder / "best.golm")
    trainer = Trainer(model.decoder, model.tokenizer, options(out=str(result.folder) + "-again", steps=1, lr=0.0))
    trainer.fit(options().data[0])
    assert trainer.evaluate() != losses[30]
    with open_checkpoint(result.folder / "best.golm") as file:
        assert file.training is None


def test_evaluation_is_on_the_same_batches_each_time(train):
    result = train(steps=6, eval_every=1, lr=0.0, weight_decay=0.0)
    assert len({m["validation_loss"] for m in metrics(result.folder)}) == 1


def test_text_of_its_own_to_judge_by(train, corpus, tmp_path):
    other = tmp_path / "other.txt"
    other.write_text("ba ko ri " * 100)
    plain = train(out=str(tmp_path / "a"))
    judged = train(out=str(tmp_path / "b"), validation_data=(str(other),))
    assert plain.validation_loss != judged.validation_loss
    with open_checkpoint(judged.checkpoint) as file:
        assert file.training["sampler"]["n_tokens"] == len(corpus.read_text())


def test_no_validation_data_is_no_reason_to_fail(train):
    result = train(validation_fraction=0.0)
    assert result.validation_loss is None
    assert "best.golm" not in names(result.folder)


def test_samples_continue_the_prompt(train):
    result = train(steps=2, sample_every=1, sample_tokens=12, sample_prompt="ba ko", lr=0.1)
    first, second = (m["sample"] for m in metrics(result.folder))
    assert first.startswith("ba ko") and len(first) >= len("ba ko") + 12
    assert first != second  # the weights have moved; the draws are the same


@pytest.mark.parametrize("prompt", ["ba ko", ""])
def test_data_samples_and_generation_frame_a_text_alike(train, corpus, tmp_path, prompt):
    header, arrays = CharacterTokenizer.train(corpus.read_text(), special_tokens=("<s>", "<|endoftext|>")).to_state()
    begin = header["special_tokens"]["<s>"]
    tokenizers.save(tokenizers.from_state({**header, "prefix": [begin]}, arrays), tmp_path / "framed.json")
    given = {"tokenizer": str(tmp_path / "framed.json"), "data": 2 * (str(corpus),)}
    result = train(**given, steps=2, sample_tokens=12, sample_prompt=prompt, seed=7)
    model = gollm.load(result.checkpoint)
    tokens = prepare(open_source([corpus, corpus]), model.tokenizer, validation_fraction=0).train[:]
    text = model.tokenizer.encode(corpus.read_text())
    assert tokens.tolist() == [begin, *text, model.tokenizer.end_of_text, begin, *text]
    generated = prompt + model.generate(prompt, max_new_tokens=12, seed=7)  # may end before the sample does
    assert metrics(result.folder)[-1]["sample"].startswith(generated)


@pytest.mark.parametrize(("text", "shown"), [("ba ko ri\n" * 300, False), ("ba ko ri " * 300, True)])
def test_a_sample_starts_from_a_new_line_or_validation_text(train, tmp_path, text, shown):
    """Where the documents have no beginning of their own, and the tokenizer's end token never occurs."""
    (tmp_path / "one.txt").write_text(text)
    result = train(data=(str(tmp_path / "one.txt"),), steps=1, sample_tokens=4)
    sample = metrics(result.folder)[0]["sample"]
    if shown:
        assert sample[:8] in text and len(sample) >= 12
    else:
        model = gollm.load(result.checkpoint)
        assert sample == model.generate("\n", max_new_tokens=4, temperature=0.8, seed=1337)


def test_samples_are_the_same_each_time(train):
    result = train(steps=3, sample_every=1, sample_tokens=12, lr=0.0, weight_decay=0.0)
    assert len({m["sample"] for m in metrics(result.folder)}) == 1


def test_a_prompt_for_samples_that_is_too_long_is_refused_before_training(train, tmp_path):
    with pytest.raises(ConfigError, match=r"--sample-prompt has 30 tokens, more than the model's context \(16\)"):
        train(sample_prompt="b" * 30, sample_tokens=5)
    assert not (tmp_path / "run").exists()


def test_the_configuration_is_resolved_and_can_be_used_again(train, options, tmp_path):
    result = train(min_lr=None, warmup_steps=None, head_dim=4)
    written = load_file(result.folder / "config.yaml")
    assert written["n_heads"] == 2 and written["head_dim"] == 4 and written["d_ff"] == 64
    assert written["min_lr"] == pytest.approx(1e-4) and written["warmup_steps"] == 0 and written["steps"] == 6
    again = from_mapping(TrainOptions, written, "config.yaml").replace(out=str(tmp_path / "again"))
    assert gollm.train(again).loss == result.loss


# -- ways to start


def test_module_and_package_are_the_same_function(options, tmp_path):
    import gollm.train

    assert gollm.train is sys.modules["gollm.train"]
    first = gollm.train(options(out=str(tmp_path / "a")))
    second = gollm.training.job.train(options(out=str(tmp_path / "b")))
    assert first.checkpoint.read_bytes() == second.checkpoint.read_bytes()


class Recorder(Callback):
    def __init__(self):
        self.events = []

    def on_start(self, trainer):
        self.events.append(("start", trainer.step, trainer.total_steps))

    def on_step(self, trainer, metrics):
        self.events.append(("step", metrics["step"], trainer.step))

    def on_checkpoint(self, trainer, path):
        self.events.append(("checkpoint", path.name, path.exists()))

    def on_end(self, trainer, result):
        self.events.append(("end", result.steps, result.interrupted))


def test_callbacks(options):
    recorder = Recorder()
    gollm.train(options(steps=3, checkpoint_every=2), [recorder])
    assert recorder.events == [
        ("start", 0, 3),
        ("step", 1, 1),
        ("checkpoint", "step-00000002.golm", True),
        ("step", 2, 2),
        ("checkpoint", "step-00000003.golm", True),
        ("step", 3, 3),
        ("end", 3, None),
    ]


def test_a_program_with_a_model_of_its_own(options, corpus, tmp_path):
    """Trainer(model, tokenizer, options).fit(data) trains what it is given, whatever the options say of the model."""
    text = corpus.read_text()
    tokenizer = CharacterTokenizer.train(text)
    config = gollm.ModelConfig(n_layers=2, n_heads=1, d_model=8, context=8, vocab_size=tokenizer.vocab_size)
    model = Decoder(config).initialise(1)
    result = Trainer(model, tokenizer, TrainOptions(steps=3, out=str(tmp_path / "mine"), sample_tokens=4)).fit(corpus)
    loaded = gollm.load(result.checkpoint)
    assert loaded.config == config
    ids = tokenizer.encode(text[:8])[None]
    assert np.array_equal(loaded.logits(ids), model.logits(ids))
    written = load_file(tmp_path / "mine" / "config.yaml")
    assert (written["d_model"], written["vocab_size"]) == (8, None)  # a vocabulary that bpe could not have


def test_a_trainer_fits_again_from_where_the_weights_are(options, corpus, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tokenizer = CharacterTokenizer.train(corpus.read_text())
    model = Decoder(options().model_config(tokenizer.vocab_size)).initialise(1)
    trainer = Trainer(model, tokenizer, options(out=None, steps=20, lr=1e-2))
    first, second = trainer.fit(corpus), trainer.fit(corpus)
    assert (first.folder.name, second.folder.name) == ("run-1", "run-2")
    assert metrics(second.folder)[0]["loss"] < metrics(first.folder)[0]["loss"]


def test_it_prints_nothing_by_itself(train, capfd):
    train()
    assert capfd.readouterr() == ("", "")


# -- run folders


def test_runs_are_called_after_their_data(options, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert [str(gollm.train(options(out=None, steps=1)).folder) for _ in range(2)] == ["runs/words-1", "runs/words-2"]
    (tmp_path / "x-1").mkdir()
    with RunFolder.first_free("x", tmp_path) as first, RunFolder.first_free("x", tmp_path) as second:
        assert (first.path, second.path) == (tmp_path / "x-2", tmp_path / "x-3")


def test_a_used_folder_is_refused_and_left_alone(train, tmp_path):
    train()
    before = {path: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    with pytest.raises(TrainingError, match="holds a run already; go on with --resume"):
        train(lr=0.5)
    assert {path: path.read_bytes() for path in (tmp_path / "run").iterdir()} == before


@pytest.mark.parametrize("left", ["config.yaml", "tokenizer.json", "metrics.jsonl", "best.golm", "step-00000004.golm"])
def test_any_remains_of_a_run_are_refused(train, tmp_path, left):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / left).write_text("x")
    with pytest.raises(TrainingError, match="holds a run already"):
        train()


def test_a_folder_in_use_is_refused(train, tmp_path):
    with RunFolder(tmp_path / "run"), pytest.raises(TrainingError, match="another process is training in"):
        train()


def test_a_failed_start_leaves_no_folder(train, tmp_path):
    with pytest.raises(DataError):
        train(data=(str(tmp_path / "missing.txt"),))
    with pytest.raises(DataError):
        train(context=64, validation_fraction=0.999)
    assert not (tmp_path / "run").exists()


# -- going on


def finished_and_halved(train, tmp_path, **changes):
    """The same run, once undisturbed and once stopped in the middle."""
    whole = train(out=str(tmp_path / "whole"), steps=8, checkpoint_every=2, **changes)
    half = train(out=str(tmp_path / "half"), steps=8, checkpoint_every=2, **changes)
    for path in sorted(half.folder.glob("step-*.golm")):
        if path.name > "step-00000006.golm":
            path.unlink()
    return whole, half


def test_resume_gives_the_same_bytes(train, options, tmp_path):
    changes = {"dropout": 0.2, "grad_accumulation": 2, "eval_every": 3, "sample_tokens": 4, "max_grad_norm": 0.1}
    whole, half = finished_and_halved(train, tmp_path, **changes)
    lines = (half.folder / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    (half.folder / "metrics.jsonl").write_bytes(b"".join(lines) + b'{"step": 9, "lo')  # what a kill may leave
    (half.folder / ".step-00000008.golm.123-0123abcd.tmp").write_bytes(b"half")
    gollm.set_num_threads(3)
    recorder = Recorder()
    try:
        result = gollm.train(TrainOptions(resume=str(half.folder)), [recorder])
    finally:
        gollm.set_num_threads(2)
    assert recorder.events[0] == ("start", 6, 8)
    assert result.checkpoint.read_bytes() == whole.checkpoint.read_bytes()
    assert (half.folder / "best.golm").read_bytes() == (whole.folder / "best.golm").read_bytes()
    assert result == whole.__class__(**{**whole.__dict__, "folder": half.folder, "checkpoint": result.checkpoint})
    timing = {"ms", "tokens_per_second", "memory_bytes"}
    assert [{k: v for k, v in m.items() if k not in timing} for m in metrics(half.folder)] == [
        {k: v for k, v in m.items() if k not in timing} for m in metrics(whole.folder)
    ]
    assert not list(half.folder.glob(".*.tmp"))


def test_resume_from_before_the_first_checkpoint(train, tmp_path):
    whole = train(out=str(tmp_path / "whole"))
    killed = train(out=str(tmp_path / "killed"))
    for path in killed.folder.glob("*.golm"):
        path.unlink()
    (killed.folder / ".lock").write_bytes(b"")  # what the first checkpoint would have left its name in
    result = gollm.train(TrainOptions(resume=str(killed.folder)))
    assert result.checkpoint.read_bytes() == whole.checkpoint.read_bytes()
    assert [m["step"] for m in metrics(killed.folder)] == [1, 2, 3, 4, 5, 6]


def test_resume_of_a_finished_run_does_nothing(train):
    result = train(eval_every=2)
    before = {path: path.read_bytes() for path in result.folder.iterdir()}
    again = gollm.train(TrainOptions(resume=str(result.folder)))
    assert (again.steps, again.loss, again.best_validation_loss) == (6, result.loss, result.best_validation_loss)
    assert {path: path.read_bytes() for path in result.folder.iterdir()} == before


def test_resume_for_more_steps(train):
    result = train(schedule="constant", warmup_steps=2)
    longer = gollm.train(TrainOptions(resume=str(result.folder), steps=9))
    assert longer.steps == 9
    assert [m["step"] for m in metrics(result.folder)] == list(range(1, 10))
    assert load_file(result.folder / "config.yaml")["steps"] == 9
    assert gollm.train(TrainOptions(resume=str(result.folder))).steps == 9


def test_resume_of_a_run_from_before_a_field_of_the_model(train, monkeypatch):
    """Its checkpoints lack the field, and that means the field's default."""
    complete = ModelConfig.to_dict
    with monkeypatch.context() as older:
        older.setattr(
            ModelConfig, "to_dict", lambda self: {k: v for k, v in complete(self).items() if k != "window_layers"}
        )
        first = train(schedule="constant", warmup_steps=2)
    assert gollm.train(TrainOptions(resume=str(first.folder), steps=9)).steps == 9


@pytest.mark.parametrize("recompute", ["none", "block"])
def test_a_run_that_computes_something_else_again_when_resumed_ends_with_the_same_bytes(train, tmp_path, recompute):
    whole = train(dropout=0.2, steps=6, out=str(tmp_path / "whole"))
    half = train(
        dropout=0.2, steps=6, recompute="mlp", checkpoint_every=3, keep_checkpoints=3, out=str(tmp_path / "half")
    )
    (half.folder / "step-00000006.golm").unlink()
    again = gollm.train(TrainOptions(resume=str(half.folder), recompute=recompute))
    assert load_file(half.folder / "config.yaml")["recompute"] == recompute
    first, second = gollm.load(whole.checkpoint).decoder, gollm.load(again.checkpoint).decoder
    np.testing.assert_array_equal(first.parameters.weights, second.parameters.weights)
    with pytest.raises(ConfigError, match="--activation-dtype is bfloat16"):
        gollm.train(TrainOptions(resume=str(half.folder), activation_dtype="bfloat16"))


def test_with_bfloat16_what_is_computed_again_stays(train):
    result = train(activation_dtype="bfloat16", recompute="mlp")
    with pytest.raises(ConfigError, match=r"--recompute is block, but the run in .* keeps activations as bfloat16"):
        gollm.train(TrainOptions(resume=str(result.folder), recompute="block"))


def test_old_checkpoints_that_a_killed_run_has_left_go_when_it_is_resumed(train):
    result = train(keep_checkpoints=1)
    left = result.checkpoint.with_name("step-00000001.golm")
    left.write_bytes(result.checkpoint.read_bytes())
    gollm.train(TrainOptions(resume=str(result.folder)))
    assert result.checkpoint.exists() and not left.exists()


def test_resume_keeps_its_options(train):
    result = train()
    with pytest.raises(ConfigError, match=r"--lr is 0.5, but the run in .* has 0.001; a resumed run keeps its options"):
        gollm.train(TrainOptions(resume=str(result.folder), lr=0.5))
    with pytest.raises(ConfigError, match="--n-layers is 3"):
        gollm.train(TrainOptions(resume=str(result.folder), n_layers=3))
    assert gollm.train(TrainOptions(resume=str(result.folder), lr=1e-3, keep_checkpoints=1)).steps == 6


def test_resume_needs_a_run(tmp_path):
    with pytest.raises(TrainingError, match=r"there is no run to go on with in .*nothing"):
        gollm.train(TrainOptions(resume=str(tmp_path / "nothing")))
    assert not (tmp_path / "nothing").exists()
    with pytest.raises(TrainingError, match=r"there is no run to go on with in ' ' \(no config"):
        gollm.train(TrainOptions(resume=" "))


def test_a_run_is_read_without_a_lock(train):
    result = train(eval_every=2)
    (result.folder / ".lock").unlink()
    before = {path.name for path in result.folder.iterdir()}
    run = Run(result.folder)
    assert run.options().steps == 6
    assert run.tokenizer().vocab_size == gollm.load(run.best_path).tokenizer.vocab_size
    assert [m["step"] for m in run.metrics()] == [1, 2, 3, 4, 5, 6]
    assert list(run.checkpoints()) == [6]
    assert {path.name for path in result.folder.iterdir()} == before
    with RunFolder(result.folder):
        assert len(list(Run(result.folder).metrics())) == 6
    with pytest.raises(TrainingError, match="there is no run"):
        Run(result.folder / "nothing").options()
    assert not (result.folder / "nothing").exists()


def test_resume_needs_the_same_data(train, tmp_path):
    mine = tmp_path / "mine.txt"
    mine.write_text("ba ko ri nu se la " * 100)
    result = train(data=(str(mine),))
    mine.rename(tmp_path / "moved.txt")
    assert gollm.train(TrainOptions(resume=str(result.folder), data=(str(tmp_path / "moved.txt"),))).steps == 6
    (tmp_path / "moved.txt").write_text("ko ba ri nu se la " * 100)
    with pytest.raises(DataError, match="the training data or its tokenizer is not what the interrupted run had"):
        gollm.train(TrainOptions(resume=str(result.folder), steps=9))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda lines: lines[:3], "ends at step 3, before the checkpoint's step 6"),
        (lambda lines: lines[:2] + lines[3:], "line 3 of .* is not step 3"),
        (lambda lines: [*lines[:2], b"[" * 5000 + b"\n", *lines[3:]], "line 3 of .* is not step 3"),
    ],
)
def test_resume_wants_its_metrics_whole(train, damage, message):
    path = train().folder / "metrics.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(damage(lines)))
    with pytest.raises(TrainingError, match=message):
        gollm.train(TrainOptions(resume=str(path.parent), steps=9))


def rewritten(path, *, training=None, tensors=None, weights=None):
    """A checkpoint with parts of it replaced."""
    from gollm.formats.golm.checkpoint import write_checkpoint

    with open_checkpoint(path) as file:
        state = {**file.training, **(training or {})}
        arrays = {**{k: v.copy() for k, v in file.training_tensors.items()}, **(tensors or {})}
        values = {**{k: v.copy() for k, v in file.tensors.items()}, **(weights or {})}
        config, tokenizer = file.config, file.tokenizer_state()
        arrays = {k: v for k, v in arrays.items() if v is not None}
        write_checkpoint(
            path, config=config, tensors=values, tokenizer_state=tokenizer, training=state, training_tensors=arrays
        )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"training": {"step": -1}}, "its step is -1"),
        ({"training": {"step": True}}, "its step is True"),
        ({"training": {"best_validation_loss": "low"}}, "its best validation loss is 'low'"),
        ({"training": {"sampler": None}}, "no position in the data"),
        ({"tensors": {"m": None}}, "the optimiser's state 'm' is missing"),
        ({"tensors": {"m": np.zeros(1, np.float32)}}, r"float32 of shape \(1,\) where float32"),
        ({"tensors": {"step_count": np.zeros(1, np.float64)}}, r"float64 of shape \(1,\) where int64"),
        ({"weights": {"norm.weight": np.zeros(3, np.float32)}}, "'norm.weight' is f32 of shape"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused(train, changes, message):
    result = train()
    rewritten(result.checkpoint, **changes)
    with pytest.raises(CheckpointError, match=message):
        gollm.train(TrainOptions(resume=str(result.folder), steps=9))


def test_tokens_of_a_program(options, tmp_path):
    """A data set made by hand, without a cache."""
    from gollm.data import open_source, prepare

    tokenizer = CharacterTokenizer.train("abc")
    text = tmp_path / "abc.txt"
    text.write_text("abc" * 200)
    data = prepare(open_source(text), tokenizer)
    assert isinstance(data, TokenDataset)
    model = Decoder(options().model_config(tokenizer.vocab_size)).initialise(1)
    result = Trainer(model, tokenizer, options(steps=60, lr=3e-2)).fit(data)
    assert result.validation_loss < 0.5 * math.log(3)
    assert json.loads((result.folder / "metrics.jsonl").read_text().splitlines()[-1])["validation_loss"] < 0.6

"""statistics.jsonl and machine.json: what the report says about gradients, updates and the machine."""

import json

import pytest

import gollm
from gollm.model.decoder import Decoder
from gollm.training import Run
from gollm.training.machine_record import MachineRecord
from gollm.training.parameter_statistics import root_mean_square


def lines(folder):
    return [json.loads(line) for line in Run(folder).statistics_path.read_text().splitlines()]


def test_an_update_of_sgd_is_the_learning_rate_times_the_gradient(train):
    """Without momentum, decay and clipping; and the first weights are those of the seed."""
    plain = {"optimizer": "sgd", "beta1": 0.0, "weight_decay": 0.0, "max_grad_norm": 0.0}
    result = train(statistics_every=1, lr=0.1, schedule="constant", warmup_steps=0, steps=3, **plain)
    found = lines(result.folder)
    assert [line["step"] for line in found] == [1, 2, 3]
    fresh = Decoder(gollm.load(result.checkpoint).config).initialise(1337).parameters
    assert found[0]["parameters"].keys() == set(fresh)
    for name, (weight, gradient, update) in found[0]["parameters"].items():
        assert weight == pytest.approx(root_mean_square(fresh[name].data), rel=1e-5)
        assert update == pytest.approx(0.1 * gradient, rel=1e-3, abs=1e-8)
    total = sum(g**2 * fresh[name].size for name, (_, g, _) in found[0]["parameters"].items()) ** 0.5
    first = next(Run(result.folder).metrics())
    assert total == pytest.approx(first["grad_norm"], rel=1e-5)


def test_a_resumed_run_has_each_line_once(train, options):
    whole = train(statistics_every=2, steps=6, checkpoint_every=3)
    (whole.folder / "step-00000006.golm").unlink()
    expected = lines(whole.folder)
    with Run(whole.folder).statistics_path.open("ab") as file:
        file.write(b'{"step": 8, "par')  # of a killed process
    gollm.train(gollm.TrainOptions(resume=str(whole.folder)))
    assert [line["step"] for line in expected] == [2, 4, 6]
    assert lines(whole.folder) == expected


def test_the_machine_is_recorded(options):
    result = gollm.train(options(steps=1), [MachineRecord(1e11)])
    found = json.loads(Run(result.folder).machine_path.read_text())
    assert found["peak_flops"] == 1e11 and found["threads"] == gollm.num_threads() and found["flops_per_token"] > 0
    assert not Run(result.folder).statistics_path.exists()


def test_the_command_records_the_machine(corpus, tmp_path):
    from gollm.cli.main import main

    words = ["train", str(corpus), "--preset=tiny", "--n-layers=1", "--d-model=16", "--context=16", "--steps=1"]
    assert main([*words, "--tokenizer=character", "--sample-tokens=0", "--json", f"--out={tmp_path / 'r'}"]) == 0
    assert json.loads(Run(tmp_path / "r").machine_path.read_text())["peak_flops"] > 1e8

"""gollm gradcheck."""

from __future__ import annotations

import json

import pytest

from gollm.model import gradcheck
from gollm.model.config import preset
from gollm.model.decoder import Decoder

from .conftest import Run

SMALL = ["--n-layers", "1", "--d-model", "16", "--n-heads", "2", "--vocab-size", "11", "--context", "8"]


def test_table(run: Run) -> None:
    result = run("gradcheck", *SMALL)
    assert (result.status, result.err) == (0, "")
    names = [line.split()[0] for line in result.out.splitlines()[1:-1]]
    config = preset("tiny").from_dict({"preset": "tiny", "n_layers": 1, "d_model": 16, "vocab_size": 11, "context": 8})
    assert sorted(names) == sorted(name for name, p in Decoder(config).parameters.items())
    assert f"{len(names)} of {len(names)} gradients are right" in result.out and "WRONG" not in result.out


def test_json_of_another_shape(run: Run) -> None:
    result = run(
        "gradcheck", *SMALL, "--n-kv-heads", "1", "--activation", "relu", "--no-bias", "--no-tied-head", "--json"
    )
    found = json.loads(result.out)
    assert result.status == 0 and found["ok"]
    assert all(row["ok"] is True for row in found["parameters"])
    assert not any("bias" in row["name"] for row in found["parameters"])


def test_a_wrong_gradient_is_told(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gradcheck, "DIFFERENCE_TOLERANCE", 0.0)
    result = run("gradcheck", *SMALL)
    assert result.status == 1 and "  WRONG" in result.out
    found = json.loads(run("gradcheck", *SMALL, "--json").out)
    assert found["ok"] is False and not all(row["ok"] for row in found["parameters"])


def test_mistakes(run: Run) -> None:
    result = run("gradcheck", "--n-heads", "3")
    assert result == (2, "", "gollm: model: n_heads is 3; it must divide d_model (64), or give head_dim\n")
    assert run("gradcheck", "--preset", "huge").err.startswith("gollm: preset is 'huge'; it must be one of tiny,")
    assert run("gradcheck", "--samples", "0").status == 2
    result = run("gradcheck", *SMALL, "--tokens", "9")
    assert result == (1, "", "gollm: tokens is 9; it must be from 1 to the context (8)\n")

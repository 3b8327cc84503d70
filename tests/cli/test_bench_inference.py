"""gollm bench inference: the rows that were asked for, what their figures count, and mistakes in one sentence."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import gollm
from gollm.benchmarks import inference, turns, with_gollm
from gollm.benchmarks.turns import Case, Result
from gollm.language_model import LanguageModel, load
from gollm.model.config import ModelConfig
from gollm.model.decoder import Decoder

from .conftest import Run

L, H, G, D, C, F, V, CONTEXT = 2, 4, 2, 8, 32, 48, 50, 64
LLAMA = ModelConfig(
    n_layers=L, n_heads=H, n_kv_heads=G, head_dim=D, d_model=C, d_ff=F, vocab_size=V, context=CONTEXT, norm="rmsnorm",
    position="rope", gated_mlp=True, activation="silu", bias=False, tied_head=True,
)  # fmt: skip


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file, and turns and limits that take no time."""
    monkeypatch.setattr(turns, "TURN", 0.001)
    monkeypatch.setattr(turns, "PAUSE", 0.0)
    monkeypatch.setattr(inference, "READING", inference.loop(1, 1024, 1, 0))
    LanguageModel(Decoder(LLAMA).initialise(0)).save(tmp_path / "model.golm")
    return tmp_path / "model.golm"


ASKED = (
    *("--prompts", 3, 9, "--batch-sizes", 1, 2, "--depths", 0, 7),
    *("--threads", 1, 2, "--new-tokens", 2, "--turns", 2),
)
ROWS = [
    (name, threads, batch, depth)
    for threads in (1, 2)
    for name, batch, depth in [
        *[(f"prefill {prompt}", 1, depth) for depth in (0, 7) for prompt in (3, 9)],
        *[("decoding", batch, depth) for batch in (1, 2) for depth in (0, 7)],
    ]
]


def test_the_rows_are_those_asked_for(run: Run, model: Path) -> None:
    result = run("bench", "inference", model, *ASKED, "--json")
    assert result.status == 0
    found = json.loads(result.out)
    rows = found["rows"]
    assert [(row["test"], row["threads"], row["batch"], row["depth"]) for row in rows] == ROWS
    for row in rows:
        assert row["tokens_per_second"] > 0 and row["limit"] > 0 and row["share_of_limit"] > 0
        assert row["unit"] == ("GB/s" if row["test"] == "decoding" else "GFLOP/s")
        assert {name: len(seconds) for name, seconds in row["seconds"].items()} == {"gollm": 2, "limit": 2}
        assert row["ratio"] is None and row["llama_cpp_tokens_per_second"] is None
    assert found["llama_cpp"] == "it takes GGUF files only"


def test_the_table_has_a_line_for_each_row(run: Run, model: Path) -> None:
    result = run("bench", "inference", model, "--batch-sizes", 1, "--turns", 1)
    assert (result.status, result.err) == (0, "")
    first, variant, peer, empty, header, *lines = result.out.splitlines()
    assert "MB of weights" in first and variant.startswith("gollm: ") and peer.startswith("llama.cpp: ") and not empty
    assert header == inference.HEADER
    # the context has no room for a depth of 2048
    assert [line[:36].split() for line in lines] == [
        ["prefill", "64", str(gollm.num_threads()), "1", "0"],
        ["decoding", str(gollm.num_threads()), "1", "0"],
    ]


@pytest.mark.parametrize(("empty", "others"), [("prompts", {"decoding"}), ("batch_sizes", {"prefill 64"})])
def test_an_empty_list_has_no_rows(empty: str, others: set[str], run: Run, model: Path, tmp_path: Path) -> None:
    (tmp_path / "options.json").write_text(json.dumps({empty: []}))
    result = run("bench", "inference", model, "--turns", 1, "--json", "--config", tmp_path / "options.json")
    assert {row["test"] for row in json.loads(result.out)["rows"]} == others


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["--depths", "60"], 1, "--depths 60 and 64 tokens more are longer than this model's context (64)"),
        (["--prompts", "65"], 1, "--depths 0 and 65 tokens more are longer than this model's context (64)"),
        (["--batch-sizes", "0"], 2, "--batch-sizes is 0; it must be a whole number, at least 1"),
        (["--batch-sizes", "many"], 2, "--batch-sizes"),
        (["--batch-sizes", "999999999"], 1, "999999999 sequences of 32 tokens need"),
    ],
)
def test_a_mistake_is_one_sentence(words: list[str], status: int, message: str, run: Run, model: Path) -> None:
    result = run("bench", "inference", model, *words)
    assert (result.status, result.out) == (status, "")
    assert message in result.err and result.err.count("\n") == 1


def test_a_model_that_is_missing(run: Run, tmp_path: Path) -> None:
    result = run("bench", "inference", tmp_path / "none.golm")
    assert result.status == 1 and "none.golm" in result.err and result.err.count("\n") == 1


def test_bench_is_a_command_and_has_a_subcommand(run: Run) -> None:
    assert "--filter" in run("bench", "--help").out and "--prompts" not in run("bench", "--help").out
    assert "--prompts" in run("bench", "inference", "--help").out
    assert "'matmul'" in run("bench", "inferences").err


def test_operations_of_a_prompt() -> None:
    blocks = L * (C * (H + 2 * G) * D + H * D * C + 3 * C * F + 2 * C)  # two norms are counted with the matrices
    depth, tokens = 5, 3
    pairs = L * sum(depth + i + 1 for i in range(tokens))
    want = 2 * blocks * tokens + 2 * V * C + 4 * H * D * pairs
    assert inference.operations(Decoder(LLAMA), depth, tokens) == want


def test_a_window_limits_what_is_seen() -> None:
    config = LLAMA.replace(sliding_window=4, window_layers=(1,))
    assert inference.seen(config, 1) == 2 + 2
    assert inference.seen(config, 9) == 10 + 4


@pytest.mark.parametrize("dtype", [None, "int8", "bf16"])
@pytest.mark.parametrize("tied", [True, False])
def test_bytes_of_a_step(dtype: str | None, tied: bool, run: Run, tmp_path: Path) -> None:
    """The weights once, without a table that only gives one row, and keys and values of each sequence."""
    decoder = Decoder(LLAMA.replace(tied_head=tied)).initialise(0)
    path = tmp_path / "model.golm"
    LanguageModel(decoder).save(path)
    if dtype:
        assert run("quantize", path, tmp_path / "narrow.golm", "--weights", dtype).status == 0
        path = tmp_path / "narrow.golm"
    loaded = load(path).decoder
    whole = sum(p.storage.array.nbytes for p in loaded.parameters.values())
    table = loaded.parameters["token_embedding"].storage.array.nbytes
    assert inference.weight_bytes(loaded) == (whole if tied else whole - table)
    cache = 3 * 10 * L * 2 * G * D * 4
    assert inference.bytes_read(loaded, 3, 10) == inference.weight_bytes(loaded) + cache


def test_sequences_start_over(model: Path) -> None:
    """The pool has room for the tokens asked for and no more: else the second round would raise."""
    for batch, depth in ((1, 0), (3, 61)):
        call, _ = with_gollm.decoding(str(model), batch, depth, 3)
        for _ in range(7):
            call()
    call, _ = with_gollm.prefill(str(model), 60, 4)
    call()
    call()


def test_a_depth_holds_numbers() -> None:
    decoder = Decoder(LLAMA).initialise(0)
    growing, forward = with_gollm.sequences(decoder, 2, 40, 1)
    with_gollm.start_over(growing, 40)
    assert np.isfinite(forward(growing, [[1], [2]], None)).all()


def test_llama_cpp_that_is_not_there_or_does_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inference, "BINDINGS", ("no_such_binding",))
    assert inference.installed_llama_cpp(model) == (
        False,
        "not installed (llama-cpp-python, or llama-cpp-py-sync)",
    )
    (tmp_path / "llama_cpp.py").write_text("raise OSError('no AVX here')")
    monkeypatch.setattr(inference, "BINDINGS", ("llama_cpp",))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert inference.installed_llama_cpp(model) == (False, "it does not run: OSError: no AVX here")
    (tmp_path / "llama_cpp.py").write_text("import os; os.kill(os.getpid(), 4)")
    assert inference.installed_llama_cpp(model) == (False, "it does not run: SIGILL")


def test_a_machine_that_is_not_quiet_is_named() -> None:
    assert inference.spread([1.0]) == 0.0
    assert inference.spread([1.0, 2.0, 3.0, 4.0, 5.0]) == pytest.approx(2 / 3)
    result = Result(Case("inference", "decoding", {}, 8e9, "GB/s", tokens=2))
    result.work, result.seconds = {"limit": 10e9}, {"gollm": [1.0, 1.0, 1.3], "limit": [1.0], "llama.cpp": [3.0]}
    row = inference.row(inference.Measurement("decoding", 1, 2, 0, 2, result.case), result)
    assert row["tokens_per_second"] == 2 and row["bytes_per_token"] == 4e9
    assert row["share_of_limit"] == pytest.approx(0.8) and row["limit"] == pytest.approx(10)
    assert row["ratio"] == 3 and row["llama_cpp_tokens_per_second"] == pytest.approx(2 / 3)
    assert "80 % of 10.0 GB/s" in inference.line(row) and inference.line(row).endswith("3.00 x")
    noise = inference.noise([row, {**row, "spread": 0.05}])
    assert noise and noise.startswith("1 of 2 rows spread by more than 10 %")
    assert inference.noise([{**row, "spread": 0.05}]) is None

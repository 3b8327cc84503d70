"""gollm generate."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import gollm
from gollm.language_model import LanguageModel
from gollm.model.config import preset
from gollm.model.decoder import Decoder
from gollm.model.generation_defaults import GenerationDefaults
from gollm.tokenizers import BPETokenizer, CharacterTokenizer

from .conftest import Run

PROMPT = "hello"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained tiny model of characters."""
    path = tmp_path_factory.mktemp("model") / "tiny.golm"
    tokenizer = CharacterTokenizer.train("hello world, this is a text ü\n")
    LanguageModel(Decoder(preset("tiny").replace(vocab_size=tokenizer.vocab_size)).initialise(0), tokenizer).save(path)
    return path


def test_prints_prompt_and_continuation(checkpoint: Path, run: Run) -> None:
    words = ["--max-new-tokens", "30", "--temperature", "0.9", "--top-k", "5", "--top-p=0.9", "--seed", "3"]
    text = gollm.load(checkpoint).generate(PROMPT, max_new_tokens=30, temperature=0.9, top_k=5, top_p=0.9, seed=3)
    result = run("generate", "--model", checkpoint, "--prompt", PROMPT, *words)
    assert (result.status, result.out) == (0, PROMPT + text + "\n")
    assert re.fullmatch(r"30 tokens, [\d,.]+ tokens/s, seed 3\n", result.err)
    assert run("generate", checkpoint, "--prompt", PROMPT, "--no-echo", *words).out == text + "\n"
    assert run("generate", checkpoint, "--prompt", "-", *words, stdin=PROMPT.encode()).out == PROMPT + text + "\n"
    words[:2] = ["-n", "30"]
    assert run("generate", checkpoint, PROMPT, *words).out == PROMPT + text + "\n"
    assert run("generate", "-m", checkpoint, "-p", PROMPT, *words).out == PROMPT + text + "\n"


def test_a_random_seed_is_printed(checkpoint: Path, run: Run) -> None:
    words = ["generate", checkpoint, PROMPT, "-n", 30]
    results = [run(*words) for _ in range(3)]
    seeds = [re.search(r"seed (\d+)\n", result.err)[1] for result in results]  # type: ignore[index]
    assert len(set(seeds)) == 3 and len({result.out for result in results}) == 3
    assert run(*words, "--seed", seeds[1]).out == results[1].out
    found = json.loads(run(*words, "--json").out)
    assert gollm.load(checkpoint).generate(PROMPT, max_new_tokens=30, seed=found["seed"]) == found["text"]
    for greedy in (["--temperature", 0], ["--beams", 2]):  # nothing is drawn
        first = run(*words, *greedy)
        assert "seed" not in first.err and first.out == run(*words, *greedy).out
    several = run(*words, "--n", 3, "--seed", 5)
    assert re.fullmatch(r"90 tokens, [\d,.]+ tokens/s, seed 5\n", several.err)


def test_the_files_own_recommendation_is_used(checkpoint: Path, tmp_path: Path, run: Run) -> None:
    """Where the user says nothing; and a chat template that is not used is named."""
    model = gollm.load(checkpoint)
    model.defaults = GenerationDefaults(temperature=1.5, top_k=3, top_p=0.9, max_new_tokens=7, chat_template="{{ a }}")
    model.save(tmp_path / "m.golm")
    result = run("generate", tmp_path / "m.golm", PROMPT, "--seed", 2, "--no-echo")
    options = {"temperature": 1.5, "top_k": 3, "top_p": 0.9, "max_new_tokens": 7, "seed": 2}
    assert result.out == gollm.load(checkpoint).generate(PROMPT, **options) + "\n"
    note, figures = result.err.splitlines()
    assert (
        note == f"note: this model has a chat template, which generate does not use; gollm chat {tmp_path}/m.golm does"
    )
    assert figures.startswith("7 tokens, ")
    result = run("generate", tmp_path / "m.golm", PROMPT, "--seed", 2, "--no-echo", "--top-k", 0)
    assert result.out == gollm.load(checkpoint).generate(PROMPT, **options | {"top_k": 0}) + "\n"
    assert run("generate", tmp_path / "m.golm", PROMPT, "--json").err == ""


def test_json(checkpoint: Path, run: Run) -> None:
    found = json.loads(run("generate", checkpoint, "--prompt", PROMPT, "--max_new_tokens=10", "--seed=4", "--json").out)
    text = gollm.load(checkpoint).generate(PROMPT, max_new_tokens=10, seed=4)
    assert found == {"model": str(checkpoint), "prompt": PROMPT, "text": text, "seed": 4}


def test_options_from_a_file(checkpoint: Path, tmp_path: Path, run: Run) -> None:
    file = tmp_path / "g.yaml"
    file.write_text(f"model: {checkpoint}\nprompt: {PROMPT}\nmax-new-tokens: 5\ntemperature: 0\n")
    found = run("generate", "--config", file)
    assert found.out == run("generate", checkpoint, PROMPT, "--max-new-tokens", 5, "--temperature", 0).out


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["generate"], 2, "--model is needed"),
        (["generate", "none.golm"], 1, "none.golm"),
        (["generate", "M"], 1, "the prompt is empty"),
        (["generate", "M", "--prompt", "x" * 65], 1, "x"),
        (["generate", "M", "--prompt", "hello " * 11], 1, "context (64)"),
        (
            ["generate", "M", "--prompt", "h", "--temperature", "-1"],
            2,
            "--temperature is -1.0; it must be a number, at",
        ),
        (["generate", "M", "--prompt", "h", "--top-p", "0"], 2, "--top-p is 0.0; it must be a number, above 0 and at"),
        (["generate", "M", "--prompt", "h", "--top-p", "1.5"], 2, "--top-p is 1.5"),
        (
            ["generate", "M", "--prompt", "h", "--top-k", "-1"],
            2,
            "--top-k is -1; it must be a whole number, at least 0",
        ),
        (["generate", "M", "--prompt", "h", "--max-tokens", "5"], 2, "did you mean --max-new-tokens?"),
        (
            ["generate", "M", "--prompt", "two", "words"],
            2,
            "unexpected argument 'words'; --prompt has its value; quote a value with spaces, or give one of the two",
        ),
    ],
)
def test_mistakes(words: list[str], status: int, message: str, checkpoint: Path, run: Run) -> None:
    result = run(*[str(checkpoint) if word == "M" else word for word in words])
    assert (result.status, result.out, result.err.count("\n")) == (status, "", 1)
    assert result.err.startswith("gollm: ") and message in result.err and "inside of gollm" not in result.err


def test_the_text_streams_and_an_interruption_is_quiet(checkpoint: Path) -> None:
    command = [sys.executable, "-m", "gollm", "generate", checkpoint, "--prompt", PROMPT, "--max-new-tokens", "9999999"]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert child.stdout is not None and child.stderr is not None
    assert child.stdout.read(len(PROMPT) + 20).startswith(PROMPT.encode())  # long before the end
    child.send_signal(signal.SIGINT)
    out, err = child.communicate(timeout=60)
    assert child.returncode == 130 and err == b"" and out.endswith(b"\n")


def test_a_reader_that_leaves_is_no_error(checkpoint: Path) -> None:
    command = [sys.executable, "-m", "gollm", "generate", checkpoint, "--prompt", PROMPT, "--max-new-tokens", "9999999"]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert child.stdout is not None and child.stderr is not None
    child.stdout.read(10)
    child.stdout.close()
    assert child.stderr.read() == b""
    child.stderr.close()
    assert child.wait(timeout=60) == 141


def lines_of(text: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in text.splitlines()]


def test_log_probabilities_and_several_texts(checkpoint: Path, run: Run) -> None:
    words = ["generate", checkpoint, "--prompt", PROMPT, "--max-new-tokens", 4, "--seed", 2, "--n", 2]
    found = json.loads(run(*words, "--json", "--logprobs", 3).out)
    alone = json.loads(run(*words[:-2], "--json").out)
    assert found["choices"][0]["text"] == found["text"] == alone["text"]
    assert len({choice["text"] for choice in found["choices"]}) == 2
    assert len(found["logprobs"]) == 4
    for one in found["logprobs"]:
        assert one.keys() == {"token", "id", "logprob", "top"} and len(one["top"]) == 3
        assert one["logprob"] <= one["top"][0]["logprob"] < 0
    assert run(*words).out == "".join(PROMPT + choice["text"] + "\n\n" for choice in found["choices"])
    assert "--logprobs needs --json" in run(*words, "--logprobs", 3).err


def test_beam_search(checkpoint: Path, run: Run) -> None:
    words = ["generate", checkpoint, "--prompt", PROMPT, "--max-new-tokens", 6, "--beams", 3, "--length-penalty", 0.5]
    with gollm.Engine(gollm.load(checkpoint)) as engine:
        found = engine.submit(PROMPT, max_new_tokens=6, beams=3, length_penalty=0.5, n=2).result().choices
    assert run(*words).out == PROMPT + found[0].text + "\n"
    assert json.loads(run(*words, "--json").out)["text"] == found[0].text
    assert run(*words, "--n", 2, "--no-echo").out == "".join(one.text + "\n\n" for one in found)


def test_structured_text(tmp_path: Path, run: Run) -> None:
    pytest.importorskip("llguidance")
    tokenizer = BPETokenizer.train("hello world", 260, special_tokens=["<|endoftext|>"])
    LanguageModel(Decoder(preset("tiny").replace(vocab_size=260)).initialise(0), tokenizer).save(tmp_path / "m.golm")
    (tmp_path / "grammar.lark").write_text('start: "he" | "lo"')
    words = ["generate", tmp_path / "m.golm", "--prompt", PROMPT, "--no-echo"]
    assert run(*words, "--regex", "(x|yy)z").out in ("xz\n", "yyz\n")
    assert run(*words, "--grammar", tmp_path / "grammar.lark").out in ("he\n", "lo\n")
    assert "cannot read" in run(*words, "--grammar", tmp_path / "none").err
    assert run(*words, "--regex", "x", "--grammar", tmp_path / "grammar.lark").status == 2


def test_all_sampling_options_are_heard(checkpoint: Path, run: Run) -> None:
    words = ["--min-p", 0.1, "--repetition-penalty", 1.5, "--presence-penalty", 0.5, "--frequency-penalty", -0.25]
    words += [
        "--seed",
        0,
        "--logit-bias",
        "3=2.5",
        "5=-1",
        "--stop",
        "he",
        "x",
        "--context-full",
        "stop",
        "--max-new-tokens",
        30,
    ]
    text = gollm.load(checkpoint).generate(
        PROMPT, min_p=0.1, repetition_penalty=1.5, presence_penalty=0.5, frequency_penalty=-0.25,
        logit_bias={3: 2.5, 5: -1}, stop=["he", "x"], context_full="stop", max_new_tokens=30,
    )  # fmt: skip
    assert run("generate", checkpoint, "--prompt", PROMPT, "--no-echo", *words).out == text + "\n"
    result = run("generate", checkpoint, "--prompt", PROMPT, "--logit-bias", "3")
    assert (result.status, result.err) == (2, "gollm: --logit-bias has '3'; it must be ID=NUMBER, such as 50256=-2.5\n")


PROMPTS = ["hello", "world", "this is", "a text", "ü"]


def test_prompts_of_a_file(checkpoint: Path, tmp_path: Path, run: Run) -> None:
    """In their order, each as it would be alone; text and JSON lines; from a pipe."""
    (tmp_path / "p.txt").write_text("hello\nworld\r\n\nthis is\na text\nü")
    (tmp_path / "p.jsonl").write_text("".join(json.dumps({"prompt": p, "id": 7}) + "\n" for p in PROMPTS))
    words = ["generate", checkpoint, "--max-new-tokens", 12, "--seed", 5]
    model = gollm.load(checkpoint)
    expected = [
        {"prompt": p, "text": model.generate(p, max_new_tokens=12, seed=5), "finish_reason": "length"} for p in PROMPTS
    ]
    for name, more in (
        ("p.txt", [{"line": line} for line in (1, 2, 4, 5, 6)]),
        ("p.jsonl", [{"line": line, "id": 7} for line in range(1, 6)]),
    ):
        result = run(*words, "--prompts", tmp_path / name)
        assert (result.status, result.err) == (0, "")
        assert lines_of(result.out) == [one | two for one, two in zip(expected, more, strict=True)]
    texts = lines_of(run(*words, "--prompts", "-", stdin=b"hello\nworld\n").out)
    assert [line["text"] for line in texts] == [line["text"] for line in expected[:2]]
    beams = lines_of(run(*words, "--prompts", tmp_path / "p.txt", "--beams", 3).out)
    assert [line["text"] for line in beams] == [model.generate(p, max_new_tokens=12, beams=3) for p in PROMPTS]


def test_fields_of_prompts_that_the_output_has(checkpoint: Path, tmp_path: Path, run: Run) -> None:
    prompts, out = tmp_path / "p.jsonl", tmp_path / "out.jsonl"
    prompts.write_text('{"prompt": "hello", "text": 1}\n')
    words = ["generate", checkpoint, "--max-new-tokens", 2, "--prompts", prompts, "--output", out]
    assert 'line 1: the field "text" is one of the output, too; give it another name' in run(*words).err
    prompts.write_text('{"prompt": "hello", "id": [1, null]}\n')
    assert run(*words).status == 0 and lines_of(out.read_text())[0]["id"] == [1, None]
    prompts.write_text('{"prompt": "hello", "id": 2}\n')
    assert "line 1 has another prompt than --prompts has there" in run(*words).err


def test_a_lone_surrogate_in_a_prompt_is_an_error_of_its_line(checkpoint: Path, tmp_path: Path, run: Run) -> None:
    prompts, out = tmp_path / "p.jsonl", tmp_path / "out.jsonl"
    prompts.write_text('{"prompt": "\\ud800"}\n{"prompt": "hello"}\n')
    words = ["generate", checkpoint, "--max-new-tokens", 2, "--prompts", prompts]
    for _ in range(2):
        result = run(*words, "--output", out)
        assert result.status < 2 and "an error inside" not in result.err


def test_a_full_disk_names_the_output(checkpoint: Path, tmp_path: Path) -> None:
    """A limit on the size of files stands for it; the rest is made by the next run."""
    prompts, out = tmp_path / "p.txt", tmp_path / "out.jsonl"
    prompts.write_text("hello\n" * 20)
    words = ["generate", checkpoint, "--max-new-tokens", 3, "--prompts", prompts, "--output", out]
    limited = "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (300, 300)); "
    limited += "from gollm.cli.main import main; sys.exit(main(sys.argv[1:]))"
    result = subprocess.run([sys.executable, "-c", limited, *map(str, words)], capture_output=True, text=True)
    assert result.returncode == 1
    assert result.stderr == f"gollm: cannot write {out}: File too large; what is there can be gone on with\n"
    result = subprocess.run([sys.executable, "-m", "gollm", *map(str, words)], capture_output=True, text=True)
    assert (result.returncode, len(lines_of(out.read_text()))) == (0, 20)


def test_the_way_of_a_long_run_is_reported(
    checkpoint: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gollm.cli.prompt_file.SECONDS", 0.0)
    words = ["generate", checkpoint, "--max-new-tokens", 2, "--prompts", "-", "--output", tmp_path / "out.jsonl"]
    assert run(*words, stdin=b"hello\nworld\n") == (0, "", "1 of 2 prompts\n2 of 2 prompts\n")


def test_a_draft_leaves_the_text_as_it_is(checkpoint: Path, tmp_path: Path, run: Run) -> None:
    words = ["generate", checkpoint, "--prompt", PROMPT, "--max-new-tokens", 20, "--seed", 3]
    assert run(*words, "--draft", checkpoint).out == run(*words).out
    tokenizer = BPETokenizer.train("hello world", 260, special_tokens=["<|endoftext|>"])
    LanguageModel(Decoder(preset("tiny").replace(vocab_size=260)).initialise(0), tokenizer).save(tmp_path / "m.golm")
    other = run(*words, "--draft", tmp_path / "m.golm")
    assert other.status == 1 and "the draft model has another tokenizer" in other.err


def test_an_output_file_is_gone_on_with(checkpoint: Path, tmp_path: Path, run: Run) -> None:
    prompts, out = tmp_path / "p.txt", tmp_path / "out.jsonl"
    prompts.write_text("\n".join(PROMPTS))
    words = ["generate", checkpoint, "--max-new-tokens", 12, "--prompts", prompts, "--output", out]
    assert run(*words) == (0, "", "")
    whole = out.read_bytes()
    assert [line["prompt"] for line in lines_of(whole.decode())] == PROMPTS
    starts = [i + 1 for i, byte in enumerate(whole) if byte == ord("\n")]
    for cut in (0, 5, starts[0], starts[1] + 3, starts[2] - 1, len(whole) - 1, len(whole)):
        out.write_bytes(whole[:cut])
        assert run(*words) == (0, "", "") and out.read_bytes() == whole
    for more, message in (
        (["--seed", 1], "out.jsonl, line 1 was made with another model or other options"),
        (["--top-k", 3], "out.jsonl, line 1 was made with another model or other options"),
    ):
        result = run(*words, *more)
        assert result.status == 1 and message in result.err and out.read_bytes() == whole
    prompts.write_text("hello\nother\n")
    result = run(*words)
    assert result.status == 1 and "line 2 has another prompt than --prompts has there" in result.err
    prompts.write_text("\n".join([*PROMPTS, "hello"]))  # more prompts
    assert run(*words).status == 0
    assert out.read_bytes().startswith(whole) and len(lines_of(out.read_text())) == 6


@pytest.mark.parametrize(
    "text", ["mine", "mine\n", '{"prompt": 1}\n', '{"a": 1}\n', '{"prompt": "hello"}\n', '{"pxompt']
)
def test_other_files_are_not_written_to(checkpoint: Path, tmp_path: Path, run: Run, text: str) -> None:
    (tmp_path / "out").write_text(text)
    result = run("generate", checkpoint, "--prompts", "-", "--output", tmp_path / "out", stdin=b"hello\n")
    assert result.status == 1 and "is of another kind of file; write to another file" in result.err
    assert (tmp_path / "out").read_text() == text


def test_an_interrupted_run_is_gone_on_with(checkpoint: Path, tmp_path: Path, run: Run) -> None:
    prompts, out = tmp_path / "p.txt", tmp_path / "out.jsonl"
    prompts.write_text("hello\n" * 300)
    words = ["generate", checkpoint, "--max-new-tokens", "60", "--prompts", prompts, "--output", out]
    child = subprocess.Popen([sys.executable, "-m", "gollm", *map(str, words)], stderr=subprocess.DEVNULL)
    while not (out.exists() and out.stat().st_size > 2000) and child.poll() is None:
        time.sleep(0.01)
    child.kill()
    child.wait()
    done = out.read_bytes().rpartition(b"\n")[0]
    assert run(*words).status == 0
    assert out.read_bytes().startswith(done)
    found = lines_of(out.read_text())
    assert [line.pop("line") for line in found] == list(range(1, 301))
    assert len({json.dumps(line) for line in found}) == 1 and out.read_text().count("\n") == 300


def test_a_prompt_that_cannot_be_continued_does_not_end_the_run(checkpoint: Path, run: Run) -> None:
    result = run(
        "generate", checkpoint, "--prompts", "-", "--max-new-tokens", 3, stdin=b"hello\n" + b"h" * 65 + b"\nworld\n"
    )
    found = lines_of(result.out)
    assert result.status == 1
    assert result.err == 'gollm: 1 of 3 prompts could not be continued; their lines say why as "error"\n'
    assert [line["prompt"] for line in found] == ["hello", "h" * 65, "world"]
    assert "more than this model's context (64)" in str(found[1]["error"]) and "text" in found[0] and "text" in found[2]


@pytest.mark.parametrize(
    ("words", "stdin", "status", "message"),
    [
        (["--prompts", "none.txt"], b"", 1, "cannot read none.txt: No such file or directory"),
        (["--prompts", "-"], b"\n \n", 1, "standard input has no prompts"),
        (["--prompts", "-", "--prompt", "x"], b"x", 2, "give either --prompt or --prompts, not both"),
        (["--prompt", "x", "--output", "x.jsonl"], b"", 2, "--output is for the texts of --prompts"),
        (
            ["--prompt", "x", "--rope-scaling", "linear"],
            b"",
            2,
            "rope_scaling is 'linear', but there is no context",
        ),
        (["--prompt", "x", "--n", "3", "--beams", "2"], b"", 2, "n is 3; beam search with 2 beams has at most"),
    ],
)
def test_mistakes_with_prompts(
    checkpoint: Path, run: Run, words: list[str], stdin: bytes, status: int, message: str
) -> None:
    result = run("generate", checkpoint, *words, stdin=stdin)
    assert result.status == status and result.err.startswith(f"gollm: {message}") and result.out == ""


def test_blank_lines_are_no_prompts_but_count(checkpoint: Path, tmp_path: Path, run: Run) -> None:
    for name, text in (
        ("p.txt", "hello\n\n \t\nworld\n"),
        ("p.jsonl", '{"prompt": "hello"}\n\n \n{"prompt": "world"}\n'),
    ):
        (tmp_path / name).write_text(text)
        found = lines_of(run("generate", checkpoint, "--prompts", tmp_path / name, "-n", 2).out)
        assert [(line["prompt"], line["line"]) for line in found] == [("hello", 1), ("world", 4)]


def test_json_lines_that_are_none(checkpoint: Path, tmp_path: Path, run: Run) -> None:
    for text, message in (("{}", 'line 2: the field "prompt" is None'), ("x", "line 2 is not JSON")):
        (tmp_path / "p.jsonl").write_text('{"prompt": "hello"}\n' + text)
        assert message in run("generate", checkpoint, "--prompts", tmp_path / "p.jsonl").err

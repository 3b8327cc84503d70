"""Options as dataclasses: flags, files and Python callers get the same checks and the same words."""

from __future__ import annotations

import dataclasses
import json
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

import gollm.options
from gollm.cli.flags import parse
from gollm.errors import ConfigError
from gollm.model.options import RARE, ModelOptions
from gollm.options import (
    Fraction,
    Positional,
    PositiveFloat,
    PositiveInt,
    Range,
    check,
    describe,
    from_mapping,
    load_file,
    nearest,
    to_mapping,
    to_yaml,
)


@dataclass(frozen=True)
class Shape:
    width: PositiveInt = 8  # of a layer


@dataclass(frozen=True)
class Sample:
    """Options of every type."""

    # sequences in a batch,
    # all of one length
    batch_size: PositiveInt = 12
    data: tuple[Path, ...] = ()  # files or folders
    # how the learning rate falls
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    learning_rate: PositiveFloat = 1e-3  # at its highest
    dropout: Fraction = 0.0
    top_k: PositiveInt | None = None
    text: str | None = None
    compile: bool = True
    json: bool = False
    bias: bool | None = None
    special: tuple[str, ...] = ("end",)
    layers: tuple[PositiveInt, ...] | None = None
    out: Annotated[Path, Positional] = Path("out.json")

    ALIASES: ClassVar[Mapping[str, str]] = {"lr": "learning_rate", "corpus": "data"}

    def __post_init__(self) -> None:
        check(self)
        if self.text == "impossible":
            raise ConfigError("text is 'impossible'; it must be something else")


def parsed(*words: str) -> Sample:
    return parse(Sample, words, prog="gollm test", description="")


def mistake(*words: str) -> str:
    with pytest.raises(ConfigError) as caught:
        parsed(*words)
    message = str(caught.value)
    assert "\n" not in message and "│" not in message
    return message


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ((), {}),
        (("--batch-size", "3"), {"batch_size": 3}),
        (("--batch-size=3",), {"batch_size": 3}),
        (("--batch_size=3",), {"batch_size": 3}),
        (("--batch_size", "3", "--batch-size", "4"), {"batch_size": 4}),
        (("--data", "a", "b", "--json"), {"data": (Path("a"), Path("b")), "json": True}),
        (("--corpus", "a"), {"data": (Path("a"),)}),
        (("--schedule", "linear"), {"schedule": "linear"}),
        (("--learning-rate", "1e-4"), {"learning_rate": 1e-4}),
        (("--lr=2",), {"learning_rate": 2.0}),
        (("--top-k", "5"), {"top_k": 5}),
        (("--top-k", "none"), {"top_k": None}),
        (("--text", ""), {"text": ""}),
        (("--text", "none"), {"text": "none"}),
        (("--text", "-"), {"text": "-"}),
        (("--text", "-5"), {"text": "-5"}),
        (("--text=--lr",), {"text": "--lr"}),
        (("--text", "two words\nand a line"), {"text": "two words\nand a line"}),
        (("--no-compile",), {"compile": False}),
        (("--compile=False", "--json=true"), {"compile": False, "json": True}),
        (("--special",), {"special": ()}),
        (("--bias",), {"bias": True}),
        (("--no-bias",), {"bias": False}),
        (("--bias", "false"), {"bias": False}),
        (("--bias", "False"), {"bias": False}),
        (("--bias", "none"), {"bias": None}),
        (("--bias=none",), {"bias": None}),
        (("--bias", "file"), {"bias": True, "out": Path("file")}),
        (("--json", "true"), {"json": True, "out": Path("true")}),
        (("--layers", "3"), {"layers": (3,)}),
        (("--layers", "3", "4"), {"layers": (3, 4)}),
        (("--layers", "none"), {"layers": None}),
        (("file",), {"out": Path("file")}),
        (("--json", "file"), {"out": Path("file"), "json": True}),
        (("--batch-size", "3", "file"), {"out": Path("file"), "batch_size": 3}),
        (("--", "--file"), {"out": Path("--file")}),
    ],
)
def test_flags(words: tuple[str, ...], expected: dict[str, Any]) -> None:
    assert parsed(*words) == Sample(**expected)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--bacth-size", "3"), "unknown option --bacth-size; did you mean --batch-size?"),
        (("--bacth_size=3",), "unknown option --bacth_size; did you mean --batch-size?"),
        (("--batch", "3"), "unknown option --batch; did you mean --batch-size?"),
        (("-batch-size", "3"), "unknown option -batch-size; did you mean --batch-size?"),
        (("--zzz",), "unknown option --zzz; --help lists the options of this command"),
        (("--batch-size", "0"), "--batch-size is 0; it must be a whole number, at least 1"),
        (("--batch-size", "x"), "--batch-size is 'x'; it must be a whole number, at least 1"),
        (("--batch-size", "1.5"), "--batch-size is '1.5'; it must be a whole number, at least 1"),
        (("--batch-size",), "--batch-size needs a value: a whole number, at least 1"),
        (("--top-k", "0"), "--top-k is 0; it must be a whole number, at least 1, or none"),
        (("--learning-rate", "nan"), "--learning-rate is nan; it must be a number, above 0"),
        (("--learning-rate", "1e999"), "--learning-rate is inf; it must be a number, above 0"),
        (("--dropout", "1.5"), "--dropout is 1.5; it must be a number, from 0 to 1"),
        (("--data",), "--data needs a value: a list, each a path"),
        (("--schedule", "cosin"), "it must be one of 'cosine', 'linear', 'constant' (did you mean 'cosine'?)"),
        (("--compile=maybe",), "--compile is 'maybe'; it must be true or false"),
        (("--no-compile=true",), "--no-compile takes no value; write --no-compile alone, or --compile=true"),
        (("--data", "a", "--data", "b"), "--data is given twice; list everything behind one: --data PATH ..."),
        (("-1",), "unknown option -1; --help lists the options of this command (a value that begins with a hyphen"),
        (("--json", "-1"), "unknown option -1;"),
        (("--text", "-hello"), "a value that begins with a hyphen goes behind an equals sign: --option='-hello'"),
        (("--out", "a", "b"), "unexpected argument 'b'; --out has its value; quote a value with spaces, or give one"),
        (("a", "b"), "unexpected argument 'b'; --out has its value; quote a value with spaces: 'a b'"),
        (("a", "linear"), "unexpected argument 'linear'; did you mean --schedule linear?"),
        (("--out", ""), "--out is ''; it must be a path"),
        (("--text=impossible",), "text is 'impossible'; it must be something else"),
        (("--config",), "--config needs a value: a path"),
        (("--config", "none.yaml"), "none.yaml: No such file or directory; check the path of the configuration file"),
    ],
)
def test_mistakes_in_flags(words: tuple[str, ...], message: str) -> None:
    assert message in mistake(*words)


def test_words_that_belong_to_no_option() -> None:
    with pytest.raises(
        ConfigError, match="unexpected argument 'file'; each value of this command goes behind its flag"
    ):
        parse(Shape, ["file"], prog="x", description="")


def test_letters_stand_for_options() -> None:
    @dataclass(frozen=True)
    class Lettered:
        prompt: Annotated[str, Positional] = ""
        max_new_tokens: int = 0

        SHORT: ClassVar[Mapping[str, str]] = {"p": "prompt", "n": "max_new_tokens"}

    def parsed(*words: str) -> Lettered:
        return parse(Lettered, words, prog="x", description="")

    assert parsed("-p", "a b", "-n", "5") == parsed("-n=5", "a b") == Lettered("a b", 5)
    for words in (["-x", "5"], ["-n5"], ["-", "-m", "x"]):
        with pytest.raises(ConfigError, match=r"unknown option -"):
            parsed(*words)


@pytest.mark.parametrize(("text", "number"), [("1e3", 1000), ("1.5E3", 1500), ("2e+0", 2), ("1e15", 10**15)])
def test_whole_numbers_may_have_an_exponent(text: str, number: int) -> None:
    assert parsed("--batch-size", text).batch_size == number


@pytest.mark.parametrize("text", ["1e-1", "1.55e1", "1e300", "1e999", "e3", "1e", "nan"])
def test_an_exponent_does_not_make_a_fraction_whole(text: str) -> None:
    assert "--batch-size is " in mistake("--batch-size", text)


def test_threads_are_an_option_of_every_command() -> None:
    before = gollm.num_threads()
    try:
        parsed("--threads", "1")
        assert gollm.num_threads() == 1
    finally:
        gollm.set_num_threads(before)
    for odd in ("0", "1025", "two", "1.5"):
        assert "it must be a whole number, from 1 to 1024" in mistake("--threads", odd)


def test_a_required_option_is_asked_for_with_its_help() -> None:
    with pytest.raises(ConfigError, match=r"^--model is needed: a checkpoint$"):
        parse(Required, [], prog="x", description="")
    with pytest.raises(ConfigError, match=r"^r\.yaml: model is missing; it has no default$"):
        from_mapping(Required, {}, "r.yaml")


@dataclass(frozen=True)
class Remembering(gollm.options.Given):
    a: int = 1
    b: int = 2
    c: int | None = None


@dataclass(frozen=True)
class Required:
    model: Path  # a checkpoint


def test_help_shows_everything(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    with pytest.raises(SystemExit) as stop:
        parse(Sample, ["--help-all"], prog="gollm test", description="What it does.")
    assert stop.value.code in (0, None)
    shown = capsys.readouterr().out
    assert "usage: gollm test" in shown and "What it does." in shown
    for option in describe(Sample).values():
        assert option.flag in shown
    text = " ".join(shown.replace("│", " ").replace("|", " ").split())
    assert "sequences in a batch, all of one length (default: 12; at least 1)" in text
    assert "files or folders (also --corpus)" in text
    assert "how the learning rate falls (default: cosine)" in text and "{cosine,linear,constant}" in text
    assert "--config PATH" in text and "--debug" in text and "--threads INT" in text


def test_help_is_for_the_common_case(capsys: pytest.CaptureFixture[str]) -> None:
    @dataclass(frozen=True)
    class Options(ModelOptions):
        model: Annotated[Path, Positional] = dataclasses.field(kw_only=True)  # what to load
        files: Annotated[tuple[str, ...], Positional] = ()  # more of it
        json: bool = False  # print JSON
        steps: PositiveInt = 3  # of what is done

        HEADINGS: ClassVar[Mapping[str, str]] = {"preset": "model", "steps": "training"}
        RARE: ClassVar = ("steps", *RARE)
        SHORT: ClassVar[Mapping[str, str]] = {"m": "model"}

    def shown(*words: str) -> str:
        with pytest.raises(SystemExit):
            parse(Options, words, prog="gollm x", description="")
        return capsys.readouterr().out

    text = shown("--help")
    assert text.startswith("usage: gollm x MODEL [FILES ...] [OPTIONS]\n")
    order = [
        "\narguments:\n  -m, [--model] PATH ",
        "  [--files] TEXT ... ",
        "\nmodel:\n  --preset TEXT",
        "\ngeneral:\n  --json",
    ]
    assert sorted(order, key=text.index) == order
    assert "--steps" not in text and "training:" not in text and "at least" not in text
    assert "\ntraining:\n  --steps INT " in shown("--help-all")
    assert "attention heads (default: the preset's, 12 for d12)" in " ".join(shown("--preset=d12", "--help").split())
    with pytest.raises(ConfigError, match="preset is 'd13'; it must be one of"):
        parse(Options, ["--help", "--preset", "d13"], prog="gollm x", description="")


def test_files_and_flags_override(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("batch-size: 3\nlr: 1e-4\ncompile: false\ndata: corpus.txt\n")
    expected = Sample(batch_size=3, learning_rate=1e-4, compile=False, data=(Path("corpus.txt"),))
    assert parsed("--config", str(file)) == expected
    assert parsed(f"--config={file}", "--compile", "--lr", "1", "--batch_size=5") == Sample(
        batch_size=5, learning_rate=1.0, data=(Path("corpus.txt"),)
    )
    file.write_text("bacth_size: 3\n")
    assert mistake("--config", str(file)) == f"{file}: unknown option 'bacth_size'; did you mean 'batch_size'?"


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({"batch_size": 0}, "f: batch_size is 0; it must be a whole number, at least 1"),
        ({"batch_size": True}, "f: batch_size is true; it must be a whole number, at least 1"),
        ({"batch_size": 2.0}, "f: batch_size is 2.0; it must be a whole number, at least 1"),
        ({"batch_size": None}, "f: batch_size is none; it must be a whole number, at least 1"),
        ({"batch-size": 1, "batch_size": 2}, "f: batch-size and batch_size are the same option; keep one of them"),
        ({"lr": 1, "learning_rate": 1}, "f: lr and learning_rate are the same option; keep one of them"),
        ({"compile": "yes"}, "f: compile is 'yes'; it must be true or false"),
        ({"compile": 1}, "f: compile is 1; it must be true or false"),
        ({"text": 5}, "f: text is 5; it must be text, or none (write '5' in quotes if that is meant as text)"),
        ({"data": ["a", 5]}, "f: data[1] is 5; it must be a path"),
        ({"out": "a\0b"}, "f: out is 'a\\x00b'; it must be a path"),
        ({"learning_rate": float("inf")}, "f: learning_rate is inf; it must be a number, above 0"),
        ({"learning_rate": 10**400}, "it must be a number, above 0"),
        ({"qqq": 3}, "f: unknown option 'qqq'; allowed are batch_size, bias, compile"),
        ({5: 3}, "f: unknown option 5; allowed are"),
        ({"text": "impossible"}, "f: text is 'impossible'; it must be something else"),
    ],
)
def test_mistakes_in_mappings(mapping: dict[Any, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        from_mapping(Sample, mapping, "f")
    assert message in str(caught.value)
    assert len(str(caught.value)) < 400


def test_python_callers_get_the_same_checks() -> None:
    with pytest.raises(ConfigError, match=r"^batch_size is 0; it must be a whole number, at least 1$"):
        Sample(batch_size=0)
    with pytest.raises(ConfigError, match="it must be one of"):
        Sample(schedule="cosin")  # type: ignore[arg-type]
    made = Sample(data=["a"], out="b", learning_rate=1, batch_size=np.int64(3))  # type: ignore[arg-type]
    assert made == Sample(data=(Path("a"),), out=Path("b"), learning_rate=1.0, batch_size=3)
    assert type(made.batch_size) is int and type(made.learning_rate) is float


@settings(deadline=None)
@given(
    st.builds(
        Sample,
        batch_size=st.integers(1, 10**9),
        data=st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1)),
        schedule=st.sampled_from(["cosine", "linear"]),
        learning_rate=st.floats(1e-30, 1e30),
        top_k=st.none() | st.integers(1, 100),
        text=st.none() | st.text(st.characters(exclude_categories=["Cs"])),
        compile=st.booleans(),
    )
)
def test_round_trip_through_json_and_yaml(options: Sample) -> None:
    mapping = to_mapping(options)
    assert from_mapping(Sample, json.loads(json.dumps(mapping))) == options
    with tempfile.TemporaryDirectory() as folder:
        for name, text in (("a.json", json.dumps(mapping)), ("a.yaml", to_yaml(mapping))):
            Path(folder, name).write_text(text, encoding="utf-8")
            assert from_mapping(Sample, load_file(Path(folder, name))) == options


LOOKALIKES = "1e5 1E5 08 0o7 0x1 010 1:30 no on y true ~ null . = << - 2024-01-01 1_0 .5 5. .inf"


@pytest.mark.parametrize("text", LOOKALIKES.split())
def test_text_that_looks_like_something_else_stays_text(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.yaml").write_text(to_yaml({"key": text, "keys": [text]}))
    assert load_file(tmp_path / "a.yaml") == yaml.safe_load((tmp_path / "a.yaml").read_text())
    assert load_file(tmp_path / "a.yaml") == {"key": text, "keys": [text]}


@pytest.mark.parametrize("number", [0, -1, 10**30, 0.1, 1e-5, 1e300, -2.5e-300, 1.0, 100000.0, True, None])
def test_numbers_stay_numbers(tmp_path: Path, number: Any) -> None:
    (tmp_path / "a.yaml").write_text(to_yaml({"key": number}))
    found = load_file(tmp_path / "a.yaml")["key"]
    assert found == number and type(found) is type(number)
    assert yaml.safe_load((tmp_path / "a.yaml").read_text())["key"] == number


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 1e-3),
        ("1E5", 1e5),
        ("1.", 1.0),
        (".5", 0.5),
        ("-2.5e+3", -2500.0),
        ("010", 10),
        ("0x1F", 31),
        ("0o17", 15),
        ("1:30", "1:30"),
        ("no", "no"),
        ("on", "on"),
        ("true", True),
        ("False", False),
        ("~", None),
        ("null", None),
        ("", None),
        ("2024-01-01", "2024-01-01"),
        ("1_000", "1_000"),
        ("'5'", "5"),
        ("[1, 2.0, x]", [1, 2.0, "x"]),
        ("{<<: {a: 1}, b: 2}", {"<<": {"a": 1}, "b": 2}),
    ],
)
def test_yaml_follows_version_1_2(tmp_path: Path, text: str, value: Any) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(f"key: {text}\n")
    found = load_file(file)["key"]
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.yaml", "a: 1\nb: 2\na: 3\n", "line 3: 'a' appears twice; keep one of them"),
        ("a.yaml", "a: {b: 1, b: 2}\n", "line 1: 'b' appears twice"),
        ("a.json", '{"a": 1, "a": 2}', "'a' appears twice"),
        ("a.json", '{"a": NaN}', "NaN is not a JSON number"),
        ("a.json", '{"a": ', "not valid JSON"),
        ("a.yaml", "a: [1\n", "not valid YAML"),
        ("a.yaml", "a: 1\n\tb: 2\n", "line 2: not valid YAML"),
        ("a.yaml", "- 1\n", "expected `name: value` lines, but found a list"),
        ("a.yaml", "[a]: 1\n", "line 1: a name cannot be a list or mapping"),
        ("a.yaml", "a: !!python/object/apply:os.system [id]\n", "line 1: tags such as tag:yaml.org,2002:python/object"),
        ("a.yaml", "\na: !!bool maybe\n", "line 2: tags such as tag:yaml.org,2002:bool have no place"),
        ("a.yaml", "a: &x [*x]\n", "the alias *x repeats a list or mapping; write it out"),
        ("a.yaml", "a: " + "[" * 5000, "nested too deeply"),
        ("a.json", '{"a": ' + "[" * 100000, "nested too deeply"),
        ("a.json", '{"a": ' + "9" * 5000 + "}", "not valid JSON"),
        ("a.yaml", "a: " + "9" * 5000, "not valid YAML"),
        ("a.yaml", "#" + "x" * 300000, "larger than 256 KiB"),
        ("a.yaml", b"a: \xff", "is not UTF-8 text: byte 0xff at line 1, byte 3. Convert it"),
        ("a.py", "a = 1", "ends in .yaml, .yml or .json"),
    ],
)
def test_bad_files(tmp_path: Path, name: str, content: str | bytes, message: str) -> None:
    file = tmp_path / name
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ConfigError) as caught:
        load_file(file)
    assert str(caught.value).startswith(str(file)) and message in str(caught.value)


@settings(deadline=None)
@given(
    st.sampled_from(["a.yaml", "a.json"]),
    st.binary(max_size=60)
    | st.lists(
        st.sampled_from([*"[]{},:-&*!|>'\"%@`#\n\t 1ea", "&x ", "*x", "<<: ", "? ", "---\n", "...\n", "!!set "]),
        max_size=30,
    ).map(lambda parts: "".join(parts).encode()),
)
def test_any_file_is_read_or_refused(name: str, content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, name).write_bytes(content)
        try:
            assert isinstance(load_file(Path(folder, name)), dict)
        except ConfigError as error:
            assert "\n" not in str(error)


@pytest.mark.parametrize("content", ["", "# nothing\n", "---\n"])
def test_an_empty_file_changes_nothing(tmp_path: Path, content: str) -> None:
    (tmp_path / "a.yaml").write_text(content)
    assert load_file(tmp_path / "a.yaml") == {}


def test_only_single_values_have_aliases_so_that_nothing_grows(tmp_path: Path) -> None:
    bomb = "a0: &a0 [1,1,1,1,1,1,1,1,1]\n"
    bomb += "".join(f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 30))
    (tmp_path / "a.yaml").write_text(bomb)
    with pytest.raises(ConfigError, match=r"a\.yaml: the alias \*a0 repeats a list or mapping"):
        parsed("--config", str(tmp_path / "a.yaml"))
    (tmp_path / "a.yaml").write_text("a: &x 1e-3\nb: *x\n")
    assert load_file(tmp_path / "a.yaml") == {"a": 1e-3, "b": 1e-3}


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_byte_order_marks_of_configurations_are_honoured(encoding: str, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_bytes("a: ü\n".encode(encoding))
    (tmp_path / "a.json").write_bytes('{"a": "ü"}'.encode(encoding))
    assert load_file(tmp_path / "a.yaml") == load_file(tmp_path / "a.json") == {"a": "ü"}


def test_aliases_must_name_fields() -> None:
    @dataclass
    class Wrong:
        a: int = 1
        ALIASES: ClassVar[Mapping[str, str]] = {"b": "c"}

    with pytest.raises(TypeError, match="ALIASES"):
        describe(Wrong)


def test_nearest() -> None:
    assert nearest("learningrate", ["learning_rate", "min_learning_rate"]) == "learning_rate"
    assert nearest("JSON", ["json", "jsonl"]) == "json"
    assert nearest("x", ["json", "text"]) is None


def test_ranges_in_words() -> None:
    assert str(Range(at_least=1)) == "at least 1"
    assert str(Range(above=0, at_most=1)) == "above 0 and at most 1"
    assert 0.5 in Range(above=0, below=1) and 1 not in Range(below=1) and 0 not in Range(above=0)


def test_which_options_were_given(tmp_path: Path) -> None:
    """Whatever their values; None leaves an option open."""
    assert gollm.options.given(Remembering()) == []
    assert gollm.options.given(Remembering(3, c=None)) == ["a"]
    (tmp_path / "o.yaml").write_text("b: 2\n")
    parsed = parse(Remembering, ["--a", "1", "--config", str(tmp_path / "o.yaml")], prog="x", description="")
    assert gollm.options.given(parsed) == ["a", "b"] and parsed == Remembering()
    assert gollm.options.given(from_mapping(Remembering, {"b": 2})) == ["b"]
    assert gollm.options.given(gollm.options.replace(parsed, c=5)) == ["a", "b", "c"]
    assert gollm.options.given(pickle.loads(pickle.dumps(parsed))) == ["a", "b"]
    with pytest.raises(TypeError):
        Remembering(d=1)  # type: ignore[call-arg]


def test_importing_the_machinery_does_not_import_the_parser() -> None:
    code = "import sys, gollm.options; print([name for name in ('argparse', 'yaml', 'numpy') if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"

"""What a person who writes a program sees: types in an editor, names in dir(), objects in a shell."""

from __future__ import annotations

import os
import subprocess
import sys
import types
from pathlib import Path

import pytest

import gollm
from gollm.model.options import MODEL_FIELDS, ModelOptions
from gollm.tokenizers import CharacterTokenizer
from test_layers import module_files

PROGRAM = """\
from pathlib import Path

import gollm
from gollm import LanguageModel, Sampling, TrainOptions, load
from gollm.errors import GollmError
from gollm.tokenizers import BPETokenizer


def main(path: Path) -> int:
    result = gollm.train(TrainOptions(data=("a.txt",), preset="tiny", n_layers=2, steps=10, seed=1))
    reveal_type(result.best_validation_loss)
    try:
        model = gollm.load(path)
    except GollmError as error:
        print(error)
        return 1
    reveal_type(model)
    reveal_type(model.generate("x", Sampling(temperature=0.5), seed=1))
    reveal_type(model.config.n_layers)
    with gollm.Engine(model) as engine:
        reveal_type(engine.submit("x").result().tokens)
    with gollm.no_grad():
        reveal_type(gollm.tensor([1.0]))
    other: LanguageModel = load(path, tokenizer=BPETokenizer.train("abc", 260))
    reveal_type(other.tokenizer)
    reveal_type(gollm.tokenizers.load("x"))
    return model.generate("x")  # a mistake


gollm.lod("x")  # another
gollm.TrainOptions(n_layers="2")  # and one more
"""
SEEN = [
    'note: Revealed type is "float | None"',
    'note: Revealed type is "gollm.language_model.LanguageModel"',
    'note: Revealed type is "str"',
    'note: Revealed type is "int"',
    'note: Revealed type is "tuple[int, ...]"',
    'note: Revealed type is "gollm.nn.tensor.Tensor"',
    'note: Revealed type is "gollm.tokenizers.base.Tokenizer | None"',
    'note: Revealed type is "gollm.tokenizers.base.Tokenizer"',
    'error: Incompatible return value type (got "str", expected "int")  [return-value]',
    'error: Module has no attribute "lod"; maybe "load"?  [attr-defined]',
    'error: Argument "n_layers" to "TrainOptions" has incompatible type "str"; expected "int | None"  [arg-type]',
]


def test_mypy_sees_the_types_of_a_program(tmp_path: Path, pytestconfig: pytest.Config) -> None:
    """In a checkout the package is found by its path: mypy does not look where an editable installation redirects
    imports. What mypy finds out about NumPy and gollm is kept for the next time."""
    pytest.importorskip("mypy")
    (tmp_path / "program.py").write_text(PROGRAM)
    root = Path(gollm.__file__).parents[1]
    path = {} if root.name == "site-packages" else {"MYPYPATH": str(root)}
    assert pytestconfig.cache is not None
    words = ["--strict", "--follow-imports=silent", "--cache-dir", str(pytestconfig.cache.mkdir("mypy")), "program.py"]
    command = [sys.executable, "-m", "mypy", *words]
    run = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env={**os.environ, **path})
    assert [line.partition(": ")[2] for line in run.stdout.splitlines()[:-1]] == SEEN, run.stdout + run.stderr


def test_the_types_of_a_models_options_are_those_of_its_configuration() -> None:
    """They stand in the class once more, for type checkers alone."""
    source = Path(str(sys.modules[ModelOptions.__module__].__file__)).read_text()
    block = source[source.index("if TYPE_CHECKING:  #") :]
    assert [line.split(":")[0].strip() for line in block.splitlines()[1:] if line.strip()] == list(MODEL_FIELDS)


def test_dir_lists_the_public_api() -> None:
    rooms = {name.split(".")[1] for name, path in module_files().items() if name.count(".") == 1
             and "\n__all__" in path.read_text()}  # fmt: skip
    names = {name for name in dir(gollm) if not name.startswith("__")} | {"__version__"}
    assert names == {*gollm.__all__, *rooms}
    for name in rooms:
        assert isinstance(getattr(gollm, name), types.ModuleType)
    with pytest.raises(AttributeError, match="module 'gollm' has no attribute 'lod'"):
        gollm.lod  # noqa: B018


def test_objects_say_what_they_are() -> None:
    tokenizer = CharacterTokenizer.train("abc")
    decoder = gollm.Decoder(gollm.ModelConfig(n_layers=1, n_heads=2, d_model=8, vocab_size=3, context=8))
    size = f"n_layers=1, n_heads=2, d_model=8, context=8, vocab_size=3, parameters={decoder.parameters.n_parameters:,}"
    assert repr(decoder) == f"Decoder({size})"
    assert repr(gollm.LanguageModel(decoder)) == f"LanguageModel({size}, tokenizer=None)"
    assert repr(gollm.LanguageModel(decoder, tokenizer)) == f"LanguageModel({size}, tokenizer=CharacterTokenizer)"
    assert repr(tokenizer) == "CharacterTokenizer(vocab_size=3, special_tokens=[])"

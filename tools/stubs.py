"""Writes python/gollm/_native.pyi, the type stubs of the native module, from the module itself.

    python tools/stubs.py

The kernels' signatures come from their contracts, those of everything else from what pybind11 says in the docstrings.
Run it after a change of a contract or of a binding; tests/test_stubs.py fails until then.
"""

from __future__ import annotations

import re
from pathlib import Path

from gollm import _native

STUBS = Path(__file__).parent.parent / "python" / "gollm" / "_native.pyi"

HEADER = '''\
"""gollm's compiled part. Written by tools/stubs.py; do not edit."""

import collections.abc
import types
import typing

import numpy
import numpy.typing

_Array: typing.TypeAlias = numpy.typing.NDArray[typing.Any]

class _Storage(typing.Protocol):
    @property
    def array(self) -> _Array: ...

_Buffer: typing.TypeAlias = _Array | _Storage
_Destination: typing.TypeAlias = _Buffer | tuple[_Buffer, bool] | None  # overwritten, or (it, whether to add to it)

__version__: str
SPLIT_PATTERNS: tuple[str, ...]

'''

ARGUMENTS = {
    "IN": "{}: _Buffer",
    "OUT": "{}: _Buffer",
    "INOUT": "{}: _Buffer",
    "OPT_IN": "{}: _Buffer | None = None",
    "OPT_OUT": "{}: _Buffer | None = None",
    "INTO": "{}: _Destination = None",
}
# Types that pybind11 names less precisely than a strict type checker wants them.
PRECISE = [
    (r"gollm\._native\.", ""),
    (r"typing\.SupportsInt( \| typing\.SupportsIndex)?", "int"),
    (r"typing\.SupportsFloat( \| typing\.SupportsIndex)?", "float"),
    (r"numpy\.ndarray\b", "_Array"),
    (r"\bnumpy\.dtype\b(?!\[)", "numpy.dtype[typing.Any]"),
    (r"\blist\b(?!\[)", "list[typing.Any]"),
    (r"\bdict\b(?!\[)", "dict[str, typing.Any]"),
    (r"\btuple\b(?!\[)", "tuple[typing.Any, ...]"),
    (r"\bcollections\.abc\.Sequence\b(?!\[)", "collections.abc.Sequence[typing.Any]"),
    (r"typing_extensions\.CapsuleType", "object"),
    (r"\barg0\b", "index"),
    (r"\*args$", "*args: typing.Any"),
    (r"\*\*kwargs$", "**kwargs: typing.Any"),
]


def kernel_arguments(contract: str) -> list[str]:
    arguments = []
    for kind, inside in re.findall(r"GOLLM_(\w+)\(((?:[^()]|\([^()]*\))*)\)", contract):
        parts = [part.strip() for part in inside.split(",")]
        if kind in ARGUMENTS:
            arguments.append(ARGUMENTS[kind].format(parts[1]))
        elif kind == "SCALAR":
            arguments.append(f"{parts[1]}: {'float' if parts[0] == 'f64' else 'int'}")
    return ["*", *arguments]


def signature(docstring: str) -> tuple[list[str], str]:
    """Arguments and result of `name(a: int, b: list[int] = []) -> None`, the first line of a pybind11 docstring."""
    inside, result = re.fullmatch(r"\w*\((.*)\) -> (.+)", docstring.splitlines()[0]).groups()  # type: ignore[union-attr]
    arguments, depth = [""], 0
    for character in inside:
        depth += (character in "([{") - (character in ")]}")
        if character == "," and depth == 0:
            arguments.append("")
        else:
            arguments[-1] += character
    arguments = [precise(argument.strip()) for argument in arguments if argument.strip()]
    return ["self" if argument.startswith("self:") else argument for argument in arguments], precise(result)


def precise(text: str) -> str:
    for pattern, replacement in PRECISE:
        text = re.sub(pattern, replacement, text)
    return text


def definition(name: str, arguments: list[str], result: str, indent: str = "") -> str:
    """One line where it fits into 120 columns, else an argument a line, as the formatter writes it."""
    line = f"{indent}def {name}({', '.join(arguments)}) -> {result}: ...\n"
    if len(line) <= 121:
        return line
    lines = "".join(f"{indent}    {argument},\n" for argument in arguments)
    return f"{indent}def {name}(\n{lines}{indent}) -> {result}: ...\n"


def class_definition(cls: type) -> str:
    bases = [base.__name__ for base in cls.__bases__ if base.__module__ == cls.__module__]
    text = f"class {cls.__name__}{'(' + ', '.join(bases) + ')' if bases else ''}:\n"
    members = ""
    for name, member in vars(cls).items():
        if isinstance(member, property):
            members += f"    @property\n    def {name}(self) -> {signature(member.fget.__doc__)[1]}: ...\n"
        elif (getattr(member, "__doc__", None) or "").startswith(f"{name}(self"):
            members += definition(name, *signature(member.__doc__), indent="    ")
    return text + (members or "    ...\n")


def stubs() -> str:
    contracts = _native.contracts()
    functions, classes = "", ""
    for name, value in vars(_native).items():
        if name.startswith("__") or isinstance(value, tuple):  # those are in HEADER
            continue
        if isinstance(value, type):
            classes += "\n" + class_definition(value)
        elif name in contracts:
            functions += definition(name, kernel_arguments(contracts[name]), "None")
        else:
            functions += definition(name, *signature(value.__doc__))
    return HEADER + functions + classes


if __name__ == "__main__":
    STUBS.write_text(stubs())

"""Writes docs/reference.md, the reference of the Python API, from the docstrings of everything that is public.

python tools/reference_page.py            writes the page
python tools/reference_page.py --check    fails if the page is not what would be written

Public is what the `__all__` of gollm, of a room or of a module lists.
"""

from __future__ import annotations

import importlib
import inspect
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import gollm

PAGE = Path(__file__).resolve().parent.parent / "docs" / "reference.md"
LONG = 400  # characters of a docstring's first paragraph; of a longer one the page has the first sentence

INTRODUCTION = """\
# The Python API

<!-- written by tools/reference_page.py from the docstrings; edit those -->

This page lists every public name with its import path, its signature, and what it does. Public is what the `__all__`
of `gollm`, of a package inside it or of a module lists. A name is in one such list only, so it has one import path.
Everything else is private and may change in any version. `help(name)` shows the whole docstring.
"""


def public_modules() -> list[str]:
    """The modules with an `__all__`: gollm first, then by name."""
    root = Path(gollm.__file__).parent
    names = []
    for path in sorted(root.rglob("*.py")):
        if any(line.startswith("__all__") for line in path.read_text(encoding="utf-8").splitlines()):
            parts = path.relative_to(root.parent).with_suffix("").parts
            names.append(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    return sorted(names)


def page() -> str:
    parts = [INTRODUCTION]
    for name in public_modules():
        module = importlib.import_module(name)
        parts.append(f"\n## {name}\n\n{summary(module)}\n\n")
        parts += [entry(module, public) for public in sorted(module.__all__, key=str.lower)]
    return "".join(parts)


def entry(module: ModuleType, name: str) -> str:
    """One line, and one more for each method."""
    value = getattr(module, name)
    path = f"{module.__name__}.{name}"
    if isinstance(value, ModuleType):  # one that can be called: gollm.train
        return line(f"{path}{signature(type(value).__call__)}", summary(type(value).__call__))
    if name == "__version__":
        return line(path, "the version of gollm")
    if not (inspect.isclass(value) or inspect.isroutine(value)):
        return line(path, constant(module, name))
    lines = [line(path + signature(value), summary(value))]
    if inspect.isclass(value):
        lines += ["  " + line(f".{method}", text) for method, text in methods(value)]
    return "".join(lines)


def line(code: str, text: str) -> str:
    return f"- `{code}`{': ' if text else ''}{text}\n"


def methods(cls: type) -> list[tuple[str, str]]:
    """The public methods and properties that a class defines and documents."""
    found = []
    for name, member in vars(cls).items():
        if name.startswith("_") or not getattr(member, "__doc__", None):
            continue
        if isinstance(member, property):
            found.append((name, summary(member)))
        elif isinstance(member, classmethod | staticmethod) or inspect.isfunction(member):
            found.append((name + signature(getattr(cls, name)), summary(getattr(cls, name))))
    return found


def signature(value: Any) -> str:
    """`(path, tokenizer=None)`: names and defaults; the types are in the source."""
    if getattr(value, "_is_protocol", False):
        return ""
    try:
        found = inspect.signature(value)
    except (TypeError, ValueError):  # compiled: the first line of its docstring has it
        first = (value.__doc__ or "").partition("\n")[0]
        return re.sub(r": \w+", "", first[first.find("(") : first.find(")") + 1])
    parameters = [
        parameter.replace(annotation=parameter.empty, default=parameter.empty)
        if "<" in repr(parameter.default)  # a default that another run would show otherwise
        else parameter.replace(annotation=parameter.empty)
        for parameter in found.parameters.values()
        if parameter.name != "self"
    ]
    optional = False
    for i, parameter in enumerate(parameters):  # one without a default cannot follow one that has it
        if optional and parameter.default is parameter.empty and parameter.kind is parameter.POSITIONAL_OR_KEYWORD:
            parameters[i] = parameter.replace(default=...)
        optional = optional or parameter.default is not parameter.empty
    return str(found.replace(parameters=parameters, return_annotation=found.empty)).replace("=Ellipsis", "=...")


def summary(value: Any) -> str:
    """The first paragraph of a docstring, or the first sentence of a long one."""
    text = inspect.getdoc(value) or ""
    if not inspect.isfunction(value) and not isinstance(value, type | ModuleType | property) and "(" in text[:80]:
        text = re.sub(r"^\w+\([^\n]*\n+", "", text)  # the signature of a compiled function
    paragraph = " ".join(text.partition("\n\n")[0].split())
    if len(paragraph) > LONG:
        paragraph = re.split(r"(?<=[.:]) (?=[A-Z`])", paragraph)[0]
    return paragraph.removesuffix(":").replace("<", "&lt;")


def constant(module: ModuleType, name: str) -> str:
    """What the comment behind its assignment says, or its value."""
    for path in sorted(Path(str(module.__file__)).parent.glob("*.py")):
        found = re.search(rf"^{name}\b[^=\n]*= .*  # (.*)$", path.read_text(encoding="utf-8"), re.M)
        if found:
            return found[1]
    value = getattr(module, name)
    if isinstance(value, dict | tuple):
        return ", ".join(f"`{key}`" for key in value)
    return f"`{value}`" if isinstance(value, int) else ""


def main() -> int:
    text = page()
    if "--check" in sys.argv[1:]:
        if not PAGE.exists() or PAGE.read_text(encoding="utf-8") != text:
            print(f"{PAGE.name} is out of date; run python tools/reference_page.py", file=sys.stderr)
            return 1
        return 0
    PAGE.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())

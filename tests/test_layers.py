"""The package's floors: nothing imports upwards, and no imports run in a circle.

`ROOMS` is the rule that CONTRIBUTING.md points at. A room is a module or package directly inside gollm; its modules
import from their own room and from rooms above it in the list. An import counts wherever it stands: at the top of a
module, inside a function, below `if TYPE_CHECKING`, or by name through importlib.import_module. That a package's
`__init__` runs before its modules does not count, nor does what a module does as a script (`__name__ == "__main__"`).
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest

import gollm

ROOMS = (
    "errors",
    "_native",
    "system",
    "options",
    "kernels",
    "cuda",
    "nn",
    "quantisation",
    "model",
    "tokenizers",
    "data",
    "formats",
    "inference",
    "language_model",
    "evaluation",
    "training",
    "finetuning",
    "pictures",
    "train",  # the function gollm.train
    "",  # gollm/__init__.py, the front door of programs
    "benchmarks",
    "cli",
    "__main__",  # python -m gollm
)
# The rooms that call the extension module. The rest asks gollm.kernels and gollm.system.
NATIVE = ("", "system", "kernels", "cuda", "tokenizers", "cli")  # cli: `gollm doctor`

Graph = dict[str, dict[str, int]]  # module -> module that it imports -> line


@cache
def module_files() -> dict[str, Path]:
    """Every module of the installed package by name, and the extension module, which has no source here."""
    root = Path(gollm.__file__).parent
    files = {}
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root.parent).with_suffix("").parts
        files[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return files


def import_graph(sources: dict[str, str]) -> Graph:
    """Which module imports which, from their source texts.

    {"a": "", "a.b": "from a.c import d", "a.c": "import a"} -> {"a": {}, "a.b": {"a.c": 1}, "a.c": {"a": 1}}
    """
    graph: Graph = {}
    for module, text in sources.items():
        found: dict[str, int] = {}
        for name, line in imported_names(ast.parse(text)):
            target = name
            while target not in sources and "." in target:  # a name inside a module, not a module
                target = target.rpartition(".")[0]
            if target in sources and target != module:
                found.setdefault(target, line)
        graph[module] = found
    return graph


def imported_names(tree: ast.AST) -> list[tuple[str, int]]:
    """(dotted name, line) of everything that a module's code imports: `from a import b` is a.b."""
    nodes = list(walk(tree))
    names = []
    prefixes = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names += [(alias.name, node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, f"line {node.lineno}: imports are absolute here"
            names += [(f"{node.module}.{alias.name}", node.lineno) for alias in node.names]
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("importlib.import_module", "import_module"):
            (argument,) = node.args
            first = argument.values[0] if isinstance(argument, ast.JoinedStr) else None
            prefixes.add(first.value if isinstance(first, ast.Constant) else "")  # f"gollm.formats.{...}"
    if prefixes:  # the names stand in a table of this module, or in the call
        constants = [n for n in nodes if isinstance(n, ast.Constant) and isinstance(n.value, str)]
        names += [(prefix + n.value, n.lineno) for n in constants for prefix in prefixes if is_module(prefix + n.value)]
    return names


def walk(node: ast.AST) -> Iterator[ast.AST]:
    yield node
    children: Iterable[ast.AST] = ast.iter_child_nodes(node)
    if isinstance(node, ast.If) and ast.unparse(node.test) == "__name__ == '__main__'":
        children = node.orelse
    for child in children:
        yield from walk(child)


def is_module(name: str) -> bool:
    return name in module_files() and name != "gollm"


def room(module: str) -> str:
    """`gollm.nn.tape` is in the room `nn`."""
    return module.partition(".")[2].partition(".")[0]


def circle(graph: Graph) -> list[str]:
    """The modules of one circle of imports, the first one again at the end; [] where there is none.

    {"a": {"b": 1}, "b": {"c": 1}, "c": {"b": 1}} -> ["b", "c", "b"]
    """
    done: set[str] = set()

    def visit(module: str, path: list[str]) -> list[str]:
        if module in path:
            return [*path[path.index(module) :], module]
        if module in done:
            return []
        for target in graph[module]:
            if found := visit(target, [*path, module]):
                return found
        done.add(module)
        return []

    return next((found for module in graph if (found := visit(module, []))), [])


@pytest.fixture(scope="module")
def graph() -> Graph:
    sources = {name: path.read_text(encoding="utf-8") for name, path in module_files().items()}
    return import_graph({**sources, "gollm._native": ""})


def test_no_imports_run_in_a_circle(graph: Graph) -> None:
    found = circle(graph)
    steps = [f"{a} (line {graph[a][b]}) imports {b}" for a, b in pairwise(found)]
    assert not found, "imports run in a circle:\n" + "\n".join(steps)


def test_nothing_imports_upwards(graph: Graph) -> None:
    wrong = [
        f"{module}, line {line}: imports {target}, which is on a higher floor"
        for module, targets in graph.items()
        for target, line in targets.items()
        if ROOMS.index(room(target)) > ROOMS.index(room(module))
    ]
    assert not wrong, "\n".join(["imports upwards:", *wrong])


def test_kernels_are_reached_through_their_room(graph: Graph) -> None:
    callers = {module for module, targets in graph.items() if "gollm._native" in targets}
    assert {room(module) for module in callers} <= set(NATIVE), sorted(callers)


def test_every_room_has_a_floor(graph: Graph) -> None:
    assert {room(module) for module in graph} == set(ROOMS)


def test_a_class_has_a_name_of_its_own() -> None:
    """But `Options`, which each command has, and the peers' models in benchmarks."""
    homes: dict[str, list[str]] = {}
    for module, path in module_files().items():
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_") and room(module) != "benchmarks":
                homes.setdefault(node.name, []).append(module)
    shared = {name: modules for name, modules in homes.items() if len(modules) > 1}
    assert shared.keys() == {"Options"}, shared


@pytest.mark.parametrize(
    "text, line",
    [
        ("import p.b", 1),
        ("from p.b import x", 1),
        ("from p import b", 1),
        ("def f():\n    import p.b", 2),
        ("if TYPE_CHECKING:\n    from p.b import x", 2),
    ],
)
def test_every_kind_of_import_is_seen(text: str, line: int) -> None:
    assert import_graph({"p": "", "p.a": text, "p.b": ""})["p.a"] == {"p.b": line}


def test_a_circle_is_found() -> None:
    assert circle({"a": {"b": 1}, "b": {"c": 1}, "c": {"b": 1}}) == ["b", "c", "b"]
    assert circle({"a": {"b": 1, "c": 2}, "b": {"c": 1}, "c": {}}) == []


def test_tables_of_names_are_seen(graph: Graph) -> None:
    assert "gollm.model.decoder" in graph["gollm"]
    assert "gollm.formats.gguf.model" in graph["gollm.formats"]
    assert "gollm.cli.tokenizer_train" in graph["gollm.cli.main"]

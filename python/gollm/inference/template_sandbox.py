"""Jinja templates from outside, compiled so that a render is bounded in time and memory.

jinja2's sandbox keeps a template from Python's internals, but not from a loop that never ends, nor from a text of a
terabyte. Here each render has a budget of WORK characters and SECONDS. Every value that a template makes is paid for by
its size: its characters, and STEP for each item of a list, as often as they would be printed. Operations that can make
a large value of small ones are paid for before they run. Each round of a loop and each call costs STEP characters and
looks at the clock.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Mapping, Set, ValuesView
from contextvars import ContextVar
from datetime import datetime
from typing import Any

from jinja2 import nodes, pass_context
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.runtime import Context, Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

WORK = 1 << 26  # characters; a conversation of 100,000 tokens takes a few millions
SECONDS = 5.0
STEP = 64
_MAX_BITS = 1 << 14

# Left out, since chat templates have no use for them, and their time or result can be out of proportion.
_WITHOUT_FILTERS = ("batch", "center", "filesizeformat", "format", "pprint", "slice", "striptags", "urlize", "wordwrap",
                    "xmlattr")  # fmt: skip
# Methods and filters whose result or time can be as large as the product of what they are given.
_MULTIPLYING = ("center", "expandtabs", "format", "format_map", "indent", "join", "ljust", "rjust", "round", "sum",
                "to_bytes", "tojson", "translate", "zfill")  # fmt: skip


class Exhausted(Exception):
    """The budget is spent."""


class Refused(Exception):
    """What a template says by raise_exception."""


class _Budget:
    def __init__(self) -> None:
        self.left = WORK
        self.deadline = time.monotonic() + SECONDS

    def pay(self, work: int) -> None:
        self.left -= work
        if self.left < 0:
            raise Exhausted(f"it makes more than {WORK:,} characters")

    def step(self, work: int) -> str:
        if time.monotonic() > self.deadline:
            raise Exhausted(f"it runs for more than {SECONDS:g} s")
        self.pay(STEP + work)
        return ""


_budget: ContextVar[_Budget] = ContextVar("budget")


def _size(value: Any, limit: int = WORK) -> int:
    """The characters that printing a value would take, roughly; counting ends beyond `limit`."""
    total, left = 0, [value]
    while left and total <= limit:
        one = left.pop()
        total += STEP
        if isinstance(one, str | bytes):
            total += len(one)
        elif isinstance(one, Mapping):
            left += [*one.keys(), *one.values()]
        elif isinstance(one, list | tuple | Set | ValuesView):  # keys() and items() are sets
            left += one
    return total


def _paid(value: Any) -> Any:
    budget = _budget.get()
    budget.pay(_size(value, budget.left))
    return value


def _pay_call(name: str, first: Any, *others: Any) -> None:
    """Before a function, method or filter runs."""
    budget = _budget.get()
    budget.step(0)
    if name == "replace" and isinstance(first, str) and all(isinstance(text, str) for text in others[:2]):
        old, new = others[:2]
        budget.pay(len(first) + first.count(old) * len(new))
    elif name in _MULTIPLYING:
        width = sum(abs(one) if isinstance(one, int) else _size(one) for one in others)
        if name == "sum":
            width = max(width, _size(first))
        budget.pay(_size(first) * max(1, width))


def _check_format(text: str) -> None:
    """'%1000000000d' is short, and what it makes is not."""
    if re.search(r"\d{4}|%[^a-zA-Z%]*\*|\{[^}]*\{", text):
        raise Exhausted(f"it formats text by {text[:40]!r}")


def _step(work: int) -> str:
    return _budget.get().step(work)


def _joined(values: list[Any]) -> str:
    return "".join(map(str, _paid(values)))


_OWN = (_paid, _step, _joined)  # what _Transformer puts into a template


class Environment(ImmutableSandboxedEnvironment):
    """jinja2's sandbox with the settings, filters and functions that transformers gives to chat templates."""

    intercepted_binops = frozenset(ImmutableSandboxedEnvironment.default_binop_table)

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            optimized=False,  # nothing is computed while a template is compiled
            extensions=["jinja2.ext.loopcontrols", _Generation],
            finalize=_printed,
        )
        self.globals = {
            "range": self.globals["range"],
            "dict": _Dict(),
            "namespace": _Namespace,
            "cycler": self.globals["cycler"],
            "joiner": self.globals["joiner"],
            "raise_exception": _raise_exception,
            "strftime_now": _strftime_now,
        }
        filters: dict[str, Callable[..., Any]] = {**self.filters, "tojson": _tojson}
        self.filters = {name: _bounded(name, f) for name, f in filters.items() if name not in _WITHOUT_FILTERS}
        self.tests = {name: _bounded(name, test) for name, test in dict[str, Any](self.tests).items()}

    paid, step, joined = staticmethod(_paid), staticmethod(_step), staticmethod(_joined)

    def compiled(self, source: str, spell: Callable[[str], str]) -> Callable[[dict[str, Any]], str]:
        """A function of a template's variables that gives its text. `spell` is applied to the template's own text and
        to its string constants. Both raise what jinja2 and Python raise, and rendering raises Exhausted."""
        tree = _Transformer(spell).visit(self.parse(source))
        template = self.from_string(tree)

        def render(variables: dict[str, Any]) -> str:
            token = _budget.set(_Budget())
            try:
                return template.render(variables)
            finally:
                _budget.reset(token)

        return render

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        numbers = isinstance(left, int | float) and isinstance(right, int | float)
        if operator == "**" and not (numbers and abs(left) < 1024 and abs(right) < 1024):
            raise Exhausted("it computes a power of large numbers")
        if operator == "%" and isinstance(left, str):
            _check_format(left)
            _pay_call("format", left, right)
        elif operator == "*" and not numbers:
            _pay_call("join", *((right, left) if isinstance(left, int) else (left, right)))
        elif operator == "+" and not numbers:
            _paid((left, right))
        result = super().call_binop(context, operator, left, right)
        if isinstance(result, int) and result.bit_length() > _MAX_BITS:
            raise Exhausted(f"it computes a number of more than {_MAX_BITS:,} bits")
        return _paid(result)

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        if any(__obj is own for own in _OWN):
            return __obj(*args)
        given = [*args, *(value for name, value in kwargs.items() if name not in ("_loop_vars", "_block_vars"))]
        _pay_call(getattr(__obj, "__name__", ""), getattr(__obj, "__self__", None), *given)
        return _paid(super().call(__context, __obj, *args, **kwargs))

    def wrap_str_format(self, value: Any) -> Any:
        """For str.format and str.format_map, when a template asks for them."""
        wrapped: Any = super().wrap_str_format(value)
        if wrapped is not None:
            _check_format(value.__self__)
            wrapped.__self__ = value.__self__
        return wrapped


class _Transformer(NodeTransformer):
    """Puts payments into a template's syntax tree, and spells its own text anew."""

    def __init__(self, spell: Callable[[str], str]) -> None:
        self._spell = spell

    def visit_TemplateData(self, node: nodes.TemplateData) -> nodes.Node:
        node.data = self._spell(node.data)
        return node

    def visit_Const(self, node: nodes.Const) -> nodes.Node:
        if isinstance(node.value, str):
            node.value = self._spell(node.value)
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        return _call("joined", nodes.List(node.nodes))

    def _stepping(self, node: nodes.Node) -> nodes.Node:
        self.generic_visit(node)
        text = sum(len(data.data) for data in node.find_all(nodes.TemplateData))
        node.body.insert(0, nodes.ExprStmt(_call("step", nodes.Const(text))))  # type: ignore[attr-defined]
        return node

    visit_Macro = visit_CallBlock = visit_Block = _stepping

    def visit_For(self, node: nodes.For) -> nodes.Node:
        self._stepping(node)
        if node.test is not None:
            node.test = nodes.Or(_call("step", nodes.Const(0)), node.test)  # step returns an empty text
        return node

    def _made(self, node: nodes.Node) -> nodes.Node:
        self.generic_visit(node)
        if getattr(node, "ctx", "load") == "store":
            return node
        return _call("paid", node)

    visit_List = visit_Dict = visit_Tuple = _made


def _call(name: str, argument: nodes.Node) -> nodes.Call:
    """environment.NAME(argument)"""
    return nodes.Call(nodes.EnvironmentAttribute(name), [argument], [], None, None)


@pass_context  # so that jinja2 does not print constants while it compiles
def _printed(context: Context, value: Any) -> Any:
    return _paid(value)


def _bounded(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """A filter or test that pays for itself."""
    passed = getattr(function, "jinja_pass_arg", None)

    def bounded(*args: Any, **kwargs: Any) -> Any:
        _pay_call(name, *(args[1:] if passed else args), *kwargs.values())
        return _paid(function(*args, **kwargs))

    if passed:
        bounded.jinja_pass_arg = passed  # type: ignore[attr-defined]
    return bounded


def _raise_exception(message: str) -> None:
    raise Refused(message)


def _strftime_now(format: str) -> str:
    if len(format) > 100:
        raise Exhausted("it formats a date in more than 100 characters")
    return datetime.now().strftime(format)


def _tojson(
    x: Any, ensure_ascii: bool = False, indent: int | None = None, separators: Any = None, sort_keys: bool = False
) -> str:
    """jinja2's own escapes HTML."""
    return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


class _Dict:
    """`dict(...)` without what else Python's class has."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict(*args, **kwargs)

    def fromkeys(self, *args: Any) -> dict[Any, Any]:
        return dict.fromkeys(*args)


class _Namespace(Namespace):
    def __init__(*args: Any, **kwargs: Any) -> None:
        self, values = args[0], dict(*args[1:], **kwargs)
        for name in values:
            _check_name(name)
        Namespace.__init__(self, values)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_name(name)
        Namespace.__setitem__(self, name, value)

    def __repr__(self) -> str:
        return "<Namespace>"  # may hold itself


def _check_name(name: Any) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise SecurityError(f"a namespace has no attribute {name!r}")


class _Generation(Extension):
    """`{% generation %} … {% endgeneration %}`: what the assistant says, which transformers marks for training."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_said"), [], [], body).set_lineno(line)

    def _said(self, caller: Macro) -> str:
        return caller()

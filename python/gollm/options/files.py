"""Configuration files: JSON, and YAML by version 1.2's rules (1e-3 is a number and `no` is text), without surprises."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

from gollm.errors import ConfigError
from gollm.options.types import shown
from gollm.system.files import read_regular, reason
from gollm.system.plain_text import text_chunks

MAX_BYTES = 1 << 18  # far more than any configuration; bounds the time for a file that is none


def load_file(path: str | Path) -> dict[str, Any]:
    """The names and values of a .yaml, .yml or .json file.

    Raises ConfigError where the file cannot be read, is not valid, repeats a key, or holds anything but a mapping.
    """
    path = Path(path)
    if path.suffix.lower() not in (".yaml", ".yml", ".json"):
        raise ConfigError(f"{path}: a configuration file ends in .yaml, .yml or .json")
    try:
        data = read_regular(path, MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{path}: {reason(error)}; check the path of the configuration file") from None
    text = "".join(text_chunks(io.BytesIO(data), str(path), ConfigError)) if len(data) <= MAX_BYTES else ""
    if max(len(data), len(text)) > MAX_BYTES:
        raise ConfigError(f"{path}: larger than {MAX_BYTES >> 10} KiB, so it is no configuration file")
    kind, parse = ("JSON", _json) if path.suffix.lower() == ".json" else ("YAML", _yaml)
    try:
        found = parse(text)
    except RecursionError:
        raise ConfigError(f"{path}: nested too deeply for a configuration file") from None
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    except ValueError as error:
        raise ConfigError(f"{path}: not valid {kind}: {error}") from None
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise ConfigError(f"{path}: expected `name: value` lines, but found a {type(found).__name__}")
    return found


def to_yaml(values: Mapping[str, Any]) -> str:
    """The text of a YAML file that load_file() reads back as these values, and other programs too.

    Text that version 1.1 or 1.2 takes for something else (no, 1e5, 08, 1:30) is quoted."""
    import yaml

    class Dumper(yaml.SafeDumper):  # quotes what stands for something else by version 1.1
        pass

    by_version_1_2 = re.compile("|".join(f"(?:{pattern})\\Z" for pattern, _ in _PLAIN))
    Dumper.add_implicit_resolver("!not-text", by_version_1_2, None)
    return str(yaml.dump(dict(values), Dumper=Dumper, sort_keys=False, allow_unicode=False))


def _json(text: str) -> Any:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in pairs:
            if key in found:
                raise ConfigError(f"{shown(key)} appears twice; keep one of them")
            found[key] = value
        return found

    def refuse(constant: str) -> NoReturn:
        raise ConfigError(f"{constant} is not a JSON number")

    return json.loads(text, object_pairs_hook=unique, parse_constant=refuse) if text.strip() else None


def _yaml(text: str) -> Any:
    """What a YAML text stands for, from PyYAML's nodes: its own values are those of version 1.1, in which 1e-3 is text,
    010 is eight, 1:30 is ninety and `no` is false.

    Dates stay text. `<<` is not a merge, and only single values have aliases, so that a small file cannot become a
    large one."""
    import yaml

    class Loader(yaml.BaseLoader):
        def compose_node(self, parent: Any, index: Any) -> Any:
            event = self.peek_event()  # type: ignore[no-untyped-call]
            line = event.start_mark.line + 1
            if tag := getattr(event, "tag", None):
                raise ConfigError(f"line {line}: tags such as {tag} have no place in a configuration")
            if isinstance(event, yaml.AliasEvent) and isinstance(self.anchors.get(event.anchor), yaml.CollectionNode):
                raise ConfigError(f"the alias *{event.anchor} repeats a list or mapping; write it out")
            return super().compose_node(parent, index)

    def value(node: yaml.Node) -> Any:
        if isinstance(node, yaml.ScalarNode):
            convert = (convert for pattern, convert in _PLAIN if not node.style and re.fullmatch(pattern, node.value))
            return next(convert, str)(node.value)
        if isinstance(node, yaml.SequenceNode):
            return [value(item) for item in node.value]
        found: dict[Any, Any] = {}
        for key_node, value_node in node.value:
            key, line = value(key_node), key_node.start_mark.line + 1
            if isinstance(key, list | dict):
                raise ConfigError(f"line {line}: a name cannot be a list or mapping")
            if key in found:
                raise ConfigError(f"line {line}: {shown(key)} appears twice; keep one of them")
            found[key] = value(value_node)
        return found

    try:
        root = yaml.compose(text, Loader=Loader)
        return None if root is None else value(root)
    except yaml.MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise ConfigError(f"{line}not valid YAML: {error.problem or error.context}") from None
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from None


# The core schema of YAML 1.2 (yaml.org/spec/1.2.2, 10.3.2): what text without quotes stands for.
_PLAIN: list[tuple[str, Callable[[str], Any]]] = [
    (r"~|null|Null|NULL|", lambda text: None),
    (r"true|True|TRUE|false|False|FALSE", lambda text: text.lower() == "true"),
    (r"[-+]?[0-9]+", int),
    (r"0o[0-7]+|0x[0-9a-fA-F]+", lambda text: int(text, base=0)),
    (r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", float),
    (r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", lambda text: float(text.replace(".", ""))),
]

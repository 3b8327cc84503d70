"""Writes docs/cli.md, the reference of the `gollm` command, from the dataclasses that hold the commands' options.

python tools/reference.py            writes the page
python tools/reference.py --check    fails if the page is not what would be written
"""

from __future__ import annotations

import inspect
import sys
from pathlib import Path

from gollm.cli.main import COMMANDS, load_command
from gollm.options import Option, describe

PAGE = Path(__file__).resolve().parent.parent / "docs" / "cli.md"

INTRODUCTION = """\
# The `gollm` command

<!-- written by tools/reference.py from the dataclasses of the options; edit those -->

This page lists all commands with their options, defaults and allowed values. `gollm COMMAND --help-all` shows the same.
`gollm COMMAND --help` shows the most common options; `gollm train --preset d12 --help` shows the defaults of that
preset.

- Flags are `--kebab-case`; `--snake_case` and `--name=value` are accepted, too. Boolean options are `--name` and
  `--no-name`.
- A list option takes several values: `--data a.txt b.txt`. If a value starts with a hyphen, use an equals sign:
  `--prompt=-hello`.
- A positional argument does not need its flag: `gollm info FILE`.
- Integers may have an exponent: `--steps 1e3`.
- `--threads N` sets the number of threads of the kernels. The default is `GOLLM_NUM_THREADS` or `OMP_NUM_THREADS` from
  the environment, otherwise one thread per physical core available to the process. `gollm doctor` shows the value.
  Results do not depend on it.
- `--config FILE` reads options from a `.yaml`, `.yml` or `.json` file, by their names with underscores or hyphens.
  Flags override the file. YAML follows version 1.2: `1e-3` is a number, `no` is text. Duplicate names are an error.
- `--json` prints one JSON document to standard output and nothing else. Progress and errors go to standard error.
- Errors are printed in one line, `gollm: ...`; `--debug` adds the Python traceback.
- Exit status: 0 success, 1 failure, 2 invalid command line, 130 interrupted.
- In Python, the same options are the fields of a dataclass, with the same checks.
"""


def page() -> str:
    parts = [INTRODUCTION]
    seen: dict[type, str] = {}
    for name in COMMANDS:
        options = load_command(name).Options
        parts.append(f"\n## gollm {name}\n\n{inspect.getdoc(options)}\n")
        if options in seen:
            parts.append(f"\nThe options are those of [gollm {seen[options]}](#{anchor(seen[options])}).\n")
            continue
        seen[options] = name
        parts.append("\n| option | values | default | |\n|---|---|---|---|\n")
        letters = {name: letter for letter, name in getattr(options, "SHORT", {}).items()}
        parts += [row(option, letters.get(option.name)) for option in describe(options).values()]
    return "".join(parts)


def row(option: Option, letter: str | None) -> str:
    default = "required" if option.default_text is None else code(option.default_text)
    words = option.help
    if option.type.positional:
        words += " (positional argument)"
    others = [f"--{alias.replace('_', '-')}" for alias in option.aliases] + ([f"-{letter}"] if letter else [])
    if others:
        words += " · also " + ", ".join(f"`{other}`" for other in others)
    return f"| `{option.flag}` | {cell(option.type.allowed)} | {default} | {cell(words)} |\n"


def anchor(name: str) -> str:
    """GitHub's anchor of the section of a command."""
    return f"gollm-{name}".replace(" ", "-")


def code(text: str) -> str:
    return "none" if text == "none" else f"`{text}`"


def cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


def main() -> int:
    text = page()
    if "--check" in sys.argv[1:]:
        if not PAGE.exists() or PAGE.read_text(encoding="utf-8") != text:
            print(f"{PAGE.name} is out of date; run python tools/reference.py", file=sys.stderr)
            return 1
        return 0
    PAGE.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())

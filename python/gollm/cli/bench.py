"""gollm bench"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from typing import Annotated, Literal

from gollm.cli.process import Usage
from gollm.options import Positional, PositiveInt

Group = Literal["matmul", "attention", "training", "bfloat16", "memory-bound", "scaling"]


@dataclass(frozen=True)
class Options:
    """Measure how fast gollm is here: against PyTorch, where it is installed, and against the machine's own limits.
    They take turns, each in a process of its own. Nothing else should run meanwhile."""

    groups: Annotated[tuple[Group, ...], Positional] = ()  # groups of cases to measure (default: all)
    filter: str = ""  # only cases whose name contains this text, such as "NT 256 tokens" or "124M"
    turns: PositiveInt = 7  # turns of each contestant in a case; the median is reported
    compile: bool = False  # measure torch.compile in training steps, too
    list: bool = False  # print the names of the cases without measuring
    json: bool = False  # print one JSON document


def run(options: Options) -> None:
    from gollm.benchmarks import report
    from gollm.benchmarks.cases import GROUPS, with_compile
    from gollm.benchmarks.turns import Bench

    cases = [case for group in options.groups or GROUPS for case in GROUPS[group]() if options.filter in case.name]
    if not cases:
        raise Usage(f"--filter: no case has {options.filter!r} in its name; gollm bench --list prints all names")
    if options.list:
        print("\n".join(f"{case.group:12} {case.name}" for case in cases))
        return
    progress, results = sys.stderr if options.json else sys.stdout, []
    with Bench() as bench:
        for case in cases:
            results.append(bench.measure(with_compile(case) if options.compile else case, options.turns))
            print(report.line(results[-1]), file=progress, flush=True)
    for line in report.summary(results):
        print(line, file=progress)
    if options.json:
        print(json.dumps(report.document(results), indent=2))

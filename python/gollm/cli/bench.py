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
    """Measure gollm's speed on this machine and compare it with PyTorch, if installed, and with the machine's peak.
    The contestants take turns in separate processes. Run nothing else at the same time."""

    groups: Annotated[tuple[Group, ...], Positional] = ()  # benchmark groups (default: all)
    filter: str = ""  # run only cases whose name contains this text, such as "NT 256 tokens" or "124M"
    turns: PositiveInt = 7  # repetitions per contestant and case; the median is reported
    compile: bool = False  # also measure torch.compile in training steps
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

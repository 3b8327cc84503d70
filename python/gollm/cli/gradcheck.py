"""gollm gradcheck"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import ClassVar

from gollm.cli.process import of_the_device
from gollm.model.options import RARE, ModelOptions, defaults_of
from gollm.nn.devices import DeviceName
from gollm.options import NonNegativeInt, PositiveInt


@dataclass(frozen=True)
class Options(ModelOptions):
    """Compare a model's gradients with finite differences, parameter by parameter."""

    preset: str = "tiny"  # model shape, as in gollm train
    vocab_size: PositiveInt | None = None  # vocabulary size (default: the preset's)
    batch_size: PositiveInt = 2  # sequences per batch
    tokens: PositiveInt | None = None  # tokens per sequence (default: the context, at most 32)
    samples: PositiveInt = 4  # number of elements to check per parameter
    seed: NonNegativeInt = 0  # random seed of weights and batch
    # device of the float32 gradients; auto: the GPU if one is available, otherwise the CPU
    device: DeviceName = "cpu"
    json: bool = False  # print one JSON document

    DEFAULTS: ClassVar = defaults_of("tiny")
    HEADINGS: ClassVar = {"preset": "model", "vocab_size": "check"}
    RARE: ClassVar = RARE


def run(options: Options) -> int:
    from gollm.model.gradcheck import DIFFERENCE_TOLERANCE, FLOAT32_TOLERANCE, gradcheck

    with of_the_device():
        rows = gradcheck(
            options.model_config(vocab_size=options.vocab_size),
            batch_size=options.batch_size,
            tokens=options.tokens,
            samples=options.samples,
            seed=options.seed,
            device=options.device,
        )
    failed = [row.name for row in rows if not row.ok]
    if options.json:
        print(json.dumps({"ok": not failed, "parameters": [dataclasses.asdict(row) for row in rows]}, indent=2))
        return 1 if failed else 0
    width = max(len(row.name) for row in rows)
    print(f"{'parameter':{width}}  {'shape':14} {'norm':>9} {'moved':>5} {'difference':>10} {'float32':>9}")
    for row in rows:
        shape = " x ".join(map(str, row.shape))
        print(
            f"{row.name:{width}}  {shape:14} {row.norm:9.3g} {row.n_checked:5} {row.difference_error:10.1e} "
            f"{row.float32_error:9.1e}{'' if row.ok else '  WRONG'}"
        )
    print(
        f"{len(rows) - len(failed)} of {len(rows)} gradients are right: central differences in float64 within "
        f"{DIFFERENCE_TOLERANCE:g}, float32 within {FLOAT32_TOLERANCE:g} of float64"
    )
    return 1 if failed else 0

"""gollm bench inference"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from gollm.options import NonNegativeInt, Positional, PositiveInt


@dataclass(frozen=True)
class Options:
    """Measure a model's prefill and decoding speed: tokens per second, bytes read per token, and the fraction of the
    machine's peak. For GGUF files, llama.cpp is measured as well, if installed. The contestants take turns in separate
    processes. Run nothing else at the same time."""

    model: Annotated[Path, Positional]  # model in any format, or a run folder (best checkpoint)
    prompts: tuple[PositiveInt, ...] | None = None  # prompt lengths (default: 512, at most the context)
    new_tokens: PositiveInt = 32  # tokens to decode per sequence before it starts over
    threads: tuple[PositiveInt, ...] | None = None  # numbers of threads (default: gollm's default)
    batch_sizes: tuple[PositiveInt, ...] = (1, 8, 32)  # batch sizes for decoding
    # tokens already in the cache (default: 0, and 2048 if the model's context allows it)
    depths: tuple[NonNegativeInt, ...] | None = None
    turns: PositiveInt = 7  # repetitions per contestant and row; the median is reported
    json: bool = False  # print one JSON document


def run(options: Options) -> None:
    import gollm
    from gollm import formats
    from gollm.benchmarks import inference
    from gollm.benchmarks.turns import Bench
    from gollm.system.machine import isa

    model = gollm.load(options.model).decoder
    context = model.config.context
    prompts = (min(512, context),) if options.prompts is None else options.prompts
    room = context - max((options.new_tokens, *prompts))
    depths = (0, 2048) if room >= 2048 else (0,)
    grid = inference.Grid(
        threads=(gollm.num_threads(),) if options.threads is None else options.threads,
        depths=depths if options.depths is None else options.depths,
        prompts=prompts,
        batch_sizes=options.batch_sizes,
        new_tokens=options.new_tokens,
    )
    grid.check(model)
    if formats.recognise(options.model).name == "gguf":
        takes_part, llama_cpp = inference.installed_llama_cpp(options.model)
    else:
        takes_part, llama_cpp = False, "it takes GGUF files only"
    progress, rows = sys.stderr if options.json else sys.stdout, []
    weights = inference.weight_bytes(model)
    print(f"{options.model}: {weights / 1e6:.1f} MB of weights are read for each step of decoding", file=progress)
    print(f"gollm: {gollm.__version__}, kernels for {isa()}\nllama.cpp: {llama_cpp}\n", file=progress)
    print(inference.HEADER, file=progress, flush=True)
    with Bench() as bench:
        for test in grid.measurements(options.model, model, takes_part):
            rows.append(inference.row(test, bench.measure(test.case, options.turns)))
            print(inference.line(rows[-1]), file=progress, flush=True)
    if warning := inference.noise(rows):
        print(warning, file=progress)
    if options.json:
        names = {"model": str(options.model), "weight_bytes": weights, "isa": isa(), "llama_cpp": llama_cpp}
        print(json.dumps({**names, "rows": rows}, indent=2))

"""Speculation by a draft model: speed with and without it, in turns, and how many of its guesses were right.

python bench/draft.py MODEL DRAFT [PROMPT]
"""

from __future__ import annotations

import statistics
import sys
import time

import gollm

TURNS, NEW_TOKENS = 5, 60


def main(path: str, draft_path: str, prompt: str = "ROMEO:\n") -> None:
    model, draft = gollm.load(path), gollm.load(draft_path)
    for temperature in (0.0, 0.8):
        speeds: dict[bool, list[float]] = {False: [], True: []}
        with gollm.Engine(model, max_batch=1) as plain, gollm.Engine(model, max_batch=1, draft=draft) as guessing:
            for seed in range(TURNS + 1):  # the first one records
                texts = {}
                for engine in (plain, guessing):
                    started = time.perf_counter()
                    found = engine.submit(
                        prompt, max_new_tokens=NEW_TOKENS, temperature=temperature, seed=seed
                    ).result()
                    speeds[engine is guessing].append(len(found.tokens) / (time.perf_counter() - started))
                    texts[engine] = found.tokens
                assert texts[plain] == texts[guessing]
            stats = guessing.stats
        alone, together = (statistics.median(speeds[which][1:]) for which in (False, True))
        print(
            f"temperature {temperature}: {alone:.1f} tokens/s without, {together:.1f} with the draft, "
            f"{together / alone:.2f} times; {stats.acceptance:.0%} right, {stats.tokens_per_pass:.2f} tokens a pass",
            flush=True,
        )


if __name__ == "__main__":
    main(*sys.argv[1:])

"""Random requests to an engine for some minutes: submits, cancels, dropped streams, failing processors, timeouts, from
threads and from asyncio. Prints memory as it goes, and checks that texts are what they are alone and that every page is
free at the end:

python bench/soak.py 10          # minutes
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import random
import sys
import threading
import time
from typing import Any

import numpy as np

import gollm
from gollm.inference import Completion, pieces
from gollm.kernels import Array
from gollm.system.memory import resident_bytes

N_PAGES, CALLERS, KNOWN = 40, 6, 20


class Failure(Exception):
    pass


def make() -> gollm.LanguageModel:
    config = gollm.ModelConfig(
        n_layers=2, n_heads=4, n_kv_heads=2, d_model=64, vocab_size=256, context=300, position="rope", norm="rmsnorm"
    )
    decoder, noise = gollm.Decoder(config).initialise(1), np.random.default_rng(2)
    for parameter in decoder.parameters.values():  # away from where they start, or it says one token all the time
        parameter.data[...] += noise.standard_normal(parameter.shape, dtype=np.float32) / 4
    return gollm.LanguageModel(decoder)


class Soak:
    def __init__(self, draft: gollm.LanguageModel | int | None) -> None:
        self.model = make()
        self.engine = gollm.Engine(self.model, max_tokens_in_cache=64 * N_PAGES, max_batch=16, chunk=128, draft=draft)
        self.end = False
        self.counts: dict[str, int] = dict.fromkeys(("read", "cancelled", "dropped", "failed", "late", "checked"), 0)
        self.wrong: list[str] = []
        base = np.random.default_rng(0).integers(0, 256, 300).tolist()
        self.prompts = [[*base[: 13 * i], i] for i in range(KNOWN)]
        self.options: list[dict[str, Any]] = [
            {"seed": i, "max_new_tokens": 5 + 3 * i, "temperature": i % 3, "repetition_penalty": 1 + i % 2 / 10}
            for i in range(KNOWN)
        ]
        self.known = [
            tuple(token for piece in pieces(self.model, prompt, **options) for token in piece.tokens)
            for prompt, options in zip(self.prompts, self.options, strict=True)
        ]

    def check(self, i: int, found: Completion) -> None:
        self.counts["checked"] += 1
        known = self.known[i][: len(found.tokens)] if found.finish_reason == "cancelled" else self.known[i]
        if found.tokens != known:
            self.wrong.append(f"prompt {i}: {found.tokens} is not {known}")

    def caller(self, seed: int) -> None:
        """One thread: requests of all kinds, one after the other."""
        choose = random.Random(seed)
        while not self.end:
            i = choose.randrange(KNOWN)
            kind = choose.choice(("read", "read", "cancelled", "dropped", "failed", "late"))
            self.counts[kind] += 1
            fail_at = len(self.prompts[i]) + choose.randrange(10)

            def fails(tokens: Array, logits: Array, fail_at: int = fail_at) -> None:
                if len(tokens) >= fail_at:
                    raise Failure

            options = {**self.options[i], **({"processors": (fails,)} if kind == "failed" else {})}
            stream = self.engine.submit(self.prompts[i], **options)
            if kind == "cancelled":
                for _ in range(choose.randrange(4)):
                    next(stream, None)
                stream.cancel()
            elif kind == "dropped":
                continue
            elif kind == "late":
                with contextlib.suppress(TimeoutError):
                    stream.result(timeout=0.001)
            try:
                self.check(i, stream.result())
            except Failure:
                if kind != "failed":
                    self.wrong.append(f"prompt {i}: the failure of another request")

    def async_caller(self, seed: int) -> None:
        async def one(i: int, choose: random.Random) -> None:
            task = asyncio.ensure_future(self.engine.submit(self.prompts[i], **self.options[i])._wait())
            if choose.random() < 0.3:
                await asyncio.sleep(choose.random() / 100)
                task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                self.check(i, await task)

        async def main() -> None:
            choose = random.Random(seed)
            while not self.end:
                await asyncio.gather(*[one(choose.randrange(KNOWN), choose) for _ in range(5)])

        asyncio.run(main())

    def run(self, minutes: float) -> None:
        threads = [threading.Thread(target=self.caller, args=(seed,)) for seed in range(CALLERS)]
        threads.append(threading.Thread(target=self.async_caller, args=(CALLERS,)))
        for thread in threads:
            thread.start()
        started = time.monotonic()
        for i in range(10):
            time.sleep(max(0.0, started + (i + 1) * minutes * 6 - time.monotonic()))
            gc.collect()
            stats = self.engine.stats
            print(
                f"{time.monotonic() - started:6.0f} s  {resident_bytes()[0] / 2**20:7.1f} MiB  "
                f"{stats.generated_tokens:9,} tokens  {stats.reused_tokens:9,} reused  "
                f"acceptance {stats.acceptance:.0%}  {self.counts}",
                flush=True,
            )
        self.end = True
        for thread in threads:
            thread.join(60)
        gc.collect()
        while self.engine.stats.running + self.engine.stats.waiting:
            time.sleep(0.01)
        stats = self.engine.stats
        self.engine.close()
        if self.wrong or stats.free_pages != stats.n_pages:
            raise SystemExit("\n".join([f"{stats.n_pages - stats.free_pages} pages are in use", *self.wrong[:10]]))
        print(f"all {stats.n_pages} pages are free, and {self.counts['checked']:,} texts are what they are alone")


if __name__ == "__main__":
    Soak(int(sys.argv[2]) if len(sys.argv) > 2 else None).run(float(sys.argv[1]))

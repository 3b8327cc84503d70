"""Throughput of the engine at 1, 4, 16 and 64 requests at once, against the same requests one by one, and speculation:

python bench/engine.py MODEL [NEW_TOKENS]
"""

from __future__ import annotations

import sys
import time

import gollm
from gollm.inference import pieces

WORDS = [
    "river",
    "stone",
    "paper",
    "cloud",
    "engine",
    "garden",
    "window",
    "letter",
    "music",
    "winter",
    "copper",
    "silver",
]


def prompts(n: int) -> list[str]:
    """Texts of about 60 tokens that begin alike only by chance."""
    return [" ".join(WORDS[(i * 7 + j * (1 + i % 5)) % len(WORDS)] for j in range(50)) for i in range(n)]


def main(path: str, new_tokens: int = 32) -> None:
    model = gollm.load(path)
    plain = gollm.LanguageModel(model.decoder, model.tokenizer)
    options = {"max_new_tokens": new_tokens, "temperature": 0.8, "stop": ()}

    def one_by_one(n: int) -> float:
        started = time.perf_counter()
        found = sum(len(piece.tokens) for prompt in prompts(n) for piece in pieces(plain, prompt, **options))
        return found / (time.perf_counter() - started)

    one_by_one(1)
    alone = one_by_one(4)
    print(f"one by one   {alone:7.1f} tokens/s of {new_tokens} after prompts of about 60", flush=True)
    for n in (1, 4, 16, 64):
        with gollm.Engine(plain, max_batch=64) as engine:
            engine.generate(["a"], max_new_tokens=2)
            started = time.perf_counter()
            results = engine.generate(prompts(n), **options)
            speed = sum(len(result.tokens) for result in results) / (time.perf_counter() - started)
        print(f"{n:2} at once   {speed:7.1f} tokens/s, {speed / alone:4.2f} times as many", flush=True)
    sentence = "The quick brown fox jumps over the lazy dog."
    text = f"{sentence} Repeat this sentence: {sentence}"
    for draft in (None, 4, 8):
        with gollm.Engine(plain, max_batch=1, draft=draft) as engine:
            engine.generate([text], max_new_tokens=8, temperature=0)
            started = time.perf_counter()
            tokens = len(engine.submit(text, max_new_tokens=96, temperature=0).result().tokens)
            seconds = time.perf_counter() - started
            print(
                f"a text that repeats itself, prompt lookup of {draft or 0}: {tokens / seconds:6.1f} tokens/s, "
                f"acceptance {engine.stats.acceptance:.0%}, {engine.stats.tokens_per_pass:.2f} tokens a pass",
                flush=True,
            )


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))

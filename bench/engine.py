"""Throughput of the engine at 1, 4, 16 and 64 requests at once, against the same requests one by one, and against
llama.cpp where it is installed and the model is a GGUF file; and speculation:

python bench/engine.py MODEL [NEW_TOKENS]
"""

from __future__ import annotations

import importlib.util
import sys
import time
from collections.abc import Sequence
from typing import Any

import gollm
from gollm.benchmarks import with_llama_cpp
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
TURNS, TEMPERATURE = 3, 0.8


def prompts(n: int) -> list[str]:
    """Texts of about 60 tokens that begin alike only by chance."""
    return [" ".join(WORDS[(i * 7 + j * (1 + i % 5)) % len(WORDS)] for j in range(50)) for i in range(n)]


class Batched:
    """llama.cpp as its example `batched` uses it: all prompts together, up to 2048 tokens at once, then a token of
    every sequence at once, each drawn by a sampler of its own. Settings as in `gollm bench inference`'s decoding."""

    def __init__(self, path: str, texts: Sequence[Sequence[int]], new_tokens: int) -> None:
        lib = self.lib = with_llama_cpp.library()
        options = lib.llama_context_default_params()
        options.n_ctx = len(texts) * (256 * -(-(max(map(len, texts)) + new_tokens) // 256))
        options.n_seq_max, options.n_batch = len(texts), with_llama_cpp.AT_ONCE
        options.n_threads = options.n_threads_batch = gollm.num_threads()
        options.flash_attn_type = lib.LLAMA_FLASH_ATTN_TYPE_DISABLED
        self.context = lib.llama_init_from_model(with_llama_cpp.loaded(path), options)
        self.batch = lib.llama_batch_init(options.n_batch, 0, 1)
        self.samplers = [self._sampler(seed) for seed in range(len(texts))]
        self.texts, self.new_tokens = texts, new_tokens

    def _sampler(self, seed: int) -> Any:
        chain = self.lib.llama_sampler_chain_init(self.lib.llama_sampler_chain_default_params())
        self.lib.llama_sampler_chain_add(chain, self.lib.llama_sampler_init_temp(TEMPERATURE))
        self.lib.llama_sampler_chain_add(chain, self.lib.llama_sampler_init_dist(seed))
        return chain

    def _decode(self, entries: list[tuple[int, int, int, bool]], drawn: list[int]) -> None:
        """Computes (token, position, sequence, whether it is the last one); draws a token after the last ones."""
        batch = self.batch
        batch.n_tokens = len(entries)
        for i, (token, position, sequence, last) in enumerate(entries):
            batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.logits[i] = token, position, 1, last
            batch.seq_id[i][0] = sequence
        if self.lib.llama_decode(self.context, batch) != 0:
            raise RuntimeError("llama.cpp cannot compute the batch")
        for i, (_, _, sequence, last) in enumerate(entries):
            if last:
                drawn[sequence] = self.lib.llama_sampler_sample(self.samplers[sequence], self.context, i)

    def run(self) -> float:
        """Tokens per second."""
        started = time.perf_counter()
        drawn = [0] * len(self.texts)
        entries = [
            (token, position, sequence, position == len(text) - 1)
            for sequence, text in enumerate(self.texts)
            for position, token in enumerate(text)
        ]
        for begin in range(0, len(entries), with_llama_cpp.AT_ONCE):
            self._decode(entries[begin : begin + with_llama_cpp.AT_ONCE], drawn)
        for step in range(self.new_tokens - 1):
            self._decode([(drawn[i], len(text) + step, i, True) for i, text in enumerate(self.texts)], drawn)
        return self.new_tokens * len(self.texts) / (time.perf_counter() - started)

    def close(self) -> None:
        for sampler in self.samplers:
            self.lib.llama_sampler_free(sampler)
        self.lib.llama_batch_free(self.batch)
        self.lib.llama_free(self.context)


def main(path: str, new_tokens: int = 32) -> None:
    model = gollm.load(path)
    plain = gollm.LanguageModel(model.decoder, model.tokenizer)
    options = {"max_new_tokens": new_tokens, "temperature": TEMPERATURE, "stop": ()}
    has_llama = path.endswith(".gguf") and any(map(importlib.util.find_spec, ("llama_cpp", "llama_cpp_py_sync")))

    def one_by_one(n: int) -> float:
        started = time.perf_counter()
        found = sum(len(piece.tokens) for prompt in prompts(n) for piece in pieces(plain, prompt, **options))
        return found / (time.perf_counter() - started)

    def at_once(n: int) -> float:
        with gollm.Engine(plain, max_batch=64) as engine:
            engine.generate(["a"], max_new_tokens=2)
            started = time.perf_counter()
            results = engine.generate(prompts(n), **options)
            return sum(len(result.tokens) for result in results) / (time.perf_counter() - started)

    def llama(n: int) -> float:
        batched = Batched(path, [plain.tokenizer.encode(prompt) for prompt in prompts(n)], new_tokens)
        try:
            return batched.run()
        finally:
            batched.close()

    one_by_one(1)
    alone = one_by_one(4)
    print(f"one by one   {alone:7.1f} tokens/s of {new_tokens} after prompts of about 60", flush=True)
    for n in (1, 4, 16, 64):
        ours, theirs = [], []
        for _ in range(TURNS):
            ours.append(at_once(n))
            if has_llama:
                theirs.append(llama(n))
        speed = sorted(ours)[TURNS // 2]
        line = f"{n:2} at once   {speed:7.1f} tokens/s, {speed / alone:4.2f} times as many"
        if has_llama:
            other = sorted(theirs)[TURNS // 2]
            line += f"; llama.cpp {other:7.1f}, {speed / other:4.2f} x"
        print(line, flush=True)
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

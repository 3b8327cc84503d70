"""The engine: many callers at once, in threads and in asyncio; errors, cancellation, and the end."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import math
import os
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import gollm
from gollm.errors import GenerationError, ShapeError, TokenizerError
from gollm.inference import Completion
from gollm.inference.engine import default_tokens_in_cache, pieces
from gollm.kernels import Array
from gollm.language_model import LanguageModel
from gollm.model.config import ModelConfig
from gollm.model.decoder import Decoder
from gollm.model.generation_defaults import GenerationDefaults
from gollm.system.memory import resident_bytes
from gollm.tokenizers import BPETokenizer

TOKENIZER = BPETokenizer.train("hello world, this is a text\n" * 3, 264, special_tokens=["<|endoftext|>"])
CONFIG = ModelConfig(
    n_layers=2, n_heads=4, n_kv_heads=2, d_model=32, vocab_size=264, context=200, position="rope", norm="rmsnorm"
)


def make(**changes: Any) -> LanguageModel:
    decoder = Decoder(CONFIG.replace(**changes)).initialise(1)
    random = np.random.default_rng(2)
    for parameter in decoder.parameters.values():  # away from where they start, or it says one token all the time
        parameter.data[...] += random.standard_normal(parameter.shape, dtype=np.float32) / 4
    return LanguageModel(decoder, TOKENIZER)


MODEL = make()
ENDLESS: dict[str, Any] = {
    "max_new_tokens": 10**9,
    "logit_bias": {TOKENIZER.special_tokens["<|endoftext|>"]: -math.inf},
}


@pytest.fixture
def engine() -> Iterator[gollm.Engine]:
    with gollm.Engine(MODEL, chunk=20) as engine:
        yield engine


def alone(prompt: Any, **options: Any) -> tuple[int, ...]:
    return sum((piece.tokens for piece in pieces(MODEL, prompt, **options)), ())


def wait_until(condition: Callable[[], bool], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.002)


class Gate:
    """A processor that holds the engine at a text's n-th draw until it is opened."""

    def __init__(self, at: int = 1) -> None:
        self.at, self.reached, self.opened = at, threading.Event(), threading.Event()
        self.calls = 0

    def __call__(self, tokens: Array, logits: Array) -> None:
        self.calls += 1
        if self.calls == self.at:
            self.reached.set()
            assert self.opened.wait(60)


# -- what comes


def test_a_stream_has_the_text_and_the_result_has_it_too(engine: gollm.Engine) -> None:
    stream = engine.submit("hello", max_new_tokens=30, temperature=0)
    found = list(stream)
    result = stream.result()
    assert (
        result.text
        == "".join(piece.text for piece in found)
        == MODEL.generate("hello", temperature=0, max_new_tokens=30)
    )
    assert result.tokens == sum((piece.tokens for piece in found), ())
    assert result.prompt_tokens == tuple(TOKENIZER.encode("hello").tolist())
    assert (result.finish_reason, result.logprobs, result.prompt_logprobs, result.choices) == ("length", None, None, ())
    assert stream.done and list(stream) == []


def test_many_texts_from_many_threads(engine: gollm.Engine) -> None:
    prompts = [f"hello {i} world"[: 4 + i] for i in range(12)]
    found: dict[int, Completion] = {}

    def one(i: int) -> None:
        found[i] = engine.submit(prompts[i], seed=i, max_new_tokens=20).result()

    threads = [threading.Thread(target=one, args=(i,)) for i in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for i, prompt in enumerate(prompts):
        assert found[i].tokens == alone(prompt, seed=i, max_new_tokens=20)


def test_generate_keeps_the_order(engine: gollm.Engine) -> None:
    prompts: list[Any] = ["hello", [1, 2, 3], "this is", np.array([5, 6])]
    found = engine.generate(prompts, gollm.Sampling(temperature=0), max_new_tokens=9)
    assert [one.tokens for one in found] == [alone(one, temperature=0, max_new_tokens=9) for one in prompts]
    with pytest.raises(GenerationError, match="generate takes a list of prompts"):
        engine.generate("hello")


def test_choices_share_the_pages_of_the_prompt(engine: gollm.Engine) -> None:
    prompt = np.random.default_rng(0).integers(0, 256, 140).tolist()
    result = engine.submit(prompt, n=3, seed=5, max_new_tokens=10, temperature=2.0).result()
    assert [choice.choices for choice in result.choices] == [(), (), ()]
    assert result.choices[0].tokens == result.tokens and len({choice.tokens for choice in result.choices}) == 3
    stats = engine.stats
    assert (stats.reused_tokens, stats.prompt_tokens) == (2 * 128, 140 + 2 * 12)


def test_a_prefix_is_found_while_its_first_owner_runs(engine: gollm.Engine) -> None:
    prompt = np.random.default_rng(0).integers(0, 256, 130).tolist()
    gate = Gate()
    first = engine.submit(prompt, processors=(gate,), max_new_tokens=5)
    assert gate.reached.wait(30)
    second = engine.submit([*prompt[:128], 7, 8], max_new_tokens=3)
    gate.opened.set()
    second.result()
    assert engine.stats.reused_tokens == 128
    assert first.result().tokens == alone(prompt, max_new_tokens=5)


def test_log_probabilities_are_the_models_own(engine: gollm.Engine) -> None:
    result = engine.submit("hello world", logprobs=3, prompt_logprobs=2, max_new_tokens=6, temperature=0.5).result()
    assert result.logprobs is not None and result.prompt_logprobs is not None
    text = [*result.prompt_tokens, *result.tokens]
    logits = MODEL.logits(text)[0].astype(np.float64)
    expected = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    found = [*result.prompt_logprobs, *result.logprobs]
    assert [one.token for one in found] == text and found[0].logprob is None
    for i, one in enumerate(found[1:]):
        np.testing.assert_allclose(one.logprob, expected[i, one.token], atol=1e-4)
        best = np.argsort(-expected[i], kind="stable")[: len(one.top)]
        assert [token for token, _ in one.top] == best.tolist()
        np.testing.assert_allclose([value for _, value in one.top], expected[i, best], atol=1e-4)
    assert {len(one.top) for one in result.logprobs} == {3} and {len(one.top) for one in found[1:11]} <= {2, 3}


def test_prompts_are_scored_without_generating(engine: gollm.Engine) -> None:
    engine.submit("hello world", max_new_tokens=0).result()  # nothing at all
    assert engine.stats.passes == 0
    prompt = np.random.default_rng(0).integers(0, 256, 199).tolist()
    for _ in range(2):  # the second time the pages are there, and the logits are not
        result = engine.submit(prompt, max_new_tokens=0, prompt_logprobs=0).result()
        assert (result.text, result.tokens, result.finish_reason) == ("", (), "length")
        assert result.prompt_logprobs is not None and len(result.prompt_logprobs) == 199
    assert engine.stats.reused_tokens == 0


def test_stop_strings_and_stop_tokens(engine: gollm.Engine) -> None:
    text = MODEL.generate("hello", temperature=0, max_new_tokens=40)
    tokens = alone("hello", temperature=0, max_new_tokens=40)
    stop = text[7:10]
    for stops in (stop, (stop, "never there")):
        stream = engine.submit("hello", temperature=0, max_new_tokens=40, stop=stops)
        assert "".join(piece.text for piece in stream) == stream.result().text == text[: text.index(stop)]
        assert stream.result().finish_reason == "stop"
    result = engine.submit("hello", temperature=0, max_new_tokens=40, stop=tokens[5]).result()
    assert result.tokens == tokens[: tokens.index(tokens[5])] and result.finish_reason == "stop"
    model = LanguageModel(MODEL.decoder, TOKENIZER, GenerationDefaults(stop_tokens=(tokens[5],)))
    with gollm.Engine(model) as other:
        assert other.submit("hello", temperature=0, max_new_tokens=40).result() == result


def test_a_full_context_stops_or_forgets(engine: gollm.Engine) -> None:
    prompt = [1, 2, 3] * 64
    stopped = engine.submit(prompt, context_full="stop", max_new_tokens=100).result()
    assert (len(stopped.tokens), stopped.finish_reason) == (8, "length")
    forgotten = engine.submit(prompt, max_new_tokens=100).result()
    assert len(forgotten.tokens) == 100 and forgotten.tokens[:8] == stopped.tokens
    assert forgotten.tokens == alone(prompt, max_new_tokens=100)


def test_a_model_without_a_tokenizer_takes_and_gives_ids() -> None:
    with gollm.Engine(LanguageModel(MODEL.decoder)) as engine:
        result = engine.submit([1, 2, 3], temperature=0, max_new_tokens=9).result()
        assert (result.text, len(result.tokens)) == ("", 9)
        with pytest.raises(GenerationError, match="this model has no tokenizer"):
            engine.submit("hello")
        with pytest.raises(GenerationError, match="stop has strings, and this model has no tokenizer"):
            engine.submit([1], stop="x")


# -- what is refused


@pytest.mark.parametrize(
    ("prompt", "options", "error", "words"),
    [
        ([], {}, GenerationError, "the prompt is empty"),
        ("", {"temperature": -1}, GenerationError, "temperature is -1; it must be"),
        ([1] * 201, {}, GenerationError, r"201 tokens, more than this model's context \(200\)"),
        ([264], {}, TokenizerError, "a token id is 264; it must be from 0 to 263"),
        ([[1, 2]], {}, ShapeError, "one list of token ids"),
        ([1], {"max_tokens": 3}, (GenerationError, TypeError), "max_tokens"),
    ],
)
def test_a_request_that_makes_no_sense_is_refused_at_once(
    engine: gollm.Engine, prompt: Any, options: dict[str, Any], error: Any, words: str
) -> None:
    with pytest.raises(error, match=words):
        engine.submit(prompt, **options)
    assert engine.submit([1], max_new_tokens=2).result().finish_reason == "length"


def test_a_text_that_never_fits_is_refused_with_the_figures() -> None:
    with gollm.Engine(MODEL, max_tokens_in_cache=100) as engine:
        assert engine.stats.n_pages == 2
        with pytest.raises(
            GenerationError,
            match="has 3 tokens and max_new_tokens is 130, which needs 192 tokens of the cache, and it has 128",
        ):
            engine.submit([1, 2, 3], max_new_tokens=130)
        engine.submit([1, 2, 3], max_new_tokens=125).result()


@pytest.mark.parametrize("name", ["chunk", "max_batch", "max_tokens_in_cache"])
@pytest.mark.parametrize("value", [0, -1, 1.5, "3", True])
def test_an_engines_options_are_checked(name: str, value: Any) -> None:
    with pytest.raises(GenerationError, match=f"{name} is .*; it must be a whole number, 1 or more"):
        gollm.Engine(MODEL, **{name: value})


def test_the_default_cache() -> None:
    assert default_tokens_in_cache(CONFIG, 4, 64) == 64 * 200
    big = CONFIG.replace(n_layers=32, n_heads=32, n_kv_heads=8, head_dim=128, context=131072)
    assert default_tokens_in_cache(big, 4, 64) == 131072  # 32 GiB; a context at least
    assert default_tokens_in_cache(big.replace(context=2048), 4, 64) == 2**30 // (2 * 32 * 8 * 128 * 4)


def test_requests_that_do_not_fit_together_wait_in_order() -> None:
    with gollm.Engine(MODEL, max_tokens_in_cache=256) as engine:
        gate, ended = Gate(), []
        first = engine.submit([1] * 100, max_new_tokens=92, processors=(gate,))  # 3 of the 4 pages
        assert gate.reached.wait(30)
        streams = [engine.submit([2 + i] * 100, max_new_tokens=92 - 30 * i) for i in range(3)]
        small = engine.submit([9], max_new_tokens=3)  # would fit beside the first; it came later
        gate.opened.set()
        for i, stream in enumerate([first, *streams, small]):
            stream.result()
            ended.append(i)
            assert stream.result().tokens
        assert engine.stats.free_pages == 4


# -- errors and cancellation


def test_an_exception_of_a_processor_ends_its_own_request_only(engine: gollm.Engine) -> None:
    class Mine(Exception):
        pass

    def fails(tokens: Array, logits: Array) -> None:
        if len(tokens) == 8:
            raise Mine("at eight")

    good = engine.submit("hello", max_new_tokens=30, seed=1)
    bad = engine.submit([1, 2, 3, 4], max_new_tokens=30, processors=(fails,))
    other = engine.submit("hello world", max_new_tokens=30, seed=2)
    found = []
    with pytest.raises(Mine, match="at eight"):
        for piece in bad:
            found += piece.tokens
    assert len(found) == 4
    with pytest.raises(Mine):
        bad.result()
    assert good.result().tokens == alone("hello", max_new_tokens=30, seed=1)
    assert other.result().tokens == alone("hello world", max_new_tokens=30, seed=2)
    assert engine.stats.free_pages == engine.stats.n_pages


def test_logits_that_are_nan_end_the_text_with_an_error() -> None:
    broken = make()
    broken.decoder.parameters["norm.weight"].data[:] = np.nan
    with gollm.Engine(broken) as engine:
        streams = [engine.submit([1, i], max_new_tokens=3) for i in range(3)]
        for stream in streams:
            with pytest.raises(GenerationError, match="the largest logit of the next token is nan"):
                stream.result()
        assert engine.stats.free_pages == engine.stats.n_pages


def test_an_error_of_a_pass_ends_the_texts_in_it(engine: gollm.Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    def too_little(*_: object) -> None:
        raise MemoryError("too little")

    with monkeypatch.context() as patch:
        patch.setattr(engine._core.scheduler, "_forward", too_little)
        for stream in [engine.submit([1, 2], max_new_tokens=3) for _ in range(3)]:
            with pytest.raises(MemoryError, match="too little"):
                stream.result()
    assert engine.submit([1, 2], max_new_tokens=3).result().tokens == alone([1, 2], max_new_tokens=3)
    assert engine.stats.free_pages == engine.stats.n_pages


def test_cancellation(engine: gollm.Engine) -> None:
    gate = Gate(at=4)
    stream = engine.submit("hello", max_new_tokens=150, processors=(gate,), seed=3)
    assert gate.reached.wait(30)
    stream.cancel()
    gate.opened.set()
    result = stream.result(timeout=30)
    assert result.finish_reason == "cancelled"
    assert (
        3 <= len(result.tokens) <= 4
        and result.tokens == alone("hello", max_new_tokens=150, seed=3)[: len(result.tokens)]
    )
    wait_until(lambda: engine.stats.free_pages == engine.stats.n_pages)
    stream.cancel()  # again, or later, is no mistake


def test_a_stream_that_nobody_holds_is_cancelled(engine: gollm.Engine) -> None:
    for _ in engine.submit("hello", **ENDLESS):
        break
    gc.collect()
    wait_until(lambda: engine.stats.running == 0)
    assert engine.stats.generated_tokens < 10**6


def test_a_wait_has_an_end_if_one_asks_for_it(engine: gollm.Engine) -> None:
    gate = Gate()
    stream = engine.submit("hello", max_new_tokens=3, processors=(gate,))
    with pytest.raises(TimeoutError, match=r"within 0.01 seconds"):
        stream.result(timeout=0.01)
    gate.opened.set()
    assert stream.result(timeout=30).finish_reason == "length"


def test_whatever_a_draw_raises_ends_its_own_request_only(engine: gollm.Engine) -> None:
    def leaves(tokens: Array, logits: Array) -> None:
        raise SystemExit("mine")

    good = engine.submit("hello", max_new_tokens=30, seed=1)
    bad = engine.submit([1, 2, 3, 4], processors=(leaves,))
    with pytest.raises(SystemExit):
        bad.result()
    assert len(good.result().tokens) == 30


def test_a_text_has_left_the_cache_when_its_end_is_heard(engine: gollm.Engine) -> None:
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for i in range(100):
            engine.submit([1, 2, 3], max_new_tokens=1 + i % 3, seed=i).result()
            assert engine.stats.running == 0 and engine.stats.free_pages == engine.stats.n_pages
    finally:
        sys.setswitchinterval(interval)


def test_a_processor_cannot_wait_for_its_own_engine(engine: gollm.Engine) -> None:
    other = engine.submit([1], max_new_tokens=1)

    def waits(tokens: Array, logits: Array) -> None:
        other.result()

    with pytest.raises(GenerationError, match="a processor cannot wait"):
        engine.submit("hello", processors=(waits,)).result()


# -- asyncio


def test_asyncio(engine: gollm.Engine) -> None:
    async def text(i: int) -> str:
        return "".join([piece.text async for piece in engine.submit("hello", seed=i, max_new_tokens=15)])

    async def main() -> None:
        texts = await asyncio.gather(*[text(i) for i in range(5)])
        assert texts == [MODEL.generate("hello", seed=i, max_new_tokens=15) for i in range(5)]
        stream = engine.submit("hello", seed=3, max_new_tokens=15)
        first, second = await asyncio.gather(stream, stream)  # several may wait
        assert first == second == await stream and first.text == texts[3]
        with pytest.raises(GenerationError, match="closed"):
            other = gollm.Engine(MODEL)
            other.close()
            await other.submit("hello")

        def fails(tokens: Array, logits: Array) -> None:
            raise ValueError("mine")

        with pytest.raises(ValueError, match="mine"):
            await engine.submit("hello", processors=(fails,))

    asyncio.run(main())


def test_a_time_limit_ends_a_text_whose_stream_is_kept(engine: gollm.Engine) -> None:
    async def main() -> None:
        streams = [engine.submit("hello", **ENDLESS) for _ in range(2)]

        async def read() -> None:
            async for _ in streams[1]:
                pass

        for waiting in (streams[0], read()):
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(waiting, 0.05)
        assert [(await stream).finish_reason for stream in streams] == ["cancelled"] * 2

    asyncio.run(main())


def test_a_task_that_is_cancelled_ends_its_text(engine: gollm.Engine) -> None:
    async def main() -> None:
        async def use() -> None:
            async for _ in engine.submit("hello", **ENDLESS):
                started.set()

        started = asyncio.Event()
        task = asyncio.create_task(use())
        await started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(engine.submit("hello", **ENDLESS), 0.05)

    asyncio.run(main())
    gc.collect()
    wait_until(lambda: engine.stats.running == 0)


# -- the end


def test_close_cancels_what_runs_and_ends_the_thread() -> None:
    engine = gollm.Engine(MODEL, max_batch=2)
    streams = [engine.submit("hello", **ENDLESS) for _ in range(5)]
    next(streams[0])
    thread = engine._core.thread
    assert thread is not None
    engine.close()
    engine.close()
    assert not thread.is_alive()
    assert {stream.result(timeout=1).finish_reason for stream in streams} == {"cancelled"}
    with pytest.raises(GenerationError, match="this engine is closed"):
        engine.submit("hello")
    gollm.Engine(MODEL).close()  # that never had a thread


def test_an_engine_that_nobody_holds_ends_but_not_before_its_streams() -> None:
    engine = gollm.Engine(MODEL)
    stream = engine.submit("hello", max_new_tokens=20)
    thread, there = engine._core.thread, weakref.ref(engine)
    assert thread is not None
    del engine
    gc.collect()
    assert stream.result(timeout=30).finish_reason == "length"
    del stream
    gc.collect()
    assert there() is None
    thread.join(30)
    assert not thread.is_alive()


SCRIPT = """
import os, sys, threading, time
import numpy as np
import gollm
config = gollm.ModelConfig(n_layers=2, n_heads=2, d_model=32, vocab_size=64, context=128)
engine = gollm.Engine(gollm.LanguageModel(gollm.Decoder(config).initialise(1)))
stream = engine.submit([1, 2, 3], max_new_tokens=10**9, seed=1)
next(stream)
"""


def script(rest: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", SCRIPT + rest], capture_output=True, text=True, timeout=100, **options)


def test_a_program_ends_while_texts_run() -> None:
    done = script("print('end')")
    assert (done.returncode, done.stdout, done.stderr) == (0, "end\n", "")
    done = script("raise SystemExit(3)")
    assert (done.returncode, done.stdout, done.stderr) == (3, "", "")
    done = script("threading.Thread(target=stream.result, daemon=True).start()\nprint('end')")  # somebody waits
    assert (done.returncode, done.stdout, done.stderr) == (0, "end\n", "")


def test_ctrl_c_ends_a_wait_and_the_engine_lives_on() -> None:
    done = script(
        """
threading.Timer(0.3, lambda: os.kill(os.getpid(), 2)).start()
try:
    stream.result()
except KeyboardInterrupt:
    print("interrupted")
threading.Timer(0.3, lambda: os.kill(os.getpid(), 2)).start()
try:
    for piece in stream:
        pass
except KeyboardInterrupt:
    print("interrupted")
print(len(engine.submit([1], max_new_tokens=5).result().tokens))
engine.close()
"""
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "interrupted\ninterrupted\n5\n", "")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_fork_has_no_engine_and_says_so() -> None:
    done = script(
        """
child = os.fork()
for use in (lambda: engine.submit([1]), lambda: next(stream), lambda: stream.result()):
    try:
        use()
        said = "nothing"
    except gollm.errors.GenerationError as error:
        said = str(error)
    if not child:
        assert "is a fork; make an engine here" in said, said
if child:
    _, status = os.waitpid(child, 0)
    print("parent", status)
else:
    engine.close()
    own = gollm.Engine(gollm.LanguageModel(gollm.Decoder(config).initialise(1)))
    print("child", len(own.submit([1], max_new_tokens=5).result().tokens), flush=True)
    sys.exit()
""".replace("for use in", "for use in [] if child else")
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "child 5\nparent 0\n", "")


# -- memory


def submit_and_cancel(engine: gollm.Engine, n: int) -> None:
    """n requests of all kinds, of which some are read, some cancelled at once or later, some dropped, some fail."""
    random = np.random.default_rng(0)
    base = random.integers(0, 256, 200).tolist()

    def fails(tokens: Array, logits: Array) -> None:
        if len(tokens) % 5 == 0:
            raise ValueError

    streams = []
    for i in range(n):
        processors = (fails,) if i % 10 == 9 else ()
        prompt = [*base[: random.integers(0, 130)], i % 256]
        streams.append(engine.submit(prompt, max_new_tokens=int(random.integers(1, 20)), processors=processors, seed=i))
        if i % 3 == 0:
            streams[-1].cancel()
        if len(streams) == 50:
            for stream in streams[::2]:
                stream.cancel()
            for stream in streams[1::4]:
                with contextlib.suppress(ValueError):
                    stream.result(timeout=60)
            streams.clear()
    wait_until(lambda: engine.stats.running + engine.stats.waiting == 0)


def check_memory(rounds: int, n: int) -> None:
    with gollm.Engine(MODEL, max_tokens_in_cache=40 * 64) as engine:
        for _ in range(rounds):  # until every page has been used, and passes of all sizes are recorded
            submit_and_cancel(engine, n)
        gc.collect()
        before, threads, objects = resident_bytes()[0], threading.active_count(), len(gc.get_objects())
        for _ in range(rounds):
            submit_and_cancel(engine, n)
        gc.collect()
        assert engine.stats.free_pages == engine.stats.n_pages == 40
        assert threading.active_count() == threads
        assert len(gc.get_objects()) < objects + 200
        assert resident_bytes()[0] < before + (2 << 20)


def check_memory_in_a_process_of_its_own(rounds: int, n: int) -> None:
    """What other tests have left in memory, and give back or take up now, does not count."""
    program = f"import runpy; runpy.run_path({__file__!r})['check_memory']({rounds}, {n})"
    subprocess.run([sys.executable, "-c", program], check=True)


def test_memory_is_flat_and_every_page_is_free_after_submits_and_cancels() -> None:
    check_memory_in_a_process_of_its_own(rounds=3, n=200)


@pytest.mark.slow
def test_memory_is_flat_after_ten_thousand() -> None:
    check_memory_in_a_process_of_its_own(rounds=5, n=2000)

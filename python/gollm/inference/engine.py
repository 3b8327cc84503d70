"""The engine: texts are generated together, for callers in any number of threads and in asyncio.

    with gollm.Engine(model) as engine:
        stream = engine.submit("Once upon a time", max_new_tokens=50)
        for piece in stream:
            print(piece.text, end="")

A worker thread owns the scheduler and makes one forward pass after the other while there is work. submit() puts a
request into its inbox and returns a Stream, which the worker fills. `pieces` does the same without a thread, for one
text.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import weakref
from collections import deque
from collections.abc import AsyncIterator, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gollm.errors import GenerationError
from gollm.inference.generation import Completion, Generation, Model, Piece, check_model
from gollm.inference.pages import PAGE_SIZE, CacheDType, cache_dtype_of, pages_for
from gollm.inference.requests import generations
from gollm.inference.sampling import Sampling
from gollm.inference.scheduler import Scheduler, pages_needed
from gollm.inference.speculation import Drafter, DraftModel, PromptLookup, check_draft
from gollm.kernels import Array
from gollm.model.config import ModelConfig
from gollm.model.decoder import Decoder
from gollm.model.lora import mixed, shares_weights
from gollm.system.strict_json import shorten

Prompt = str | Sequence[int] | Array

CHUNK = 512  # prompt tokens of a forward pass: enough for full speed
DEFAULT_CACHE_BYTES = 1 << 30
CLOSING_SECONDS = 30.0  # that close() waits for a forward pass, or for a function of the user's that hangs


@dataclass(frozen=True)
class EngineStats:
    """A look at an engine, and what it has done so far.

    running, waiting      texts in the batch, and texts that wait for a place in it or for pages
    free_pages, n_pages   pages of 64 tokens that no text uses, of all. They include remembered ones
    remembered_pages      pages that a prompt that begins with their tokens takes over, in use or not
    passes                forward passes
    prompt_tokens         computed ones; reused_tokens were found in the cache
    generated_tokens      tokens drawn, those that ended a text included
    drafted_tokens        guesses of a draft, of which accepted_tokens were right: each of these saved a text a pass
    """

    running: int
    waiting: int
    free_pages: int
    remembered_pages: int
    n_pages: int
    passes: int
    prompt_tokens: int
    reused_tokens: int
    generated_tokens: int
    drafted_tokens: int
    accepted_tokens: int

    @property
    def acceptance(self) -> float:
        """The share of guesses that were right; 0 without any."""
        return self.accepted_tokens / self.drafted_tokens if self.drafted_tokens else 0.0

    @property
    def tokens_per_pass(self) -> float:
        """The mean number of tokens that a text has had from a forward pass; 1 without a draft. What guessing costs is
        not in it."""
        passes = self.generated_tokens - self.accepted_tokens
        return self.generated_tokens / passes if passes else 1.0


class _Mailbox:
    """What the worker has to say about one request, until its stream reads it."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.pieces: deque[Piece] = deque()
        self.left = 0  # texts that go on
        self._futures: list[asyncio.Future[None]] = []  # of coroutines that wait

    def put(self, piece: Piece | None) -> None:
        with self.changed:
            if piece is None:
                self.left -= 1
            else:
                self.pieces.append(piece)
            futures, self._futures = self._futures, []
            self.changed.notify_all()
        for future in futures:
            with contextlib.suppress(RuntimeError):  # its loop is closed: nobody waits any more
                future.get_loop().call_soon_threadsafe(_set_done, future)

    def future(self) -> asyncio.Future[None]:
        """Done when something has come. To be called with `changed` held."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._futures = [other for other in self._futures if not other.done()] + [future]
        return future


def _set_done(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


class Stream:
    """A request's text as it comes. Iterate, with `for` or `async for`, over its pieces; result(), or `await stream`,
    waits for all of it. A stream that nobody holds any more is cancelled."""

    def __init__(self, core: _Core, engine: Engine, generations: list[Generation], mailbox: _Mailbox) -> None:
        self._core, self._engine = core, engine  # which lives on as long as the stream
        self._generations, self._mailbox = generations, mailbox

    @property
    def done(self) -> bool:
        """Whether the text has ended; pieces may be left to read."""
        return self._mailbox.left == 0

    def cancel(self) -> None:
        """Ends the text where it is, soon: its finish_reason is then "cancelled"."""
        for generation in self._generations:
            generation.cancelled = True
        self._core.scheduler.cancellation = True

    def __del__(self) -> None:
        if hasattr(self, "_mailbox") and not self.done:
            self.cancel()

    def __iter__(self) -> Iterator[Piece]:
        return self

    def __next__(self) -> Piece:
        mailbox = self._mailbox
        self._core.check_wait()
        with mailbox.changed:
            mailbox.changed.wait_for(lambda: mailbox.pieces or mailbox.left == 0)
            if mailbox.pieces:
                return mailbox.pieces.popleft()
        self._raise_errors()
        raise StopIteration

    def result(self, timeout: float | None = None) -> Completion:
        """The whole text, when it has ended. Raises TimeoutError after so many seconds, what a processor of the
        request raised, and GenerationError where no token could be drawn."""
        mailbox = self._mailbox
        self._core.check_wait()
        with mailbox.changed:
            if not mailbox.changed.wait_for(lambda: mailbox.left == 0, timeout):
                raise TimeoutError(f"the text has not ended within {timeout} seconds")
        return self._completion()

    def __aiter__(self) -> AsyncIterator[Piece]:
        return self

    async def __anext__(self) -> Piece:
        mailbox = self._mailbox
        while True:
            with mailbox.changed:
                if mailbox.pieces:
                    return mailbox.pieces.popleft()
                if mailbox.left == 0:
                    break
                future = mailbox.future()
            await self._cancelled_with(future)
        self._raise_errors()
        raise StopAsyncIteration

    def __await__(self) -> Generator[Any, None, Completion]:
        return self._wait().__await__()

    async def _wait(self) -> Completion:
        while True:
            with self._mailbox.changed:
                if self._mailbox.left == 0:
                    break
                future = self._mailbox.future()
            await self._cancelled_with(future)
        return self._completion()

    async def _cancelled_with(self, future: asyncio.Future[None]) -> None:
        """Waits; the cancellation of the task that waits, such as by a time limit, is that of the text."""
        try:
            await future
        except asyncio.CancelledError:
            self.cancel()
            raise

    def _completion(self) -> Completion:
        self._raise_errors()
        choices = tuple(generation.completion() for generation in self._generations)
        return choices[0].with_choices(choices)

    def _raise_errors(self) -> None:
        for generation in self._generations:
            if generation.error is not None:
                raise generation.error


class _Core:
    """What the worker thread knows of an engine: all but the engine itself, which can so be dropped while it waits."""

    def __init__(self, scheduler: Scheduler) -> None:
        self.scheduler = scheduler
        self.changed = threading.Condition()
        self.inbox: deque[Generation] = deque()
        self.closed = False
        self.thread: threading.Thread | None = None
        self.process = os.getpid()

    def check_process(self) -> None:
        if os.getpid() != self.process:
            raise GenerationError(
                f"this engine belongs to process {self.process}, of which this one is a fork; make an engine here"
            )

    def check_wait(self) -> None:
        self.check_process()
        if threading.current_thread() is self.thread:
            raise GenerationError("a processor cannot wait for a text of its own engine, which waits for the processor")

    def add(self, arrivals: list[Generation]) -> None:
        self.check_process()
        with self.changed:
            if self.closed:
                raise GenerationError("this engine is closed; make another one")
            self.inbox.extend(arrivals)
            if self.thread is None:  # a daemon: finalize, not the interpreter's end, waits for it
                self.thread = threading.Thread(target=_work, args=(self,), name="gollm-engine", daemon=True)
                self.thread.start()
            self.changed.notify()

    def close(self) -> None:
        if os.getpid() != self.process:
            return  # its threads are the parent's, and so is what they hold
        with self.changed:
            self.closed = True
            self.changed.notify()
        if self.thread is not None and self.thread is not threading.current_thread():
            self.thread.join(CLOSING_SECONDS)


def _work(core: _Core) -> None:
    """The worker thread. An error of a pass, such as too little memory, ends the texts of that time."""
    scheduler = core.scheduler
    while True:
        with core.changed:
            core.changed.wait_for(lambda: core.inbox or scheduler.busy or core.closed)
            arrivals = list(core.inbox)
            core.inbox.clear()
            closed = core.closed
        for generation in arrivals:
            scheduler.add(generation)
        arrivals.clear()
        if closed:
            scheduler.end_all()
            return
        try:
            scheduler.step()
        except BaseException as error:
            scheduler.end_all(error)


class Engine:
    """Generates many texts at once. Each is what it would be alone: the same request has the same tokens whatever runs
    beside it.

    max_tokens_in_cache   how many tokens' keys and values the cache can hold, rounded up to pages of 64; it bounds the
                          cache, whatever is submitted; docs/engine.md says what else takes memory. Default: 1 GiB of
                          them, at least the context and at most max_batch contexts
    cache_dtype           what keys and values are kept as: "float32", or "bfloat16" or "float16" for half the memory;
                          a text depends on it
    chunk                 the most prompt tokens of a forward pass: the next tokens of other texts wait for no more
    max_batch             the most texts that run at once; others wait
    draft                 speculation: a small model with the same tokenizer that guesses what comes next, or how many
                          tokens to guess from what the text has said before. Texts are the same with it, often sooner
    adapters              models by name that model.with_adapter() returns; a request names one of them. Requests with
                          different ones share their passes

    The weights must stay as they are while the engine lives. It ends with close(), a `with` statement, the program, or
    when nobody holds it and its streams any more; texts that still run are cancelled."""

    def __init__(
        self,
        model: Model,
        *,
        max_tokens_in_cache: int | None = None,
        cache_dtype: CacheDType = "float32",
        chunk: int = CHUNK,
        max_batch: int = 64,
        draft: Model | int | None = None,
        adapters: Mapping[str, Model] | None = None,
    ) -> None:
        check_model(model)
        if not isinstance(adapters, Mapping | None):
            raise GenerationError(f"the adapters are {shorten(adapters)}; they must be a dictionary of models by name")
        self._model, self._adapters = model, dict(adapters or {})
        decoder = _mixed(model, self._adapters)
        config = model.decoder.config
        itemsize = cache_dtype_of(model.decoder, cache_dtype).array.itemsize
        _check_count("chunk", chunk)
        _check_count("max_batch", max_batch)
        if max_tokens_in_cache is None:
            max_tokens_in_cache = default_tokens_in_cache(config, itemsize, max_batch)
        _check_count("max_tokens_in_cache", max_tokens_in_cache)
        n_pages, vocab_size = pages_for(max_tokens_in_cache), drawn_from(model)
        drafter: Drafter | None = None
        if draft is not None and not isinstance(draft, int):
            if not all(hasattr(draft, name) for name in ("decoder", "tokenizer")):
                raise GenerationError(
                    f"draft is {shorten(draft)}; it must be a model with the same tokenizer, as gollm.load returns, "
                    "or a whole number of tokens to guess"
                )
            check_draft(model, draft)
            drafter = DraftModel(draft, n_pages, chunk, vocab_size, 2 * max_batch, cache_dtype)
        elif draft is not None:
            _check_count("draft", draft)
            drafter = PromptLookup(draft)
        scheduler = Scheduler(
            decoder,
            n_pages,
            chunk=chunk,
            max_batch=max_batch,
            vocab_size=vocab_size,
            cache_dtype=cache_dtype,
            drafter=drafter,
        )
        self._core = _Core(scheduler)
        self._finalizer = weakref.finalize(self, self._core.close)  # also when the program ends

    def submit(
        self, prompt: Prompt, sampling: Sampling | None = None, *, adapter: str | None = None, **options: Any
    ) -> Stream:
        """Begins to generate a text that continues the prompt: a str, framed as documents are in training, or token ids
        as they are. `options` are fields of Sampling; they replace those of `sampling`. `adapter` names one of the
        engine's; the text is what that model writes. From any thread; returns at once.

        Raises GenerationError for a prompt or an option that cannot be used, and for a text that the cache could not
        hold even alone."""
        chosen = Sampling.of(sampling, options)
        mailbox = _Mailbox()
        model, number = self._model, 0
        if adapter is not None:
            names = list(self._adapters)
            if adapter not in names:
                known = f"this engine's are {', '.join(names)}" if names else "this engine was made without any"
                raise GenerationError(f"there is no adapter {shorten(adapter)}; {known}")
            model, number = self._adapters[adapter], 1 + names.index(adapter)
        arrivals = generations(model, prompt, chosen, mailbox.put, number)
        mailbox.left = len(arrivals)
        scheduler = self._core.scheduler
        needed, n_pages = pages_needed(arrivals[0], scheduler.context), scheduler.pool.n_pages
        if needed > n_pages:
            beams = f" with {chosen.beams} beams" if chosen.beams > 1 else ""
            raise GenerationError(
                f"the prompt has {arrivals[0].n_prompt} tokens and max_new_tokens is {arrivals[0].max_new_tokens}, "
                f"which{beams} needs {needed * PAGE_SIZE} tokens of the cache, and it has {n_pages * PAGE_SIZE}; lower "
                "max_new_tokens, or make the engine with a larger max_tokens_in_cache"
            )
        stream = Stream(self._core, self, arrivals, mailbox)
        self._core.add(arrivals)
        return stream

    def generate(
        self,
        prompts: Iterable[Prompt],
        sampling: Sampling | None = None,
        *,
        adapter: str | None = None,
        **options: Any,
    ) -> list[Completion]:
        """The texts that continue some prompts, in their order, when all have ended."""
        if isinstance(prompts, str):
            raise GenerationError("generate takes a list of prompts; give one prompt to submit, or a list of one")
        streams = [self.submit(prompt, sampling, adapter=adapter, **options) for prompt in prompts]
        return [stream.result() for stream in streams]

    @property
    def stats(self) -> EngineStats:
        scheduler = self._core.scheduler
        counts = scheduler.counts
        return EngineStats(
            running=len(scheduler.running),
            waiting=len(scheduler.waiting) + len(self._core.inbox),
            free_pages=scheduler.pool.n_free,
            remembered_pages=scheduler.pool.n_remembered,
            n_pages=scheduler.pool.n_pages,
            passes=counts.passes,
            prompt_tokens=counts.prompt_tokens,
            reused_tokens=counts.reused_tokens,
            generated_tokens=counts.generated_tokens,
            drafted_tokens=counts.drafted_tokens,
            accepted_tokens=counts.accepted_tokens,
        )

    def close(self) -> None:
        """Cancels what runs and ends the worker thread, after the forward pass that it is in."""
        self._finalizer()

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _mixed(model: Model, adapters: Mapping[str, Model]) -> Decoder:
    """The decoder that computes all of them. Raises GenerationError for what is no adapter of the model."""
    for name, adapted in adapters.items():
        if not isinstance(name, str) or not hasattr(adapted, "decoder"):
            raise GenerationError(
                f"the adapter {shorten(name)} is {shorten(adapted)}; it must be a model that model.with_adapter() "
                "returns, by a name that is text"
            )
        if not shares_weights(model.decoder, adapted.decoder):
            raise GenerationError(
                f"the adapter {shorten(name)} has other weights than the model; load it with model.with_adapter(), of "
                "the model that the engine is for"
            )
    return mixed(model.decoder, [adapted.decoder for adapted in adapters.values()]) if adapters else model.decoder


def default_tokens_in_cache(config: ModelConfig, itemsize: int, max_batch: int) -> int:
    """What DEFAULT_CACHE_BYTES hold, at least one context and at most max_batch of them."""
    token = 2 * config.n_layers * config.n_kv_heads * config.head_dim * itemsize
    return max(config.context, min(DEFAULT_CACHE_BYTES // token, max_batch * config.context))


def pieces(model: Model, prompt: Prompt, sampling: Sampling | None = None, **options: Any) -> Iterator[Piece]:
    """One text in the caller's thread, with a cache that is as large as it needs and goes with the iterator.

    Raises what Engine.submit raises, at once."""
    buffer: deque[Piece | None] = deque()
    found = generations(model, prompt, Sampling.of(sampling, options), buffer.append)
    return _pieces(model, found, buffer)


def _pieces(model: Model, found: list[Generation], buffer: deque[Piece | None]) -> Iterator[Piece]:
    n_pages = len(found) * pages_needed(found[0], model.decoder.config.context)
    scheduler = Scheduler(model.decoder, n_pages, chunk=CHUNK, max_batch=len(found), vocab_size=drawn_from(model))
    for generation in found:
        scheduler.add(generation)
    while True:
        while buffer:
            if (piece := buffer.popleft()) is not None:
                yield piece
        if not scheduler.busy:
            break
        scheduler.step()
    for generation in found:
        if generation.error is not None:
            raise generation.error


def drawn_from(model: Model) -> int | None:
    """How many of the vocabulary's ids are tokens: a model may have rows of padding that no text is."""
    return None if model.tokenizer is None else model.tokenizer.vocab_size


def _check_count(name: str, value: Any) -> None:
    if type(value) is not int or value < 1:
        raise GenerationError(f"{name} is {value!r}; it must be a whole number, 1 or more")

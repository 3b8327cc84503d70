"""Prefix reuse: full pages are found by the tokens that they hold.

The keys and values of a page depend on its tokens and on all tokens before them, so pages form a tree: a page is found
by its tokens below the page before it. It can be found from the moment when it is full, while the sequence that
computed it still runs. When the last sequence that uses it ends, it stays, idle, until its memory is wanted for
something else; the page that became idle first goes first.

A sequence that uses a page uses all pages before it, and releases the last one first. So the page below an idle one is
idle, too, and became so earlier: a page that goes has none below it.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

from gollm.inference.pages import PAGE_SIZE, PagePool
from gollm.kernels import Kernels, cpu
from gollm.model.config import ModelConfig
from gollm.nn import dtypes
from gollm.nn.dtypes import DType

Tokens = tuple[int, ...]


@dataclass(eq=False, slots=True)
class Prefix:
    """A full page that can be found, and with it all tokens up to its end; or the empty prefix, which has no page."""

    page: int
    before: Prefix | None
    tokens: Tokens  # of the page
    longer: dict[Tokens, Prefix] = field(default_factory=dict)


class PrefixPool(PagePool):
    """A pool that remembers full pages. It is a user of these itself, so that they outlive the sequences."""

    def __init__(
        self, config: ModelConfig, n_pages: int, dtype: DType = dtypes.float32, kernels: Kernels = cpu
    ) -> None:
        super().__init__(config, n_pages, dtype, kernels)
        self._empty: dict[int, Prefix] = {}  # by adapter
        self._found: dict[int, Prefix] = {}  # by page
        self._idle: OrderedDict[int, Prefix] = OrderedDict()  # by page, the oldest first

    def empty(self, adapter: int) -> Prefix:
        """Where the tree of an adapter's pages begins: keys and values are the adapter's, too."""
        return self._empty.setdefault(adapter, Prefix(-1 - adapter, None, ()))

    @property
    def n_free(self) -> int:
        """How many pages can be taken: idle ones, too, which are forgotten then."""
        return super().n_free + len(self._idle)

    @property
    def n_remembered(self) -> int:
        """How many pages can be found by their tokens, in use or idle."""
        return len(self._found)

    def is_idle(self, prefix: Prefix) -> bool:
        return prefix.page in self._idle

    def take(self) -> int:
        if super().n_free == 0 and self._idle:
            self._forget_oldest()
        return super().take()

    def share(self, page: int) -> None:
        self._idle.pop(page, None)
        super().share(page)

    def release(self, page: int) -> None:
        super().release(page)
        if self.n_users(page) == 1 and page in self._found:
            self._idle[page] = self._found[page]

    def longest(self, tokens: list[int], start: int, end: int, known: Prefix) -> list[Prefix]:
        """The remembered pages that follow `known` and hold tokens[start:end], as many as there are."""
        found = []
        while start + PAGE_SIZE <= end:
            prefix = known.longer.get(tuple(tokens[start : start + PAGE_SIZE]))
            if prefix is None:
                break
            found.append(prefix)
            known, start = prefix, start + PAGE_SIZE
        return found

    def remember(self, before: Prefix, tokens: Tokens, page: int) -> Prefix:
        """A page that a sequence has filled can be found from now on. Where one with the same tokens can be already,
        the sequence shares that one instead, and its own page is released."""
        prefix = before.longer.get(tokens)
        if prefix is None:
            prefix = before.longer[tokens] = self._found[page] = Prefix(page, before, tokens)
            super().share(page)
        elif prefix.page != page:
            self.share(prefix.page)
            self.release(page)
        return prefix

    def forget(self) -> None:
        """Forgets all idle pages."""
        while self._idle:
            self._forget_oldest()

    def _forget_oldest(self) -> None:
        page, prefix = self._idle.popitem(last=False)
        assert not prefix.longer and prefix.before is not None
        del self._found[page], prefix.before.longer[prefix.tokens]
        super().release(page)

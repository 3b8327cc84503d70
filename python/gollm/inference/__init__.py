"""Generation: texts that continue prompts, many at once. gollm.Engine and gollm.Sampling are its front door."""

from gollm.inference.engine import EngineStats, Stream, pieces
from gollm.inference.generation import Completion, Piece, TokenLogprob
from gollm.inference.pages import PAGE_SIZE, CachedSequence, PagePool, next_batch, pages_for

__all__ = [
    "PAGE_SIZE",
    "CachedSequence",
    "Completion",
    "EngineStats",
    "PagePool",
    "Piece",
    "Stream",
    "TokenLogprob",
    "next_batch",
    "pages_for",
    "pieces",
]

"""Generation: drawing tokens one after the other from a decoder."""

from gollm.inference.generate import choose, generate_tokens
from gollm.inference.pages import PAGE_SIZE, CachedSequence, PagePool, next_batch, pages_for

__all__ = ["PAGE_SIZE", "CachedSequence", "PagePool", "choose", "generate_tokens", "next_batch", "pages_for"]

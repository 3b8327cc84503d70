"""Training data: from text anywhere to shuffled batches of tokens.

source = open_source("books/", patterns=["*.txt"])      # or None: the standard library's own source text
dataset = prepare(source, tokenizer)                    # tokenised once, then mapped from the cache
sampler = Sampler(dataset.train, batch_size=12, context=64, seed=1)
inputs, targets = sampler.next_batch()                  # (B, T) int32 each
"""

from gollm.data.dataset import TokenDataset, prepare
from gollm.data.folders import files_below
from gollm.data.sampler import Sampler, evaluation_batches
from gollm.data.shards import Tokens, open_shard, write_shard
from gollm.data.sources import (
    DataSource,
    Files,
    StandardInput,
    Texts,
    TokenShards,
    open_source,
    standard_library,
)
from gollm.data.token_cache import TextTokenizer
from gollm.system.files import cache_folder

__all__ = [
    "DataSource",
    "Files",
    "Sampler",
    "StandardInput",
    "TextTokenizer",
    "Texts",
    "TokenDataset",
    "TokenShards",
    "Tokens",
    "cache_folder",
    "evaluation_batches",
    "files_below",
    "open_shard",
    "open_source",
    "prepare",
    "standard_library",
    "write_shard",
]

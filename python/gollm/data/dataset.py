"""From a source and a tokenizer to the tokens that a model is trained on and judged by."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from gollm.data.sampler import draws
from gollm.data.shards import Tokens
from gollm.data.sources import DataSource, TokenShards
from gollm.data.token_cache import Progress, TextTokenizer, cached_tokens, content_fingerprint
from gollm.errors import DataError
from gollm.system.files import StrPath, cache_folder
from gollm.system.strict_json import shorten

ValidationSplit = Literal["blocks", "end"]

MAX_BLOCKS = 100  # of validation text: each part of the corpus has its share
MIN_BLOCK = 4096  # tokens: so that hardly a window goes across the place where a block was taken out


@dataclass(frozen=True)
class TokenDataset:
    """Training tokens and validation tokens. `validation` may be empty."""

    train: Tokens
    validation: Tokens

    @property
    def n_bytes(self) -> int:
        """Bytes of mapped files behind both parts: what a long run may add to the process' resident memory."""
        return self.train.n_bytes + self.validation.n_bytes

    @property
    def fingerprint(self) -> str:
        """Names the content of both parts, so that a resumed run can see that its data is still the same."""
        return f"{self.train.fingerprint} {self.validation.fingerprint}"


def prepare(
    source: DataSource,
    tokenizer: TextTokenizer,
    *,
    validation_fraction: float = 0.1,
    validation_split: ValidationSplit = "blocks",
    validation_source: DataSource | None = None,
    cache_dir: StrPath | None = None,
    progress: Progress | None = None,
) -> TokenDataset:
    """Tokenise `source`, or take its tokens from the cache, and split it.

    validation_fraction  the share of tokens that is kept from training, from 0 to below 1
    validation_split     which those are: "blocks", spread over the whole text, or "end", the last ones
    validation_source    validation text of its own; all of `source` is then for training
    cache_dir            where tokens are kept; see `cache_folder` for the default
    progress             called with (bytes read, tokens written) while tokens are made

    Of n tokens floor(n * (1 - validation_fraction)) are for training. Raises DataError.

    The blocks are the same for the same number of tokens and fraction, whatever the seed and the context of a run: the
    text is cut into as many equal parts as there are blocks, at most MAX_BLOCKS of at least MIN_BLOCK tokens, and the
    place of the block in each part is drawn.
    """
    if validation_split not in get_args(ValidationSplit):
        raise DataError(f"the validation split is {shorten(validation_split)}; it must be 'blocks' or 'end'")
    if not 0 <= validation_fraction < 1:
        raise DataError(
            f"the validation fraction is {validation_fraction}; it must be at least 0 and below 1, such as 0.1"
        )
    tokens = _tokens(source, tokenizer, cache_dir, progress)
    if validation_source is not None:
        return TokenDataset(tokens, _tokens(validation_source, tokenizer, cache_dir, progress))
    n_train = int(len(tokens) * (1 - validation_fraction))
    if not n_train:
        raise DataError(
            f"{source.name} has {len(tokens)} tokens, and a validation fraction of {validation_fraction} leaves none "
            f"to train on; "
            "use more text or a smaller fraction"
        )
    train, validation = split(len(tokens), n_train, validation_split)
    return TokenDataset(
        tokens.part(train, f"the training tokens of {source.name}"),
        tokens.part(validation, f"the validation tokens of {source.name}"),
    )


def split(n: int, n_train: int, how: ValidationSplit) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """The ranges of n tokens that are for training, n_train of them, and for validation.

    >>> split(100, 90, "end")
    ([(0, 90)], [(90, 100)])
    """
    if how == "end":
        return [(0, n_train)], [(n_train, n)]
    n_validation = n - n_train
    n_blocks = max(1, min(MAX_BLOCKS, n_validation // MIN_BLOCK, n_train // MIN_BLOCK))
    train, validation, done = [], [], 0
    for i, draw in enumerate(draws(n_blocks).tolist()):
        begin, end = n * i // n_blocks, n * (i + 1) // n_blocks
        size = n_validation * (i + 1) // n_blocks - n_validation * i // n_blocks
        start = begin + draw % (end - begin - size + 1)
        train.append((done, start))
        validation.append((start, start + size))
        done = start + size
    return [*train, (done, n)], validation


def _tokens(
    source: DataSource, tokenizer: TextTokenizer, cache_dir: StrPath | None, progress: Progress | None
) -> Tokens:
    if not isinstance(source, TokenShards):
        return cached_tokens(source, tokenizer, cache_dir, progress)
    tokens = Tokens.open(
        source.paths,
        vocab_size=tokenizer.vocab_size,
        fingerprint=content_fingerprint(source, cache_folder(cache_dir)),
        earlier_fingerprint=source.earlier_fingerprint(),
        name=f"the token shards {source.name}",
    )
    if not len(tokens):
        raise DataError(f"{source.name} holds no tokens; name shards that are not empty with --data")
    return tokens

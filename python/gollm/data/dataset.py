"""From a source and a tokenizer to the tokens that a model is trained on and judged by."""

from __future__ import annotations

from dataclasses import dataclass

from gollm.data.shards import Tokens
from gollm.data.sources import DataSource, TokenShards
from gollm.data.token_cache import Progress, TextTokenizer, cached_tokens, content_fingerprint
from gollm.errors import DataError
from gollm.system.files import StrPath, cache_folder


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
    validation_source: DataSource | None = None,
    cache_dir: StrPath | None = None,
    progress: Progress | None = None,
) -> TokenDataset:
    """Tokenise `source`, or take its tokens from the cache, and split it.

    validation_fraction  the share of tokens at the end of the stream that is kept from training, from 0 to below 1
    validation_source    validation text of its own; all of `source` is then for training
    cache_dir            where tokens are kept; see `cache_folder` for the default
    progress             called with (bytes read, tokens written) while tokens are made

    The first floor(n * (1 - validation_fraction)) of n tokens are for training. Raises DataError.
    """
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
    return TokenDataset(
        tokens.part(0, n_train, f"the training tokens of {source.name}"),
        tokens.part(n_train, len(tokens), f"the validation tokens of {source.name}"),
    )


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

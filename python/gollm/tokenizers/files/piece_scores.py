"""Scores and merges, the two ways in which files of SentencePiece's BPE say what is joined first.

A piece's score says when any two pieces are joined to it. A list of merges says it pair by pair; one that was made from
scores has every pair of pieces that make a piece, in the order of the pieces' scores.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from gollm.errors import TokenizerError
from gollm.tokenizers.sentencepiece import PieceType, SentencePieceTokenizer


def merges_of(tokenizer: SentencePieceTokenizer) -> list[tuple[int, int, int]]:
    """(left, right, result), those first that are joined first. Among pairs that make the same piece the one with the
    longer left half comes first, as in transformers' conversion."""
    if tokenizer.merges is not None:
        return [(left, right, result) for left, right, result in tokenizer.merges.tolist()]
    assert tokenizer.scores is not None
    return _all_merges(tokenizer, tokenizer.scores)


def _all_merges(tokenizer: SentencePieceTokenizer, scores: npt.NDArray[np.float32]) -> list[tuple[int, int, int]]:
    normal = (tokenizer.types == PieceType.NORMAL).tolist()
    ids = {token: i for i, token in enumerate(tokenizer.vocabulary) if normal[i]}
    found: list[tuple[int, int, int]] = []
    for token in sorted(ids, key=lambda token: -scores[ids[token]]):
        for cut in range(len(token) - 1, 0, -1):
            left, right = ids.get(token[:cut]), ids.get(token[cut:])
            if left is not None and right is not None:
                found.append((left, right, ids[token]))
    return found


def scores_of(tokenizer: SentencePieceTokenizer) -> npt.NDArray[np.float32]:
    """(V): the scores or, where merges are listed, scores that stand for the same: 0 for the piece that is made first,
    then -1, -2, ... Raises TokenizerError if there are none."""
    for token in tokenizer.added_tokens:
        if token.ordinary:
            raise TokenizerError(
                f"the added token {token.spelling!r} is a piece that text is cut into, too; only tokenizer.json can "
                "hold that"
            )
    if tokenizer.scores is not None:
        return tokenizer.scores
    assert tokenizer.merges is not None
    made = tokenizer.merges[:, 2]
    pieces, first = np.unique(made, return_index=True)
    order = pieces[np.argsort(first)]
    scores = np.full(tokenizer.vocab_size, -float(len(order)), np.float32)
    scores[order] = -np.arange(len(order), dtype=np.float32)
    scores[tokenizer.types != PieceType.NORMAL] = 0
    if set(_all_merges(tokenizer, scores)) != set(merges_of(tokenizer)) or (np.diff(scores[made]) > 0).any():
        raise TokenizerError(
            "this tokenizer's merges are not all pairs of pieces that make a piece, in the order of the pieces; only "
            "formats that list merges can hold it"
        )
    return scores

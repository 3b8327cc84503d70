"""Learning the tokens of WordPiece by pair counts, as byte-pair encoding does."""

from __future__ import annotations

import heapq
import itertools
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable

from gollm.errors import TokenizerError
from gollm.tokenizers.vocabulary import MAX_VOCAB_SIZE, with_special_tokens

_CONTINUING = "##"
_WORD_MAX = 100  # characters: longer words are unknown to the encoder as well


def learn(
    words: Iterable[list[str]],
    vocab_size: int,
    special_tokens: Iterable[str],
    min_frequency: int,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[list[str], dict[str, int]]:
    """(tokens, special tokens with their ids).

    The special tokens come first, then all characters, then those that stand inside words with "##" before them,
    both in the order of their code points, then what is learned: the most frequent pair of neighbours joined; of
    equally frequent ones that with the smaller ids. The same token from two pairs keeps its first id. Memory and time
    grow with the distinct words.
    """
    special = with_special_tokens([], special_tokens)[1]
    counts: Counter[str] = Counter()
    for some in words:
        counts.update(some)
    spelled = {word: [word[0], *(_CONTINUING + c for c in word[1:])] for word in counts if len(word) <= _WORD_MAX}
    characters = sorted({character for word in counts for character in word})
    inner = sorted({piece for pieces in spelled.values() for piece in pieces[1:]})
    tokens = [*special, *(piece for piece in characters + inner if piece not in special)]
    if not spelled:
        raise TokenizerError("there is no text to learn words from")
    if not len(tokens) <= vocab_size <= MAX_VOCAB_SIZE:
        raise TokenizerError(
            f"vocab_size is {vocab_size}; with {len(special)} special tokens and the characters of the text it must be "
            f"from {len(tokens)} to {MAX_VOCAB_SIZE}"
        )
    ids = {token: i for i, token in enumerate(tokens)}
    sequences = [[ids[piece] for piece in pieces] for pieces in spelled.values()]
    weights = [counts[word] for word in spelled]
    _merge(tokens, ids, sequences, weights, vocab_size, min_frequency, progress)
    return tokens, special


def _merge(
    tokens: list[str],
    ids: dict[str, int],
    sequences: list[list[int]],
    weights: list[int],
    vocab_size: int,
    min_frequency: int,
    progress: Callable[[int, int], None] | None,
) -> None:
    """Adds tokens until there are vocab_size. sequences: the ids of each word, which occurs `weights` times."""
    pairs: Counter[tuple[int, int]] = Counter()
    places: defaultdict[tuple[int, int], set[int]] = defaultdict(set)  # words in which a pair has occurred
    for word, sequence in enumerate(sequences):
        for pair in itertools.pairwise(sequence):
            pairs[pair] += weights[word]
            places[pair].add(word)
    heap = [(-count, pair) for pair, count in pairs.items()]
    heapq.heapify(heap)
    while len(tokens) < vocab_size and heap:
        count, pair = heapq.heappop(heap)
        if -count != pairs[pair]:  # out of date
            if pairs[pair] > 0:
                heapq.heappush(heap, (-pairs[pair], pair))
            continue
        if -count < min_frequency:
            break
        left, right = pair
        joined = tokens[left] + tokens[right].removeprefix(_CONTINUING)
        new = ids.setdefault(joined, len(tokens))
        if new == len(tokens):
            tokens.append(joined)
            if progress is not None and new % 256 == 0:
                progress(new, vocab_size)
        changed: set[tuple[int, int]] = set()
        for word in places.pop(pair):
            changed |= _join(sequences[word], pair, new, weights[word], pairs, places, word)
        pairs[pair] = 0
        for other in changed:
            if pairs[other] > 0:
                heapq.heappush(heap, (-pairs[other], other))


def _join(
    sequence: list[int],
    pair: tuple[int, int],
    new: int,
    weight: int,
    pairs: Counter[tuple[int, int]],
    places: defaultdict[tuple[int, int], set[int]],
    word: int,
) -> set[tuple[int, int]]:
    """Replaces the pair in one word, keeping the counts; returns the pairs that have come to be."""
    left, right = pair
    at, born = 0, set()
    while at + 1 < len(sequence):
        if sequence[at] != left or sequence[at + 1] != right:
            at += 1
            continue
        if at > 0:
            pairs[sequence[at - 1], left] -= weight
            before = sequence[at - 1], new
            pairs[before] += weight
            born.add(before)
        if at + 2 < len(sequence):
            pairs[right, sequence[at + 2]] -= weight
            behind = new, sequence[at + 2]
            pairs[behind] += weight
            born.add(behind)
        sequence[at : at + 2] = [new]
        at += 1
    for other in born:
        places[other].add(word)
    return born

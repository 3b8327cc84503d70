"""States of tokenizers: a header of JSON values, and arrays."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from gollm.errors import TokenizerError
from gollm.system.strict_json import shorten
from gollm.tokenizers.added_tokens import AddedToken
from gollm.tokenizers.vocabulary import Vocabulary

State: TypeAlias = tuple[dict[str, Any], dict[str, npt.NDArray[Any]]]

VERSION = 1
"""Of states, in checkpoints and in gollm's own files."""


def arguments_of(
    header: Mapping[str, Any], arrays: Mapping[str, npt.NDArray[Any]], rules: Iterable[str], **dtypes: str
) -> dict[str, Any]:
    """The arguments of a kind of tokenizer: vocabulary, special_tokens, added_tokens, prefix and suffix where there are
    any, `rules` of the header (None for a missing one), and arrays beside the vocabulary's, whose `dtypes` are given.

    Raises TokenizerError for a state that is none; the kind checks its rules itself."""
    if header.get("version") != VERSION:
        raise TokenizerError(
            f"tokenizer state of version {shorten(header.get('version'))}; this gollm reads version {VERSION}"
        )
    dtypes = {"tokens": "uint8", "offsets": "int32", **dtypes}
    if set(arrays) != set(dtypes):
        raise TokenizerError(f"tokenizer state with the arrays {sorted(arrays)}; it must have {sorted(dtypes)}")
    for name, dtype in dtypes.items():
        if not isinstance(arrays[name], np.ndarray) or arrays[name].dtype != np.dtype(dtype):
            raise TokenizerError(f"tokenizer state: array {shorten(name)} must be an array of {dtype}")
    own: dict[str, Any] = {name: np.ascontiguousarray(arrays[name]) for name in dtypes}
    vocabulary = Vocabulary(own.pop("tokens"), own.pop("offsets"))
    if header.get("vocab_size") != len(vocabulary):
        raise TokenizerError(
            f"tokenizer state: vocab_size is {shorten(header.get('vocab_size'))}, but there are "
            f"{len(vocabulary)} tokens"
        )
    if not isinstance(header.get("special_tokens"), dict):
        raise TokenizerError("tokenizer state: special_tokens must be a mapping from text to id")
    added = header.get("added_tokens", [])
    if not isinstance(added, list):
        raise TokenizerError("tokenizer state: added_tokens must be a list")
    return {
        "vocabulary": vocabulary,
        "special_tokens": header["special_tokens"],
        "added_tokens": [AddedToken.from_header(token) for token in added],
        **{side: header[side] for side in ("prefix", "suffix") if side in header},
        **{name: header.get(name) for name in rules},
        **own,
    }

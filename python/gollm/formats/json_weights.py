"""Models as plain JSON: a small model's sizes, its words, and its weights as nested lists, to be read by people.

    d_model, n_layers, n_heads, max_seq_len, eps    numbers
    vocab                                           a list of words (or how many tokens, where they are no words)
    token_embedding                                 a row for each word
    position_embedding                              a row for each position; absent with "position": "rope"
    blocks                                          for each layer an object with attention_norm, query, key, value,
                                                    output, mlp_norm, gate (where there is one), up, down
    final_norm, head                                the head is absent where it is the token embedding

A bias is the matrix' or norm's name with _bias: for all layers or for none. Sizes that are not named follow from the
matrices, and any other field of gollm.ModelConfig may be given (norm, position, activation, n_kv_heads, ...); unless
it is, the model is as GPT-2: LayerNorm, learned positions, gelu_tanh. Matrices are (outputs, inputs); a file that has
them all as (inputs, outputs) is told by those that are not square.
"""

from __future__ import annotations

import itertools
import json
import math
from codecs import BOM_UTF8
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from gollm.errors import FormatError, TokenizerError
from gollm.formats.opening import first_bytes, reading, refusing
from gollm.formats.source import ModelFormat, Source, StorageType
from gollm.formats.word_list import tokenizer_of, words_of
from gollm.kernels import Array
from gollm.model.config import ModelConfig
from gollm.system.files import open_regular, replacing
from gollm.system.strict_json import parse_object, shorten

# JSON in memory takes several times the file; models that are worth more are in binary files.
MAX_MODEL_BYTES = 16 << 20
MAX_PARAMETERS = 1_000_000  # of a model that is written: with 16 characters each, a file that can be read again

Named = tuple[str, tuple[int, ...]]  # a parameter of gollm, and the shape of (a part of) it

REQUIRED = ("d_model", "n_layers", "n_heads", "vocab", "max_seq_len", "eps", "token_embedding", "blocks", "final_norm")
_MAX_REPR = (
    60  # characters of a size or an option: what is longer is no such thing, and would fill the error's sentence
)

_WHOLE = ("token_embedding", "position_embedding", "final_norm", "final_norm_bias", "head")
_QKV = ("query", "key", "value")
_BLOCK = {  # part of a block -> its keys, whose rows follow each other in it
    "attention_norm": ("attention_norm",),
    "attention.qkv": _QKV,
    "attention.output": ("output",),
    "mlp_norm": ("mlp_norm",),
    "mlp.gate": ("gate",),
    "mlp.up": ("up",),
    "mlp.down": ("down",),
}
_DERIVED = ("vocab_size", "context", "norm_eps", "d_ff", "bias", "qkv_bias", "output_bias", "mlp_bias", "tied_head")


# --- reading ---------------------------------------------------------------------------------------------------------


def _recognises(path: Path) -> bool:
    """Whether it begins as a JSON object and has the key d_model."""
    if not first_bytes(path, 64).removeprefix(BOM_UTF8).lstrip().startswith(b"{"):
        return False
    try:
        with open_regular(path) as file:
            text = file.read(MAX_MODEL_BYTES) or b""
    except OSError:
        return False
    return b'"d_model"' in text


def _read(path: Path) -> Source:
    with reading(path), open_regular(path) as file:
        text = (file.read(MAX_MODEL_BYTES + 1) or b"").removeprefix(BOM_UTF8)
    with refusing(path, "JSON model"):
        if len(text) > MAX_MODEL_BYTES:
            raise FormatError(
                f"it has more than {MAX_MODEL_BYTES >> 20} MiB, the most that gollm reads as JSON; use a binary format"
            )
        document = parse_object(text, "it", FormatError, unchecked_numbers=True)
        del text
        config, arrays = _parse(document)
        vocab = document["vocab"]
        tokenizer, why = tokenizer_of(vocab) if isinstance(vocab, list) else (None, "")

    def read(name: str, out: Array) -> None:
        at = 0
        for array in arrays[name]:
            rows = len(array)
            out[at : at + rows] = array
            at += rows

    return Source(config, read, tokenizer, dtype="numbers in text", without_tokenizer=why)


def _parse(document: Mapping[str, Any]) -> tuple[ModelConfig, dict[str, list[Array]]]:
    """The configuration, and each parameter as the arrays that are its rows one after the other."""
    for key in REQUIRED:
        if key not in document:
            raise FormatError(f'the key "{key}" is missing')
    blocks = document["blocks"]
    if not isinstance(blocks, list) or not blocks or not all(isinstance(block, dict) for block in blocks):
        raise FormatError("blocks must be a list with an object for each layer")
    known = {key for keys in _BLOCK.values() for key in keys}
    for i, block in enumerate(blocks):
        for key in block:
            if key.removesuffix("_bias") not in known:
                raise FormatError(
                    f"blocks[{i}] has the unknown key {shorten(key)}; known are {', '.join(sorted(known))}"
                )
    matrices = {key: _array(document[key], key) for key in _WHOLE if key in document}
    layers = [
        {key: _array(value, f"blocks[{i}].{key}") for key, value in block.items()} for i, block in enumerate(blocks)
    ]
    config = _config(document, matrices, layers[0])
    if len(layers) != config.n_layers:
        raise FormatError(f"n_layers is {config.n_layers}, but blocks has {len(layers)}")
    shapes = dict(_shapes(config))
    found = {
        **matrices,
        **{f"blocks[{i}].{key}": array for i, layer in enumerate(layers) for key, array in layer.items()},
    }
    _check_names(found, shapes)
    arrays: dict[str, list[Array]] = {}
    swapped = _inputs_first(found, shapes)
    for place, (name, shape) in shapes.items():
        array = found[place]
        if swapped and _is_linear(place):
            array = array.T
        if array.shape != shape:
            raise FormatError(f"{place} has the shape {array.shape}; it must be {shape}")
        arrays.setdefault(name, []).append(array)
    return config, arrays


def _array(value: Any, place: str) -> Array:
    """A list of numbers, or of lists of numbers of the same length, as float32."""
    rows = value if isinstance(value, list) and value and isinstance(value[0], list) else [value]
    for row in rows:
        if not isinstance(row, list) or not row or not {*map(type, row)} <= {int, float}:
            raise FormatError(f"{place} must be a list of numbers, or a list of such lists, none of them empty")
        if len(row) != len(rows[0]):
            raise FormatError(f"{place} has rows of {len(rows[0])} and of {len(row)} numbers")
    try:
        with np.errstate(over="ignore"):
            array = np.array(rows, np.float64).astype(np.float32)
    except OverflowError:
        array = np.full(1, np.inf, np.float32)
    if not np.isfinite(array).all():
        raise FormatError(f"{place} has a number beyond those of float32")
    return array if rows is value else array[0]


def _config(document: Mapping[str, Any], matrices: Mapping[str, Array], block: Mapping[str, Array]) -> ModelConfig:
    vocab, C = document["vocab"], document["d_model"]
    for key in ("up", "attention_norm"):
        if key not in block:
            raise FormatError(f'the key "{key}" is missing in blocks[0]')
    up = block["up"].shape
    if len(up) != 2 or C not in up:
        raise FormatError(f"blocks[0].up has the shape {up}; it must have {shorten(C)} (d_model) columns")
    bias = "attention_norm_bias" in block
    values: dict[str, Any] = {
        "vocab_size": len(vocab) if isinstance(vocab, list) else vocab,
        "context": document["max_seq_len"],
        "norm_eps": document["eps"],
        "d_ff": up[0] if up[1] == C else up[1],
        "gated_mlp": "gate" in block,
        "bias": bias,
        "tied_head": "head" not in matrices,
    }
    for layers, key in (("qkv", "query"), ("output", "output"), ("mlp", "up")):
        if (f"{key}_bias" in block) != bias:
            values[f"{layers}_bias"] = not bias
    for key, value in document.items():
        if key in _WHOLE or key in ("vocab", "max_seq_len", "eps", "blocks"):
            continue
        if key in values or key in _DERIVED or key == "preset":
            raise FormatError(f'the key "{key}" is not allowed: what it says follows from the others')
        if key not in ModelConfig.__dataclass_fields__:
            raise FormatError(
                f"the key {shorten(key)} is unknown; it is neither a matrix nor a field of gollm.ModelConfig"
            )
        values[key] = value
    for name, value in values.items():
        if name != "window_layers" and len(repr(value)) > _MAX_REPR:
            raise FormatError(f"{name} is {shorten(value)}; it must be a number or a word")
    return ModelConfig.from_dict(values, where="its sizes")


def _shapes(config: ModelConfig) -> Iterator[tuple[str, Named]]:
    """(where it stands, (its parameter, its shape)) of everything that a file has, in the order of the file."""
    C, F, V, D = config.d_model, config.d_ff, config.vocab_size, config.head_dim
    Q, KV = config.n_heads * D, config.n_kv_heads * D
    yield "token_embedding", ("token_embedding", (V, C))
    if config.position == "learned":
        yield "position_embedding", ("position_embedding", (config.context, C))
    linear = {
        "query": ((Q, C), config.has_bias("qkv")),
        "key": ((KV, C), config.has_bias("qkv")),
        "value": ((KV, C), config.has_bias("qkv")),
        "output": ((C, Q), config.has_bias("output")),
        "gate": ((F, C), config.has_bias("mlp")),
        "up": ((F, C), config.has_bias("mlp")),
        "down": ((C, F), config.has_bias("mlp")),
    }
    for i in range(config.n_layers):
        for part, keys in _BLOCK.items():
            if part == "mlp.gate" and not config.gated_mlp:
                continue
            norm = ((C,), config.norm_bias)
            for key in keys:
                yield f"blocks[{i}].{key}", (f"blocks.{i}.{part}.weight", linear.get(key, norm)[0])
            for key in keys:
                shape, bias = linear.get(key, norm)
                if bias:
                    yield f"blocks[{i}].{key}_bias", (f"blocks.{i}.{part}.bias", shape[:1])
    yield "final_norm", ("norm.weight", (C,))
    if config.norm_bias:
        yield "final_norm_bias", ("norm.bias", (C,))
    if not config.tied_head:
        yield "head", ("head", (V, C))


def _check_names(found: Mapping[str, Array], shapes: Mapping[str, object]) -> None:
    for place in shapes:
        if place not in found:
            raise FormatError(f"{place} is missing")
    for place in found:
        if place not in shapes:
            raise FormatError(f"{shorten(place)} does not belong to a model of these sizes, or is not in all layers")


def _is_linear(place: str) -> bool:
    return place == "head" or place.rpartition(".")[2] in (*_QKV, "output", "gate", "up", "down")


def _inputs_first(found: Mapping[str, Array], shapes: Mapping[str, Named]) -> bool:
    """Whether matrices are (inputs, outputs). Raises FormatError where some are and others are not."""
    told: dict[bool, str] = {}
    for place, (_, shape) in shapes.items():
        if _is_linear(place) and shape != shape[::-1]:
            if found[place].shape not in (shape, shape[::-1]):
                raise FormatError(f"{place} has the shape {found[place].shape}; it must be {shape}")
            told.setdefault(found[place].shape != shape, place)
    if len(told) == 2:
        raise FormatError(f"{told[False]} is (outputs, inputs) and {told[True]} is (inputs, outputs); use the first")
    return True in told


# --- writing ---------------------------------------------------------------------------------------------------------


def _write(source: Source, path: Path, dtype: StorageType) -> None:
    config = source.config
    places = dict(_shapes(config))
    n = sum(math.prod(shape) for _, shape in places.values())
    if n > MAX_PARAMETERS:
        raise FormatError(
            f"this model has {n:,} parameters; JSON is for small ones, up to {MAX_PARAMETERS:,}: use a binary format"
        )
    vocab: int | list[str] = config.vocab_size
    if source.tokenizer is not None:
        try:
            vocab = words_of(source.tokenizer)
        except TokenizerError as error:
            source.without_tokenizer = str(error)
    with replacing(path, FormatError) as file:
        sizes = {
            "d_model": config.d_model,
            "n_layers": config.n_layers,
            "n_heads": config.n_heads,
            "vocab": vocab,
            "max_seq_len": config.context,
            "eps": config.norm_eps,
            **_unusual(config),
        }
        for i, (key, value) in enumerate(sizes.items()):
            file.write(f"{',' if i else '{'}\n{json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}".encode())
        last = ""
        for place, values in _matrices(source, places):
            inside, _, key = place.rpartition(".")
            file.write(_between(last, inside) + f'"{key}": '.encode())
            _write_array(file, values)
            last = inside
        file.write(b"\n}\n")


def _unusual(config: ModelConfig) -> dict[str, Any]:
    """What a file must say because it is not GPT-2's way and follows from no matrix."""
    usual = ModelConfig(n_layers=1, n_heads=config.n_heads, d_model=config.n_heads).to_dict()
    usual.update(n_kv_heads=config.n_heads, head_dim=config.d_model / config.n_heads)
    said = {"n_layers", "n_heads", "d_model", "gated_mlp", *_DERIVED}
    return {key: value for key, value in config.to_dict().items() if key not in said and value != usual[key]}


def _between(last: str, inside: str) -> bytes:
    """What stands between two matrices, each at the top ("") or inside a block."""
    if last == inside:
        return b",\n"
    return b',\n"blocks": [{\n' if not last else b"\n}, {\n" if inside else b"\n}],\n"


def _matrices(source: Source, places: Mapping[str, Named]) -> Iterator[tuple[str, Array]]:
    """Everything in the order of `places`, each parameter read once."""
    for name, group in itertools.groupby(places.items(), key=lambda item: item[1][0]):
        parts = [(place, shape) for place, (_, shape) in group]
        parameter = source.array(name, (sum(shape[0] for _, shape in parts), *parts[0][1][1:]))
        if not np.isfinite(parameter).all():
            raise FormatError(f"the weights {name} are not finite, which JSON cannot hold")
        at = 0
        for place, (rows, *_) in parts:
            yield place, parameter[at : at + rows]
            at += rows


def _write_array(file: BinaryIO, values: Array) -> None:
    """[1.5, 2.0], or a list of such rows: each number in the fewest digits that give the same float32 again."""
    rows = values.reshape(-1, values.shape[-1])
    for i, row in enumerate(rows):
        text = "[" + ", ".join(row.astype(str)) + "]"
        before = b"" if values.ndim == 1 else b"[" if i == 0 else b",\n "
        file.write(before + text.encode())
    if values.ndim > 1:
        file.write(b"]")


FORMAT = ModelFormat("json", _recognises, _read, _write, ("f32",))

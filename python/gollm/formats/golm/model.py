"""gollm's own `*.golm` files (gollm.formats.golm.checkpoint) as one of the formats.

Weights are written as they lie in memory (gollm.nn.parameters), so that a file is a model's memory already: its weights
are mapped, privately, and come in when they are first used. What is written to them stays in the process. Files that
have them in another order, or as bfloat16, are copied. Quantised ones lie as kernels read them
(gollm.quantisation.panels): they are read where they are, and shared with other processes.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from gollm import tokenizers
from gollm.errors import CheckpointError, ConfigError, GenerationError, TokenizerError
from gollm.formats.golm.checkpoint import CheckpointFile, Deferred, open_checkpoint, write_checkpoint
from gollm.formats.golm.header import MAGIC, PACKED
from gollm.formats.opening import first_bytes
from gollm.formats.source import ModelFormat, Packed, Source, StorageType
from gollm.kernels import Array, cpu
from gollm.model.config import ModelConfig
from gollm.model.decoder import Decoder
from gollm.model.generation_defaults import GenerationDefaults
from gollm.nn import dtypes
from gollm.nn.parameters import ALIGNED_ELEMENTS, Parameter, ParameterArena
from gollm.nn.storage import PANELS, ROW_MAJOR, Storage
from gollm.nn.tensor import FLOAT32
from gollm.quantisation import dequantise
from gollm.tokenizers import Tokenizer


def checkpoint_of(path: Path) -> Path | None:
    """The checkpoint itself, or in a run folder the best one, else the newest; None where there is none."""
    if not os.path.isdir(path):
        return path
    newest_first = sorted(path.glob("step-*.golm"), key=lambda p: (len(p.name), p.name), reverse=True)
    return next((found for found in (path / "best.golm", *newest_first) if os.path.isfile(found)), None)


def _recognises(path: Path) -> bool:
    found = checkpoint_of(path)
    return found is not None and first_bytes(found, len(MAGIC)) == MAGIC


def _tokenizer(file: CheckpointFile) -> Tokenizer | None:
    state = file.tokenizer_state()
    return None if state is None else tokenizers.from_state(*state)


def _read_tokenizer(path: Path) -> tuple[Tokenizer | None, str]:
    """The tokenizer, or why there is none; the weights are not looked at."""
    with open_checkpoint(checkpoint_of(path) or path) as file:
        try:
            return _tokenizer(file), ""
        except TokenizerError as error:
            return None, str(error)


def _read(path: Path) -> Source:
    path = checkpoint_of(path) or path
    file = open_checkpoint(path)
    try:
        config = ModelConfig.from_dict(file.config)
        parameters = _parameters(file, config)
        tokenizer = _tokenizer(file)
        defaults = GenerationDefaults.from_dict(file.generation or {})
    except (CheckpointError, ConfigError, GenerationError, TokenizerError) as error:
        file.close()
        raise CheckpointError(f"{path}: {error}") from None
    return Source(
        config,
        lambda name, out: _copy(file, name, out),
        tokenizer,
        defaults,
        close=file.close,
        weights=lambda: _mapped(file, parameters),
        packed=lambda name: _packed(file, name, parameters[name].shape),
        half=lambda name: dtypes.bfloat16 if _is_bf16(file, name) else None,
    )


def _parameters(file: CheckpointFile, config: ModelConfig) -> ParameterArena:
    """The parameters of a configuration, once the file is known to have them all. Needs no memory for them."""
    if config.n_layers > len(file.tensors):
        raise CheckpointError(f"it has {len(file.tensors)} tensors, too few for {config.n_layers} layers")
    parameters = Decoder(config).parameters
    for name, parameter in parameters.items():
        entry = file.header.entries.get(name)
        if entry is None or entry.group != "weights":
            raise CheckpointError(f"the tensor '{name}' is missing")
        if entry.shape != parameter.shape or (entry.packed is None and entry.dtype not in ("f32", "bf16")):
            raise CheckpointError(
                f"'{name}' is {entry.dtype} of shape {entry.shape}; "
                f"this configuration needs f32, bf16 or a quantised dtype of shape {parameter.shape}"
            )
    return parameters


def _packed(file: CheckpointFile, name: str, shape: tuple[int, ...]) -> Packed | None:
    packed = file.header.entries[name].packed
    if packed is None:
        return None
    dtype, group = packed
    return Packed(dtype, group, lambda: Storage(file.tensors[name], dtype, PANELS, shape=shape))


def _is_bf16(file: CheckpointFile, name: str) -> bool:
    return file.dtype(name) == "bf16"


def _copy(file: CheckpointFile, name: str, out: Array) -> None:
    packed = _packed(file, name, out.shape)
    if packed is not None:
        out[...] = dequantise(packed.storage())
    elif _is_bf16(file, name):
        file.copy(file.tensors[name], out, lambda out, bits: cpu.from_bf16(y=out, x=bits))
    else:
        file.copy(file.tensors[name], out)


def _mapped(file: CheckpointFile, parameters: ParameterArena) -> Array | None:
    """All weights as one arena has them, from the file, or None where they lie there in another way."""
    offsets, size = parameters.offsets, parameters.size
    entries = file.header.entries
    start = entries[next(iter(offsets))].offset
    for name, offset in offsets.items():
        entry = entries[name]
        if (entry.dtype, entry.layout, entry.offset) != ("f32", ROW_MAJOR, start + offset * FLOAT32.itemsize):
            return None
    weights = file.private(start, size)
    ends = [offsets[name] + parameter.size for name, parameter in parameters.items()]
    for end in ends:  # the bytes between two tensors may be anything in a file from outside, and count in an arena
        gap = weights[end : -(-end // ALIGNED_ELEMENTS) * ALIGNED_ELEMENTS]
        if gap.any():
            gap[:] = 0
    return weights


def copy_weights(file: CheckpointFile, decoder: Decoder) -> None:
    """Puts the weights of an open checkpoint into the trained parameters of a decoder. Raises CheckpointError unless
    they are of its shape."""
    trained = {name: parameter for name, parameter in decoder.parameters.items() if parameter.requires_grad}
    for name, parameter in trained.items():
        entry = file.header.entries.get(name)
        if entry is None or entry.group != "weights" or (entry.dtype, entry.shape) != ("f32", parameter.shape):
            found = "missing" if entry is None else f"{entry.dtype} of shape {entry.shape}"
            raise CheckpointError(f"{file.path}: '{name}' is {found}; f32 of shape {parameter.shape} is needed")
    for name in trained:
        with decoder.parameters.filling(name) as values:
            _copy(file, name, values)


def _write(source: Source, path: Path, dtype: StorageType) -> None:
    parameters = Decoder(source.config).parameters

    def deferred(parameter: Parameter) -> Deferred:
        name, shape, packed = parameter.name, parameter.shape, source.packed(parameter.name)
        if packed is not None:
            stored, layout = next(names for names, kind in PACKED.items() if kind == (packed.dtype, packed.group))
            return Deferred(shape, stored, lambda: packed.storage().array, layout)
        if dtype == "f32" or not parameter.decays:
            return Deferred(shape, "f32", lambda: source.array(name, shape))
        return Deferred(shape, "bf16", lambda: _bf16(source.array(name, shape)))

    write_checkpoint(
        path,
        config=source.config.to_dict(),
        generation=source.defaults.to_dict(),
        tensors={name: deferred(parameter) for name, parameter in parameters.items()},
        order=parameters.order,
        tokenizer_state=None if source.tokenizer is None else source.tokenizer.to_state(),
    )


def _bf16(values: Array) -> Array:
    bits = np.empty(values.shape, np.uint16)
    cpu.to_bf16(y=bits.reshape(-1), x=values.reshape(-1))
    return bits


FORMAT = ModelFormat("golm", _recognises, _read, _write, ("f32", "bf16"), _read_tokenizer)

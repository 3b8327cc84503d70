"""What every format has in common: a model in a file or folder, whose weights are read one at a time."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Literal

import numpy as np

from gollm.kernels import Array
from gollm.model.config import ModelConfig
from gollm.model.decoder import Decoder
from gollm.model.generation_defaults import GenerationDefaults
from gollm.nn import dtypes
from gollm.nn.dtypes import DType
from gollm.nn.parameters import Parameter
from gollm.nn.storage import Storage
from gollm.nn.tensor import FLOAT32, empty
from gollm.quantisation import checked_group, quantise
from gollm.tokenizers import Tokenizer

StorageType = Literal["f32", "f16", "bf16", "q8_0", "q4_0"]


@dataclass(frozen=True)
class Packed:
    """A quantised parameter of a source, which is made when it is asked for."""

    dtype: DType
    group: int
    storage: Callable[[], Storage]


@dataclass
class Source(AbstractContextManager["Source"]):
    """A model wherever it is stored: its configuration, and its weights as they are asked for.

    read(name, out) fills `out`, a contiguous float32 array of the shape of the parameter `name`, with the parameter as
    gollm has it: rows of queries and keys with each head's pairs side by side (gollm.formats.rotary_order). It needs
    little memory beside `out`. packed(name) is a parameter that is quantised, as kernels take it and without another
    rounding; else None. read() gives its numbers then. half(name) is bfloat16 or float16 for a parameter that is stored
    as such, row by row, and that read() widens; else None. weights() is the buffer of a whole ParameterArena where a
    file has it as such, mapped so that nothing is read before it is used, and nothing that is written reaches the file;
    else None. Use a source in a `with` block, which lets go of its file at the end.
    """

    config: ModelConfig
    read: Callable[[str, Array], None]
    tokenizer: Tokenizer | None = None
    defaults: GenerationDefaults = field(default_factory=GenerationDefaults)
    close: Callable[[], None] = lambda: None
    dtype: str = ""  # what its weights are stored as, in the format's words
    without_tokenizer: str = ""  # why there is none, where the file has one that gollm cannot use, or is to have one
    weights: Callable[[], Array | None] = lambda: None
    packed: Callable[[str], Packed | None] = lambda name: None
    half: Callable[[str], DType | None] = lambda name: None

    def array(self, name: str, shape: tuple[int, ...]) -> Array:
        """A parameter in memory of its own."""
        out = empty(shape, FLOAT32)
        self.read(name, out)
        return out

    def as_dtype(self, dtype: StorageType) -> Source:
        """The same model, in which only weights that are of this dtype already are packed."""
        same = {"q8_0": (dtypes.int8, 32), "q4_0": (dtypes.int4, 32)}.get(dtype)

        def packed(name: str) -> Packed | None:
            found = self.packed(name)
            return found if found is not None and (found.dtype, found.group) == same else None

        return replace(self, packed=packed)

    def as_stored(self) -> Source:
        """The same model, in which matrices that are stored in 16 bits are packed, too: the same numbers in half the
        memory."""
        parameters = Decoder(self.config).parameters

        def packed(name: str) -> Packed | None:
            found, dtype = self.packed(name), self.half(name)
            if found is not None or dtype is None or not _is_matrix(parameters[name]):
                return found
            return Packed(dtype, 1, lambda: narrow(name, dtype))

        def narrow(name: str, dtype: DType) -> Storage:
            wide = np.empty(parameters[name].shape, FLOAT32)  # not of the pool, which would keep it
            self.read(name, wide)
            return quantise(wide, dtype)

        return replace(self, packed=packed)

    def quantised(self, dtype: DType, group: int | None = None, keep: Collection[str] = ()) -> Source:
        """The same model with its matrices rounded to a quantised dtype, in groups of the usual size unless another is
        given; but for those named in `keep` and learned positions. Those that are of this dtype already are not rounded
        again. Raises ConfigError for a group that the dtype does not have."""
        group = checked_group(dtype, group)
        parameters = Decoder(self.config).parameters

        def packed(name: str) -> Packed | None:
            parameter = parameters[name]
            if not _is_matrix(parameter) or name in keep:
                return None
            found = self.packed(name)
            if found is not None and (found.dtype, found.group) == (dtype, group):
                return found
            return Packed(dtype, group, lambda: quantise(self.array(name, parameter.shape), dtype, group))

        return replace(self, packed=packed)

    def parameters(self, config: ModelConfig) -> Iterator[tuple[Parameter, Array]]:
        """Every parameter of `config` and its values, one in memory at a time. The configuration is this model's, or
        one with more biases, which are zeros."""
        for parameter in Decoder(config).parameters.values():
            yield parameter, self.values(parameter)

    @cached_property
    def _names(self) -> frozenset[str]:
        """Of the parameters that this model has."""
        return frozenset(Decoder(self.config).parameters)

    def values(self, parameter: Parameter) -> Array:
        """Of a parameter of this model, or of one that has more biases, which are zeros."""
        if parameter.name in self._names:
            return self.array(parameter.name, parameter.shape)
        return np.zeros(parameter.shape, FLOAT32)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def _is_matrix(parameter: Parameter) -> bool:
    """Whether it can be packed: all that weight decay is for, but for learned positions."""
    return parameter.decays and parameter.name != "position_embedding"


@dataclass(frozen=True)
class ModelFormat:
    """A way to store models: one module of this package.

    recognises looks at a file's or folder's content, cheaply and without trusting it; read opens it; write stores a
    model, with the matrices in one of `dtypes` (the first unless another is asked for), but quantised ones as they are
    where the format has such. read_tokenizer returns the tokenizer, or None and why there is none, of files that may
    have no weights. All raise FormatError.
    """

    name: str
    recognises: Callable[[Path], bool]
    read: Callable[[Path], Source]
    write: Callable[[Source, Path, StorageType], None]
    dtypes: tuple[StorageType, ...]
    read_tokenizer: Callable[[Path], tuple[Tokenizer | None, str]] | None = None

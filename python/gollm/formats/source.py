"""What every format has in common: a model in a file or folder, whose weights are read one at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Literal

import numpy as np

from gollm.kernels import Array
from gollm.model.config import ModelConfig
from gollm.model.decoder import Decoder
from gollm.model.generation_defaults import GenerationDefaults
from gollm.nn.parameters import Parameter
from gollm.nn.tensor import FLOAT32, empty
from gollm.tokenizers import Tokenizer

StorageType = Literal["f32", "f16", "bf16", "q8_0", "q4_0"]


@dataclass
class Source(AbstractContextManager["Source"]):
    """A model wherever it is stored: its configuration, and its weights as they are asked for.

    read(name, out) fills `out`, a contiguous float32 array of the shape of the parameter `name`, with
    the parameter as gollm has it: rows of queries and keys with each head's pairs side by side
    (gollm.formats.rotary_order). It needs little memory beside `out`. weights() is the buffer of a whole ParameterArena
    where a file has it as such, mapped so that nothing is read before it is used, and nothing that is written reaches
    the file; else None. Use a source in a `with` block, which lets go of its file at the end.
    """

    config: ModelConfig
    read: Callable[[str, Array], None]
    tokenizer: Tokenizer | None = None
    defaults: GenerationDefaults = field(default_factory=GenerationDefaults)
    close: Callable[[], None] = lambda: None
    dtype: str = ""  # what its weights are stored as, in the format's words
    without_tokenizer: str = ""  # why there is none, where the file has one that gollm cannot use, or is to have one
    weights: Callable[[], Array | None] = lambda: None

    def array(self, name: str, shape: tuple[int, ...]) -> Array:
        """A parameter in memory of its own."""
        out = empty(shape, FLOAT32)
        self.read(name, out)
        return out

    def parameters(self, config: ModelConfig) -> Iterator[tuple[Parameter, Array]]:
        """Every parameter of `config` and its values, one in memory at a time. The configuration is this model's, or
        one with more biases, which are zeros."""
        known = Decoder(self.config).parameters
        for name, parameter in Decoder(config).parameters.items():
            yield parameter, self.array(name, parameter.shape) if name in known else np.zeros(parameter.shape, FLOAT32)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


@dataclass(frozen=True)
class ModelFormat:
    """A way to store models: one module of this package.

    recognises looks at a file's or folder's content, cheaply and without trusting it; read opens it; write stores a
    model, with the matrices in one of `dtypes` (the first unless another is asked for). read_tokenizer returns the
    tokenizer, or None and why there is none, of files that may have no weights. All raise FormatError.
    """

    name: str
    recognises: Callable[[Path], bool]
    read: Callable[[Path], Source]
    write: Callable[[Source, Path, StorageType], None]
    dtypes: tuple[StorageType, ...]
    read_tokenizer: Callable[[Path], tuple[Tokenizer | None, str]] | None = None

"""Reads a kernel's contract, the text of its entry in kernels.def, for the tests."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

INPUTS = {"IN", "OPT_IN", "INOUT"}
OUTPUTS = {"OUT", "OPT_OUT", "INOUT", "INTO"}
OPTIONAL = {"OPT_IN", "OPT_OUT", "INTO"}


class bfloat16:
    """The `real` of a table of GOLLM_BFLOAT16, where NumPy has no type. Values are float32 that bfloat16 holds."""


@dataclass(frozen=True)
class Field:
    """One entry: kind(type, name, shape). Scalars have no shape."""

    kind: str
    type: str
    name: str
    axes: tuple[str, ...] = ()

    def dtype(self, real: type) -> np.dtype:
        """Of its buffer; `real` is float, double, or bfloat16 as its bits."""
        types = {"real": np.uint16 if real is bfloat16 else real, "wide": np.float32 if real is bfloat16 else real}
        types |= {"f64": np.float64, "i64": np.int64, "i32": np.int32, "bf16": np.uint16}
        types |= {"f16": np.uint16, "u8": np.uint8}
        return np.dtype(types[self.type])

    @property
    def dims(self) -> set[str]:
        """The sizes that the shape is made of."""
        return set(re.findall(r"[A-Za-z_]\w*", " ".join(self.axes)))

    def shape(self, sizes: Mapping[str, int]) -> tuple[int, ...]:
        return tuple(eval(axis.replace("/", "//"), {}, dict(sizes)) for axis in self.axes)


@dataclass(frozen=True)
class Contract:
    """Arrays and scalars in the order of the argument struct, sizes, and the pairs that may be one buffer."""

    arrays: tuple[Field, ...]
    scalars: tuple[Field, ...]
    dims: tuple[str, ...]
    aliases: tuple[tuple[str, str], ...]

    @classmethod
    def parse(cls, text: str) -> Contract:
        found = re.findall(r"GOLLM_(\w+)\(((?:[^()]|\([^()]*\))*)\)", text)
        entries = [(kind, re.split(r"\s*,\s*", inside.strip())) for kind, inside in found]
        return cls(
            arrays=tuple(Field(k, p[0], p[1], tuple(p[2:])) for k, p in entries if k in INPUTS | OUTPUTS),
            scalars=tuple(Field(k, *p) for k, p in entries if k == "SCALAR"),
            dims=tuple(p[0] for k, p in entries if k == "DIM"),
            aliases=tuple((p[0], p[1]) for k, p in entries if k == "ALIAS"),
        )

    def of_kind(self, *kinds: str) -> list[Field]:
        return [field for field in self.arrays if field.kind in kinds]

    @property
    def inputs(self) -> list[Field]:
        return self.of_kind(*INPUTS)

    @property
    def outputs(self) -> list[Field]:
        return self.of_kind(*OUTPUTS)

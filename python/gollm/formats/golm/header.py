"""The header of a `*.golm` file: what it holds, and every check that makes it safe to believe.

    bytes 0..3    magic "GoLM"
    bytes 4..7    version, u32, little-endian like everything here
    bytes 8..15   N, the header's length, u64; 16 + N is a multiple of 64
    16..16+N      JSON, padded with spaces:
                  {"config": {...}, "generation": {...}, "tokenizer": {...}, "training": {...},    but for the first,
                   "tensors": {NAME: {"dtype", "shape", "layout", "offset", "group"}}}             they may be absent
                  a packed weight has the dtype bf16 or f16 and the layout "panels", or int8, int4 or int4_min and
                  "panels/32", the number being that of neighbours with one scale
    16+N..        the tensors, in the table's order. Offsets count from here; each tensor begins at the first multiple
                  of 64 behind the one before, and the file ends at the first multiple of 64 behind the last.

So a list of shapes has exactly one valid file: holes, overlaps, tensors that share bytes, and trailing bytes are all
refused by comparing each offset with the only one possible. JSON keys are sorted, and so are the tensors, by group and
name, unless the writer names another order for the weights: equal states give equal bytes.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from gollm.errors import CheckpointError
from gollm.nn.dtypes import DType, bfloat16, float16
from gollm.quantisation import GROUPS, packed_shape
from gollm.system.strict_json import MAX_DEPTH, check_nesting, parse_object, shorten

MAGIC: Final = b"GoLM"
VERSION: Final = 1
PREFIX: Final = struct.Struct("<4sIQ")
ALIGNMENT: Final = 64

# A 48-layer GPT-2 needs 0.1 MB of header. The bounds keep the worst hostile header at about 0.2 GB of Python objects
# and well below two seconds.
MAX_HEADER_BYTES: Final = 8 << 20
MAX_NAME: Final = 512
MAX_RANK: Final = 8
MAX_ELEMENTS: Final = 1 << 48

# bf16 has no NumPy dtype of its own: its bits travel as uint16.
DTYPES: Final[dict[str, np.dtype[Any]]] = {
    "f64": np.dtype("<f8"), "f32": np.dtype("<f4"), "f16": np.dtype("<f2"), "bf16": np.dtype("<u2"),
    "i64": np.dtype("<i8"), "i32": np.dtype("<i4"), "i16": np.dtype("<i2"), "i8": np.dtype("i1"),
    "u64": np.dtype("<u8"), "u32": np.dtype("<u4"), "u16": np.dtype("<u2"), "u8": np.dtype("u1"),
}  # fmt: skip
# Packed weights lie as gollm.quantisation.panels says; the number is that of neighbours that share a scale.
PACKED: Final = {
    (dtype.name, f"panels/{group}"): (dtype, group) for dtype, groups in GROUPS.items() for group in groups
} | {("bf16", "panels"): (bfloat16, 1), ("f16", "panels"): (float16, 1)}
LAYOUTS: Final = tuple(dict.fromkeys(["row-major", *(layout for _, layout in PACKED)]))
TENSOR_GROUPS: Final = ("weights", "tokenizer", "training")
FIELDS: Final = ("dtype", "group", "layout", "offset", "shape")
_WHAT: Final = "its header"


@dataclass(frozen=True)
class TensorEntry:
    """One line of the tensor table. `offset` counts from the end of the header, in bytes; `dtype` is one of DTYPES in
    the layout "row-major", or both are a pair of PACKED."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    layout: str
    offset: int
    group: str

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def packed(self) -> tuple[DType, int] | None:
        """The dtype and the size of groups of a quantised weight."""
        return PACKED.get((self.dtype, self.layout))

    @property
    def stored(self) -> tuple[np.dtype[Any], tuple[int, ...]]:
        """Dtype and shape of the array that the file holds."""
        if self.packed is None:
            return DTYPES[self.dtype], self.shape
        dtype, group = self.packed
        return dtype.array, packed_shape(dtype, self.shape, group)

    @property
    def n_bytes(self) -> int:
        """Bytes of data, without the padding behind it."""
        dtype, shape = self.stored
        return math.prod(shape) * dtype.itemsize


@dataclass(frozen=True)
class CheckpointHeader:
    """A header that passed every check. `data_start` and `file_size` are in bytes from the start of the file."""

    config: dict[str, Any]
    generation: dict[str, Any] | None
    tokenizer: dict[str, Any] | None
    training: dict[str, Any] | None
    entries: dict[str, TensorEntry]
    data_start: int
    file_size: int


def aligned(n: int) -> int:
    """The first multiple of 64 that is at least n."""
    return -(-n // ALIGNMENT) * ALIGNMENT


def stored_name(group: str, name: str) -> str:
    """The name in the file, unique over all groups: outside the weights it carries the group, `training/moment1`."""
    return name if group == "weights" else f"{group}/{name}"


# --- writing ---------------------------------------------------------------------------------------------------------


def plain_json(value: object, where: str, depth: int = 2) -> Any:
    """A copy of `value` made of dicts, lists, strings, numbers, booleans and None, so that reading gives the same back.

    Anything else (a NumPy scalar, a key that is no string, NaN) is refused by its place: `training.sampler.position`.
    """
    if depth > MAX_DEPTH and isinstance(value, (Mapping, list, tuple)):
        raise CheckpointError(f"{where} is nested deeper than {MAX_DEPTH} levels; a checkpoint cannot hold it")
    if value is None or type(value) in (bool, str):
        return value
    if type(value) is int:
        if not -(2**63) <= value < 2**64:
            raise CheckpointError(f"{where} is {shorten(value)}; a checkpoint holds integers of 64 bits")
        return value
    if type(value) is float:
        if not math.isfinite(value):
            raise CheckpointError(f"{where} is {value}; a checkpoint holds finite numbers only")
        return value
    if isinstance(value, Mapping):
        for key in value:
            if type(key) is not str:
                raise CheckpointError(
                    f"{where} has the key {shorten(key)} of type {type(key).__name__}; keys must be strings"
                )
        return {key: plain_json(item, f"{where}.{key}", depth + 1) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain_json(item, f"{where}[{i}]", depth + 1) for i, item in enumerate(value)]
    raise CheckpointError(
        f"{where} is a {type(value).__name__}; a checkpoint holds dicts, lists, strings, numbers, booleans and None"
    )


def encode_header(parts: Mapping[str, object], entries: list[TensorEntry]) -> bytes:
    """Prefix and padded JSON, the bytes in front of the first tensor."""
    table = {
        e.name: {"dtype": e.dtype, "shape": list(e.shape), "layout": e.layout, "offset": e.offset, "group": e.group}
        for e in entries
    }
    head = {key: plain_json(value, key) for key, value in parts.items()}
    # The table keeps its own order, that of the file; everything else is sorted.
    members = [
        f"{json.dumps(key)}:{json.dumps(head[key], sort_keys=True, separators=(',', ':'))}" for key in sorted(head)
    ]
    members.append(f'"tensors":{json.dumps(table, separators=(",", ":"))}')
    text = ("{" + ",".join(members) + "}").encode()
    length = aligned(PREFIX.size + len(text)) - PREFIX.size
    if length > MAX_HEADER_BYTES:
        raise CheckpointError(
            f"the header would take {length:,} bytes, more than {MAX_HEADER_BYTES:,}; store large values as tensors"
        )
    check_nesting(text, _WHAT, CheckpointError)
    return PREFIX.pack(MAGIC, VERSION, length) + text.ljust(length)


# --- reading ---------------------------------------------------------------------------------------------------------


def header_length(prefix: bytes, file_size: int) -> int:
    """N from the first 16 bytes, checked against the file's size before anything is read or allocated."""
    if not prefix.startswith(MAGIC):
        raise CheckpointError(f"not a gollm checkpoint: it begins with {shorten(prefix[:4])} instead of {MAGIC!r}")
    if len(prefix) < PREFIX.size:
        raise CheckpointError(f"it is cut off inside its first {PREFIX.size} bytes")
    _, version, length = PREFIX.unpack(prefix)
    if version != VERSION:
        raise CheckpointError(f"its format version is {version}; this gollm reads version {VERSION}")
    if length > MAX_HEADER_BYTES:
        raise CheckpointError(f"its header claims {length:,} bytes; at most {MAX_HEADER_BYTES:,} are allowed")
    if PREFIX.size + length > file_size:
        raise CheckpointError(
            f"its header claims {length:,} bytes but the whole file has {file_size:,}: it is cut off or damaged"
        )
    if (PREFIX.size + length) % ALIGNMENT:
        raise CheckpointError(f"its header of {length:,} bytes leaves the tensors unaligned ({ALIGNMENT} bytes)")
    return int(length)


def parse_header(text: bytes, file_size: int) -> CheckpointHeader:
    """Check everything in the header (`text`: N bytes) of a file of `file_size` bytes. Raises CheckpointError."""
    members = parse_object(text, _WHAT, CheckpointError)
    allowed = ("config", "generation", "tokenizer", "training", "tensors")
    for key, value in members.items():
        if key not in allowed:
            raise CheckpointError(f"its header has the unknown part {shorten(key)}; known are {', '.join(allowed)}")
        if not isinstance(value, dict):
            raise CheckpointError(f'the part "{key}" of its header must be an object and is {shorten(value)}')
    for key in ("config", "tensors"):
        if key not in members:
            raise CheckpointError(f'its header lacks the part "{key}"')

    data_start = PREFIX.size + len(text)
    end = 0
    entries: dict[str, TensorEntry] = {}
    for name, fields in members["tensors"].items():
        entry = _entry(name, fields)
        if entry.group != "weights" and entry.group not in members:
            raise CheckpointError(
                f'tensor {shorten(name)} is in the group "{entry.group}", but the header has no such part'
            )
        if entry.offset != end:
            raise CheckpointError(
                f"tensor {shorten(name)} begins at byte {entry.offset:,} of the data; the only valid place is {end:,}"
            )
        end = aligned(end + entry.n_bytes)
        if data_start + end > file_size:
            raise CheckpointError(
                f"tensor {shorten(name)} ends at byte {data_start + end:,} but the file has {file_size:,}: it is cut "
                f"off or damaged"
            )
        entries[name] = entry
    if data_start + end != file_size:
        raise CheckpointError(
            f"its tensors end at byte {data_start + end:,} but the file has {file_size:,}: it is damaged"
        )
    return CheckpointHeader(
        members["config"],
        members.get("generation"),
        members.get("tokenizer"),
        members.get("training"),
        entries,
        data_start,
        file_size,
    )


def _entry(name: str, fields: object) -> TensorEntry:
    what = f"tensor {shorten(name)}"
    if not isinstance(fields, dict) or sorted(fields) != list(FIELDS):
        raise CheckpointError(f"{what} must have the fields {', '.join(FIELDS)} and no others")
    dtype, shape, layout, offset, group = (fields[key] for key in ("dtype", "shape", "layout", "offset", "group"))
    check_choice(what, "layout", layout, LAYOUTS)
    allowed = DTYPES if layout == "row-major" else [name for name, other in PACKED if other == layout]
    check_choice(what, "dtype", dtype, tuple(allowed))
    check_choice(what, "group", group, TENSOR_GROUPS)
    check_name(name, group)
    if (
        not isinstance(shape, list)
        or len(shape) > MAX_RANK
        or not all(type(n) is int and 0 <= n <= MAX_ELEMENTS for n in shape)
    ):
        raise CheckpointError(
            f"{what} has the shape {shorten(shape)}; allowed are up to {MAX_RANK} sizes from 0 to 2^48"
        )
    # A zero size makes the product zero whatever the others are, but NumPy multiplies the others all the same.
    if math.prod(n for n in shape if n) > MAX_ELEMENTS:
        raise CheckpointError(f"{what} has the shape {shorten(shape)}, more than 2^48 elements")
    if layout != "row-major" and len(shape) != 2:
        raise CheckpointError(f"{what} has the shape {shorten(shape)}; in layout {layout} it must have two sizes")
    if type(offset) is not int or offset < 0 or offset % ALIGNMENT:
        raise CheckpointError(f"{what} has the offset {shorten(offset)}; allowed are multiples of {ALIGNMENT}")
    return TensorEntry(name, dtype, tuple(shape), layout, offset, group)


def check_choice(what: str, field: str, value: object, allowed: tuple[str, ...]) -> None:
    """Refuse a value that is not one of `allowed`."""
    if not isinstance(value, str) or value not in allowed:
        raise CheckpointError(f"{what} has the {field} {shorten(value)}; known are {', '.join(allowed)}")


def check_name(name: str, group: str) -> None:
    """A stored name is printable, bounded, and carries its group unless it is a weight."""
    if not 0 < len(name) <= MAX_NAME or not name.isprintable():
        raise CheckpointError(f"the tensor name {shorten(name)} is not allowed: 1 to {MAX_NAME} printable characters")
    prefix = name.split("/", 1)[0] if "/" in name else "weights"
    if prefix != group and (group != "weights" or prefix in TENSOR_GROUPS):
        raise CheckpointError(f'the tensor name {shorten(name)} does not fit its group "{group}"')

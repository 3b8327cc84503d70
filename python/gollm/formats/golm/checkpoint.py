"""Checkpoints: one self-contained `*.golm` file with configuration, weights, tokenizer and, while training, its state.

Opening maps the file into memory and reads the header only, so a file of any size opens at once and tensors cost memory
when they are touched. The format and its checks: gollm.formats.golm.header.
"""

from __future__ import annotations

import contextlib
import math
import mmap
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from gollm.errors import CheckpointError
from gollm.formats.golm.header import (
    ALIGNMENT,
    DTYPES,
    MAX_ELEMENTS,
    MAX_RANK,
    PREFIX,
    TENSOR_GROUPS,
    VERSION,
    CheckpointHeader,
    TensorEntry,
    aligned,
    check_choice,
    check_name,
    encode_header,
    header_length,
    parse_header,
    stored_name,
)
from gollm.kernels import Array
from gollm.system.files import StrPath, open_regular, reason, replacing

_WRITE_BYTES = 32 << 20  # one system call at a time: a signal is answered between two of them
_COPY_ELEMENTS = 1 << 18  # of a tensor that is copied out of the file


@dataclass(frozen=True)
class Deferred:
    """A tensor that is made when its turn has come to be written, so that not all must be in memory: `make` returns an
    array of this shape and stored dtype ("bf16": its bits in uint16), or the bytes of a quantised weight."""

    shape: tuple[int, ...]
    dtype: str
    make: Callable[[], Array]
    layout: str = "row-major"


def write_checkpoint(
    path: StrPath,
    *,
    config: Mapping[str, Any],
    tensors: Mapping[str, Array | Deferred],
    order: Sequence[str] | None = None,
    generation: Mapping[str, Any] | None = None,
    tokenizer_state: tuple[Mapping[str, Any], Mapping[str, Array]] | None = None,
    training: Mapping[str, Any] | None = None,
    training_tensors: Mapping[str, Array] | None = None,
    dtypes: Mapping[str, str] | None = None,
) -> None:
    """Write a checkpoint to `path`, replacing what is there in one step.

    config, training  JSON-like dicts; finite numbers, string keys
    generation        another: how to generate with the model; nothing is stored for None or an empty one
    tensors           the weights: name -> array of any shape up to 8 axes
    order             the names of all weights as they shall lie in the file; sorted unless given
    tokenizer_state   `tokenizer.to_state()`: (header, arrays)
    training_tensors  arrays of the training state, such as the optimiser's moments; needs `training`
    dtypes            stored name -> dtype where NumPy cannot say it: "bf16" for an array of uint16

    The bytes written are a function of the arguments alone, and the order of a mapping does not matter. The file
    reaches the disk under a temporary name first; whatever fails, a file that was at `path` before stays as it was.
    Raises CheckpointError for a state that the format cannot hold and for a disk that is full or cannot be written.
    """
    if training_tensors and training is None:
        raise CheckpointError("training_tensors without training: pass the training state's dict too")
    tokenizer_header, tokenizer_arrays = tokenizer_state if tokenizer_state is not None else (None, {})
    if order is not None and sorted(order) != sorted(tensors):
        raise CheckpointError("the order of the weights must name each of them once")
    groups: dict[str, Mapping[str, Array | Deferred]] = {
        "weights": {name: tensors[name] for name in (sorted(tensors) if order is None else order)},
        "tokenizer": dict(sorted(tokenizer_arrays.items())),
        "training": dict(sorted((training_tensors or {}).items())),
    }
    arrays, entries = _plan(groups, dtypes or {})
    parts = {"config": config, "generation": generation or None, "tokenizer": tokenizer_header, "training": training}
    header = encode_header({key: value for key, value in parts.items() if value is not None}, entries)
    with replacing(path, CheckpointError) as file:
        file.write(header)
        for entry, array in zip(entries, arrays, strict=True):
            _write_tensor(file, array, entry)
            file.write(bytes(aligned(entry.n_bytes) - entry.n_bytes))


def _plan(
    groups: Mapping[str, Mapping[str, Array | Deferred]], dtypes: Mapping[str, str]
) -> tuple[list[Array | Deferred], list[TensorEntry]]:
    """Where each tensor goes: one group behind the other, each in its order."""
    arrays: list[Array | Deferred] = []
    entries: list[TensorEntry] = []
    offset = 0
    for group in TENSOR_GROUPS:
        for given, value in groups[group].items():
            name = stored_name(group, given)
            check_name(name, group)
            array = value if isinstance(value, Deferred) else np.asarray(value)
            dtype = array.dtype if isinstance(array, Deferred) else _dtype_name(name, array, dtypes.get(name))
            if len(array.shape) > MAX_RANK or max((math.prod(array.shape), *array.shape)) > MAX_ELEMENTS:
                raise CheckpointError(
                    f"tensor {name!r} has the shape {array.shape}; allowed are {MAX_RANK} axes and 2^48 elements"
                )
            layout = array.layout if isinstance(array, Deferred) else "row-major"
            entry = TensorEntry(name, dtype, array.shape, layout, offset, group)
            arrays.append(array)
            entries.append(entry)
            offset = aligned(offset + entry.n_bytes)
    return arrays, entries


def _dtype_name(name: str, array: Array, wanted: str | None) -> str:
    if wanted is not None:
        check_choice(f"tensor {name!r}", "dtype", wanted, tuple(DTYPES))
        if DTYPES[wanted] != array.dtype.newbyteorder("<"):
            raise CheckpointError(f"tensor {name!r} is an array of {array.dtype}, which cannot be stored as {wanted}")
        return wanted
    for known, dtype in DTYPES.items():
        if known != "bf16" and dtype == array.dtype.newbyteorder("<"):
            return known
    raise CheckpointError(f"tensor {name!r} has the dtype {array.dtype}; a checkpoint holds {', '.join(DTYPES)}")


def _write_tensor(file: BinaryIO, array: Array | Deferred, entry: TensorEntry) -> None:
    values = array.make() if isinstance(array, Deferred) else array
    dtype, _ = entry.stored
    data = np.ascontiguousarray(values, dtype=dtype).reshape(-1).view(np.uint8)
    for start in range(0, data.size, _WRITE_BYTES):
        file.write(data[start : start + _WRITE_BYTES].data)


class _Views(Mapping[str, Array]):
    """The tensors of one group, each a read-only view of the mapped file, made when it is asked for."""

    def __init__(self, mapped: mmap.mmap, data_start: int, entries: Mapping[str, TensorEntry]) -> None:
        self._mapped = mapped
        self._data_start = data_start
        self._entries = entries

    def __getitem__(self, name: str) -> Array:
        entry = self._entries[name]
        dtype, shape = entry.stored
        if not math.prod(shape):
            return np.zeros(shape, dtype)
        flat = np.frombuffer(self._mapped, dtype, math.prod(shape), self._data_start + entry.offset)
        return flat.reshape(shape)

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)


class CheckpointFile:
    """An open checkpoint; use it in a `with` block or call `close()`.

    path              where it was opened
    header            the checked header, `header.entries` with every tensor's dtype, shape, offset and group
    config            the model's configuration
    generation        how to generate with the model, or None
    training          the training state's dict, or None
    tensors           weights by name: read-only arrays that are views of the file; bf16 as its bits in uint16, and
                      quantised ones as bytes
    training_tensors  arrays of the training state by name, empty after `strip`

    Arrays stay valid after `close()`: the mapping goes when the last of them does.
    """

    def __init__(self, path: Path, header: CheckpointHeader, file: BinaryIO, mapped: mmap.mmap) -> None:
        self.path = path
        self.header = header
        self.config = header.config
        self.generation = header.generation
        self.training = header.training
        self._file = file
        self._mapped: mmap.mmap | None = mapped
        views = {group: _Views(mapped, header.data_start, self._group(group)) for group in TENSOR_GROUPS}
        self.tensors: Mapping[str, Array] = views["weights"]
        self.training_tensors: Mapping[str, Array] = views["training"]
        self._tokenizer_tensors: Mapping[str, Array] = views["tokenizer"]

    def _group(self, group: str) -> dict[str, TensorEntry]:
        prefix = len(stored_name(group, ""))
        return {name[prefix:]: entry for name, entry in self.header.entries.items() if entry.group == group}

    def dtype(self, name: str) -> str:
        """The stored dtype of a weight, which tells "bf16" from "u16"."""
        return self.header.entries[name].dtype

    def tokenizer_state(self) -> tuple[dict[str, Any], Mapping[str, Array]] | None:
        """(header, arrays) for `gollm.tokenizers.from_state`, or None where the file has no tokenizer."""
        return None if self.header.tokenizer is None else (self.header.tokenizer, self._tokenizer_tensors)

    def copy(self, view: Array, out: Array, convert: Callable[[Array, Array], None] | None = None) -> None:
        """Copy one of this file's tensors to a contiguous array of its shape, and of its dtype unless `convert(out,
        view)` turns flat pieces of the one into pieces of the other.

        Pages of the file that were read are let go of on the way, so that the process' memory holds the tensor once.
        """
        if view.shape != out.shape or (convert is None and view.dtype != out.dtype):
            raise CheckpointError(
                f"{self.path}: it has {view.dtype} of shape {view.shape} where {out.dtype} of shape {out.shape} belongs"
            )
        source, target = view.reshape(-1), out.reshape(-1)
        for start in range(0, source.size, _COPY_ELEMENTS):
            (convert or np.copyto)(target[start : start + _COPY_ELEMENTS], source[start : start + _COPY_ELEMENTS])
            if self._mapped is not None and hasattr(mmap, "MADV_DONTNEED"):
                self._mapped.madvise(mmap.MADV_DONTNEED)

    def private(self, offset: int, n: int) -> Array:
        """n float32 from byte `offset` of the tensors on, writable: what is written stays in this process, and what is
        not is read from the file when it is touched. The array stays valid after `close()`."""
        try:
            mapped = mmap.mmap(self._file.fileno(), self.header.file_size, access=mmap.ACCESS_COPY)
        except (OSError, ValueError) as failure:
            why = reason(failure) if isinstance(failure, OSError) else str(failure)
            raise CheckpointError(f"cannot map the checkpoint {self.path}: {why}") from failure
        return np.frombuffer(mapped, DTYPES["f32"], n, self.header.data_start + offset)

    def close(self) -> None:
        """Let go of the file. Calling it twice does no harm."""
        mapped, self._mapped = self._mapped, None
        self._file.close()
        if mapped is not None:
            with contextlib.suppress(BufferError):  # arrays still look at it: the mapping goes with the last of them
                mapped.close()

    def __enter__(self) -> CheckpointFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_checkpoint(path: StrPath) -> CheckpointFile:
    """Open a checkpoint and check its header; tensors are read when they are touched.

    Raises CheckpointError for a missing, damaged, truncated or hostile file, and for one of another format version.
    """
    try:
        file = open_regular(path)
    except OSError as failure:
        raise CheckpointError(f"cannot open the checkpoint {path}: {reason(failure)}") from failure
    try:
        size = os.fstat(file.fileno()).st_size
        length = header_length(file.read(PREFIX.size), size)
        mapped = mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ)
        if os.fstat(file.fileno()).st_size != size:
            raise CheckpointError("it changes while it is being read")
        header = parse_header(mapped[PREFIX.size : PREFIX.size + length], size)
    except CheckpointError as failure:
        file.close()
        raise CheckpointError(f"cannot use the checkpoint {path}: {failure}") from None
    except (OSError, ValueError, MemoryError) as failure:
        file.close()
        why = reason(failure) if isinstance(failure, OSError) else str(failure) or "not enough memory"
        raise CheckpointError(f"cannot read the checkpoint {path}: {why}") from failure
    return CheckpointFile(Path(path), header, file, mapped)


def strip(source: StrPath, target: StrPath) -> None:
    """Copy a checkpoint without its training state, typically to a third of the size; `target` may be `source`.

    The result has the same bytes as one that was written without training state in the first place.
    Raises CheckpointError.
    """
    with open_checkpoint(source) as file:
        write_checkpoint(
            target,
            config=file.config,
            generation=file.generation,
            tensors={name: _as_it_is(file, name) for name in file.tensors},
            order=tuple(file.tensors),
            tokenizer_state=file.tokenizer_state(),
            dtypes={name: entry.dtype for name, entry in file.header.entries.items() if entry.packed is None},
        )


def _as_it_is(file: CheckpointFile, name: str) -> Deferred:
    entry = file.header.entries[name]
    return Deferred(entry.shape, entry.dtype, lambda: file.tensors[name], entry.layout)


def checkpoint_info(path: StrPath) -> dict[str, Any]:
    """What is inside, as JSON-like values for `gollm info`; no tensor is read.

    path, version, config, generation (None where nothing is said), parameters (elements of all weights), tokenizer
    ({"kind", "vocab_size"} or None), training_step (None without training state), bytes ({"file", "header", and each
    group}), and tensors: a list of {"name", "group", "dtype", "shape", "layout", "bytes"}. Raises CheckpointError.
    """
    with open_checkpoint(path) as file:
        header = file.header
    sizes = {group: sum(e.n_bytes for e in header.entries.values() if e.group == group) for group in TENSOR_GROUPS}
    tokenizer = header.tokenizer
    return {
        "path": str(path),
        "version": VERSION,
        "alignment": ALIGNMENT,
        "config": header.config,
        "generation": header.generation,
        "parameters": sum(e.size for e in header.entries.values() if e.group == "weights"),
        "tokenizer": None if tokenizer is None else {key: tokenizer.get(key) for key in ("kind", "vocab_size")},
        "training_step": None if header.training is None else header.training.get("step"),
        "bytes": {"file": header.file_size, "header": header.data_start, **sizes},
        "tensors": [
            {
                "name": e.name,
                "group": e.group,
                "dtype": e.dtype,
                "shape": list(e.shape),
                "layout": e.layout,
                "bytes": e.n_bytes,
            }
            for e in header.entries.values()
        ],
    }

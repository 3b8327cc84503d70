"""One float64 NumPy reference is the whole test of a kernel: its row, in references/, beside the kernel's file name.

    @kernel("rmsnorm_forward", shapes=[(1, 1), (3, 7), (64, 768)], scalars={"eps": 1e-5})
    def rmsnorm_forward(x, w, eps):
        r = 1 / np.sqrt((x * x).mean(-1) + eps)
        return {"y": x * r[:, None] * w, "r": r}

    @kernel("rmsnorm_backward", forward="rmsnorm_forward", shapes=[(1, 1), (3, 7), (64, 768)])
    def rmsnorm_backward(dy, x, w, r): ...

A reference takes what it names of the contract's inputs (float64, in the contract's shapes; None where an optional
one is not given), scalars and sizes, and returns every output by name. test_kernels.py derives the rest from the
contract. A backward kernel takes from its forward row the inputs of the same names, the saved outputs, and the check
against central differences: dNAME is the gradient by NAME.

How far a result may be from the reference: rounding each input by one part in 1/eps moves the reference's result by
`sensitivity` (measured, by perturbing the inputs at random), and no kernel can do better than a few such roundings;
those of a sum of n terms add up like a random walk. So the bound is (8 + 2 sqrt(n)) eps (sensitivity + |result|).

A bfloat16 build computes in float and rounds a result once; but operands of a product have to be bfloat16, also those
that are results of another product. A reference that takes `narrow` passes these through it; how far the results move
when they are changed by random parts is measured likewise, and 8 such roundings are allowed.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib
import inspect
import itertools
import pathlib
import warnings
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np

from gollm import _native
from kernels.contract import Contract, Field, bfloat16

Arrays = dict[str, Any]

BUILDS = [*_native.isa_supported(), "f64"]  # what this CPU can run of the same sources
# Without those that are v4's code but for products in bfloat16, in which other kernels are not tested.
FLOAT_BUILDS = [build for build in BUILDS if build not in ("avx512bf16", "amx")]
LENGTHS = [1, 2, 3, 7, 8, 16, 17, 31, 64, 67, 127, 256, 1000, 4099, 40009]  # for kernels over N elements


@dataclass(frozen=True, eq=False)
class Row:
    name: str
    contract: Contract
    reference: Callable[..., Arrays]
    cases: tuple[dict[str, Any], ...]
    inputs: Mapping[str, Callable[..., Any]]
    forward: str | None
    summands: Callable[[SimpleNamespace], int]
    nonfinite: Sequence[float]
    together: Sequence[Collection[str]]
    adds_without: Collection[str]
    empty: Sequence[str]


ROWS: dict[str, Row] = {}


def kernel(
    name: str,
    *,
    shapes: Sequence[tuple[int, ...] | dict[str, Any]],
    scalars: Mapping[str, Any] | None = None,
    inputs: Mapping[str, Callable[..., Any]] | None = None,
    forward: str | None = None,
    summands: Callable[[SimpleNamespace], int] | None = None,
    nonfinite: Sequence[float] = (np.nan, np.inf, -np.inf),
    together: Sequence[Collection[str]] = (),
    adds_without: Collection[str] = (),
    empty: Sequence[str] | None = None,
) -> Callable[[Callable[..., Arrays]], Callable[..., Arrays]]:
    """Adds a row.

    shapes: sizes in the order of the contract's DIMs, or dicts of sizes and scalars, and under "without" the names of
    optional inputs that this case is not given.
    scalars: values by name; a list is tried with every shape.
    inputs: makers of inputs that are not standard normal, (rng, sizes and scalars as attributes) -> array.
    forward: the row whose derivative this kernel computes.
    summands: the n of the error bound, by default the largest size.
    nonfinite: the values that, put into an input, come out where they do in the reference.
    together: optional arguments that are left out together.
    adds_without: optional arguments that must be left out where destinations are added to.
    empty: the sizes that may be 0, by default all.
    """
    contract = Contract.parse(_native.contracts()[name])
    lists = {key: value if isinstance(value, list) else [value] for key, value in (scalars or {}).items()}
    cases = []
    for shape in shapes:
        sizes = shape if isinstance(shape, dict) else dict(zip(contract.dims, shape, strict=True))
        for values in itertools.product(*lists.values()):
            cases.append(dict(zip(lists, values, strict=True)) | sizes)

    def largest_size(s: SimpleNamespace) -> int:
        return max(getattr(s, dim) for dim in contract.dims)

    def add(reference: Callable[..., Arrays]) -> Callable[..., Arrays]:
        ROWS[name] = Row(
            name=name,
            contract=contract,
            reference=reference,
            cases=tuple(cases),
            inputs=inputs or {},
            forward=forward,
            summands=summands or largest_size,
            nonfinite=nonfinite,
            together=together,
            adds_without=adds_without,
            empty=contract.dims if empty is None else empty,
        )
        return reference

    return add


def builds_of(row: Row) -> list[str]:
    return BUILDS if any(field.name == "compute" for field in row.contract.scalars) else FLOAT_BUILDS


def load_rows() -> dict[str, Row]:
    """All rows: what the files in references/ add."""
    for file in sorted(pathlib.Path(__file__).parent.glob("references/*.py")):
        importlib.import_module(f"kernels.references.{file.stem}")
    return ROWS


# Builds of other devices by name: run() calls them instead of the binding, with the row, the case, the buffers by name,
# the names of those that are added to, and the number of `threads`, which chooses how the device is timed.
DEVICES: dict[str, Callable[[Row, dict[str, Any], dict[str, Guarded], Collection[str], int], None]] = {}


def real_of(build: str) -> type:
    return np.float64 if build == "f64" else bfloat16 if build.endswith("bfloat16") else np.float32


def eps_of(real: type) -> float:
    """The largest relative error of rounding to this type is half of it."""
    return 2**-7 if real is bfloat16 else float(np.finfo(real).eps)


def rng_of(*what: object) -> np.random.Generator:
    return np.random.default_rng(zlib.crc32(repr(what).encode()))


def bits_of_bfloat16(values: np.ndarray) -> np.ndarray:
    """float32 -> the bits of the nearest bfloat16, of two equally near ones the even"""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    nearest = (bits.astype(np.uint64) + 0x7FFF + (bits >> 16 & 1)) >> 16
    return np.where(np.isnan(values), bits >> 16 | 0x40, nearest).astype(np.uint16)


def encoded(values: np.ndarray, field: Field, real: type) -> np.ndarray:
    """What the buffer of a field holds."""
    return bits_of_bfloat16(values) if real is bfloat16 and field.type == "real" else values


def decoded(buffer: np.ndarray, field: Field, real: type) -> np.ndarray:
    return (buffer.astype(np.uint32) << 16).view(np.float32) if real is bfloat16 and field.type == "real" else buffer


def rounded(value: Any, field: Field, real: type) -> np.ndarray:
    if real is bfloat16 and field.type == "real":
        bits = bits_of_bfloat16(np.asarray(value).astype(np.float32))
        return np.ascontiguousarray(decoded(bits, field, real))
    return np.ascontiguousarray(np.asarray(value).astype(field.dtype(real)))


def make_inputs(row: Row, case: dict[str, Any], real: type) -> Arrays:
    """The kernel's inputs, rounded to the build's precision. A backward kernel's come from its forward row."""
    rng, sizes = rng_of(row.name, case), SimpleNamespace(**case)
    known = make_inputs(ROWS[row.forward], case, real) if row.forward else {}
    known |= saved_outputs(row, known, case, real)
    values = {}
    for field in row.contract.inputs:
        shape = field.shape(case)
        if field.name in row.inputs:
            value = np.asarray(row.inputs[field.name](rng, sizes)).reshape(shape)
        elif field.name in known:
            value = known[field.name]
        else:
            value = rng.standard_normal(shape)
        values[field.name] = rounded(value, field, real)
    return values


def saved_outputs(row: Row, inputs: Arrays, case: dict[str, Any], real: type) -> Arrays:
    """What a backward kernel takes of its forward row's outputs, at these inputs."""
    if not row.forward:
        return {}
    outputs = call_reference(ROWS[row.forward], inputs, case)
    return {f.name: rounded(outputs[f.name], f, real) for f in row.contract.inputs if f.name in outputs}


def exact(x: np.ndarray) -> np.ndarray:
    return x


def call_reference(
    row: Row, inputs: Arrays, case: dict[str, Any], narrow: Callable[[np.ndarray], np.ndarray] = exact
) -> Arrays:
    inputs = {name: value for name, value in inputs.items() if name not in case.get("without", ())}
    given = case | {k: v.astype(np.float64) if v.dtype.kind == "f" else v for k, v in inputs.items()}
    given["narrow"] = narrow
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return row.reference(**{name: given.get(name) for name in inspect.signature(row.reference).parameters})


def start_of(row: Row, case: dict[str, Any], field: Field, real: type) -> np.ndarray:
    """What lies in a destination that is accumulated into."""
    return rounded(rng_of(field.name, case).standard_normal(field.shape(case)), field, real)


def expected(row: Row, index: int, real: type, drop: frozenset[str] = frozenset()) -> tuple[Arrays, Arrays, Arrays]:
    """Inputs, the reference's outputs without those in `drop`, and how far each output may be from them."""
    return _expected(row, index, real, drop & {field.name for field in row.contract.inputs})


@functools.lru_cache(maxsize=256)
def _expected(row: Row, index: int, real: type, drop: frozenset[str]) -> tuple[Arrays, Arrays, Arrays]:
    case = row.cases[index]
    inputs = make_inputs(row, case, real)
    want = call_reference(row, {name: value for name, value in inputs.items() if name not in drop}, case)
    roundings = 8 + 2 * np.sqrt(row.summands(SimpleNamespace(**case)))
    limits = np.finfo(np.float32 if real is bfloat16 else real)
    moved = sensitivity(row, index, drop, False)
    bounds = {
        name: roundings * limits.eps * (moved[name] + np.abs(value)) + limits.tiny for name, value in want.items()
    }
    if real is bfloat16:  # computed in float, and rounded once
        for field in row.contract.outputs:
            if field.type == "real" and field.name in want:
                bounds[field.name] = bounds[field.name] + 0.51 * eps_of(real) * np.abs(want[field.name])
        if "narrow" in inspect.signature(row.reference).parameters:
            for name, distance in sensitivity(row, index, drop, True).items():
                bounds[name] = bounds[name] + 8 * eps_of(real) / 2 * distance
    return inputs, want, bounds


@functools.lru_cache(maxsize=256)
def sensitivity(row: Row, index: int, drop: frozenset[str], of_narrow: bool) -> Arrays:
    """How far each element of the results moves, per relative change of every element of the inputs, or of what is
    narrow, by random changes."""
    case = row.cases[index]
    inputs = make_inputs(row, case, bfloat16 if of_narrow else np.float64)
    inputs = {name: value for name, value in inputs.items() if name not in drop}
    want = call_reference(row, inputs, case)
    draws = 16 if of_narrow else 8  # of 50000 elements, one is measured 4 times too small with 8
    step, squares = 1e-6, {name: np.zeros(np.shape(value)) for name, value in want.items()}
    rng = rng_of(row.name, case, "perturbation")

    def perturbed(x: np.ndarray) -> np.ndarray:
        return x * (1 + step * rng.standard_normal(x.shape)) if x.dtype.kind == "f" else x

    for _ in range(draws):
        moved = inputs if of_narrow else {name: perturbed(value) for name, value in inputs.items()}
        for name, value in call_reference(row, moved, case, perturbed if of_narrow else exact).items():
            squares[name] += ((value - want[name]) / step) ** 2
    return {name: np.sqrt(value / draws) for name, value in squares.items()}


@functools.lru_cache(maxsize=256)
def with_value(row: Row, index: int, real: type, name: str, value: float) -> tuple[Arrays, Arrays]:
    """Inputs with this value in a random place of one of them, and the reference's outputs."""
    case = row.cases[index]
    clean = make_inputs(row, case, real)
    inputs = clean | {name: clean[name].copy()}
    rng = rng_of(row.name, case, name, value)
    inputs[name].reshape(-1)[rng.integers(inputs[name].size)] = value
    if row.forward:
        inputs |= saved_outputs(row, make_inputs(ROWS[row.forward], case, real) | inputs, case, real)
    return inputs, call_reference(row, inputs, case)


GUARD = 1024  # bytes before and after an array
POISON = 0xFF  # every float of these bytes is NaN, every integer -1


def _address_sanitizer() -> tuple[Any, Any] | None:
    library = ctypes.CDLL(None)
    try:
        functions = library.__asan_poison_memory_region, library.__asan_unpoison_memory_region
    except AttributeError:
        return None
    for function in functions:
        function.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    return functions


ASAN = _address_sanitizer()


class Guarded:
    """An array between two guard zones: their NaN shows a read, a change shows a write; the address sanitizer sees
    both."""

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype, offset: int) -> None:
        size = int(np.prod(shape)) * dtype.itemsize
        self.memory = np.full(size + 2 * GUARD + 128, POISON, np.uint8)
        self.begin = GUARD + -(self.memory.ctypes.data + GUARD) % 64 + offset * dtype.itemsize
        self.end = self.begin + size
        self.array = self.memory[self.begin : self.end].view(dtype).reshape(shape)

    def _zones(self) -> list[np.ndarray]:
        return [self.memory[: self.begin], self.memory[self.end :]]

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        def tell(function: Any) -> None:
            for zone in self._zones():
                function(zone.ctypes.data, zone.nbytes)

        if ASAN:
            tell(ASAN[0])
        try:
            yield
        finally:
            if ASAN:
                tell(ASAN[1])

    def check(self, what: str) -> None:
        before, after = self._zones()
        assert (before == POISON).all(), f"{what}: bytes before the buffer were overwritten"
        assert (after == POISON).all(), f"{what}: bytes after the buffer were overwritten"


@contextlib.contextmanager
def using(build: str, threads: int) -> Iterator[None]:
    before = _native.isa(), _native.num_threads()
    if build != "f64":
        _native.set_isa(build)
    _native.set_num_threads(threads)
    try:
        yield
    finally:
        _native.set_isa(before[0])
        _native.set_num_threads(before[1])


def run(
    row: Row,
    build: str,
    case: dict[str, Any],
    inputs: Arrays,
    *,
    threads: int = 2,
    offset: int = 0,
    drop: Collection[str] = (),
    accumulate: Collection[str] = (),
    alias: Sequence[tuple[str, str]] = (),
) -> Arrays:
    """Calls the kernel on guarded buffers, `offset` elements away from a cache line, and returns its outputs.

    Everything that is not an input is poisoned before; arrays named in `drop` are not given; destinations in
    `accumulate` hold start_of(...) before and are added to; pairs (out, in) of `alias` share one buffer."""
    real, contract = real_of(build), row.contract
    shared, drop = dict(alias), {*drop, *case.get("without", ())}
    buffers: dict[str, Guarded] = {}
    arguments: Arrays = {field.name: case[field.name] for field in contract.scalars}
    for field in sorted(contract.arrays, key=lambda field: field.name in shared):
        if field.name in drop:
            if field.kind == "INTO":
                arguments[field.name] = None, True  # nothing to add to
            elif field.name not in shared and field.kind in ("OPT_IN", "OPT_OUT"):
                arguments[field.name] = None
            continue
        if field.name in shared:
            buffers[field.name] = buffers[shared[field.name]]
        else:
            buffers[field.name] = Guarded(field.shape(case), field.dtype(real), offset)
        array = buffers[field.name].array
        if field in contract.inputs:
            array[...] = encoded(inputs[field.name], field, real)
        elif field.name in accumulate:
            array[...] = encoded(start_of(row, case, field, real), field, real)
        arguments[field.name] = (array, True) if field.name in accumulate else array
    if build in DEVICES:
        DEVICES[build](row, case, buffers, accumulate, threads)
    else:
        with using(build, threads), contextlib.ExitStack() as stack:
            for buffer in set(buffers.values()):
                stack.enter_context(buffer.watched())
            getattr(_native, row.name)(**arguments)
    where = f"{row.name} ({build}, {threads} threads, {case})"
    for name, buffer in buffers.items():
        buffer.check(f"{where}: {name}")
    for field in contract.of_kind("IN", "OPT_IN"):
        name = field.name
        if name in buffers and name not in shared.values():
            same = buffers[name].array.tobytes() == encoded(inputs[name], field, real).tobytes()
            assert same, f"{where}: wrote to {name}"
    outputs = [field for field in contract.outputs if field.name in buffers]
    return {field.name: decoded(buffers[field.name].array.copy(), field, real) for field in outputs}


def compare(what: str, got: Arrays, want: Arrays, bounds: Arrays) -> None:
    for name, value in got.items():
        every = (value, want[name], bounds[name])
        result, reference, bound = (np.asarray(array, np.float64).reshape(value.shape) for array in every)
        with np.errstate(invalid="ignore"):
            good = (np.abs(result - reference) <= bound) | (result == reference)
            good |= np.isnan(result) & np.isnan(reference)
        if not good.all():
            at = tuple(int(i[0]) for i in np.nonzero(~good))
            raise AssertionError(
                f"{what}: {(~good).sum()} of {good.size} elements of {name} are wrong; first {name}{list(at)} is "
                f"{result[at]!r}, not {reference[at]!r} (allowed error {bound[at]:.3g})"
            )


def same_bits(what: str, a: Arrays, b: Arrays) -> None:
    for name in a.keys() & b.keys():
        if a[name].tobytes() != b[name].tobytes():
            bits = np.dtype(f"u{a[name].itemsize}")
            at = np.flatnonzero(a[name].reshape(-1).view(bits) != b[name].reshape(-1).view(bits))
            raise AssertionError(
                f"{what}: {at.size} of {a[name].size} elements of {name} differ, first at {at[0]}: "
                f"{a[name].reshape(-1)[at[0]]!r} and {b[name].reshape(-1)[at[0]]!r}"
            )

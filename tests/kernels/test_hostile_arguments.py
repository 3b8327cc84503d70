"""Any arguments at all: a kernel refuses them with an error of gollm, or a TypeError, or computes."""

import contextlib
import itertools
import math
import resource
import sys
import time

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gollm import _native
from gollm.errors import GollmError
from kernels.harness import BUILDS, load_rows, make_inputs, real_of, using

ROWS = load_rows()
WHOLE = [-(2**63), -(2**31), -1, 0, 1, 2, 3, 255, 256, 257, 2**31 - 1, 2**31, 2**40, 2**40 + 1, 2**62, 2**63 - 1]
REAL = [math.nan, math.inf, -math.inf, -1.0, -0.0, 1e-320, 0.5, 1.0, 1 + 1e-16, 1e300, -1e300, 2**64, True]
INDICES = [-(2**31), -1, 0, 1, 2, 5, 1000, 2**31 - 1]
NOT_NUMBERS = [None, "1", b"1", [1], 2**63, 1.5, 1j, np.zeros(3), np.float32(1), np.int8(1), {}]
NOT_ARRAYS = [None, "x", b"abc", [1.0, 2.0], 1, 1.5, object(), (), (None, True), (1, 2, 3), memoryview(b"abcd")]
DTYPES = ["f2", "f4", "f8", "i4", "i8", "u2", "?", "c8", "S4", "V4", "O", "M8[s]"]
ITERATIONS = [value for value in WHOLE if value < 2**20 or value > 2**31]  # of measure_fma: they are its work


@contextlib.contextmanager
def refused_or_computed():
    """An error of gollm or a TypeError or none, without gigabytes or seconds."""
    start = time.process_time()
    with contextlib.suppress(GollmError, TypeError):
        yield
    assert time.process_time() - start < 2
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    assert memory < 4 << 30


def unaligned(array):
    return np.zeros(array.nbytes + 1, np.uint8)[1:].view(array.dtype).reshape(array.shape)


def read_only(array):
    array = array.copy()
    array.flags.writeable = False
    return array


ARRAYS = [
    lambda a, draw: a[..., None],
    lambda a, draw: a[None],
    lambda a, draw: a.reshape(-1),
    lambda a, draw: a.reshape(-1)[:1].reshape(()) if a.size else a,
    lambda a, draw: a[:0],
    lambda a, draw: a[..., :0],
    lambda a, draw: a[:-1],
    lambda a, draw: np.concatenate([a, a]) if a.ndim else a,
    lambda a, draw: np.empty((*a.shape[:-1], 0, 2**31 - 1), a.dtype),
    lambda a, draw: np.empty((2**40, 0), a.dtype),
    lambda a, draw: np.empty((0,) * max(1, a.ndim), a.dtype),
    lambda a, draw: np.empty((2**31 - 1, 0), a.dtype),
    lambda a, draw: np.empty((0, 2**31 - 1), a.dtype),
    lambda a, draw: np.broadcast_to(a, (2, *a.shape)),
    lambda a, draw: a.T,
    lambda a, draw: a[::-1],
    lambda a, draw: unaligned(a),
    lambda a, draw: read_only(a),
    lambda a, draw: a.astype(a.dtype.newbyteorder(">")),
    lambda a, draw: a.astype(draw(st.sampled_from(DTYPES))),
    lambda a, draw: np.ma.masked_array(a),
    lambda a, draw: np.full_like(a, draw(st.sampled_from(INDICES)) if a.dtype.kind == "i" else math.nan),
    lambda a, draw: draw(st.sampled_from(NOT_ARRAYS)),
]  # fmt: skip


def odd_value(draw, array):
    """The array with an index out of its range somewhere, or NaN."""
    array = array.copy()
    if array.size and array.dtype.kind in "if":
        at = draw(st.integers(0, array.size - 1))
        array.reshape(-1)[at] = draw(st.sampled_from(INDICES if array.dtype.kind == "i" else REAL))
    return array


@st.composite
def calls(draw, row):
    """Arguments that are right but for some of them."""
    real = real_of("f64" if draw(st.booleans()) else BUILDS[0])
    small = sorted(row.cases, key=lambda case: math.prod(case[dim] for dim in row.contract.dims))[:5]
    case = draw(st.sampled_from(small))
    given = make_inputs(row, case, real)
    arguments = {field.name: case[field.name] for field in row.contract.scalars}
    for field in row.contract.arrays:
        arguments[field.name] = (
            given[field.name].copy() if field.name in given else np.ones(field.shape(case), field.dtype(real))
        )
    numbers = {field.name: field for field in row.contract.scalars}
    names = st.sampled_from(sorted(arguments))
    for name in draw(st.lists(names, min_size=1, max_size=3)):
        value = arguments[name]
        if name in numbers:
            whole = ITERATIONS if name == "iterations" else WHOLE
            usual = st.sampled_from(whole if numbers[name].type == "i64" else REAL)
            arguments[name] = draw(usual | usual | st.sampled_from(NOT_NUMBERS))
        elif not isinstance(value, np.ndarray):
            continue
        elif draw(st.booleans()):
            arguments[name] = odd_value(draw, value)
        else:
            with contextlib.suppress(IndexError, TypeError, ValueError):  # of NumPy: such an array there is not
                arguments[name] = draw(st.sampled_from(ARRAYS))(value, draw)
    odd = draw(st.integers(0, 9))
    if odd == 0:
        del arguments[draw(st.sampled_from(sorted(arguments)))]
    elif odd == 1:
        arguments[draw(st.sampled_from(["", "x" * 1000, "N", "é", "\0", "\ud800"]))] = 1
    elif odd == 2:
        arguments[draw(names)] = arguments.get(draw(names))  # one buffer twice
    elif odd == 3:
        name = draw(names)
        arguments[name] = arguments.get(name), draw(st.sampled_from([True, False, None, 2, np.zeros(2)]))
    return arguments


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS.keys())
def test_odd_arguments_are_refused_or_computed(row):
    @settings(max_examples=40, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(calls(row), st.sampled_from(BUILDS[:-1]), st.sampled_from([1, 2, 3]))
    def check(arguments, build, threads):
        with np.errstate(all="ignore"), using(build, threads), refused_or_computed():
            getattr(_native, row.name)(**arguments)

    check()


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS.keys())
def test_numbers_out_of_any_range(row):
    """Each number of a good call at each extreme."""
    case = row.cases[0]
    inputs = make_inputs(row, case, np.float32)
    for odd in row.contract.scalars:
        for value in (ITERATIONS if odd.name == "iterations" else WHOLE) if odd.type == "i64" else REAL:
            arguments = {field.name: case[field.name] for field in row.contract.scalars} | {odd.name: value}
            for field in row.contract.arrays:
                arguments[field.name] = inputs.get(field.name, np.ones(field.shape(case), field.dtype(np.float32)))
            with refused_or_computed():
                getattr(_native, row.name)(**arguments)


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS.keys())
@pytest.mark.parametrize("large", [2**20, 2**31 - 1])
@pytest.mark.parametrize("optional", [False, True])
def test_no_memory_bounds_the_sizes_of_empty_arrays(row, large, optional):
    """One size is 0, and one that only empty arrays have is large: no gigabytes, no seconds."""
    arrays = [field for field in row.contract.arrays if optional or field.kind not in {"INTO", "OPT_IN", "OPT_OUT"}]
    for zero, long in itertools.permutations(row.contract.dims, 2):
        if any(long in field.dims and zero not in field.dims for field in arrays):
            continue
        case = row.cases[0] | {zero: 0, long: large}
        arguments = {field.name: case[field.name] for field in row.contract.scalars}
        arguments |= {field.name: np.ones(field.shape(case), field.dtype(np.float32)) for field in arrays}
        with refused_or_computed():
            getattr(_native, row.name)(**arguments)


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS.keys())
def test_workspace_bytes_of_any_sizes_is_a_number(row):
    names = [*row.contract.dims, *(field.name for field in row.contract.scalars if field.type == "i64")]
    rng = np.random.default_rng(0)
    for threads in (1, 3, 1024):
        with using(BUILDS[0], threads):
            for _ in range(300):
                sizes = {name: int(WHOLE[rng.integers(len(WHOLE))]) for name in names}
                assert _native.workspace_bytes(row.name, **sizes) >= 0, sizes

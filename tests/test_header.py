"""gollm.h is pure C and complete: cffi parses what the preprocessor leaves of it, and calls every kernel through it."""

import os
import subprocess

import numpy as np
import pytest

import gollm
from gollm import _native
from kernels.harness import load_rows, make_inputs, run, same_bits

cffi = pytest.importorskip("cffi")

CC, CXX = os.environ.get("CC", "cc"), os.environ.get("CXX", "c++")
ROWS = load_rows()
C_TYPES = {
    "f64": "double",
    "i64": "int64_t",
    "i32": "int32_t",
    "bf16": "uint16_t",
    "real": "float",  # also in a call of the float64 table
}
HEADER = gollm.get_include() / "gollm.h"


def declarations(tmp_path):
    """The preprocessed text: attributes and the standard's integer types left to cffi, which knows the latter."""
    (tmp_path / "stdint.h").write_text("")
    command = [CC, "-E", "-P", "-nostdinc", f"-I{tmp_path}", "-D__attribute__(x)=", str(HEADER)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.fixture(scope="module", params=["float32", "float64"])
def library(request, tmp_path_factory):
    """(ffi, library, real's dtype)"""
    ffi = cffi.FFI()
    ffi.cdef(declarations(tmp_path_factory.mktemp("header")))
    return ffi, ffi.dlopen(_native.__file__), np.dtype(request.param)


@pytest.mark.parametrize("compiler", [[CC, "-std=c11", "-x", "c"], [CXX, "-std=c++17", "-x", "c++"]], ids=["C", "C++"])
def test_the_header_compiles_alone_without_a_warning(compiler):
    command = [*compiler, "-fsyntax-only", "-Wall", "-Wextra", "-pedantic", "-Werror", str(HEADER)]
    subprocess.run(command, check=True)


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS.keys())
def test_every_kernel_through_its_public_function(library, row):
    """The argument struct filled by the header's field names gives the bits that the Python binding gives."""
    ffi, lib, real = library
    build = "f64" if real == np.float64 else _native.isa()
    for case in row.cases[:4]:
        inputs = make_inputs(row, case, real.type)
        arrays = {}
        args = ffi.new(f"struct gollm_{row.name}_args *")
        types = {name: member.type for name, member in ffi.typeof(args[0]).fields}
        for field in row.contract.arrays:
            if field.name in case.get("without", ()):
                continue  # NULL
            array = np.full(field.shape(case), -1).astype(field.dtype(real.type))
            if field in row.contract.inputs:
                array[...] = inputs[field.name]
            arrays[field.name] = array
            assert types[field.name].item is ffi.typeof(C_TYPES[field.type])
            setattr(args, field.name, ffi.cast("void *", array.ctypes.data))
        for name in [field.name for field in row.contract.scalars] + list(row.contract.dims):
            setattr(args, name, case[name])
        if real == np.float32:
            status = getattr(lib, f"gollm_{row.name}")(args)
        else:  # the public functions take float; double is reached through the table
            table = lib.gollm_kernels(lib.GOLLM_FLOAT64)
            (kernel,) = (table + i for i in range(lib.gollm_kernel_count()) if name_of(ffi, table[i]) == row.name)
            status = lib.gollm_run(kernel, args)
        assert status == lib.GOLLM_OK, ffi.string(lib.gollm_status_message(status))
        outputs = {field.name: arrays[field.name] for field in row.contract.outputs}
        same_bits(f"{row.name} {case}", outputs, run(row, build, case, inputs))


def name_of(ffi, kernel):
    return ffi.string(kernel.name).decode()


def test_the_tables_list_what_the_binding_has(library):
    ffi, lib, _ = library
    for dtype in (lib.GOLLM_FLOAT32, lib.GOLLM_FLOAT64):
        table = lib.gollm_kernels(dtype)
        kernels = [table[i] for i in range(lib.gollm_kernel_count())]
        assert {name_of(ffi, k): ffi.string(k.contract).decode() for k in kernels} == _native.contracts()
    assert lib.gollm_abi_version() == _native.abi_version()
    assert ffi.string(lib.gollm_version()).decode() == gollm.__version__


def test_every_status_has_its_message(library):
    ffi, lib, _ = library
    statuses = ffi.typeof("enum gollm_status").elements
    messages = [ffi.string(lib.gollm_status_message(status)).decode() for status in statuses]
    assert len(set(messages)) == len(statuses) and ffi.string(lib.gollm_status_message(lib.GOLLM_OK)) == b"no error"
    for unknown in (-1, max(statuses) + 1):
        assert ffi.string(lib.gollm_status_message(unknown)) == b"an unknown status"


def test_a_refused_call_returns_its_status(library):
    ffi, lib, _ = library
    args = ffi.new("struct gollm_sgd_args *")
    args.n_decay = 1  # of no parameters at all
    assert lib.gollm_sgd(args) == lib.GOLLM_BAD_VALUE


def test_a_plan_runs_its_calls_in_order_until_one_is_refused(library):
    """y = 2; y = y + y; ...; then a refused call, whose number is given, and one that is not reached."""
    ffi, lib, real = library
    table = lib.gollm_kernels(lib.GOLLM_FLOAT64 if real == np.float64 else lib.GOLLM_FLOAT32)
    kernels = {name_of(ffi, table[i]): table + i for i in range(lib.gollm_kernel_count())}
    y = np.zeros(1000, real)
    pointer = ffi.cast("void *", y.ctypes.data)
    fill = ffi.new("struct gollm_fill_args *", {"y": pointer, "value": 2.0, "N": y.size})
    add = ffi.new("struct gollm_add_args *", {"c": pointer, "a": pointer, "b": pointer, "N": y.size})
    bad = ffi.new("struct gollm_sgd_args *", {"n_decay": 1})
    steps = [("fill", fill), ("add", add), ("add", add), ("sgd", bad), ("add", add)]
    calls = ffi.new("struct gollm_call[]", [(kernels[name], args) for name, args in steps])
    failed, before = ffi.new("int64_t *"), lib.gollm_num_threads()
    for n_threads in (1, 2, 5):
        assert lib.gollm_set_num_threads(n_threads) == lib.GOLLM_OK
        assert lib.gollm_run_plan(calls, 3, failed) == lib.GOLLM_OK
        assert (y == 8).all() and failed[0] == 3
        for _ in range(100):
            assert lib.gollm_run_plan(calls, 5, failed) == lib.GOLLM_BAD_VALUE
            assert (y == 8).all() and failed[0] == 3
    assert lib.gollm_run_plan(calls, 0, failed) == lib.GOLLM_OK
    lib.gollm_set_num_threads(before)


def test_variants(library):
    ffi, lib, _ = library
    count = lib.gollm_isa_count()
    names = [ffi.string(lib.gollm_isa_name(i)).decode() for i in range(count)]
    assert names == _native.isa_variants()
    assert [name for i, name in enumerate(names) if lib.gollm_isa_supported(i)] == _native.isa_supported()
    for outside in (-1, count):
        assert lib.gollm_isa_name(outside) == ffi.NULL
        assert not lib.gollm_isa_supported(outside)
    before = ffi.string(lib.gollm_isa())
    for wrong in (b"v9", b"", b"V2", ffi.NULL):
        assert lib.gollm_set_isa(wrong) == lib.GOLLM_BAD_VALUE
    assert ffi.string(lib.gollm_isa()) == before
    for name in _native.isa_supported():
        assert lib.gollm_set_isa(name.encode()) == lib.GOLLM_OK
        assert ffi.string(lib.gollm_isa()).decode() == name
    assert lib.gollm_set_isa(before) == lib.GOLLM_OK


def test_thread_limits(library):
    _, lib, _ = library
    before = lib.gollm_num_threads()
    for wrong in (0, -1, 1025, 2**31 - 1):
        assert lib.gollm_set_num_threads(wrong) == lib.GOLLM_BAD_VALUE
    assert lib.gollm_num_threads() == before
    for n in (1, 5, before):
        assert lib.gollm_set_num_threads(n) == lib.GOLLM_OK
        assert lib.gollm_num_threads() == (n if lib.gollm_has_openmp() else 1)

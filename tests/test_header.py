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
    "f16": "uint16_t",
    "u8": "uint8_t",
    "real": "float",  # also in a call of the float64 table
    "wide": "float",
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
            status = lib.gollm_run(kernels_by_name(ffi, lib, real)[row.name], args)
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


def kernels_by_name(ffi, lib, real):
    table = lib.gollm_kernels(lib.GOLLM_FLOAT64 if real == np.float64 else lib.GOLLM_FLOAT32)
    return {name_of(ffi, table[i]): table + i for i in range(lib.gollm_kernel_count())}


def plan_of(ffi, steps, overlaps=()):
    """A struct gollm_plan of (kernel, argument struct), with what it points to."""
    calls = ffi.new("struct gollm_call[]", [(*step, i in overlaps) for i, step in enumerate(steps)])
    return ffi.new("struct gollm_plan *", {"calls": calls, "n_calls": len(steps)}), calls


def test_a_call_that_a_check_refuses_is_found_before_a_plan_runs(library):
    ffi, lib, real = library
    kernels = kernels_by_name(ffi, lib, real)
    y = np.zeros(10, real)
    fill = ffi.new("struct gollm_fill_args *", {"y": ffi.cast("void *", y.ctypes.data), "value": 2.0, "N": y.size})
    bad = ffi.new("struct gollm_sgd_args *", {"n_decay": 1})
    huge = ffi.new("struct gollm_fill_args *", {"N": 2**40 + 1})
    failed = ffi.new("int64_t *")
    for name, args, status in (("sgd", bad, lib.GOLLM_BAD_VALUE), ("fill", huge, lib.GOLLM_BAD_SHAPE)):
        assert lib.gollm_check(kernels[name], args) == status
        plan, _calls = plan_of(ffi, [(kernels["fill"], fill), (kernels[name], args)])
        assert lib.gollm_prepare_plan(plan, failed) == status and failed[0] == 1
    assert (y == 0).all()


def test_a_plan_runs_its_calls_in_order_until_one_is_refused(library):
    """y = 2; z = 3; y = y + y; ...; then a call that its data refuse, and one that is not reached."""
    ffi, lib, real = library
    kernels = kernels_by_name(ffi, lib, real)
    y, z, ids, row = np.zeros(1000, real), np.zeros(1000, real), np.full(1, 5, np.int32), np.zeros(1, real)
    pointer, other, token, table = (ffi.cast("void *", array.ctypes.data) for array in (y, z, ids, row))
    fill = ffi.new("struct gollm_fill_args *", {"y": pointer, "value": 2.0, "N": y.size})
    fill_z = ffi.new("struct gollm_fill_args *", {"y": other, "value": 3.0, "N": z.size})
    add = ffi.new("struct gollm_add_args *", {"c": pointer, "a": pointer, "b": pointer, "N": y.size})
    sizes = {"N": 1, "C": 1, "V": 1}
    bad = ffi.new("struct gollm_embedding_forward_args *", {"y": table, "tokens": token, "token_table": table, **sizes})
    steps = [("fill", fill), ("fill", fill_z), ("add", add), ("add", add), ("embedding_forward", bad), ("add", add)]
    steps = [(kernels[name], args) for name, args in steps]
    failed, before = ffi.new("int64_t *"), lib.gollm_num_threads()
    for overlaps in ((), (1,), (1, 4)):
        good, _calls = plan_of(ffi, steps[:4], overlaps)
        refused, _others = plan_of(ffi, steps, overlaps)
        for plan in (good, refused):
            assert lib.gollm_prepare_plan(plan, failed) == lib.GOLLM_OK and failed[0] == plan.n_calls
        for n_threads in (1, 2, 5):
            assert lib.gollm_set_num_threads(n_threads) == lib.GOLLM_OK
            assert lib.gollm_run_plan(good, 1, failed) == lib.GOLLM_OK
            assert (y == 8).all() and (z == 3).all() and failed[0] == 4
            for _ in range(100):
                assert lib.gollm_run_plan(refused, 1, failed) == lib.GOLLM_BAD_INDEX
                assert (y == 8).all() and failed[0] == 4
    empty, _calls = plan_of(ffi, [])
    assert lib.gollm_prepare_plan(empty, failed) == lib.GOLLM_OK
    assert lib.gollm_run_plan(empty, 1, failed) == lib.GOLLM_OK
    lib.gollm_set_num_threads(before)


def test_a_kernel_that_the_device_lacks(library):
    ffi, lib, _ = library
    kernel, failed = ffi.new("struct gollm_kernel *"), ffi.new("int64_t *")
    assert lib.gollm_check(kernel, ffi.NULL) == lib.GOLLM_UNSUPPORTED
    assert lib.gollm_run(kernel, ffi.NULL) == lib.GOLLM_UNSUPPORTED
    plan, _calls = plan_of(ffi, [(kernel, ffi.NULL)])
    assert lib.gollm_prepare_plan(plan, failed) == lib.GOLLM_UNSUPPORTED and failed[0] == 0


def test_the_workspace_is_reserved_and_released(library):
    ffi, lib, real = library
    lib.gollm_release_workspace()
    assert lib.gollm_workspace_size() == 0
    assert lib.gollm_reserve_workspace(1000) == lib.GOLLM_OK
    assert lib.gollm_workspace_size() == 1024
    assert lib.gollm_reserve_workspace(2**62) == lib.GOLLM_OUT_OF_MEMORY
    lib.gollm_release_workspace()
    g, norm, scale = np.ones(100, real), np.zeros(1), np.zeros(1)
    addresses = {name: ffi.cast("void *", a.ctypes.data) for name, a in (("g", g), ("norm", norm), ("scale", scale))}
    args = ffi.new("struct gollm_gradient_norm_args *", {**addresses, "N": 100})
    plan, _calls = plan_of(ffi, [(kernels_by_name(ffi, lib, real)["gradient_norm"], args)])
    failed = ffi.new("int64_t *")
    assert lib.gollm_prepare_plan(plan, failed) == lib.GOLLM_OK
    assert plan.workspace == 512 and plan.n_threads == lib.gollm_num_threads() and lib.gollm_workspace_size() == 0
    for _ in range(2):  # after a release, too
        assert lib.gollm_run_plan(plan, 1, failed) == lib.GOLLM_OK and norm[0] == 10
        assert lib.gollm_workspace_size() == 512
        lib.gollm_release_workspace()


def test_the_backend_of_the_cpu(library):
    ffi, lib, _ = library
    assert ffi.string(lib.gollm_cpu().name) == b"cpu"
    assert lib.gollm_cpu().kernels(lib.GOLLM_FLOAT64) == lib.gollm_kernels(lib.GOLLM_FLOAT64)
    assert lib.gollm_cpu().workspace_size() == lib.gollm_workspace_size()


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

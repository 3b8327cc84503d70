"""The CUDA backend for the kernel harness: a shared library with `gollm_cuda` (cuda/backend.h), emulated or for a GPU.

`build` compiles the very same .cu files as C++ over emulation.h; `Device` calls a kernel of any such library on buffers
that are copied to the device with the guard zones around them.
"""

from __future__ import annotations

import ctypes
import functools
import os
import re
import subprocess
import sysconfig
import tempfile
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gollm import _native
from kernels.harness import Guarded, Row

ROOT = Path(__file__).resolve().parents[2]
CUDA, HERE = ROOT / "cuda", Path(__file__).parent
VARIANTS = {"float32": [], "bfloat16": ["-DGOLLM_BF16"]}
FLAGS = ["-std=c++20", "-O1", "-fPIC", "-fvisibility=hidden", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror"]
FLAGS += ["-Wno-unknown-pragmas"]
DTYPES = {"float32": 0, "bfloat16": 2}  # enum gollm_dtype
STATUS = {0: "no error", 1: "bad shape", 2: "bad index", 3: "bad value", 4: "out of memory", 5: "unsupported"}


COMPILER = [os.environ.get("CXX", "c++"), *FLAGS, f"-I{ROOT / 'csrc'}", f"-I{HERE}"]
ENGINE = tempfile.TemporaryDirectory(prefix="gollm-emulation-")


def compiled(source: Path, to: Path, *flags: str, cuda: Path = CUDA) -> str:
    subprocess.run([*COMPILER, f"-I{cuda}", *flags, "-x", "c++", "-c", str(source), "-o", str(to)], check=True)
    return str(to)


@functools.cache
def engine() -> str:
    """The object of emulation.cpp, once for all builds of a process."""
    return compiled(HERE / "emulation.cpp", Path(ENGINE.name) / "emulation.o", "-O3")


def objects_of(folder: Path, files: Iterable[str], variants: Collection[str], cuda: Path) -> list[str]:
    """The device and these kernel files of the folder `cuda`; the rows of the others are empty. All files of a variant
    compile as one."""
    kernels = sorted(path for name in files for path in cuda.glob(f"{name}.cu") if path.stem not in ("device", "table"))
    objects = [compiled(cuda / "device.cu", folder / "device.o", cuda=cuda)]
    for variant, flags in VARIANTS.items():
        unit = folder / f"{variant}.cpp"
        chosen = [cuda / "table.cu", *(kernels if variant in variants else [])]
        unit.write_text("".join(f'#include "{path}"\n' for path in chosen))
        objects.append(compiled(unit, folder / f"{variant}.o", f"-DGOLLM_VARIANT={variant}", *flags, cuda=cuda))
    return objects


@functools.cache
def all_objects() -> list[str]:
    """All kernels, once for all builds of a process."""
    return objects_of(Path(ENGINE.name), ["*"], list(VARIANTS), CUDA)


def build(
    folder: Path,
    files: Iterable[str] | None = None,
    variants: Collection[str] = tuple(VARIANTS),
    cuda: Path = CUDA,
) -> Path:
    """The library with these kernel files, or all of them."""
    objects = all_objects() if files is None else objects_of(folder, files, variants, cuda)
    library = folder / "libgollm_cuda_emulated.so"
    subprocess.run([COMPILER[0], "-shared", "-o", str(library), engine(), *objects], check=True)
    return library


def build_module(folder: Path) -> Path:
    """All kernels as the module gollm._cuda."""
    pybind11, python = pytest.importorskip("pybind11").get_include(), sysconfig.get_path("include")
    path = folder / f"_cuda{sysconfig.get_config_var('EXT_SUFFIX')}"
    command = [COMPILER[0], "-shared", "-fPIC", "-std=c++17", "-O1", "-fvisibility=hidden"]
    command += ['-DGOLLM_CUDA_TARGETS="emulated"', *(f"-I{d}" for d in (CUDA, ROOT / "csrc", pybind11, python))]
    subprocess.run([*command, "-o", str(path), str(CUDA / "module.cpp"), engine(), *all_objects()], check=True)
    return path


class Kernel(ctypes.Structure):
    _fields_ = [
        ("name", ctypes.c_char_p),
        ("contract", ctypes.c_char_p),
        ("check", ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p)),
        ("run", ctypes.c_void_p),
        ("workspace", ctypes.c_void_p),
    ]


class Call(ctypes.Structure):
    _fields_ = [("kernel", ctypes.POINTER(Kernel)), ("args", ctypes.c_void_p), ("overlaps", ctypes.c_int)]


class Plan(ctypes.Structure):
    _fields_ = [
        ("calls", ctypes.POINTER(Call)),
        ("n_calls", ctypes.c_int64),
        ("workspace", ctypes.c_int64),
        ("n_threads", ctypes.c_int),
        ("recording", ctypes.c_void_p),
    ]


I64 = ctypes.c_int64
PlanFunction = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(Plan), ctypes.POINTER(I64))
CopyFunction = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, I64)


class Backend(ctypes.Structure):
    _fields_ = [
        ("name", ctypes.c_char_p),
        ("n_kernels", ctypes.c_int),
        ("kernels", ctypes.CFUNCTYPE(ctypes.POINTER(Kernel), ctypes.c_int)),
        ("prepare_plan", PlanFunction),
        ("run_plan", ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(Plan), I64, ctypes.POINTER(I64))),
        ("forget_plan", ctypes.CFUNCTYPE(None, ctypes.POINTER(Plan))),
        ("finish", ctypes.CFUNCTYPE(ctypes.c_int)),
        ("workspace_size", ctypes.CFUNCTYPE(I64)),
        ("reserve_workspace", ctypes.CFUNCTYPE(ctypes.c_int, I64)),
        ("release_workspace", ctypes.CFUNCTYPE(None)),
        ("allocate", ctypes.CFUNCTYPE(ctypes.c_void_p, I64)),
        ("release", ctypes.CFUNCTYPE(None, ctypes.c_void_p)),
        ("write", CopyFunction),
        ("copy", CopyFunction),
        ("free_memory", ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(I64), ctypes.POINTER(I64))),
        ("error", ctypes.CFUNCTYPE(ctypes.c_char_p)),
    ]


class Failed(AssertionError):
    """A call that returned a status."""


# How the emulation times threads and copies, by the harness' number of threads: (a warp ahead, seed, copies at issue)
TIMINGS = {1: (0, 0, 0), 2: (1, 0, 0), 3: (0, 88172645463325252, 1), 7: (3, 0, 1)}


class Device:
    def __init__(self, library: Path) -> None:
        cpu = ctypes.CDLL(_native.__file__)
        cpu.gollm_cpu.restype = ctypes.c_void_p
        self.library = ctypes.CDLL(str(library))
        self.library.gollm_cuda.restype = ctypes.POINTER(Backend)
        self.library.gollm_cuda_error.restype = ctypes.c_char_p
        backend = self.library.gollm_cuda(ctypes.c_void_p(cpu.gollm_cpu()))
        assert backend, self.library.gollm_cuda_error().decode()
        self.backend = backend.contents
        self.names = list(_native.contracts())

    def has(self, name: str, dtype: str = "float32") -> bool:
        return bool(self.backend.kernels(DTYPES[dtype])[self.names.index(name)].run)

    def timed(self, warp_ahead: int, seed: int, copies_at_issue: int, hopper: bool = False) -> None:
        """Times the emulation, and says whether it is of a Hopper; a GPU knows that itself."""
        if hasattr(self.library, "gollm_emulation_timing"):
            self.library.gollm_emulation_timing(warp_ahead, ctypes.c_uint64(seed), copies_at_issue, int(hopper))

    def run(self, name: str, dtype: str, values: dict[str, Any]) -> int:
        """Runs the kernel with the words of its argument struct by name; the status that it ends with."""
        words = []
        for field, is_double in words_of(_native.contracts()[name]):
            value = values.get(field, 0)
            words.append(np.float64(value).view(np.int64) if is_double else np.int64(value))
        args = np.array(words, np.int64)
        kernel = ctypes.pointer(self.backend.kernels(DTYPES[dtype])[self.names.index(name)])
        call, failed = Call(kernel, args.ctypes.data, 0), I64()
        plan = Plan(ctypes.pointer(call), 1, 0, 0, None)
        status = self.backend.run_plan(ctypes.byref(plan), 1, ctypes.byref(failed))
        return self.backend.finish() or status

    def caller(self, dtype: str, hopper: bool = False) -> Any:
        """What the harness calls for a build of this device."""

        def call(
            row: Row, case: dict[str, Any], buffers: dict[str, Guarded], accumulate: Collection[str], threads: int
        ) -> None:
            self.timed(*TIMINGS[threads], hopper)
            memories: dict[Guarded, int] = {}
            values = {name: case[name] for name in (*row.contract.dims, *(s.name for s in row.contract.scalars))}
            for name, buffer in buffers.items():
                if buffer not in memories:
                    host, shift = buffer.memory, buffer.memory.ctypes.data % 64  # aligned there as here
                    memory = self.backend.allocate(host.nbytes + 64)
                    assert memory and self.backend.copy(memory + shift, host.ctypes.data, host.nbytes) == 0
                    memories[buffer] = memory
                values[name] = memories[buffer] + buffer.memory.ctypes.data % 64 + buffer.begin
            values |= {f"{name}_accumulate": 1 for name in accumulate}
            status = self.run(row.name, dtype, values)
            for buffer, memory in memories.items():
                host = buffer.memory.ctypes.data
                self.backend.copy(host, memory + host % 64, buffer.memory.nbytes)
                self.backend.release(memory)
            if status:
                raise Failed(f"{row.name}: {STATUS.get(status, status)}")

        return call


def words_of(contract: str) -> list[tuple[str, bool]]:
    """The name of each word of the argument struct, and whether it is a double.

    >>> words_of("GOLLM_DIM(N) GOLLM_INTO(real, dx, N) GOLLM_SCALAR(f64, eps) GOLLM_ALIAS(dx, dx)")
    [('N', False), ('dx', False), ('dx_accumulate', False), ('eps', True)]
    """
    words = []
    for kind, inside in re.findall(r"GOLLM_(\w+)\(((?:[^()]|\([^()]*\))*)\)", contract):
        parts = re.split(r"\s*,\s*", inside.strip())
        if kind != "ALIAS":
            words.append((parts[0 if kind == "DIM" else 1], kind == "SCALAR" and parts[0] == "f64"))
        if kind == "INTO":
            words.append((f"{parts[1]}_accumulate", False))
    return words

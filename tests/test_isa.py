"""One build runs on any x86-64 machine: code for newer ones stays in its own objects; import chooses the variant."""

import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from gollm import _native

ROOT = Path(__file__).parent.parent
# VEX-encoded instructions on general registers, which CPUs have since AVX2; AVX's own all begin with a v.
BMI = ["andn", "bextr", "blsi", "blsmsk", "blsr", "bzhi", "mulx", "pdep", "pext", "rorx", "sarx", "shlx", "shrx"]


def instructions(compile_command, folder):
    """(mnemonic, operands) of every instruction that this entry of compile_commands.json makes."""
    name = compile_command["output"].replace("/", "_")
    command = shlex.split(compile_command["command"])
    command[command.index("-o") + 1] = str(folder / name)
    subprocess.run(command, check=True, cwd=compile_command["directory"])
    listing = ["objdump", "-d", "--no-show-raw-insn", str(folder / name)]
    text = subprocess.run(listing, check=True, capture_output=True, text=True).stdout
    prefixes = "(?:(?:rep|repz|repnz|lock|notrack|bnd|data16|cs) )*"
    return re.findall(rf"^ +[0-9a-f]+:\t{prefixes}(\S+) *(.*)$", text, re.MULTILINE)


@pytest.fixture(scope="module")
def objects(tmp_path_factory):
    """The instructions of each C object of the module, compiled with the very commands of its build."""
    if platform.machine() not in ("x86_64", "AMD64") or not shutil.which("objdump"):
        pytest.skip("needs an x86-64 machine and objdump")
    pybind11 = pytest.importorskip("pybind11")
    if not shutil.which("cmake"):
        pytest.skip("needs cmake, which only the build has")
    folder = tmp_path_factory.mktemp("objects")
    options = {
        "CMAKE_BUILD_TYPE": "Release",
        "SKBUILD_PROJECT_VERSION": "0.0.0",
        "Python_EXECUTABLE": sys.executable,
        "pybind11_DIR": pybind11.get_cmake_dir(),
    }
    configure = ["cmake", "-S", str(ROOT), "-B", str(folder), *(f"-D{name}={value}" for name, value in options.items())]
    subprocess.run(configure, check=True, stdout=subprocess.DEVNULL)
    commands = [c for c in json.loads((folder / "compile_commands.json").read_text()) if c["file"].endswith(".c")]
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        listings = pool.map(lambda command: instructions(command, folder), commands)
    return {command["output"]: listing for command, listing in zip(commands, listings, strict=True)}


def of_variant(objects, variant):
    chosen = {name: listing for name, listing in objects.items() if f"kernels_{variant}.dir" in name}
    assert len(chosen) > 5 and sum(map(len, chosen.values())) > 1000
    return chosen


@pytest.mark.slow
def test_what_runs_everywhere_has_no_avx(objects):
    """The kernels' v2 and double-precision variants, the dispatch, the executor and the tokenizers."""
    everywhere = {name: listing for name, listing in objects.items() if not re.search(r"kernels_v[34]\.dir", name)}
    assert any("dispatch.c" in name for name in everywhere) and any("executor.c" in name for name in everywhere)
    assert of_variant(everywhere, "v2").keys() | of_variant(everywhere, "f64").keys() < everywhere.keys()
    for name, listing in everywhere.items():
        for mnemonic, operands in listing:
            assert not mnemonic.startswith("v") and mnemonic not in BMI, f"{name}: {mnemonic} {operands}"
            assert not re.search(r"%[yz]mm", operands), f"{name}: {mnemonic} {operands}"


@pytest.mark.slow
def test_v3_has_fma_and_no_avx512(objects):
    mnemonics = set()
    for name, listing in of_variant(objects, "v3").items():
        for mnemonic, operands in listing:
            mnemonics.add(mnemonic)
            assert not re.search(r"%zmm|%k[0-7]|%[xy]mm(1[6-9]|2[0-9]|3[01])", operands), (
                f"{name}: {mnemonic} {operands}"
            )
    assert any(mnemonic.startswith("vfmadd") for mnemonic in mnemonics)


@pytest.mark.slow
def test_v4_uses_its_width(objects):
    assert any("%zmm" in operands for listing in of_variant(objects, "v4").values() for _, operands in listing)


def python(code, **environment):
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, "GOLLM_ISA": "", **environment}
    )


def test_the_best_variant_is_chosen_at_import():
    run = python("import gollm; print(gollm._native.isa())")
    assert run.stdout.split() == [_native.isa_supported()[-1]]


@pytest.mark.parametrize("name", _native.isa_supported())
def test_gollm_isa_chooses_another(name):
    run = python("import gollm; print(gollm._native.isa())", GOLLM_ISA=name)
    assert run.stdout.split() == [name]


def test_a_wrong_gollm_isa_is_one_clear_sentence():
    run = python("import gollm", GOLLM_ISA="v9")
    assert run.returncode == 1
    assert run.stderr.splitlines()[-1] == (
        "gollm.errors.ConfigError: GOLLM_ISA: instruction-set variant 'v9' cannot be used here; "
        f"choose one of {_native.isa_supported()}"
    )


def test_set_isa_refuses_what_is_unknown_and_keeps_what_was():
    before = _native.isa()
    with pytest.raises(ValueError, match="instruction-set variant 'sse9' cannot be used here"):
        _native.set_isa("sse9")
    assert _native.isa() == before

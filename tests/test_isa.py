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


def compile_(compile_command, output, *more):
    """Runs an entry of compile_commands.json, with more flags and another output."""
    command = [*shlex.split(compile_command["command"]), *more]
    command[command.index("-o") + 1] = str(output)
    subprocess.run(command, check=True, cwd=compile_command["directory"])


def instructions(compile_command, folder):
    """(mnemonic, operands, address) of every instruction that this entry of compile_commands.json makes."""
    name = compile_command["output"].replace("/", "_")
    compile_(compile_command, folder / name)
    listing = ["objdump", "-d", "--no-show-raw-insn", str(folder / name)]
    text = subprocess.run(listing, check=True, capture_output=True, text=True).stdout
    prefixes = "(?:(?:rep|repz|repnz|lock|notrack|bnd|data16|cs) )*"
    found = re.findall(rf"^ +([0-9a-f]+):\t{prefixes}(\S+) *(.*)$", text, re.MULTILINE)
    return [(mnemonic, operands, int(address, 16)) for address, mnemonic, operands in found]


@pytest.fixture(scope="module")
def commands(tmp_path_factory):
    """The build's entries of compile_commands.json for C files."""
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
    return [c for c in json.loads((folder / "compile_commands.json").read_text()) if c["file"].endswith(".c")]


@pytest.fixture(scope="module")
def objects(commands, tmp_path_factory):
    """The instructions of each C object of the module, compiled with the very commands of its build."""
    folder = tmp_path_factory.mktemp("compiled")
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
    newer = r"kernels_(v3|v4|avx512bf16|amx)\.dir"
    everywhere = {name: listing for name, listing in objects.items() if not re.search(newer, name)}
    assert any("dispatch.c" in name for name in everywhere) and any("executor.c" in name for name in everywhere)
    assert of_variant(everywhere, "v2").keys() | of_variant(everywhere, "f64").keys() < everywhere.keys()
    for name, listing in everywhere.items():
        for mnemonic, operands, _ in listing:
            assert not mnemonic.startswith("v") and mnemonic not in BMI, f"{name}: {mnemonic} {operands}"
            assert not re.search(r"%[yz]mm", operands), f"{name}: {mnemonic} {operands}"


@pytest.mark.slow
def test_v3_has_fma_and_no_avx512(objects):
    mnemonics = set()
    for name, listing in of_variant(objects, "v3").items():
        for mnemonic, operands, _ in listing:
            mnemonics.add(mnemonic)
            assert not re.search(r"%zmm|%k[0-7]|%[xy]mm(1[6-9]|2[0-9]|3[01])", operands), (
                f"{name}: {mnemonic} {operands}"
            )
    assert any(mnemonic.startswith("vfmadd") for mnemonic in mnemonics)


@pytest.mark.slow
def test_v4_uses_its_width(objects):
    assert any("%zmm" in operands for listing in of_variant(objects, "v4").values() for _, operands, _ in listing)


NARROW = (
    r"(v?tile|ld?tile|tdp|vdpbf16|vcvtne.*bf16|vpdpbusd|vpdpwssd)"  # instructions of AMX, AVX512_BF16 and AVX512_VNNI
)


@pytest.mark.slow
@pytest.mark.parametrize(
    "variant, own",
    [("v4", []), ("avx512bf16", ["vdpbf16ps"]), ("amx", ["tdpbf16ps", "tdpbssd", "tdpbusd", "tilerelease"])],
)
def test_narrow_products_have_their_instructions_and_older_variants_none(objects, variant, own):
    if not any(f"kernels_{variant}.dir" in name for name in objects):
        pytest.skip(f"this compiler does not know {variant}")
    found = {m for listing in of_variant(objects, variant).values() for m, _, _ in listing if re.match(NARROW, m)}
    assert found >= set(own) and bool(found) == bool(own)
    assert variant == "amx" or not any("tile" in mnemonic for mnemonic in found)


def innermost_loops(listing):
    """(first, last) index of each loop that has no other loop in it."""
    loops, at = [], {}
    for last, (mnemonic, operands, address) in enumerate(listing):
        at[address] = last  # sections begin at 0 again: the latest counts
        target = re.match(r"([0-9a-f]+) <", operands)
        if mnemonic.startswith("j") and target and at.get(int(target[1], 16), last + 1) <= last:
            first = at[int(target[1], 16)]
            if not any(first <= other <= last for other, _ in loops):
                loops.append((first, last))
    return loops


def stack_traffic(listing, first, last):
    """The instructions of a loop that read or write the stack, or write any memory."""
    writes_rbp = [f"{m} {o}" for m, o, _ in listing[:first] if o.endswith(",%rbp") or (m == "pop" and o == "%rbp")]
    frames = ["%rsp"] + ["%rbp"] * (writes_rbp[-1:] == ["mov %rsp,%rbp"])
    found = []
    for mnemonic, operands, _ in listing[first : last + 1]:
        on_stack = any(f"({frame}" in operands for frame in frames)
        writes = operands.endswith(")") and not re.match("cmp|test|prefetch|nop|j", mnemonic)
        if on_stack or writes or mnemonic in ("push", "pop", "call"):
            found.append(f"{mnemonic} {operands}")
    return found


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["v3", "v4"])
def test_the_microkernel_keeps_its_tile_in_registers(objects, commands, variant, tmp_path):
    """In the loop over k of the register tile, c (MR, NR), there are its multiply-adds and loads of panels alone."""
    [(name, listing)] = [(n, found) for n, found in of_variant(objects, variant).items() if n.endswith("/gemm.c.o")]
    [command] = [c for c in commands if c["output"] == name]
    compile_(command, tmp_path / "gemm.i", "-E")
    text = (tmp_path / "gemm.i").read_text()
    rows, vectors = (int(re.search(pattern, text)[1]) for pattern in (r"\bMR = (\d+)", r"\bNR = (\d+) \* VL"))
    tile, found = rows * vectors, 0
    for first, last in innermost_loops(listing):
        mnemonics = [mnemonic for mnemonic, _, _ in listing[first : last + 1]]
        n_fma = sum(m.startswith("vfmadd") for m in mnemonics)
        if n_fma < tile or any(re.match("vmul|vadd|vsub|vdiv|vunpck|vshuf|vperm", m) for m in mnemonics):
            continue  # an epilogue's, or one that turns lines in registers
        found += 1
        assert n_fma % tile == 0
        assert not stack_traffic(listing, first, last)
    assert found


def test_stack_traffic_is_seen():
    """A loop with a spilled accumulator, one with a pointer in %rbp, and one whose frame pointer it is."""
    head, spill = ("xor %eax,%eax", "mov %rsp,%rbp"), "vmovaps %ymm1,0x20(%rsp)"
    bodies = {
        spill: (*head, spill, "jne 4 <f+0x4>"),
        "vmovaps -0x20(%rbp),%ymm1": (*head, "vmovaps -0x20(%rbp),%ymm1", "jne 4 <f+0x4>"),
        None: (*head[:1], "mov %rdi,%rbp", "vfmadd231ps 0x20(%rbp),%ymm0,%ymm1", "jne 4 <f+0x4>"),
    }
    for wanted, lines in bodies.items():
        listing = [(*line.split(" ", 1), 2 * i) for i, line in enumerate(lines)]
        assert innermost_loops(listing) == [(2, 3)]
        assert stack_traffic(listing, 2, 3) == [wanted] * (wanted is not None)


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

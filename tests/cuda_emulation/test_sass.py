"""The machine code in the module that was built: the instructions that kernels are written for, and none that spill."""

import importlib.util
import os
import re
import shutil
import subprocess
import sysconfig
from collections import Counter
from pathlib import Path

import pytest

SPEC = importlib.util.find_spec("gollm._cuda")
# nvidia-cuda-cuobjdump and nvidia-cuda-nvdisasm put their programs there
WHEELS = Path(sysconfig.get_paths()["purelib"]) / "nvidia" / "cu13" / "bin"
PATH = os.pathsep.join([os.environ.get("PATH", ""), str(WHEELS)])
CUOBJDUMP = shutil.which("cuobjdump", path=PATH)

pytestmark = [
    pytest.mark.skipif(SPEC is None, reason="this gollm was built without CUDA kernels"),
    pytest.mark.skipif(
        CUOBJDUMP is None or shutil.which("nvdisasm", path=PATH) is None,
        reason="cuobjdump and nvdisasm are not installed",
    ),
]
TENSOR_CORE_KERNELS = r"bfloat16\d\d(product_kernel|attention_forward_kernel|attention_backward_kernel)"


@pytest.fixture(scope="module")
def functions():
    """How often each instruction is in each function, by architecture and mangled name."""
    command = [CUOBJDUMP, "-sass", SPEC.origin]
    run = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ | {"PATH": PATH})
    found: dict[tuple[str, str], Counter[str]] = {}
    arch, code = "", Counter()
    for line in run.stdout.splitlines():
        if match := re.match(r"\s*arch = (\S+)", line):
            arch = match[1]
        elif match := re.match(r"\s*Function : (\S+)", line):
            code = found.setdefault((arch, match[1]), Counter())
        elif match := re.match(r"\s*/\*[0-9a-f]{4,}\*/\s+(?:@\S+\s+)?([A-Z][\w.]*)", line):
            code[match[1]] += 1
    return found


def having(code, prefix):
    return sum(n for name, n in code.items() if name.startswith(prefix))


def named(functions, pattern):
    return {key: code for key, code in functions.items() if re.search(pattern, key[1])}


def test_both_targets_have_every_kernel(functions):
    kernels = {arch: {name for a, name in functions if a == arch} for arch, _ in functions}
    assert kernels.keys() == {"sm_80", "sm_90a"}
    assert len(kernels["sm_80"]) > 100
    assert kernels["sm_80"] == kernels["sm_90a"]


def test_no_kernel_touches_local_memory(functions):
    assert not {key for key, code in functions.items() if having(code, "LDL") or having(code, "STL")}


def test_products_of_bfloat16_are_the_tensor_cores(functions):
    chosen = named(functions, TENSOR_CORE_KERNELS)
    assert len(chosen) == 2 * (3 + 4 + 8)  # layouts, and sizes of a head forward and backward
    for key, code in chosen.items():
        for instruction in ("HMMA.16816.F32.BF16", "LDSM.16.M88.4", "LDSM.16.MT88.4", "LDGSTS.E.BYPASS.128"):
            if instruction.startswith("LDSM") and "product_kernel" in key[1]:
                instruction = "LDSM.16.M"  # one layout needs only one kind
            assert having(code, instruction), (key, instruction)


def test_products_with_few_rows_are_the_tensor_cores(functions):
    chosen = named(functions, r"bfloat16\d\dfew_rows_kernel")
    assert len(chosen) == 2
    for key, code in chosen.items():
        for instruction in ("HMMA.16816.F32.BF16", "LDSM.16.M88.4", "LDGSTS.E.BYPASS.128"):
            assert having(code, instruction), (key, instruction)


def test_products_of_a_hopper_are_its_own(functions):
    chosen = named(functions, "hopper_product_kernel")
    assert len(chosen) == 2 * 3
    for (arch, name), code in chosen.items():
        for instruction in ("HGMMA.64x256x16.F32.BF16", "UTMALDG.2D", "SYNCS", "USETMAXREG"):
            assert bool(having(code, instruction)) == (arch == "sm_90a"), (arch, name, instruction)
        assert not having(code, "HMMA")

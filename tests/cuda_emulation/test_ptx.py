"""What the compiler makes of cuda/, where nvcc is at hand: the instructions that the kernels are written for."""

import re
import shutil
import subprocess

import pytest

from cuda_emulation.device import CUDA, ROOT, VARIANTS

pytestmark = pytest.mark.skipif(not shutil.which("nvcc"), reason="nvcc is not installed")


@pytest.fixture(scope="module", params=VARIANTS)
def ptx(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ptx")
    files = sorted(path for path in CUDA.glob("*.cu") if path.stem != "device")
    (folder / "unit.cu").write_text("".join(f'#include "{path}"\n' for path in files))
    command = ["nvcc", "-std=c++17", "-O3", "-arch=compute_80", "-ptx", f"-DGOLLM_VARIANT={request.param}"]
    command += [*VARIANTS[request.param], f"-I{CUDA}", f"-I{ROOT / 'csrc'}", "-o", "unit.ptx", "unit.cu"]
    subprocess.run(command, check=True, cwd=folder)
    return request.param, (folder / "unit.ptx").read_text()


def test_no_float_is_added_atomically(ptx):
    assert not re.findall(r"\b(?:atom|red)\.\S*\.(?:f|bf)\d+", ptx[1])


def test_nothing_lies_in_local_memory(ptx):
    assert not re.findall(r"\b(?:ld|st)\.local\S*", ptx[1])


def test_vectors_of_16_bytes_are_moved_at_once(ptx):
    assert re.search(r"\bld\.global\.v4\.\w32", ptx[1]) and re.search(r"\bst\.global\.v4\.\w32", ptx[1])


def test_products_of_bfloat16_run_on_tensor_cores(ptx):
    for instruction in ("mma.sync.aligned.m16n8k16", "ldmatrix.sync.aligned.m8n8.x4"):
        assert (instruction in ptx[1]) == (ptx[0] == "bfloat16"), instruction


def code_of(ptx, kernel):
    """The bodies of all kernels whose names end so."""
    return re.findall(rf"\.entry \S*\d{kernel}\S*\(.*?\n}}", ptx[1], re.DOTALL)


def test_products_with_few_rows_copy_16_bytes_at_a_time(ptx):
    kernels = code_of(ptx, "few_rows_kernel")
    assert len(kernels) == (1 if ptx[0] == "bfloat16" else 2)
    for code in kernels:
        assert "cp.async.cg.shared.global" in code
        assert ("mma.sync.aligned.m16n8k16" in code) == (ptx[0] == "bfloat16")


def test_pages_are_read_16_bytes_at_a_time(ptx):
    kernels = code_of(ptx, "attention_paged_kernel")
    assert len(kernels) == (2 * 2 if ptx[0] == "bfloat16" else 2 * 3)  # rows, and dtypes of pages
    for code in kernels:
        assert re.search(r"\bld\.global(?:\.nc)?\.v4\.\w32", code)


def test_products_of_a_hopper_are_not_serialised(tmp_path):
    """Where wgmma's registers do not fit its rules, ptxas compiles a slow program and only notes it."""
    command = [
        "nvcc",
        "-std=c++17",
        "-O3",
        "-arch=sm_90a",
        "-Xptxas=-v,-warn-spills,-Werror",
        "-DGOLLM_VARIANT=bfloat16",
    ]
    command += [
        "-DGOLLM_BF16",
        f"-I{CUDA}",
        f"-I{ROOT / 'csrc'}",
        "-cubin",
        "-o",
        "unit.cubin",
        str(CUDA / "matmul.cu"),
    ]
    run = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    assert "hopper_product_kernel" in run.stderr
    assert "Performance Loss" not in run.stderr


def test_products_of_integers_run_on_tensor_cores_and_in_dot_products(ptx):
    for instruction in ("m16n8k32.row.col.s32.s8.s8.s32", "m16n8k32.row.col.s32.s8.u8.s32", "dp4a.s32", "dp2a.lo.s32"):
        assert instruction in ptx[1], instruction


def test_weights_of_tokens_are_not_contracted(ptx):
    """Then they are the CPU's, bit for bit."""
    (draw,) = re.findall(r"\.entry \S*sample_kernel\S*\(.*?\n}", ptx[1], re.DOTALL)
    assert "mul.rn.f64" in draw and "fma" not in draw

"""Bugs that people write, planted in a kernel: the emulation finds each of them, in the timing that shows it."""

import subprocess
import sys

import pytest

from cuda_emulation.device import CUDA, HERE, build
from cuda_emulation.test_kernels import pytestmark as pytestmark

# name: (file with the bug, what is replaced, by what, the kernel file, its row)
MUTANTS = {
    "one group of copies is not waited for": (
        "gemm.h",
        "copy_wait<STAGES - 2>()",
        "copy_wait<STAGES - 1>()",
        "matmul",
        "matmul_nt",
    ),
    "no barrier before shared memory is read": (
        "column_sums.h",
        "    __syncthreads();\n    if (row != 0",
        "    if (row != 0",
        "rmsnorm",
        "rmsnorm_backward",
    ),
    "no test of the edge in the epilogue": (
        "product.h",
        "if (m >= p.M || n >= p.N) return;",
        "if (n >= p.N) return;",
        "matmul",
        "matmul_nt",
    ),
    "rows of b in the wrong lanes": (
        "gemm.h",
        "n + lane % 8 + lane / 16 * 8, k / 8 + lane / 8 % 2",
        "n + lane % 16, k / 8 + lane / 16",
        "matmul",
        "matmul_nt",
    ),
    "a stage refilled before all have left it": (
        "gemm.h",
        "        __syncthreads();\n        load(step + STAGES - 1); // into",
        "        load(step + STAGES - 1); // into",
        "matmul",
        "matmul_nt",
    ),
    "a warp's sum of one lane alone": (
        "kernel.h",
        "__shfl_xor_sync(0xffffffffu, x, mask)",
        "0",
        "softmax",
        "softmax_forward",
    ),
    "infinity times the weight 0 of a masked key": (
        "attention_forward.cu",
        "const bool careful = __syncthreads_or(masked && !copied_finite(values))",
        "const bool careful = __syncthreads_or(0)",
        "attention_forward",
        "attention_forward",
    ),
    "no barrier before keys are read": (
        "attention_forward.cu",
        "const bool careful = __syncthreads_or(masked && !copied_finite(values))",
        "const bool careful = false",
        "attention_forward",
        "attention_forward",
    ),
    "a stage given back while wgmma reads it": (
        "gemm_hopper.h",
        "wgmma_wait<1>(sums);",
        "",
        "matmul",
        "matmul_nt",
    ),
    "a stage of which half is waited for": (
        "gemm_hopper.h",
        "barrier_expect(full, sizeof stage)",
        "barrier_expect(full, sizeof stage.a)",
        "matmul",
        "matmul_nt",
    ),
    "few rows: one group of copies is not waited for": (
        "few_rows.h",
        "copy_wait<STAGES - 2>()",
        "copy_wait<STAGES - 1>()",
        "matmul",
        "matmul_nt",
    ),
    "few rows: a stage refilled before it is read": (
        "few_rows.h",
        "load(step + STAGES - 1);",
        "load(step + STAGES);",
        "matmul",
        "matmul_nt",
    ),
    "few rows: weights of the wrong steps of k": (
        "few_rows.h",
        "k / 8 + half * 2 + lane / 16",
        "k / 8 + half + lane / 16 * 2",
        "matmul",
        "matmul_nt",
    ),
    "weights rounded with the bits of their neighbours": (
        "adamw.cu",
        ">> 16 * (k % 2)",
        ">> 16 * (1 - k % 2)",
        "adamw",
        "adamw_bf16",
    ),
    "bits for rounding that are the same in every step": (
        "adamw.cu",
        "STREAM_OF_ROUNDING, (uint32_t)step",
        "STREAM_OF_ROUNDING, 1",
        "adamw",
        "adamw_bf16",
    ),
    "a warp's keys read before all are written": (
        "attention_paged.cu",
        "= seen_by;\n        __syncthreads();",
        "= seen_by;",
        "attention_paged",
        "attention_paged_bf16",
    ),
    "scores added up before the other half has come": (
        "attention_paged.cu",
        "        __syncthreads();\n        uint32_t seen_by = 0;",
        "        uint32_t seen_by = 0;",
        "attention_paged",
        "attention_paged_bf16",
    ),
    "keys beside a masked one read from the wrong place": (
        "attention_paged.cu",
        "memory.k[own_keys + some] - some",
        "memory.k[own_keys + some]",
        "attention_paged",
        "attention_paged_bf16",
    ),
    "ways of a column added up before all have come": (
        "attention_paged.cu",
        "        __syncthreads();\n#pragma unroll\n        for (int i = 0; i < ROWS; i++) {",
        "#pragma unroll\n        for (int i = 0; i < ROWS; i++) {",
        "attention_paged",
        "attention_paged_bf16",
    ),
    "a block of keys folded without its factor": (
        "attention_paged.cu",
        "o[i] = fmaf(o[i], fold.keep,",
        "o[i] = fmaf(o[i], 1,",
        "attention_paged",
        "attention_paged_bf16",
    ),
    "sums added up before all blocks of tokens have theirs": (
        "sample.cu",
        "        __syncthreads();\n        if (i < n) memory.sums",
        "        if (i < n) memory.sums",
        "sample",
        "sample",
    ),
    "chunks added before all warps have theirs": (
        "packed_product.h",
        "memory.sums[warp]);\n        __syncthreads();",
        "memory.sums[warp]);",
        "matmul_packed",
        "matmul_packed",
    ),
    "weights of the wrong steps of k in a product's registers": (
        "matmul_packed.cu",
        "t + i / 2 % 2 * 8 + i % 2;",
        "t + i % 2 * 8 + i / 2 % 2;",
        "matmul_packed",
        "matmul_packed",
    ),
}
RUN = """
import sys
from pathlib import Path
from cuda_emulation.device import Device
from cuda_emulation.test_kernels import CHECKS, ROWS
from kernels import harness
library, row, file = sys.argv[1:]
harness.DEVICES["cuda-bfloat16"] = Device(Path(library)).caller("bfloat16", hopper="hopper" in file)
for check in (CHECKS[0], CHECKS[3], CHECKS[5]):
    check(ROWS[row], "cuda-bfloat16")
"""


@pytest.mark.parametrize("name", MUTANTS)
def test_a_planted_bug_is_found(name, tmp_path):
    file, text, bug, kernel, row = MUTANTS[name]
    for path in CUDA.glob("*"):
        source = path.read_text()
        if path.name == file:
            assert text in source, f"{file} has changed: plant the bug anew"
            source = source.replace(text, bug)
        (tmp_path / path.name).write_text(source)
    library = build(tmp_path, [kernel], ["bfloat16"], cuda=tmp_path)
    command = [sys.executable, "-c", RUN, str(library), row, file]
    run = subprocess.run(command, capture_output=True, text=True, cwd=HERE.parent)
    assert run.returncode != 0, f"{name} was not found"
    signs = ("emulation:", "are wrong", "differ", "bytes")
    crashed = run.returncode < 0  # a load of 16 bytes from an odd address, say
    assert crashed or any(sign in run.stderr for sign in signs), run.stderr[-2000:]

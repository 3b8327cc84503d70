"""Every kernel of cuda/ passes the checks of the CPU's kernels, with the same references, on an emulated GPU."""

import dataclasses
import math
import platform
import shutil

import numpy as np
import pytest

from cuda_emulation.device import CUDA, VARIANTS, Device, Failed, build
from gollm import _native
from kernels import harness, test_kernels
from kernels.harness import load_rows

pytestmark = pytest.mark.skipif(
    platform.machine() != "x86_64" or not shutil.which("c++"), reason="the emulation needs a C++ compiler on x86-64"
)
# M N K of a product, C V of a table, N C V of a head, pairs of attention, S L Z of pages: tiles of at most 128, stages
# of 64 and blocks of 256 keys are full and ragged far below it.
MOST_WORK = {
    "MNK": 6_000_000,
    "CV": 100_000,
    "NCV": 400_000,
    "SLZ": 1000,
    "SV": 5000,
    "BTTH": 200_000,
    "BTTHD": 4_000_000,
}
# Of kernels that take long here, or whose references do, every n-th case.
EVERY = {"sample": 5, "measure_read": 4, "matmul_packed": 2, "matmul_bf16": 2, "matmul_f16": 2}
EVERY |= {"attention_paged": 3, "attention_paged_bf16": 3, "attention_paged_f16": 3}


def emulated(row):
    """The row without its largest cases, and without some where they take long."""

    def is_small(case):
        return all(math.prod(case.get(dim, 0) for dim in dims) <= most for dims, most in MOST_WORK.items())

    return dataclasses.replace(row, cases=tuple(filter(is_small, row.cases))[:: EVERY.get(row.name, 1)])


def measure_fma(iterations):
    """Of all threads of the device, whose number grows with the iterations."""
    threads = 128 * max(1, iterations // 64)
    return {"result": np.array([min(iterations, 1.0)]), "flops": np.array([2.0 * 12 * iterations * threads])}


ROWS = {name: emulated(row) for name, row in load_rows().items()}
ROWS["measure_fma"] = dataclasses.replace(ROWS["measure_fma"], reference=measure_fma)
CHECKS = [
    test_kernels.test_values,
    test_kernels.test_optional_arguments,
    test_kernels.test_accumulation,
    test_kernels.test_threads_and_alignment_do_not_change_a_bit,  # and how threads and copies are timed
    test_kernels.test_aliasing_does_not_change_a_bit,
    test_kernels.test_nan_and_infinity_go_where_the_formula_sends_them,
]
# What the CPU has and the backend does not have yet: no kernel may fall out of the table unseen.
MISSING: set[str] = set()


@pytest.fixture(scope="module")
def device(tmp_path_factory):
    device = Device(build(tmp_path_factory.mktemp("emulation")))
    builds = {f"cuda-{variant}": device.caller(variant) for variant in VARIANTS}
    builds["hopper-bfloat16"] = device.caller("bfloat16", hopper=True)
    harness.DEVICES.update(builds)
    yield device
    for name in builds:
        del harness.DEVICES[name]


def cases_of(row, variant):
    """Operands in bfloat16 are what they are: there, `compute` makes no other case."""
    if variant == "float32":
        return row
    different = {str(case | {"compute": None}): case for case in row.cases}
    return dataclasses.replace(row, cases=tuple(different.values()))


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", [name for name in ROWS if name not in MISSING])
def test_kernel(device, name, variant):
    row = cases_of(ROWS[name], variant)
    for check in CHECKS:
        check(row, f"cuda-{variant}")


def is_for_tma(case):
    """Whether the rows of all operands of a product begin at multiples of 16 bytes, in every layout."""
    return all(case.get(dim, 0) % 8 == 0 for dim in "MNK")


@pytest.mark.parametrize("name", ["matmul_nt", "matmul_nn", "matmul_tn"])
def test_products_of_a_hopper(device, name):
    """They pass the checks, and have the bits of the products of other GPUs."""
    row = dataclasses.replace(ROWS[name], cases=tuple(filter(is_for_tma, ROWS[name].cases)))
    assert row.cases
    for check in CHECKS:
        check(row, "hopper-bfloat16")
    for case in row.cases:
        inputs = harness.make_inputs(row, case, harness.real_of("hopper-bfloat16"))
        results = [harness.run(row, build, case, inputs) for build in ("hopper-bfloat16", "cuda-bfloat16")]
        harness.same_bits(f"{name} ({case}) on a Hopper", *results)


def test_missing_kernels_are_known(device):
    for variant in VARIANTS:
        assert {name for name in _native.contracts() if not device.has(name, variant)} == MISSING


def test_a_kernel_that_is_not_there_is_refused_by_name(tmp_path):
    small = Device(build(tmp_path, ["add"], ["float32"]))
    assert small.has("add")
    assert not small.has("softmax_forward")
    with pytest.raises(Failed, match="softmax_forward: unsupported"):
        small.caller("float32")(ROWS["softmax_forward"], ROWS["softmax_forward"].cases[0], {}, (), 1)


@pytest.mark.parametrize("variant", VARIANTS)
def test_bad_data_show_when_results_are_read(device, variant):
    """The call itself is queued; the error word tells at `finish`, once, and the next call is well."""
    row = ROWS["embedding_forward"]
    case = {"N": 40, "C": 5, "V": 7, "T": 3, "without": ("positions", "position_table")}
    for tokens, status in [([7] * 40, "bad index"), ([-1] * 40, "bad index"), ([6] * 40, None)]:
        inputs = harness.make_inputs(row, case, harness.real_of(variant)) | {"tokens": np.array(tokens, np.int32)}
        if status:
            with pytest.raises(Failed, match=f"embedding_forward: {status}"):
                harness.run(row, f"cuda-{variant}", case, inputs)
        else:
            harness.run(row, f"cuda-{variant}", case, inputs)


def test_a_bad_target_is_told_and_left_out(device):
    row, case = ROWS["head_backward"], next(case for case in ROWS["head_backward"].cases if case["N"] == 13)
    inputs = harness.make_inputs(row, case, np.float32)
    ignored = inputs | {
        "targets": np.where(np.arange(13) == 5, case["ignore_index"], inputs["targets"]).astype(np.int32)
    }
    want = harness.run(row, "cuda-float32", case, ignored)
    for bad in (-1, case["V"], 2**31 - 1):
        got = {}

        def calls_and_keeps(row, case, buffers, accumulate, threads, got=got):
            try:
                device.caller("float32")(row, case, buffers, accumulate, threads)
            except Failed as error:
                got["error"] = str(error)

        harness.DEVICES["keeps-float32"] = calls_and_keeps
        inputs["targets"][5] = bad
        results = harness.run(row, "keeps-float32", case, inputs)
        assert got["error"] == "head_backward: bad index"
        harness.same_bits(f"target {bad}", results, want)
    del harness.DEVICES["keeps-float32"]


def test_a_head_in_chunks_of_rows(tmp_path):
    """Chunks of 128 rows, in place of a gigabyte."""
    for path in CUDA.glob("*"):
        (tmp_path / path.name).write_text(path.read_text().replace("CHUNK_BYTES = (int64_t)1 << 30", "CHUNK_BYTES = 1"))
    assert "CHUNK_BYTES = 1," in (tmp_path / "head.cu").read_text()
    small = Device(build(tmp_path, ["head"], ["float32"], cuda=tmp_path))
    harness.DEVICES["chunks-float32"] = small.caller("float32")
    for name in ("head_forward", "head_backward"):
        row = ROWS[name]
        row = dataclasses.replace(row, cases=tuple(case for case in row.cases if case["N"] > 128))
        assert row.cases
        test_kernels.test_values(row, "chunks-float32")
        test_kernels.test_accumulation(row, "chunks-float32")
    del harness.DEVICES["chunks-float32"]


def test_dropout_masks_are_the_cpus(device):
    row = ROWS["dropout_backward"]
    for case in row.cases:
        inputs = harness.make_inputs(row, case, np.float32)
        cpu, gpu = (harness.run(row, build, case, inputs)["dx"] for build in (_native.isa(), "cuda-float32"))
        np.testing.assert_array_equal(gpu == 0, cpu == 0)


def test_a_grid_that_no_gpu_takes_is_refused(device):
    row = ROWS["softmax_forward"]
    with pytest.raises(Failed, match="softmax_forward: bad shape"):
        device.caller("float32")(row, row.cases[0] | {"N": 2**36}, {}, (), 1)


OPTIONS = [{}, {"temperature": 0.0}, {"top_k": 50, "temperature": 0.7}, {"top_k": 200}, {"top_p": 0.9}, {"min_p": 0.05}]
OPTIONS += [{"top_k": 400, "top_p": 0.8, "temperature": 2.0}, {"top_p": 1 - 1e-12}, {"top_p": 0.99, "min_p": 0.01}]


@pytest.mark.parametrize("quarters", [False, True])  # logits that are often equal
def test_tokens_are_the_cpus(device, quarters):
    row = ROWS["sample"]
    for options in OPTIONS:
        case = {"S": 3, "V": 1500, "vocab_size": 1490, "options": options}
        inputs = harness.make_inputs(row, case, np.float32)
        if quarters:
            inputs["logits"] = np.round(inputs["logits"]) / 4
        cpu, gpu = (harness.run(row, build, case, inputs)["tokens"] for build in (_native.isa(), "cuda-float32"))
        np.testing.assert_array_equal(gpu, cpu, err_msg=str(options))


def test_a_nucleus_that_ends_just_where_p_does_is_the_cpus(device):
    """p is a sum of the largest weights, as rounded in another order: what is kept depends on the last bit."""
    row, V = ROWS["sample"], 300
    for number in range(4):
        z = np.random.default_rng(number).standard_normal(V).astype(np.float32)
        w = np.sort(np.exp(z.astype(np.float64) - z.max()).astype(np.float32))[::-1].astype(np.float64)
        case = {"S": 12, "V": V, "vocab_size": V, "options": {"top_p": w[: 2 + number].sum() / w.sum()}}
        inputs = harness.make_inputs(row, case, np.float32) | {"logits": np.tile(z, (12, 1))}
        cpu, gpu = (harness.run(row, build, case, inputs)["tokens"] for build in (_native.isa(), "cuda-float32"))
        np.testing.assert_array_equal(gpu, cpu)


PACKED = ["matmul_packed", "matmul_bf16", "matmul_f16", "matmul_int8", "matmul_int4", "matmul_int4_min"]


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", PACKED)
def test_rows_of_a_product_do_not_depend_on_the_batch(device, name, variant):
    """Few and many rows go different ways; over 290 steps of k, chunks of 128 are added."""
    same_rows(name, f"cuda-{variant}", 290)


@pytest.mark.parametrize("build", ["cuda-float32", "cuda-bfloat16", "hopper-bfloat16"])
@pytest.mark.parametrize("K", [290, 296])
@pytest.mark.parametrize("compute", [0, 2])
def test_rows_of_a_plain_product_do_not_depend_on_the_batch(device, build, K, compute):
    """Up to eight rows have kernels of their own; 16-byte copies where rows begin at multiples of that."""
    same_rows("matmul_nt", build, K, compute)


def same_rows(name, build, K, compute=0):
    row, without = ROWS[name], ("bias", "pre", "factor", "residual")
    case = {"M": 40, "N": 70, "K": K, "activation": 0, "compute": compute, "group": 64, "without": without}
    inputs = harness.make_inputs(row, case, harness.real_of(build))
    whole = harness.run(row, build, case, inputs)["c"]
    for first, M in [(0, 1), (39, 1), (5, 3), (7, 8), (4, 9), (7, 33)]:
        part = inputs | {"a": inputs["a"][first : first + M]}
        got = harness.run(row, build, case | {"M": M}, part)["c"]
        assert got.tobytes() == whole[first : first + M].tobytes(), (first, M)


def paged(H, G, D, Z, sequences):
    """Arguments for attention over pages of random keys: sequences are (rows of this call, tokens before them)."""
    rng, lengths = np.random.default_rng(3), [rows + past for rows, past in sequences]
    L = -(-max(lengths) // Z)
    sizes = {"N": sum(rows for rows, _ in sequences), "S": len(sequences), "L": L, "Z": Z, "R": L * len(sequences)}
    pages = [rng.standard_normal((sizes["R"], G, *shape), np.float32) for shape in ((D, Z), (Z, D))]
    inputs = {"k_pages": pages[0], "v_pages": pages[1]}
    inputs |= {"query_offsets": np.cumsum([0] + [rows for rows, _ in sequences]).astype(np.int32)}
    inputs |= {"lengths": np.array(lengths, np.int32)}
    inputs |= {"page_table": np.arange(sizes["R"], dtype=np.int32).reshape(-1, L)}
    case = {"H": H, "G": G, "D": D, "scale": 0.4, "window": 0, "A": 1, "without": ("rotations",)}
    return case | sizes, inputs


def test_a_row_of_attention_does_not_depend_on_how_many_there_are(device):
    """Many rows fold the blocks of keys as they go; the last alone, and with a few others, leave parts."""
    H, G, D, T = 16, 2, 4, 300
    rows = np.random.default_rng(4).standard_normal((T, (H + 2 * G) * D), np.float32)

    def last(n):
        case, inputs = paged(H, G, D, 64, [(n, T - n)])
        inputs |= {"qkv": rows[T - n :]}
        return harness.run(ROWS["attention_paged"], "cuda-float32", case, inputs)["y"]

    want = last(T)
    for n in (1, 2, 40):
        assert last(n).tobytes() == want[T - n :].tobytes(), n


@pytest.mark.parametrize(
    "bad", [{"lengths": [2, 25]}, {"lengths": [1, 20]}, {"query_offsets": [0, 2, 6]}, {"query_offsets": [1, 2, 5]}]
    + [{"page_table": [[0, 9, 9], [5, 1, page]]} for page in (-1, 6)], ids=str
)  # fmt: skip
def test_bad_pages_show_when_results_are_read(device, bad):
    case, inputs = paged(2, 1, 4, 8, [(2, 0), (3, 17)])
    inputs |= {"qkv": np.ones((5, 16), np.float32)} | {name: np.array(v, np.int32) for name, v in bad.items()}
    for name in ("kv_cache_write", "attention_paged"):
        with pytest.raises(Failed, match=f"{name}: bad index"):
            harness.run(ROWS[name], "cuda-float32", case, inputs)

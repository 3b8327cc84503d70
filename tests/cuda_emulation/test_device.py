"""Memory, arrays, tensors and plans of a device, on an emulated GPU, whose memory the program cannot touch."""

import threading

import numpy as np
import pytest

from gollm import cuda
from gollm.errors import DTypeError, GollmError, KernelError, ShapeError
from gollm.kernels import cpu
from gollm.nn import ops
from gollm.nn.devices import kernels_of
from gollm.nn.dtypes import bfloat16
from gollm.nn.plan import Plan
from gollm.nn.storage import Storage
from gollm.nn.tensor import Tensor, from_dlpack, tensor

FLOAT32 = np.dtype(np.float32)


def on(kernels, values, **options):
    return Tensor(Storage(kernels.from_host(values), kernels=kernels), **options)


def test_the_device_is_there_and_described(gpu):
    assert cuda.is_available() and kernels_of("auto") is gpu and kernels_of("cuda", "bfloat16") is gpu
    found = cuda.describe()
    assert found["name"] == "emulated GPU" and found["compute_capability"] == "8.0" and found["runtime"] == "13.0"
    assert 0 < found["free_bytes"] <= found["total_bytes"]


def test_values_go_there_and_back(gpu):
    for values in (
        np.array(3.5, np.float32),
        np.arange(7, dtype=np.int64),
        np.zeros((0, 3)),
        np.arange(6.0).reshape(2, 3)[:, ::2],
    ):
        array = gpu.from_host(values)
        assert (array.shape, array.dtype, array.size, array.nbytes) == (
            values.shape,
            values.dtype,
            values.size,
            values.nbytes,
        )
        assert gpu.from_host(array) is array
        back = gpu.to_host(array)
        np.testing.assert_array_equal(back, values)
        with pytest.raises(ValueError, match="read-only"):
            back[...] = 1
    large = np.random.default_rng(0).standard_normal(700_001, np.float32)  # several pieces of pinned memory
    np.testing.assert_array_equal(gpu.to_host(gpu.from_host(large)), large)


def test_parts_and_shapes_are_views(gpu):
    values = np.arange(24, dtype=np.int32).reshape(2, 3, 4)
    array = gpu.from_host(values)
    for index in (1, -1, slice(1, None), slice(0, 0), (1, 2), (0, slice(1, 3)), (1, 2, 3)):
        np.testing.assert_array_equal(gpu.to_host(array[index]), values[index])
    np.testing.assert_array_equal(gpu.to_host(array.reshape((-1, 8))), values.reshape(-1, 8))
    gpu.write(array[1], np.full((3, 4), 9, np.int32))
    gpu.write(array[0, 2], array[1, 0])
    values[1], values[0, 2] = 9, 9
    np.testing.assert_array_equal(gpu.to_host(array), values)
    with gpu.filling(array[0, 0]) as out:
        out[:] = [5, 6, 7, 8]
    assert gpu.to_host(array)[0, 0].tolist() == [5, 6, 7, 8]
    with pytest.raises(IndexError, match="index 2 of an axis of 2"):
        array[2]
    with pytest.raises(ShapeError, match="without gaps"):
        array[::2]
    with pytest.raises(ShapeError, match=r"\(2, 3, 4\) cannot have the shape \(5, -1\)"):
        array.reshape((5, -1))
    with pytest.raises(ShapeError, match=r"the values are int64 of shape \(4,\)"):
        gpu.write(array[0, 0], np.zeros(4, np.int64))


def test_memory_of_another_device_is_refused(gpu):
    here, there = np.ones(3, np.float32), gpu.from_host(np.ones(3, np.float32))
    with pytest.raises(DTypeError, match="add: a is in the memory of the device 'cpu'; this kernel is one of 'cuda'"):
        gpu.add(c=there, a=here, b=there)
    with pytest.raises(DTypeError, match="add: c is in the memory of the device 'cuda'; this kernel is one of 'cpu'"):
        cpu.add(c=there, a=here, b=here)
    with pytest.raises(DTypeError, match="is not in the CPU's memory"):
        np.asarray(there)
    with pytest.raises(DTypeError, match="c is of dtype float64; it must be float32 or uint16"):
        gpu.add(**dict.fromkeys("cab", gpu.from_host(np.ones(3))))
    with pytest.raises(DTypeError, match="m is of dtype uint16; it must be float32 as w is"):
        bits = gpu.from_host(np.zeros(3, np.uint16))
        one = gpu.from_host(np.ones(1))
        gpu.sgd(w=there, m=bits, g=bits, lr=one, grad_scale=one, momentum=0.0, weight_decay=0.0, n_decay=0)


def test_too_little_memory_says_what_was_asked_for_and_what_is_free(gpu):
    with pytest.raises(
        MemoryError, match=r"shape \(1099511627776,\) and dtype float32: 4398.05 GB were asked for, and "
    ):
        gpu.empty((1 << 40,), FLOAT32)


def test_memory_is_used_again(gpu):
    gpu.native.release_pool()
    for _ in range(3):
        array = gpu.empty((1000,), FLOAT32)
        held = gpu.native.pool_statistics()
        del array
    after = gpu.native.pool_statistics()
    assert after["bytes_in_use"] == held["bytes_in_use"] - 4032  # lines of 64 bytes
    assert (after["system_allocations"], after["bytes_held"]) == (held["system_allocations"], held["bytes_held"])


def test_gradients_are_the_cpus(gpu):
    rng = np.random.default_rng(1)
    values = [rng.standard_normal(shape).astype(np.float32) for shape in ((1, 7), (3, 7), (3,), (1, 3))]
    results = []
    for kernels in (cpu, gpu):
        x, w, b, v = (on(kernels, value, requires_grad=True) for value in values)
        y = ops.linear(ops.activation(ops.linear(x, w, b), kind=1), v)
        y.backward()
        results.append([y.numpy(), *(leaf.grad for leaf in (x, w, b, v))])
    for found, expected in zip(results[1], results[0], strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_bad_data_are_raised_where_values_are_read(gpu):
    table = on(gpu, np.ones((4, 3), np.float32))
    y = ops.embedding(table, None, tokens=gpu.from_host(np.array([1, 4], np.int32)), positions=None)
    with pytest.raises(KernelError, match="a token id, position or page outside of its table"):
        y.numpy()
    y.numpy()  # once


def test_a_plan_replays_as_a_graph(gpu):
    w = on(gpu, np.ones((3, 4), np.float32))
    plan = Plan(
        lambda x: ops.add(ops.linear(Tensor(Storage(x, kernels=gpu)), w), on(gpu, np.full((2, 3), 5, np.float32))), gpu
    )
    for seed in range(3):
        x = np.random.default_rng(seed).standard_normal((2, 4)).astype(np.float32)
        np.testing.assert_allclose(plan(x).numpy(), np.repeat(x.sum(1, keepdims=True), 3, 1) + 5, rtol=1e-5)
    assert plan.kernels == ["matmul_nt", "add"]
    gpu.native.release_workspace()  # whose address the graph knows
    np.testing.assert_allclose(plan(x).numpy(), np.repeat(x.sum(1, keepdims=True), 3, 1) + 5, rtol=1e-5)
    total = on(gpu, np.zeros((2, 3), np.float32))
    counting = Plan(lambda x: gpu.add(c=total.storage, a=total.storage, b=x), gpu)
    counting(np.ones((2, 3), np.float32))
    counting(np.ones((2, 3), np.float32), times=4)
    assert total.numpy().tolist() == [[5.0] * 3] * 2
    with pytest.raises(GollmError, match="read while a plan is recorded"):
        Plan(lambda x: ops.add(w, w).item(), gpu)(x)
    with pytest.raises(GollmError, match="while a plan is recorded"):
        Plan(lambda x: ops.add(w, w).numpy(), gpu)(x)


def test_kernels_of_the_cpu_are_not_part_of_a_plan_of_the_gpu(gpu):
    x = np.zeros(3, np.float32)

    def function(y):
        cpu.fill(y=x, value=x[0] + 1.0)
        gpu.fill(y=y, value=2.0)
        return y

    plan = Plan(function, gpu)
    plan(x), plan(x)
    assert x.tolist() == [1.0] * 3 and plan.kernels == ["fill"]


def test_threads_take_turns(gpu):
    w = on(gpu, np.eye(16, dtype=np.float32))
    failures = []

    def work(seed):
        plan = Plan(lambda x: ops.linear(Tensor(Storage(x, kernels=gpu)), w), gpu)
        rng = np.random.default_rng(seed)
        for _ in range(10):
            x = rng.standard_normal((3, 16)).astype(np.float32)
            if not np.array_equal(plan(x).numpy(), x) or not np.array_equal(ops.linear(on(gpu, x), w).numpy(), x):
                failures.append(seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_a_step_is_measured_without_memory(gpu):
    gpu.native.release_pool()
    before, measure = gpu.native.pool_statistics()["bytes_held"], gpu.Measure()
    measure.begin()
    try:
        x = gpu.empty((1 << 20, 1 << 14), FLOAT32)
        gpu.add(c=x, a=x, b=x)
        assert gpu.to_host(gpu.from_host(np.ones(3))).tolist() == [0.0] * 3
    finally:
        measure.end()
    assert measure.bytes_held >= 1 << 36
    del x
    assert gpu.native.pool_statistics()["bytes_held"] == before


def test_dlpack_and_the_cuda_array_interface_share_the_memory(gpu):
    x = tensor(np.arange(6, dtype=np.float32).reshape(2, 3), device="cuda")
    assert x.device == "cuda" and repr(x) == "Tensor(shape=(2, 3), dtype=float32, device=cuda)"
    interface = x.__cuda_array_interface__
    assert (interface["shape"], interface["typestr"], interface["version"]) == ((2, 3), "<f4", 3)
    y = from_dlpack(x)
    assert y.device == "cuda" and y.__cuda_array_interface__["data"] == interface["data"]
    gpu.fill(y=x.storage, value=7.0)
    del x
    assert y.numpy().tolist() == [[7.0] * 3] * 2
    z = from_dlpack(Tensor(Storage(np.ones(3, np.float32)).to(gpu, bfloat16)))
    assert z.storage.dtype is bfloat16 and z.dtype == np.float32 and z.numpy().tolist() == [1.0] * 3
    assert not hasattr(tensor([1.0]), "__cuda_array_interface__")
    assert from_dlpack(tensor([1.0])).device == "cpu"
    _ = z.__dlpack__()  # a capsule that nobody takes

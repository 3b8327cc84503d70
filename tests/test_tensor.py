"""Tensors and their memory: NumPy and DLPack without a copy, the pool, dtypes that are refused."""

import gc

import numpy as np
import pytest

import gollm
from gollm import _native
from gollm.errors import DTypeError, ShapeError
from gollm.nn.tensor import Tensor, empty, from_dlpack, tensor


def test_numpy_shares_memory_both_ways():
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    x = tensor(array)
    array[1, 2] = 100
    assert x.numpy()[1, 2] == 100
    assert np.shares_memory(np.asarray(x), array)


def test_dlpack_shares_memory_both_ways():
    x = tensor(np.zeros(4, np.float32))
    view = np.from_dlpack(x)
    assert np.shares_memory(view, x.numpy())
    back = from_dlpack(np.arange(3.0))
    assert isinstance(back, Tensor)
    assert back.dtype == np.float64


@pytest.mark.parametrize("dtype", [np.float16, np.bool_, np.complex64, np.uint8])
def test_other_dtypes_are_refused(dtype):
    with pytest.raises(DTypeError, match=np.dtype(dtype).name):
        tensor(np.zeros(3, dtype))


def test_integers_have_no_gradient():
    with pytest.raises(DTypeError, match="int32"):
        tensor(np.zeros(3, np.int32), requires_grad=True)


def test_item_wants_one_value():
    assert tensor([[2.5]]).item() == 2.5
    with pytest.raises(ShapeError, match=r"\(2,\)"):
        tensor([1.0, 2.0]).item()


def test_pool_memory_is_aligned_and_used_again():
    gc.collect()
    _native.release_pool()  # no other free block of this size
    first = empty((1000,))
    address = first.ctypes.data
    assert address % 64 == 0
    before = _native.pool_statistics()["system_allocations"]
    del first
    assert empty((1000,)).ctypes.data == address
    assert _native.pool_statistics()["system_allocations"] == before


def test_a_view_keeps_pool_memory_alive():
    view = empty((1000,))[10:20]
    view[:] = 7
    others = [empty((1000,)) for _ in range(8)]
    for other in others:
        other[:] = 0
    assert (view == 7).all()


def test_import_shows_the_public_names():
    assert gollm.Tensor is Tensor
    with pytest.raises(AttributeError, match="no_such_name"):
        gollm.no_such_name  # noqa: B018

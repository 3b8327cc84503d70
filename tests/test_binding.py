"""What the binding of the kernels refuses, and in which words; the memory pool."""

import contextlib
import functools
import gc
import threading

import numpy as np
import pytest

from gollm import _native
from gollm.errors import ConfigError, DTypeError, GollmError, KernelError, ShapeError


def layernorm(**changes):
    """A call of layernorm_forward, (4, 8), that is right but for the changes; ABSENT leaves an argument out."""
    arguments = {
        "y": np.empty((4, 8), np.float32),
        "mean": np.empty(4, np.float32),
        "rstd": None,
        "x": np.ones((4, 8), np.float32),
        "w": np.ones(8, np.float32),
        "b": None,
        "eps": 1e-5,
    }
    arguments |= changes
    given = {name: value for name, value in arguments.items() if value is not ABSENT}
    _native.layernorm_forward(**given)
    return given


ABSENT = object()


def floats(*shape):
    return np.ones(shape, np.float32)


def read_only(*shape):
    array = floats(*shape)
    array.flags.writeable = False
    return array


def unaligned(*shape):
    return np.zeros(4 * int(np.prod(shape)) + 1, np.uint8)[1:].view(np.float32).reshape(shape)


def test_a_right_call():
    assert (layernorm()["y"] == 0).all()


@pytest.mark.parametrize(
    ("changes", "error", "sentence"),
    [
        ({"x": ABSENT}, ShapeError, "the argument x is missing"),
        ({"x": None}, ShapeError, "the argument x is missing"),
        ({"y": None}, ShapeError, "the argument y is missing"),
        ({"eps": ABSENT}, ConfigError, "the argument eps is missing"),
        ({"epsilon": 1}, ConfigError, "it takes no argument epsilon"),
        ({"N": 4}, ConfigError, "it takes no argument N"),
        ({"eps": "small"}, DTypeError, "eps is 'small'; it must be a number"),
        ({"eps": None}, DTypeError, "eps is None; it must be a number"),
        ({"x": [1.0]}, DTypeError, "x must be a NumPy array, not list"),
        ({"x": floats(4, 8).astype(np.int32)}, DTypeError, "x is of dtype int32; it must be float32 as y is"),
        ({"x": floats(4, 8).astype(np.float64)}, DTypeError, "x is of dtype float64; it must be float32 as y is"),
        ({"x": floats(4, 8).astype(np.float16)}, DTypeError, "x is of dtype float16; it must be float32 as y is"),
        ({"x": floats(4, 8).astype(">f4")}, DTypeError, "x is of dtype >f4; it must be float32 as y is"),
        ({"y": np.empty((4, 8), np.int64)}, DTypeError, "y is of dtype int64; it must be float32 or float64"),
        (
            {"w": floats(7)},
            ShapeError,
            "w has shape (7,); it must be (C) with C = 8, as in y of shape (4, 8) and x of shape (4, 8)",
        ),
        (
            {"x": floats(5, 8)},
            ShapeError,
            "x has shape (5, 8); it must be (N, C) with N = 4, C = 8, as in y of shape (4, 8) and mean of shape (4,)",
        ),
        (
            {"x": floats(32)},
            ShapeError,
            "x has shape (32,); it must be (N, C) with N = 4, C = 8, as in y of shape (4, 8) and mean of shape (4,)",
        ),
        (
            {"x": floats(8, 4).T},
            ShapeError,
            "x of shape (4, 8) must be contiguous and aligned in memory (C order)",
        ),
        (
            {"x": floats(4, 16)[:, ::2]},
            ShapeError,
            "x of shape (4, 8) must be contiguous and aligned in memory (C order)",
        ),
        (
            {"x": unaligned(4, 8)},
            ShapeError,
            "x of shape (4, 8) must be contiguous and aligned in memory (C order)",
        ),
        ({"y": read_only(4, 8)}, ShapeError, "y is written to, but the array is read-only"),
        ({"mean": read_only(4)}, ShapeError, "mean is written to, but the array is read-only"),
    ],
)
def test_a_wrong_call_is_one_clear_sentence(changes, error, sentence):
    with pytest.raises(error) as caught:
        layernorm(**changes)
    assert str(caught.value) == f"layernorm_forward: {sentence}"


def test_read_only_inputs_are_fine():
    layernorm(x=read_only(4, 8), w=read_only(8))


def test_leading_axes_count_as_one():
    x = np.random.default_rng(0).standard_normal((2, 3, 4, 8)).astype(np.float32)
    y, mean = np.empty_like(x), np.empty((2, 3, 4), np.float32)
    layernorm(x=x, y=y, mean=mean)
    np.testing.assert_allclose(mean, x.mean(-1), atol=1e-6)
    flat = np.empty((24, 8), np.float32)
    layernorm(x=x.reshape(24, 8), y=flat, mean=None)
    assert y.tobytes() == flat.tobytes()


def test_overlap_is_refused_where_the_contract_does_not_allow_it():
    memory = floats(5, 8)
    with pytest.raises(ShapeError, match="layernorm_forward: y and x overlap in memory"):
        layernorm(x=memory[:4], y=memory[1:])
    with pytest.raises(ShapeError, match="layernorm_forward: y and w overlap in memory"):
        layernorm(y=memory[:4], w=memory[0])
    with pytest.raises(ShapeError, match="layernorm_forward: mean and rstd overlap in memory"):
        layernorm(mean=memory[0, :4], rstd=memory[0, :4])
    layernorm(x=memory[:4], y=memory[:4])  # ALIAS(y, x)
    layernorm(w=memory[0], b=memory[0])  # both are only read


def layernorm_backward(**into):
    rng = np.random.default_rng(1)
    x, dy = rng.standard_normal((2, 4, 8)).astype(np.float32)
    saved = {"mean": x.mean(-1), "rstd": 1 / x.std(-1)}
    _native.layernorm_backward(**into, dy=dy, x=x, w=floats(8), **saved)


def test_a_destination_is_none_an_array_or_a_pair():
    plain, written, added = np.full(8, 9, np.float32), np.full(8, 9, np.float32), np.full(8, 9, np.float32)
    layernorm_backward(db=plain)
    layernorm_backward(dx=None, db=(written, False))
    layernorm_backward(db=(added, True))
    assert (plain == written).all()
    np.testing.assert_allclose(added, plain + 9, rtol=1e-6)
    layernorm_backward(db=(None, True))


class Storage:
    __slots__ = ("array",)

    def __init__(self, array):
        self.array = array


def test_a_storage_is_taken_as_its_array():
    arrays = layernorm()
    layernorm(**{name: Storage(a) for name, a in arrays.items() if isinstance(a, np.ndarray)})
    plain, added = np.full(8, 9, np.float32), np.full(8, 9, np.float32)
    layernorm_backward(db=Storage(plain), dw=(Storage(added), True))
    again, twice = np.full(8, 9, np.float32), np.full(8, 9, np.float32)
    layernorm_backward(db=again, dw=(twice, True))
    assert plain.tobytes() == again.tobytes() and added.tobytes() == twice.tobytes()
    for wrong in (Storage(None), Storage([1.0]), Storage(Storage(floats(4, 8))), Storage.__new__(Storage)):
        with pytest.raises(DTypeError, match=r"x must be a NumPy array, not (\w|\.)*Storage"):
            layernorm(x=wrong)
    with pytest.raises(ShapeError, match=r"x has shape \(5, 8\); it must be"):
        layernorm(x=Storage(floats(5, 8)))

    class Broken:
        @property
        def array(self):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        layernorm(x=Broken())


def attention(**changes):
    heads = {"H": 2, "G": 1, "D": 4, "scale": 1.0, "window": 0}
    _native.attention_forward(**{"y": floats(2, 3, 8), "qkv": floats(2, 3, 16), **heads, **changes})


def test_shapes_with_expressions():
    attention()
    with pytest.raises(ShapeError) as caught:
        attention(qkv=floats(2, 3, 15))
    assert str(caught.value) == (
        "attention_forward: qkv has shape (2, 3, 15); it must be (B, T, (H + 2*G)*D) with B = 2, T = 3, H = 2, G = 1, "
        "D = 4, as in y of shape (2, 3, 8)"
    )
    for wrong in ({"H": -1}, {"H": 2**62}, {"D": 2**63 - 1, "G": 2**62}, {"H": -2, "D": -4}, {"H": 2**63 - 1}):
        with pytest.raises(ShapeError, match="y has shape"):
            attention(**wrong)


def test_a_destination_of_another_kind_is_refused():
    with pytest.raises(DTypeError, match="db must be a NumPy array, not tuple"):
        layernorm_backward(db=(floats(8), True, 3))
    with pytest.raises(DTypeError, match=r"whether to add to db is array\(.*; it must be True or False"):
        layernorm_backward(db=(floats(8), floats(2)))


def test_numbers():
    state = {name: floats(4) for name in "wmg"} | {"lr": np.ones(1), "grad_scale": np.ones(1)}
    options = {"momentum": np.float64(0.9), "weight_decay": 0, "n_decay": np.int64(2)}
    _native.sgd(**state, **options)
    with pytest.raises(DTypeError, match=r"sgd: n_decay is 1\.5; it must be a whole number of at most 64 bits"):
        _native.sgd(**state, **options | {"n_decay": 1.5})
    with pytest.raises(DTypeError, match=r"sgd: n_decay is 9223372036854775808; it must be a whole number"):
        _native.sgd(**state, **options | {"n_decay": 2**63})
    with pytest.raises(DTypeError, match="sgd: lr is of dtype float32; it must be float64"):
        _native.sgd(**state | {"lr": floats(1)}, **options)
    with pytest.raises(KernelError, match="sgd: a value outside of its range"):
        _native.sgd(**state, **options | {"n_decay": 5})


def test_the_pool_gives_aligned_memory_and_takes_it_back():
    gc.collect()
    _native.release_pool()
    before = _native.pool_statistics()
    for shape, dtype in [((3, 5), np.float32), ((), np.float64), ((0, 4), np.int32), ((1000, 1000), np.float32)]:
        array = _native.empty(shape, np.dtype(dtype))
        assert array.shape == shape and array.dtype == dtype and array.flags.c_contiguous and array.flags.writeable
        assert array.ctypes.data % 64 == 0
        array[...] = 1
    del array
    gc.collect()
    assert _native.pool_statistics()["bytes_in_use"] == before["bytes_in_use"]


def test_steady_use_of_the_pool_allocates_nothing():
    def round_of_work():
        arrays = [_native.empty((n, 100), np.dtype(np.float32)) for n in (1, 10, 100, 1000)]
        return [array.ctypes.data for array in arrays]

    first = round_of_work()
    allocations = _native.pool_statistics()["system_allocations"]
    for _ in range(10):
        assert sorted(round_of_work()) == sorted(first)
    assert _native.pool_statistics()["system_allocations"] == allocations


def test_pool_memory_lives_as_long_as_a_view_of_it():
    array = _native.empty((100,), np.dtype(np.float32))
    array[:] = 7
    view = array[10:20]
    in_use = _native.pool_statistics()["bytes_in_use"]
    del array
    assert _native.pool_statistics()["bytes_in_use"] == in_use
    others = [_native.empty((100,), np.dtype(np.float32)) for _ in range(4)]
    for other in others:
        other[:] = 0
    assert (view == 7).all()
    del view
    assert _native.pool_statistics()["bytes_in_use"] == in_use - 448 + 4 * 448


def test_peak_and_release():
    _native.release_pool()
    start = _native.pool_statistics()
    array = _native.empty((1 << 20,), np.dtype(np.float32))
    during = _native.pool_statistics()
    assert during["bytes_in_use"] == start["bytes_in_use"] + (4 << 20)
    assert during["peak_bytes_in_use"] >= during["bytes_in_use"]
    del array
    held = _native.pool_statistics()["bytes_held"]
    _native.release_pool()
    assert _native.pool_statistics()["bytes_held"] <= held - (4 << 20)


@pytest.mark.parametrize(
    "shape", [(1 << 62,), (1 << 64,), (1 << 40, 1 << 40), ((1 << 60) - 1,), (1 << 50,), (0, 1 << 62), (1 << 62, 9, 0)]
)
def test_more_than_there_is_raises_memory_error(shape):
    with pytest.raises(MemoryError, match=r"not enough memory for an array of shape \(.*\) and dtype float64"):
        _native.empty(shape, np.dtype(np.float64))


def test_arrays_of_objects_are_refused():
    with pytest.raises(DTypeError, match="arrays of dtype object cannot lie in the pool"):
        _native.empty((2,), np.dtype(object))


@pytest.mark.parametrize(
    ("shape", "sentence"),
    [
        ((2, -1), "the shape (2, -1) has a negative size"),
        ((-(2**70),), "the shape (-1180591620717411303424,) has a negative size"),
        ((1.5,), "the shape (1.5,) has a size that is not a whole number"),
        (("3", None), "the shape ('3', None) has a size that is not a whole number"),
        ((1,) * 65, "a shape of 65 axes is too long; at most 64 are possible"),
    ],
)
def test_shapes_that_are_not_are_refused(shape, sentence):
    with pytest.raises(ShapeError) as caught:
        _native.empty(shape, np.dtype(np.float32))
    assert str(caught.value) == sentence


def test_sub_arrays_are_refused():
    with pytest.raises(DTypeError, match=r"cannot lie in the pool; give its axes in the shape"):
        _native.empty((2,), np.dtype((np.float32, (3,))))


def test_sizes_may_be_any_whole_numbers():
    assert _native.empty((np.uint8(2), True), np.dtype(np.float32)).shape == (2, 1)


def test_empty_arrays_of_enormous_sizes_are_refused():
    """No memory bounds them, and workspaces would grow with them."""
    one, losses = np.empty(1, np.float32), np.empty(1, np.float32)
    for rows in (2**31, 2**40, 2**60):
        w = np.empty((rows, 0), np.float32)
        with pytest.raises(ShapeError, match="the sizes of an empty array may be at most 1048576"):
            _native.head_forward(
                loss=one,
                losses=losses,
                x=np.empty((1, 0), np.float32),
                w=w,
                targets=np.zeros(1, np.int32),
                ignore_index=-1,
                compute=0,
            )


def test_workspace_bytes_refuses_what_a_kernel_does_not_have():
    with pytest.raises(ConfigError, match="matmul_nt: it takes no size or number Q"):
        _native.workspace_bytes("matmul_nt", M=1, Q=2)
    with pytest.raises(ConfigError, match="matmul_nt: it takes no size or number bias"):
        _native.workspace_bytes("matmul_nt", bias=floats(1))
    with pytest.raises(KernelError, match=r"^there is no kernel 'x{50,60}\.\.\.$"):
        _native.workspace_bytes("x" * 100_000)


def test_arrays_live_as_long_as_a_call():
    """The caller's dict of arguments may change while a kernel runs: functools.partial hands out its own."""
    n = 1 << 20
    call = functools.partial(_native.add, c=np.empty(n, np.float32), a=floats(n), b=floats(n))
    arguments = dict(call.keywords)
    stop = threading.Event()

    def change():
        while not stop.is_set():
            call.keywords.clear()
            call.keywords.update(arguments)

    other = threading.Thread(target=change)
    other.start()
    for _ in range(50):
        with contextlib.suppress(GollmError):
            call()
    stop.set()
    other.join()


ENCODERS = ("Encoder", "BpeEncoder", "WordEncoder", "SentencePieceEncoder", "WordPieceEncoder")


@pytest.mark.parametrize(
    ("kind", "method", "arguments"),
    [
        *[("Plan", name, ()) for name in ("begin", "lend", "end", "clear", "run", "spans")],
        *[("Measure", name, ()) for name in ("begin", "end")],
        *[(kind, name, given) for kind in ENCODERS for name, given in (("encode", ("a",)), ("encode_batch", (["a"],)))],
        ("BpeEncoder", "encode_pieces", (["a"],)),
        ("PieceCounter", "add", ("a",)),
        ("PieceCounter", "add_pieces", (["a"],)),
        ("PieceCounter", "items", ()),
        ("BpeTrainer", "run", (300, 1, 1)),
        ("BpeTrainer", "result", ()),
        ("BpeTrainer", "__init__", (_native.PieceCounter.__new__(_native.PieceCounter),)),
    ],
)
def test_an_object_without_its_init_is_refused(kind, method, arguments):
    empty = getattr(_native, kind).__new__(getattr(_native, kind))
    with pytest.raises(TypeError, match="this object was made without its __init__"):
        getattr(empty, method)(*arguments)


def test_a_sequence_may_make_its_items_anew():
    class Texts:
        def __len__(self):
            return 100

        def __getitem__(self, i):
            if i >= 100:
                raise IndexError
            return f"é{i} x"

    counter = _native.PieceCounter("gpt2")
    counter.add_pieces(Texts())
    assert dict(counter.items()) == {text.encode(): 1 for text in Texts()}
    letters = np.arange(256, dtype=np.uint8), np.arange(257, dtype=np.int32), np.empty((0, 3), np.int32)
    encoder = _native.BpeEncoder(*letters, "gpt2", np.empty(0, np.int32), False, False, -1)
    assert bytes(encoder.encode_pieces(Texts()).astype(np.uint8)).decode() == "".join(Texts())
    assert [bytes(ids.astype(np.uint8)).decode() for ids in encoder.encode_batch(Texts())] == list(Texts())


def test_attention_over_no_sequences():
    heads = {"H": 2, "G": 1, "D": 4}
    for rows in (0, 5):
        call = heads | {
            "qkv": np.zeros((rows, 16), np.float32),
            "k_pages": np.zeros((3, 1, 4, 2), np.float32),
            "v_pages": np.zeros((3, 1, 2, 4), np.float32),
            "query_offsets": np.zeros(1, np.int32),
            "lengths": np.zeros(0, np.int32),
            "page_table": np.zeros((0, 3), np.int32),
        }
        y = np.zeros((rows, 8), np.float32)
        with pytest.raises(KernelError, match="outside") if rows else contextlib.nullcontext():
            _native.attention_paged(y=y, scale=1.0, window=0, **call)
        with pytest.raises(KernelError, match="outside") if rows else contextlib.nullcontext():
            _native.kv_cache_write(**call)

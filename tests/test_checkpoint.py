"""Checkpoints: what goes in comes out, byte for byte, or the file before stays."""

import json
import os
import re
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from gollm.errors import CheckpointError
from gollm.formats.golm.checkpoint import checkpoint_info, open_checkpoint, strip, write_checkpoint
from gollm.formats.golm.header import ALIGNMENT, DTYPES, MAGIC
from gollm.system import files

RNG = np.random.default_rng(0)
CONFIG = {
    "n_layers": 2,
    "d_model": 64,
    "norm_epsilon": 1e-5,
    "tied": True,
    "name": "tïny",
    "nothing": None,
    "list": [1, 2],
}
WEIGHTS = {
    "wte.weight": RNG.standard_normal((10, 8), np.float32),
    "blocks.0.bias": RNG.standard_normal(3, np.float32),
    "blocks.10.bias": np.float32([np.nan, np.inf, -0.0]),
    "scale": np.float64(0.1),
    "empty": np.zeros((0, 5), np.float32),
}
TOKENIZER = (
    {"kind": "character", "vocab_size": 3},
    {"bytes": np.frombuffer(b"abc", np.uint8), "ends": np.int32([1, 2, 3])},
)
TRAINING = {"step": 7, "loss": 1.1, "sampler": {"position": 2**60, "seed": 2**64 - 1}}
MOMENTS = {"moment1": np.arange(83, dtype=np.float32), "wte.weight": np.float32([1])}


def write(path, **changes):
    arguments = {
        "config": CONFIG,
        "tensors": WEIGHTS,
        "tokenizer_state": TOKENIZER,
        "training": TRAINING,
        "training_tensors": MOMENTS,
    }
    write_checkpoint(path, **{**arguments, **changes})
    return path


def same(a, b):
    assert sorted(a) == sorted(b)
    for name in a:
        assert a[name].dtype == b[name].dtype and a[name].shape == np.shape(b[name])
        assert a[name].tobytes() == b[name].tobytes()


def test_what_goes_in_comes_out(tmp_path):
    with open_checkpoint(write(tmp_path / "a.golm")) as file:
        assert file.config == CONFIG and file.training == TRAINING
        same(file.tensors, WEIGHTS)
        same(file.training_tensors, MOMENTS)
        header, arrays = file.tokenizer_state()
        assert header == TOKENIZER[0]
        same(arrays, TOKENIZER[1])
        assert file.path == tmp_path / "a.golm"
        assert file.dtype("scale") == "f64"


def test_without_tokenizer_and_training(tmp_path):
    write(tmp_path / "a.golm", tokenizer_state=None, training=None, training_tensors=None, tensors={})
    with open_checkpoint(tmp_path / "a.golm") as file:
        assert file.tokenizer_state() is None and file.training is None
        assert not file.tensors and not file.training_tensors


@given(
    hnp.arrays(
        st.sampled_from([d for n, d in DTYPES.items() if n != "bf16"]),
        hnp.array_shapes(min_dims=0, max_dims=8, min_side=0, max_side=3),
    ),
    st.booleans(),
    st.booleans(),
)
@settings(max_examples=150, deadline=None)
def test_any_array(tmp_path_factory, array, swap, transpose):
    path = tmp_path_factory.getbasetemp() / "any.golm"
    given_array = array.astype(array.dtype.newbyteorder(">")) if swap else array
    given_array = given_array.T if transpose else given_array
    write(path, tensors={"x": given_array, "y": array})
    with open_checkpoint(path) as file:
        same(file.tensors, {"x": array.T if transpose else array, "y": array})


FINITE = st.floats(allow_nan=False, allow_infinity=False)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | FINITE | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(st.dictionaries(st.text(), JSON, max_size=5))
@settings(max_examples=200, deadline=None)
def test_any_json(tmp_path_factory, value):
    path = tmp_path_factory.getbasetemp() / "json.golm"
    write(path, config=value, training=value)
    with open_checkpoint(path) as file:
        assert file.config == value and repr(file.training) == repr(json.loads(json.dumps(value, sort_keys=True)))


def test_equal_states_give_equal_bytes(tmp_path):
    a = write(tmp_path / "a.golm").read_bytes()
    backwards = {
        "config": dict(reversed(CONFIG.items())),
        "tensors": {name: np.array(value, order="F") for name, value in reversed(WEIGHTS.items())},
        "training": dict(reversed(TRAINING.items())),
        "training_tensors": dict(reversed(MOMENTS.items())),
        "tokenizer_state": (dict(reversed(TOKENIZER[0].items())), dict(reversed(TOKENIZER[1].items()))),
    }
    assert write(tmp_path / "b.golm", **backwards).read_bytes() == a
    assert write(tmp_path / "a.golm").read_bytes() == a
    with open_checkpoint(tmp_path / "a.golm") as file:
        write_checkpoint(
            tmp_path / "c.golm",
            config=file.config,
            tensors=file.tensors,
            tokenizer_state=file.tokenizer_state(),
            training=file.training,
            training_tensors=file.training_tensors,
        )
    assert (tmp_path / "c.golm").read_bytes() == a


def test_the_layout_is_the_documented_one(tmp_path):
    data = write(tmp_path / "a.golm").read_bytes()
    assert data[:4] == MAGIC == b"GoLM" and int.from_bytes(data[4:8], "little") == 1
    start = 16 + int.from_bytes(data[8:16], "little")
    assert start % ALIGNMENT == 0 and len(data) % ALIGNMENT == 0
    header = json.loads(data[16:start])
    assert sorted(header) == ["config", "tensors", "tokenizer", "training"]
    entry = header["tensors"]["wte.weight"]
    assert {k: entry[k] for k in ("dtype", "shape", "layout", "group")} == {
        "dtype": "f32", "shape": [10, 8], "layout": "row-major", "group": "weights",
    }  # fmt: skip
    at = start + entry["offset"]
    assert at % ALIGNMENT == 0 and data[at : at + 320] == WEIGHTS["wte.weight"].tobytes()
    assert header["tensors"]["training/moment1"]["group"] == "training"
    used = np.zeros(len(data), bool)
    used[:start] = True
    for name, entry in header["tensors"].items():
        with open_checkpoint(tmp_path / "a.golm") as file:
            size = file.header.entries[name].n_bytes
        used[start + entry["offset"] : start + entry["offset"] + size] = True
    assert not any(np.frombuffer(data, np.uint8)[~used])  # padding is zero


def test_tensors_are_aligned_read_only_views(tmp_path):
    with open_checkpoint(write(tmp_path / "a.golm")) as file:
        array = file.tensors["wte.weight"]
        assert array.ctypes.data % ALIGNMENT == 0 and not array.flags.writeable
        with pytest.raises(ValueError, match="read-only"):
            array[0, 0] = 1
        with pytest.raises(KeyError):
            file.tensors["no such"]
    np.testing.assert_array_equal(array, WEIGHTS["wte.weight"])  # still there after close
    file.close()


def test_replacing_a_file_leaves_open_ones_alone(tmp_path):
    path = write(tmp_path / "a.golm")
    with open_checkpoint(path) as file:
        write(path, tensors={"other": np.zeros(5)})
        same(file.tensors, WEIGHTS)
    with open_checkpoint(path) as file:
        assert list(file.tensors) == ["other"]


def test_bf16_travels_as_its_bits(tmp_path):
    bits = np.arange(6, dtype=np.uint16).reshape(2, 3)
    write(tmp_path / "a.golm", tensors={"x": bits, "y": bits}, dtypes={"x": "bf16"})
    strip(tmp_path / "a.golm", tmp_path / "b.golm")
    for name in ("a.golm", "b.golm"):
        with open_checkpoint(tmp_path / name) as file:
            assert (file.dtype("x"), file.dtype("y")) == ("bf16", "u16")
            np.testing.assert_array_equal(file.tensors["x"], bits)


def test_strip_leaves_what_is_needed_to_generate(tmp_path):
    path = write(tmp_path / "a.golm")
    strip(path, tmp_path / "b.golm")
    without = write(tmp_path / "c.golm", training=None, training_tensors=None).read_bytes()
    assert (tmp_path / "b.golm").read_bytes() == without
    strip(path, path)
    assert path.read_bytes() == without


def test_describe(tmp_path):
    path = write(tmp_path / "a.golm")
    about = json.loads(json.dumps(checkpoint_info(path)))
    assert about["config"] == CONFIG and about["version"] == 1
    assert about["parameters"] == 80 + 3 + 3 + 1 and about["training_step"] == 7
    assert about["tokenizer"] == {"kind": "character", "vocab_size": 3}
    assert about["bytes"]["file"] == path.stat().st_size and about["bytes"]["training"] == 84 * 4
    assert len(about["tensors"]) == 9
    assert about["tensors"][0] == {
        "name": "blocks.0.bias", "group": "weights", "dtype": "f32", "shape": [3], "layout": "row-major", "bytes": 12,
    }  # fmt: skip
    strip(path, path)
    assert checkpoint_info(path)["training_step"] is None


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"config": {"a": {"b": [1, float("nan")]}}}, "config.a.b[1] is nan"),
        ({"config": {"a": np.float32(1)}}, "config.a is a float32"),
        ({"training": {"a": {1: 2}}}, "training.a has the key 1 of type int"),
        ({"training": {"a": 2**64}}, "integers of 64 bits"),
        ({"training": {"a": {1, 2}}}, "training.a is a set"),
        ({"tensors": {"x": np.array(["a"])}}, "dtype <U1"),
        ({"tensors": {"x": np.array([None])}}, "dtype object"),
        ({"tensors": {"x": np.zeros(2, bool)}}, "dtype bool"),
        ({"tensors": {"x": np.zeros((1,) * 9)}}, "8 axes"),
        ({"tensors": {"": np.zeros(1)}}, "name"),
        ({"tensors": {"a\nb": np.zeros(1)}}, "name"),
        ({"tensors": {"x" * 600: np.zeros(1)}}, "name"),
        ({"tensors": {"training/x": np.zeros(1)}}, "does not fit its group"),
        ({"tensors": {"x": np.zeros(1)}, "dtypes": {"x": "bf16"}}, "float64, which cannot be stored as bf16"),
        ({"tensors": {"x": np.zeros(1)}, "dtypes": {"x": "f8"}}, "known are"),
        ({"training": None}, "training_tensors without training"),
        ({"config": {"a": "x" * (9 << 20)}}, "store large values as tensors"),
    ],
)
def test_states_that_the_format_cannot_hold(tmp_path, changes, words):
    path = write(tmp_path / "a.golm")
    before = path.read_bytes()
    with pytest.raises(CheckpointError, match=re.escape(words)):
        write(path, **changes)
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["a.golm"]


def test_depth_is_bounded_when_writing_as_when_reading(tmp_path):
    def nested(depth):
        return {"a": nested(depth - 1)} if depth else 1

    write(tmp_path / "a.golm", config=nested(31))
    with open_checkpoint(tmp_path / "a.golm") as file:
        assert file.config == nested(31)
    with pytest.raises(CheckpointError, match="nested deeper than 32"):
        write(tmp_path / "a.golm", config=nested(32))


FULL_DISK = textwrap.dedent("""
    import resource, sys
    import numpy as np
    from gollm.formats.golm.checkpoint import write_checkpoint
    from gollm.errors import CheckpointError

    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
    try:
        write_checkpoint(sys.argv[1], config={}, tensors={"x": np.zeros(1_000_000)})
    except CheckpointError as error:
        print(error)
""")


def test_a_full_disk_keeps_the_old_file(tmp_path):
    path = write(tmp_path / "a.golm")
    before = path.read_bytes()
    done = subprocess.run([sys.executable, "-c", FULL_DISK, str(path)], capture_output=True, text=True, check=True)
    assert f"cannot write {path}: File too large; the file that was there before is untouched" in done.stdout
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["a.golm"]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_failing_disk_keeps_the_old_file(tmp_path, monkeypatch, call):
    path = write(tmp_path / "a.golm")
    before = path.read_bytes()

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, call, fail)
    with pytest.raises(CheckpointError, match="No space left on device"):
        write(path, config={})
    monkeypatch.undo()
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["a.golm"]


def test_paths_that_cannot_be_written_or_read(tmp_path):
    with pytest.raises(CheckpointError, match=r"cannot write .*: the folder .*no does not exist\. Create it"):
        write(tmp_path / "no" / "a.golm")
    with pytest.raises(CheckpointError, match=r"cannot open .*No such file or directory"):
        open_checkpoint(tmp_path / "no.golm")
    with pytest.raises(CheckpointError, match="Is a directory"):
        open_checkpoint(tmp_path)
    with pytest.raises(CheckpointError, match="cannot open"):
        open_checkpoint("a\0b")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(CheckpointError, match="not a regular file"):
        open_checkpoint(tmp_path / "pipe")
    with pytest.raises(CheckpointError, match="not a regular file"):
        open_checkpoint("/dev/zero")


def test_a_symbolic_link_is_followed(tmp_path):
    (tmp_path / "runs").mkdir()
    (tmp_path / "a.golm").symlink_to(tmp_path / "runs" / "b.golm")
    write(tmp_path / "a.golm")
    assert (tmp_path / "a.golm").is_symlink() and (tmp_path / "runs" / "b.golm").is_file()


SAVE_FOR_EVER = textwrap.dedent("""
    import sys
    import numpy as np
    from gollm.formats.golm.checkpoint import write_checkpoint

    for step in range(10**9):
        tensors = {str(i): np.full(100_000, step, np.float32) for i in range(5)}
        write_checkpoint(sys.argv[1], config={}, tensors=tensors, training={"step": step})
        if not step:
            print("ready", flush=True)
""")


def test_a_process_killed_while_it_saves_leaves_a_whole_file(tmp_path):
    path = tmp_path / "a.golm"
    delays = np.random.default_rng(1).uniform(0, 0.05, 8)
    for delay in delays:
        saver = subprocess.Popen([sys.executable, "-c", SAVE_FOR_EVER, str(path)], stdout=subprocess.PIPE)
        assert saver.stdout.readline() == b"ready\n"
        with pytest.raises(subprocess.TimeoutExpired):
            saver.wait(delay)
        saver.kill()
        saver.communicate()
        with open_checkpoint(path) as file:
            step = file.training["step"]
            assert all((array == step).all() for array in file.tensors.values()) and len(file.tensors) == 5
        files.remove_leftovers(tmp_path)
        assert os.listdir(tmp_path) == ["a.golm"]


def test_leftovers_are_told_from_other_files(tmp_path):
    names = [".a.golm.1-0123abcd.tmp", "a.tmp", ".a.tmp", ".a.golm.x-0123abcd.tmp"]
    for name in names:
        (tmp_path / name).write_text("x")
    assert files.remove_leftovers(tmp_path) == [tmp_path / names[0]]
    assert sorted(os.listdir(tmp_path)) == sorted(names[1:])


MANY = textwrap.dedent("""
    import sys
    from gollm.formats.golm.checkpoint import open_checkpoint
    from gollm.system.memory import resident_bytes

    before = resident_bytes()[1]
    with open_checkpoint(sys.argv[1]) as file:
        assert file.tensors["x"].shape == (1 << 27,) and file.tensors["x"][-1] == 0
    print(resident_bytes()[1] - before)
""")


def test_opening_a_large_file_reads_none_of_it(tmp_path):
    path = tmp_path / "large.golm"
    write_checkpoint(path, config={}, tensors={"x": np.zeros(0, np.float32)})
    data = bytearray(path.read_bytes().replace(b'"shape":[0]', b'"shape":[134217728]')[: path.stat().st_size + 8])
    start = data.rindex(b"}") + 1
    length = -(-(start - 16 + 16) // 64) * 64 - 16
    data = data[:start].ljust(16 + length)
    data[8:16] = length.to_bytes(8, "little")
    path.write_bytes(data)
    os.truncate(path, len(data) + (1 << 29))  # sparse: takes no room on the disk
    done = subprocess.run([sys.executable, "-c", MANY, str(path)], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 20e6

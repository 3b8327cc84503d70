"""Quantised models in files: codes are taken over, not rounded again, whatever the way from file to file."""

from __future__ import annotations

import json
import struct
import subprocess
import sys

import numpy as np
import pytest

import gollm
from gollm.errors import CheckpointError, ConfigError, FormatError
from gollm.formats import format_named, open_model, save
from gollm.formats.golm.checkpoint import strip
from gollm.model.config import ModelConfig
from gollm.nn import dtypes
from gollm.nn.storage import PANELS
from gollm.quantisation import GROUPS, dequantise, quantise

from .sources import contents, random_source
from .test_gguf import gpt2, llama

gguf = pytest.importorskip("gguf")
KINDS = [(dtype, group) for dtype, groups in GROUPS.items() for group in groups]
HALVES = [(dtypes.bfloat16, 1), (dtypes.float16, 1)]
kinds = pytest.mark.parametrize(("dtype", "group"), KINDS + HALVES, ids=str)
CONFIGS = {"llama": llama(), "untied": llama(tied_head=False), "rows of 24 and 44": llama(d_model=24, d_ff=44),
           "gpt2": gpt2()}  # fmt: skip
configs = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)


def matrices(arrays):
    return {name for name, array in arrays.items() if array.ndim == 2 and name != "position_embedding"}


@kinds
@configs
def test_a_golm_file_has_the_codes_of_the_rounded_weights(tmp_path, config, dtype, group):
    source, arrays = random_source(config)
    save(source.quantised(dtype, group), tmp_path / "m.golm")
    with open_model(tmp_path / "m.golm") as back:
        assert back.config == config
        for name, array in arrays.items():
            packed = back.packed(name)
            if name in matrices(arrays):
                assert (packed.dtype, packed.group) == (dtype, group)
                want = quantise(array, dtype, group)
                np.testing.assert_array_equal(packed.storage().array, want.array)
                np.testing.assert_array_equal(back.array(name, array.shape), dequantise(want))
            else:
                assert packed is None
                np.testing.assert_array_equal(back.array(name, array.shape), array)


@pytest.mark.parametrize("dtype", [*GROUPS, dtypes.bfloat16, dtypes.float16], ids=str)
@pytest.mark.parametrize("config", [llama(), llama(tied_head=False, qkv_bias=True), gpt2()], ids=["a", "b", "c"])
def test_codes_survive_golm_to_gguf_and_back(tmp_path, config, dtype):
    source, arrays = random_source(config)
    save(source.quantised(dtype), tmp_path / "a.golm")
    with open_model(tmp_path / "a.golm") as a:
        save(a, tmp_path / "b.gguf")
    with open_model(tmp_path / "b.gguf") as b:
        save(b, tmp_path / "c.golm")
    if dtype in GROUPS:  # F16 and BF16 blocks become float32 when they are read
        assert (tmp_path / "a.golm").read_bytes() == (tmp_path / "c.golm").read_bytes()
    types = {tensor.name: tensor.tensor_type.name for tensor in gguf.GGUFReader(tmp_path / "b.gguf").tensors}
    want = {dtypes.int8: "Q8_0", dtypes.int4: "Q4_0", dtypes.int4_min: "Q4_1",
            dtypes.bfloat16: "BF16", dtypes.float16: "F16"}[dtype]  # fmt: skip
    assert types["blk.1.ffn_up.weight"] == types["token_embd.weight"] == want
    assert types["output_norm.weight"] == "F32"
    with open_model(tmp_path / "a.golm") as a, open_model(tmp_path / "b.gguf") as b:
        for name, array in contents(a).items():
            np.testing.assert_array_equal(b.array(name, arrays[name].shape), array)  # by llama.cpp's formulas


def test_qwen2_files_have_the_rows_of_a_head_in_another_order(tmp_path):
    source, arrays = random_source(llama(qkv_bias=True, tied_head=False))
    format_named("gguf").write(source, tmp_path / "m.gguf", "q8_0")
    data = (tmp_path / "m.gguf").read_bytes()
    head, tensors = data[:8192], data[8192:]
    (tmp_path / "m.gguf").write_bytes(head.replace(b"llama", b"qwen2") + tensors)
    with open_model(tmp_path / "m.gguf") as back:
        rows = arrays["blocks.0.attention.qkv.weight"]
        assert not np.allclose(back.array("blocks.0.attention.qkv.weight", rows.shape), rows, atol=0.1)
        for name in matrices(arrays):
            np.testing.assert_array_equal(
                dequantise(back.packed(name).storage()), back.array(name, arrays[name].shape), err_msg=name
            )


def test_groups_that_gguf_does_not_have_become_another_type(tmp_path):
    source, arrays = random_source(llama())
    save(source.quantised(dtypes.int8, 64), tmp_path / "a.golm")
    with open_model(tmp_path / "a.golm") as a:
        save(a, tmp_path / "b.gguf")
    with open_model(tmp_path / "b.gguf") as b:
        assert b.dtype == "F32"
        for name, array in contents(b).items():
            np.testing.assert_array_equal(array, dequantise(quantise(arrays[name], dtypes.int8, 64))
                                          if name in matrices(arrays) else arrays[name])  # fmt: skip


def test_another_dtype_is_what_was_asked_for(tmp_path):
    source, _ = random_source(llama())
    save(source.quantised(dtypes.int8), tmp_path / "a.golm")
    with open_model(tmp_path / "a.golm") as a:
        save(a, tmp_path / "same.gguf", dtype="q8_0")
        save(a, tmp_path / "narrow.gguf", dtype="q4_0")
        save(a, tmp_path / "wide.golm", dtype="f32")
        save(a, tmp_path / "folder")
        want = contents(a)
    with open_model(tmp_path / "same.gguf") as same, open_model(tmp_path / "wide.golm") as wide:
        for name, array in want.items():
            np.testing.assert_array_equal(same.array(name, array.shape), array)
            np.testing.assert_array_equal(wide.array(name, array.shape), array)
            assert wide.packed(name) is None
    with open_model(tmp_path / "narrow.gguf") as narrow:
        assert narrow.packed("blocks.0.mlp.up.weight").dtype is dtypes.int4
    with open_model(tmp_path / "folder") as folder:
        assert folder.packed("blocks.0.mlp.up.weight") is None


def test_parts_that_are_kept_are_not_rounded(tmp_path):
    source, arrays = random_source(llama(tied_head=False))
    save(source.quantised(dtypes.int4, keep={"head"}), tmp_path / "a.golm")
    with open_model(tmp_path / "a.golm") as a:
        assert a.packed("head") is None and a.packed("token_embedding") is not None
        np.testing.assert_array_equal(a.array("head", arrays["head"].shape), arrays["head"])


def test_a_group_that_there_is_not_is_refused(tmp_path):
    source, _ = random_source(llama())
    with pytest.raises(ConfigError, match="the group is 48"):
        source.quantised(dtypes.int8, 48)
    with pytest.raises(ConfigError, match="for int4 it must be 32"):
        source.quantised(dtypes.int4, 64)


def test_stripping_keeps_the_layout(tmp_path):
    source, _ = random_source(llama())
    save(source.quantised(dtypes.int4_min), tmp_path / "a.golm")
    strip(tmp_path / "a.golm", tmp_path / "b.golm")
    assert (tmp_path / "a.golm").read_bytes() == (tmp_path / "b.golm").read_bytes()


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("shape", [95, 64], r"of shape \(95, 64\)"),
        ("shape", [64], "two sizes"),
        ("shape", [2**40, 2**8], "cut off"),
        ("layout", "panels/64", "only valid place|cut off|damaged"),
        ("layout", "panels/48", "known are row-major, panels/32"),
        ("layout", "row-major", "the dtype 'int8'"),
        ("dtype", "int4", "only valid place|cut off|damaged"),
        ("dtype", "u8", "known are int8, int4, int4_min"),
    ],
)
def test_a_header_that_does_not_fit_is_refused(tmp_path, key, value, words):
    source, _ = random_source(llama())
    save(source.quantised(dtypes.int8), tmp_path / "a.golm")
    data = (tmp_path / "a.golm").read_bytes()
    length = struct.unpack("<Q", data[8:16])[0]
    header = json.loads(data[16 : 16 + length])
    header["tensors"]["blocks.0.mlp.up.weight"][key] = value
    (tmp_path / "b.golm").write_bytes(
        data[:16] + json.dumps(header, separators=(",", ":")).encode().ljust(length) + data[16 + length :]
    )
    with pytest.raises(CheckpointError, match=words):
        open_model(tmp_path / "b.golm")


def test_a_weight_without_a_scale_is_an_error_that_names_the_file_format(tmp_path):
    source, arrays = random_source(llama())
    arrays["blocks.1.mlp.up.weight"][3, 4] = np.inf
    with pytest.raises((ConfigError, FormatError), match="not finite"):
        save(source.quantised(dtypes.int8), tmp_path / "a.golm")
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_quantised_model_is_used_where_its_file_is(tmp_path):
    """Private memory of a model under a tenth of its file."""
    config = ModelConfig(n_layers=4, n_heads=8, d_model=1024, d_ff=4096, vocab_size=8192, context=64, tied_head=True)
    source, _ = random_source(config, scale=0.02)
    save(source.quantised(dtypes.int8), tmp_path / "m.golm")
    save(random_source(llama())[0].quantised(dtypes.int8), tmp_path / "small.golm")
    script = """
import re, sys
import gollm
def private():
    return int(re.search(r"Anonymous: +(\\d+)", open("/proc/self/smaps_rollup").read())[1])
gollm.load(sys.argv[2])  # modules are imported
before = private()
model = gollm.load(sys.argv[1])
touched = [p.storage.array.max() for p in model.decoder.parameters.values()]
print(private() - before)
"""
    command = [sys.executable, "-c", script, tmp_path / "m.golm", tmp_path / "small.golm"]
    found = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(found.stdout) * 1024 < (tmp_path / "m.golm").stat().st_size / 10


def test_load_can_widen(tmp_path):
    source, arrays = random_source(llama())
    save(source.quantised(dtypes.int8), tmp_path / "m.golm")
    narrow, wide = gollm.load(tmp_path / "m.golm"), gollm.load(tmp_path / "m.golm", dequantise=True)
    for name in matrices(arrays):
        assert narrow.decoder.parameters[name].storage.layout == PANELS
        np.testing.assert_array_equal(
            wide.decoder.parameters[name].data, dequantise(narrow.decoder.parameters[name].storage)
        )
    narrow.save(tmp_path / "again.golm")
    assert (tmp_path / "again.golm").read_bytes() == (tmp_path / "m.golm").read_bytes()


@pytest.mark.parametrize(
    ("form", "dtype", "config"),
    [
        ("gguf", "bf16", llama(tied_head=False)),
        ("gguf", "f16", gpt2()),
        ("huggingface", "bf16", llama()),
        ("huggingface", "f16", llama(qkv_bias=True)),  # halves of heads apart
        ("huggingface", "bf16", gpt2()),  # transposed
        ("golm", "bf16", llama()),
        ("llm.c", "bf16", gpt2()),
    ],
)
def test_what_is_stored_in_16_bits_is_loaded_so_and_computes_the_same(tmp_path, form, dtype, config):
    """Parameters that lie in one array with others of 32 bits are widened; so are biases and norms."""
    source, arrays = random_source(config, scale=0.1)
    path = tmp_path / "model"
    save(source, path, form, dtype)
    narrow, wide = gollm.load(path), gollm.load(path, dequantise=True)
    half = {"bf16": dtypes.bfloat16, "f16": dtypes.float16}[dtype]
    for name, parameter in narrow.decoder.parameters.items():
        storage = parameter.storage
        if name in matrices(arrays):
            assert (storage.dtype, storage.layout) == (half, PANELS)
            np.testing.assert_array_equal(dequantise(storage), wide.decoder.parameters[name].data)
        else:
            assert storage.dtype is dtypes.float32
    ids = np.random.default_rng(0).integers(0, config.vocab_size, (2, 19)).astype(np.int32)
    assert narrow.logits(ids).tobytes() == wide.logits(ids).tobytes()
    narrow.save(tmp_path / "saved.golm")
    assert gollm.load(tmp_path / "saved.golm").logits(ids).tobytes() == wide.logits(ids).tobytes()

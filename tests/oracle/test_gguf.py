"""GGUF's blocks and files against ggml's own package."""

from __future__ import annotations

import itertools
import unicodedata
from pathlib import Path

import numpy as np
import pytest

from gollm.formats import convert, format_named, open_model
from gollm.formats.gguf import block_types as gguf_blocks
from gollm.formats.names import names_of
from gollm.formats.rotary_order import to_half_split
from gollm.formats.source import Source
from gollm.model.config import ModelConfig
from gollm.model.decoder import Decoder
from gollm.tokenizers import BPETokenizer
from gollm.tokenizers.files.gpt2 import to_vocab

gguf = pytest.importorskip("gguf")

TYPES = gguf_blocks.TYPES.values()


def random_blocks(kind: gguf_blocks.BlockType, seed: int = 0, n: int = 2000) -> np.ndarray:
    """Bytes of any value: every scale, infinities and NaN too, and every nibble."""
    n_bytes = kind.encoding.n_bytes(kind.K)
    return np.random.default_rng(seed).integers(0, 256, (n, n_bytes), dtype=np.uint8)


def read(kind: gguf_blocks.BlockType, blocks: np.ndarray, path: Path) -> np.ndarray:
    path.write_bytes(blocks.tobytes())
    out = np.empty(len(blocks) * kind.K, np.float32)
    with path.open("rb", buffering=0) as file:
        kind.encoding.read(file, out)
    return out


@pytest.mark.parametrize("kind", TYPES, ids=lambda kind: kind.name)
def test_blocks_are_decoded_bit_for_bit(tmp_path, kind):
    blocks = random_blocks(kind)
    found = read(kind, blocks, tmp_path / "blocks")
    with np.errstate(invalid="ignore"):
        expected = gguf.quants.dequantize(blocks, gguf.GGMLQuantizationType(kind.number)).reshape(-1)
    same = found.view(np.uint32) == expected.view(np.uint32)
    assert (same | (np.isnan(found) & np.isnan(expected))).all()


@pytest.mark.parametrize("kind", TYPES, ids=lambda kind: kind.name)
def test_names_and_sizes_are_ggmls(kind):
    theirs = gguf.GGMLQuantizationType(kind.number)
    assert theirs.name == kind.name
    assert gguf.GGML_QUANT_SIZES[theirs] == (kind.K, kind.encoding.n_bytes(kind.K))


def test_every_type_of_ggml_has_a_name():
    ours = {number: kind.name for number, kind in gguf_blocks.TYPES.items()} | gguf_blocks.OTHERS
    assert all(ours.get(kind.value) == kind.name for kind in gguf.GGMLQuantizationType)


@pytest.mark.parametrize("kind", [gguf_blocks.Q8_0, gguf_blocks.Q4_0], ids=lambda kind: kind.name)
@pytest.mark.parametrize("scale", [1e-9, 1e-3, 1.0, 1e4])
def test_blocks_are_encoded_byte_for_byte(tmp_path, kind, scale):
    rng = np.random.default_rng(1)
    x = rng.standard_normal((3000, 32)).astype(np.float32)
    x[:1000] = np.round(x[:1000] * 4) / 4  # ties, of magnitudes and in rounding
    x[::50] = 0
    x[7::50, 1:] = 0
    x = (x * np.float32(scale)).astype(np.float32)
    with (tmp_path / "blocks").open("wb") as file:
        kind.encoding.write(file, x.reshape(-1))
    expected = gguf.quants.quantize(x, gguf.GGMLQuantizationType(kind.number))
    assert (tmp_path / "blocks").read_bytes() == expected.tobytes()


def qwen2_file(
    path: Path, types: list[gguf.GGMLQuantizationType], tokenizer: BPETokenizer | None = None
) -> tuple[ModelConfig, dict[str, np.ndarray]]:
    """A small Qwen-2 as the converter of llama.cpp writes it, its matrices in the given types by turns."""
    config = ModelConfig(
        n_layers=2, n_heads=4, n_kv_heads=2, d_model=256, d_ff=512, context=64, norm="rmsnorm",
        vocab_size=40 if tokenizer is None else tokenizer.vocab_size,
        position="rope", gated_mlp=True, activation="silu", bias=False, qkv_bias=True, rope_theta=1e6, norm_eps=1e-6,
        tied_head=False,
    )  # fmt: skip
    rng = np.random.default_rng(2)
    writer = gguf.GGUFWriter(path, "qwen2")
    writer.add_block_count(2)
    writer.add_context_length(64)
    writer.add_embedding_length(256)
    writer.add_feed_forward_length(512)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_rope_freq_base(1e6)
    writer.add_layer_norm_rms_eps(1e-6)
    if tokenizer is None:
        writer.add_tokenizer_model("none")
    else:
        vocab, merges = to_vocab(tokenizer)
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre("qwen2")
        writer.add_token_list(sorted(vocab, key=lambda token: vocab[token]))
        writer.add_token_merges([" ".join(merge) for merge in merges])
    arrays: dict[str, np.ndarray] = {}
    turns = itertools.cycle(types)
    for parameter, p in Decoder(config).parameters.items():
        parts = []
        names = names_of(parameter, config, "gguf")
        rows = [256, 128, 128] if len(names) == 3 else [p.shape[0]]
        for name, n in zip(names, rows, strict=True):
            shape = (n, *p.shape[1:])
            kind = gguf.GGMLQuantizationType.F32 if len(shape) == 1 else next(turns)
            ours = gguf_blocks.TYPES[kind]
            count = int(np.prod(shape))
            if kind == gguf.GGMLQuantizationType.F32:
                data = rng.standard_normal(shape).astype(np.float32)
                values = data
            else:
                data = rng.integers(0, 60, (shape[0], ours.encoding.n_bytes(shape[1])), dtype=np.uint8)
                values = gguf.quants.dequantize(data, kind)
            assert values.size == count
            writer.add_tensor(name, data, raw_dtype=kind)
            parts.append(values)
        arrays[parameter] = np.concatenate(parts)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return config, arrays


def test_a_file_of_many_types_is_read_as_its_own_package_reads_it(tmp_path):
    names = ["Q4_K", "Q6_K", "Q5_K", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "F32", "F16", "BF16"]
    config, arrays = qwen2_file(tmp_path / "model.gguf", [gguf.GGMLQuantizationType[name] for name in names])
    with open_model(tmp_path / "model.gguf") as source:
        assert source.config == config
        for name, expected in arrays.items():
            found = source.array(name, expected.shape)
            if "attention.qkv" in name:  # Qwen-2's rows have the two of a pair half a head apart
                for part in (slice(0, 256), slice(256, 384)):
                    found[part] = to_half_split(found[part].copy(), 64).reshape(found[part].shape)
            assert np.array_equal(found, expected, equal_nan=True), name


def test_a_folder_of_qwen2_has_the_ids_of_the_original(tmp_path):
    """Its file says nothing of normalization; the folder's tokenizer is what transformers makes of such a model."""
    transformers = pytest.importorskip("transformers")
    tokenizer = BPETokenizer.train("the café naïve 12\n" * 9, 280, pattern="qwen2")
    qwen2_file(tmp_path / "model.gguf", [gguf.GGMLQuantizationType.F32], tokenizer)
    convert(tmp_path / "model.gguf", tmp_path / "folder")
    folder = transformers.AutoTokenizer.from_pretrained(tmp_path / "folder")
    assert transformers.AutoConfig.from_pretrained(tmp_path / "folder").model_type == "qwen2"
    with open_model(tmp_path / "model.gguf") as source:
        assert source.tokenizer is not None
        for text in ("cafe\u0301 nai\u0308ve 12", "caf\u00e9", "\u212b \u1100\u1161"):
            expected = folder(text)["input_ids"]
            assert source.tokenizer.encode(text).tolist() == expected
            assert tokenizer.encode(unicodedata.normalize("NFC", text)).tolist() == expected


def test_what_is_written_is_read_by_its_own_package(tmp_path):
    config = ModelConfig(
        n_layers=1, n_heads=4, n_kv_heads=2, d_model=64, d_ff=96, vocab_size=70, context=16, norm="rmsnorm",
        position="rope", gated_mlp=True, activation="silu", bias=False, rope_scaling="llama3", rope_factor=8.0,
        rope_original_context=8, head_dim=24,
    )  # fmt: skip
    rng = np.random.default_rng(3)
    arrays = {name: rng.standard_normal(p.shape).astype(np.float32) for name, p in Decoder(config).parameters.items()}
    source = Source(config, lambda name, out: np.copyto(out, arrays[name]))
    for dtype in ("f32", "f16", "bf16", "q8_0", "q4_0"):
        format_named("gguf").write(source, tmp_path / "model.gguf", dtype)
        reader = gguf.GGUFReader(tmp_path / "model.gguf")
        assert reader.get_field("general.architecture").contents() == "llama"
        assert reader.get_field("llama.attention.key_length").contents() == 24
        tensors = {tensor.name: tensor for tensor in reader.tensors}
        assert tensors["token_embd.weight"].shape.tolist() == [64, 70]
        assert tensors["rope_freqs.weight"].shape.tolist() == [12]
        end = max(tensor.data_offset + -(-tensor.n_bytes // 32) * 32 for tensor in reader.tensors)
        assert end == (tmp_path / "model.gguf").stat().st_size
        gate = tensors["blk.0.ffn_gate.weight"]
        expected = gguf.quants.quantize(arrays["blocks.0.mlp.gate.weight"], gate.tensor_type)
        assert gate.data.tobytes() == expected.tobytes()

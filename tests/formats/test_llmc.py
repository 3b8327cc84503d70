"""llm.c's GPT-2 files: the bytes of its own writer, read back bit for bit."""

import numpy as np
import pytest

from gollm.errors import FormatError
from gollm.formats import format_named, open_model
from gollm.model.config import ModelConfig
from gollm.model.generation_defaults import GenerationDefaults
from gollm.tokenizers import BPETokenizer, CharacterTokenizer

from .sources import contents, random_source


def config_of(**changes) -> ModelConfig:
    return ModelConfig(**{"n_layers": 2, "n_heads": 2, "d_model": 6, "vocab_size": 130, "context": 5, **changes})


def to_bf16(array: np.ndarray) -> np.ndarray:
    """The bits of the nearest bfloat16, ties to even, computed in float64."""
    down = array.view(np.uint32) >> 16 << 16
    up = (array.view(np.uint32) >> 16) + 1 << 16
    low, high = down.astype(np.uint32).view(np.float32), up.astype(np.uint32).view(np.float32)
    exact = array.astype(np.float64)
    to_low, to_high = np.abs(exact - low.astype(np.float64)), np.abs(high.astype(np.float64) - exact)
    take_high = (to_high < to_low) | ((to_high == to_low) & ((down >> 16) % 2 == 1))
    return (np.where(take_high, up, down) >> 16).astype("<u2")


def exported(arrays: dict[str, np.ndarray], config: ModelConfig, version: int, padded: int) -> bytes:
    """What llm.c's train_gpt2.py makes of a model."""
    sizes = (config.context, config.vocab_size, config.n_layers, config.n_heads, config.d_model, padded)
    header = np.zeros(256, "<i4")
    header[:8] = (20240326, version, *sizes)
    wte = np.pad(arrays["token_embedding"], ((0, padded - config.vocab_size), (0, 0)))
    ordered = [wte, arrays["position_embedding"]]
    for part in ("attention_norm", "attention.qkv", "attention.output", "mlp_norm", "mlp.up", "mlp.down"):
        for kind in ("weight", "bias"):
            ordered += [arrays[f"blocks.{i}.{part}.{kind}"] for i in range(config.n_layers)]
    ordered += [arrays["norm.weight"], arrays["norm.bias"]]
    return header.tobytes() + b"".join((a if version == 3 else to_bf16(a)).tobytes() for a in ordered)


@pytest.mark.parametrize(("dtype", "version"), [("f32", 3), ("bf16", 5)])
@pytest.mark.parametrize("vocab_size", [130, 128, 1])
def test_written_as_its_own_program_does(tmp_path, dtype, version, vocab_size):
    config = config_of(vocab_size=vocab_size)
    source, arrays = random_source(config)
    # Ties of bfloat16, both ways, and what is rounded up to a power of two.
    arrays["norm.weight"][:4] = np.array([0x3F808000, 0x3F818000, 0x3FFF8000, 0xBF808001], np.uint32).view(np.float32)
    format_named("llm.c").write(source, tmp_path / "model.bin", dtype)
    expected = exported(arrays, config, version, -(-vocab_size // 128) * 128)
    assert (tmp_path / "model.bin").read_bytes() == expected


@pytest.mark.parametrize("version", [3, 5])
@pytest.mark.parametrize("padded", [130, 256])
def test_read_bit_for_bit(tmp_path, version, padded):
    config = config_of()
    _, arrays = random_source(config)
    path = tmp_path / "model.bin"
    path.write_bytes(exported(arrays, config, version, padded))
    with open_model(path) as source:
        assert source.config == config and source.defaults == GenerationDefaults()
        found = contents(source)
    for name, array in arrays.items():
        expected = array if version == 3 else (to_bf16(array).astype(np.uint32) << 16).view(np.float32)
        assert np.array_equal(found[name], expected)


def test_gpt2s_vocabulary_ends_at_its_last_token(tmp_path):
    config = config_of(vocab_size=50257, d_model=2, n_heads=1)
    source, _ = random_source(config)
    format_named("llm.c").write(source, tmp_path / "model.bin", "bf16")
    with open_model(tmp_path / "model.bin") as source:
        assert source.defaults.stop_tokens == (50256,) and source.defaults.bos_token == 50256


def test_the_tokenizer_lies_beside_the_model(tmp_path):
    tokenizer = BPETokenizer.train("to be or not to be", 260, special_tokens=["<|endoftext|>"])
    source, _ = random_source(config_of(vocab_size=tokenizer.vocab_size))
    write = format_named("llm.c").write
    source.tokenizer = CharacterTokenizer.train("abc")  # llm.c has no such
    write(source, tmp_path / "characters.bin", "f32")
    assert "byte-level BPE tokenizers only" in source.without_tokenizer
    source.tokenizer = tokenizer
    write(source, tmp_path / "model.bin", "f32")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["characters.bin", "gpt2_tokenizer.bin", "model.bin"]
    with open_model(tmp_path / "model.bin") as opened:
        assert opened.tokenizer.encode("to be").tolist() == tokenizer.encode("to be").tolist()
    write(random_source(config_of())[0], tmp_path / "other.bin", "f32")
    with open_model(tmp_path / "other.bin") as opened:
        assert opened.tokenizer is None and f"{tokenizer.vocab_size} tokens, but 130" in opened.without_tokenizer
    source.tokenizer = BPETokenizer.train("aaabdaaabac", 260, special_tokens=["<|endoftext|>"])
    with pytest.raises(FormatError, match="another model's tokenizer"):
        write(source, tmp_path / "third.bin", "f32")
    assert not (tmp_path / "third.bin").exists()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"activation": "gelu"}, "activation gelu_tanh, and this model has gelu"),
        ({"norm_eps": 1e-6}, "norm_eps 1e-05, and this model has 1e-06"),
        ({"tied_head": False}, "tied_head True, and this model has False"),
        ({"n_kv_heads": 1}, "n_kv_heads 2, and this model has 1"),
        ({"d_ff": 25}, "d_ff 24, and this model has 25"),
        ({"bias": False}, "norm_bias True, and this model has False"),
        ({"qkv_bias": False}, "qkv_bias"),
        ({"head_dim": 4}, "2 * 4 and 6"),
        ({"sliding_window": 2}, "sliding_window of 2"),
        ({"norm": "rmsnorm"}, "norm 'rmsnorm'"),
    ],
)
def test_what_it_cannot_hold_is_refused_by_name(tmp_path, changes, words):
    source, _ = random_source(config_of(**changes))
    with pytest.raises(FormatError) as error:
        format_named("llm.c").write(source, tmp_path / "model.bin", "f32")
    assert words in str(error.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("at", "value", "words"),
    [
        (1, 1, "version is 1; gollm reads 3"),
        (2, 0, "context is 0"),
        (3, 257, "padded vocabulary is 256, less than its vocabulary of 257"),
        (4, 2**31 - 1, "n_layers is 2,147,483,647"),
        (4, 3, "asks for"),
        (5, 4, "n_heads"),
        (6, -6, "d_model is -6"),
        (7, 2**31 - 1, "asks for"),
    ],
)
def test_damaged_headers_are_refused(tmp_path, at, value, words):
    config = config_of()
    data = bytearray(exported(random_source(config)[1], config, 3, 256))
    data[4 * at : 4 * at + 4] = value.to_bytes(4, "little", signed=True)
    path = tmp_path / "model.bin"
    path.write_bytes(data)
    with pytest.raises(FormatError, match=words):
        open_model(path)


@pytest.mark.parametrize("size", [4, 1023, 1024, -1])
def test_files_that_are_cut_off_are_refused(tmp_path, size):
    config = config_of()
    data = exported(random_source(config)[1], config, 3, 256)
    (tmp_path / "model.bin").write_bytes(data[:size])
    with pytest.raises(FormatError, match=r"ends within its header|asks for"):
        open_model(tmp_path / "model.bin")


def test_a_tokenizer_smaller_or_larger_than_the_model(tmp_path):
    tokenizer = BPETokenizer.train("to be or not to be", 260, special_tokens=["<|endoftext|>"])
    for rows in (tokenizer.vocab_size - 1, tokenizer.vocab_size + 5):  # the second comes back, the first is not written
        source, _ = random_source(config_of(vocab_size=rows))
        source.tokenizer = tokenizer
        path = tmp_path / str(rows) / "model.bin"
        path.parent.mkdir()
        format_named("llm.c").write(source, path, "f32")
        with open_model(path) as opened:
            if rows < tokenizer.vocab_size:
                assert opened.tokenizer is None and f"the model has only {rows}" in source.without_tokenizer
                assert not (path.parent / "gpt2_tokenizer.bin").exists()
            else:
                assert opened.tokenizer.encode("to be").tolist() == tokenizer.encode("to be").tolist()

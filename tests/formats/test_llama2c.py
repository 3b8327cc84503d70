"""llama2.c's files: a trained model gives the published text, and every version holds what was put in."""

import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gollm
from generating import tokens_after
from gollm.errors import FormatError
from gollm.formats import convert, format_named, open_model, recognise
from gollm.formats.source import Source
from gollm.model.config import ModelConfig
from gollm.tokenizers import Vocabulary
from gollm.tokenizers.sentencepiece import PieceType, SentencePieceTokenizer

from .sources import contents, random_source

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
STORIES = DATA / "stories260K.bin"
needs_stories = pytest.mark.skipif(not STORIES.exists(), reason="the trained model is not here")


def config_of(**changes) -> ModelConfig:
    base = {
        "n_layers": 2, "n_heads": 4, "n_kv_heads": 2, "d_model": 16, "d_ff": 24, "vocab_size": 11, "context": 8,
        "norm": "rmsnorm", "position": "rope", "gated_mlp": True, "activation": "silu", "bias": False,
        "tied_head": True,
    }  # fmt: skip
    return ModelConfig(**{**base, **changes})


def in_order(arrays: dict[str, np.ndarray], config: ModelConfig, version: int) -> list[np.ndarray]:
    """The arrays of llama2.c's exporter, in its order."""
    layers, KV = range(config.n_layers), config.n_kv_heads * config.head_dim
    C = config.d_model

    def each(part):
        return [arrays[f"blocks.{i}.{part}.weight"] for i in layers]

    q, k, v = zip(*(np.split(a, [C, C + KV]) for a in each("attention.qkv")), strict=True)
    embedding, norm = [arrays["token_embedding"]], [arrays["norm.weight"]]
    attention = [*q, *k, *v, *each("attention.output")]
    mlp = [*each("mlp.gate"), *each("mlp.down"), *each("mlp.up")]
    head = [] if config.tied_head else [arrays["head"]]
    if version:
        return [*each("attention_norm"), *each("mlp_norm"), *norm, *embedding, *attention, *mlp, *head]
    tables = [np.zeros((2, config.context, config.head_dim // 2), np.float32)]
    return [*embedding, *each("attention_norm"), *attention, *each("mlp_norm"), *mlp, *norm, *tables, *head]


def sizes_of(config: ModelConfig) -> list[int]:
    c = config
    return [c.d_model, c.d_ff, c.n_layers, c.n_heads, c.n_kv_heads, c.vocab_size, c.context]


def exported(arrays: dict[str, np.ndarray], config: ModelConfig, version: int, group: int = 8) -> bytes:
    """What llama2.c's export.py makes of a model."""
    sizes = sizes_of(config)
    if version == 0:
        sizes[5] *= 1 if config.tied_head else -1
        return struct.pack("<7i", *sizes) + b"".join(a.tobytes() for a in in_order(arrays, config, 0))
    header = struct.pack("<Ii7iB", 0x616B3432, version, *sizes, config.tied_head)
    header = (header + (struct.pack("<i", group) if version == 2 else b"")).ljust(256, b"\0")
    ordered = in_order(arrays, config, version)
    if version == 1:
        return header + b"".join(a.tobytes() for a in ordered)
    norms = 2 * config.n_layers + 1
    body = [a.tobytes() for a in ordered[:norms]]
    for array in ordered[norms:]:
        w = array.reshape(-1, group)
        scale = np.abs(w).max(1) / np.float32(127)
        body += [np.round(w / scale[:, None]).astype(np.int8).tobytes(), scale.tobytes()]
    return header + b"".join(body)


CONFIGS = [
    config_of(),
    config_of(tied_head=False, n_kv_heads=1, vocab_size=7),
    config_of(n_layers=1, n_heads=8, n_kv_heads=8, d_ff=40),
]


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("version", [0, 1])
def test_float32_files_are_read_bit_for_bit(tmp_path, config, version):
    _, arrays = random_source(config)
    path = tmp_path / "model.bin"
    path.write_bytes(exported(arrays, config, version))
    with open_model(path) as source:
        assert source.config == config
        found = contents(source)
    assert all(np.array_equal(found[name], arrays[name]) for name in arrays)


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("group", [4, 8])
def test_int8_files_are_dequantised(tmp_path, config, group):
    _, arrays = random_source(config)
    path = tmp_path / "model.bin"
    path.write_bytes(exported(arrays, config, 2, group))
    with open_model(path) as source:
        assert source.config == config
        found = contents(source)
    for name, array in arrays.items():
        if array.ndim == 1:
            assert np.array_equal(found[name], array)
        else:  # half of a step of the largest group
            assert np.abs(found[name] - array).max() <= np.abs(array).max() / 127 * 0.51


@pytest.mark.parametrize("config", CONFIGS)
def test_float32_is_written_as_run_c_reads_it(tmp_path, config):
    source, arrays = random_source(config)
    format_named("llama2.c").write(source, tmp_path / "model.bin", "f32")
    written, expected = (tmp_path / "model.bin").read_bytes(), exported(arrays, config, 0)
    tables = 2 * config.context * (config.head_dim // 2) * 4
    head = 0 if config.tied_head else arrays["head"].nbytes
    at = len(expected) - head - tables
    assert written[:at] == expected[:at] and written[at + tables :] == expected[at + tables :]
    cos, sin = np.frombuffer(written[at : at + tables], np.float32).reshape(2, config.context, -1)
    i = np.arange(config.head_dim // 2)
    angles = np.arange(config.context)[:, None] * 10000.0 ** (-2 * i / config.head_dim)
    assert np.allclose(cos, np.cos(angles), atol=1e-6) and np.allclose(sin, np.sin(angles), atol=1e-6)


@pytest.mark.parametrize("config", CONFIGS)
def test_int8_is_written_as_its_exporter_does(tmp_path, config):
    source, arrays = random_source(config)
    format_named("llama2.c").write(source, tmp_path / "model.bin", "q8_0")
    assert (tmp_path / "model.bin").read_bytes() == exported(arrays, config, 2, 8)


@given(st.integers(0, 2**32), st.sampled_from([1e-44, 1e-38, 1e-3, 1.0, 1e37]))
@settings(max_examples=30, deadline=None)
def test_int8_is_within_half_a_step(tmp_path_factory, seed, scale):
    config = config_of(n_layers=1)
    source, arrays = random_source(config, seed, scale)
    arrays["token_embedding"][::2] = 0  # whole groups
    path = tmp_path_factory.getbasetemp() / "model.bin"
    format_named("llama2.c").write(source, path, "q8_0")
    with open_model(path) as opened:
        found = contents(opened)
    assert not found["token_embedding"][::2].any()
    for name, array in arrays.items():
        if array.ndim > 1:
            groups, back = array.reshape(-1, 8).astype(np.float64), found[name].reshape(-1, 8)
            step = np.abs(groups).max(1, keepdims=True) / 127 + np.finfo(np.float32).smallest_subnormal
            assert (np.abs(groups - back) <= 0.51 * step + 127 * np.finfo(np.float32).smallest_subnormal).all()


def test_a_weight_that_is_not_finite_is_no_int8(tmp_path):
    source, arrays = random_source(config_of())
    arrays["blocks.1.mlp.up.weight"][3, 4] = np.nan
    with pytest.raises(FormatError, match="NaN or infinite"):
        format_named("llama2.c").write(source, tmp_path / "model.bin", "q8_0")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"rope_theta": 500000.0}, "rope_theta 10000.0, and this model has 500000.0"),
        ({"norm_eps": 1e-6}, "norm_eps 1e-05, and this model has 1e-06"),
        ({"rope_scaling": "linear", "rope_factor": 2.0}, "rope_scaling none, and this model has linear"),
        ({"activation": "gelu"}, "activation silu, and this model has gelu"),
        ({"qkv_bias": True}, "no biases, and this model has them (qkv_bias)"),
        ({"bias": True}, "no biases"),
        ({"head_dim": 8}, "4 * 8 and 16"),
        ({"sliding_window": 4}, "sliding_window of 4"),
        ({"norm": "layernorm"}, "norm 'layernorm'"),
        ({"gated_mlp": False}, "gated_mlp False"),
    ],
)
def test_what_it_cannot_hold_is_refused_by_name(tmp_path, changes, words):
    source, _ = random_source(config_of(**changes))
    with pytest.raises(FormatError) as error:
        format_named("llama2.c").write(source, tmp_path / "model.bin", "f32")
    assert words in str(error.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda data: data[:-1], "asks for"),
        (lambda data: data + b"\0", "asks for"),
        (lambda data: data[:100], "ends within its header"),
        (lambda data: data[:4] + struct.pack("<i", 3) + data[8:], "version is 3"),
        (lambda data: data[:8] + struct.pack("<i", -16) + data[12:], "dim is -16"),
        (lambda data: data[:16] + struct.pack("<i", 2**31 - 1) + data[20:], "n_layers is 2,147,483,647"),
        (lambda data: data[:20] + struct.pack("<i", 3) + data[24:], "n_heads"),
        (lambda data: data[:36] + b"\2" + data[37:], "flag"),
        (lambda data: data[:37] + struct.pack("<i", 5) + data[41:], "group size is 5"),
        (lambda data: data[:37] + struct.pack("<i", 0) + data[41:], "group size is 0"),
    ],
)
def test_damaged_files_are_refused(tmp_path, change, words):
    _, arrays = random_source(config_of())
    path = tmp_path / "model.bin"
    path.write_bytes(change(exported(arrays, config_of(), 2)))
    with pytest.raises(FormatError, match=words):
        open_model(path)


def test_what_is_no_model_is_not_taken_for_version_0(tmp_path):
    for data in (b"", b"text that is long enough to be a header of 28 bytes", np.arange(99, dtype="<i4").tobytes()):
        (tmp_path / "other.bin").write_bytes(data)
        with pytest.raises(FormatError, match="no model in a format"):
            recognise(tmp_path / "other.bin")


PUBLISHED = """Once upon a time, there was a little girl named Lily. She loved to play outside in the park. One day, \
she saw a big, red ball. She wanted to play with it, but it was too high.
Lily's mom said, "Lily, let's go to the park." Lily was sad and didn't know what to do. She said, "I want to play with \
your ball, but I can't find it."
Lily was sad and didn't know what to do. She said, "I'm sorry, Lily. I didn't know what to do."
Lily didn't want to help her mom, so she"""  # by run.c -t 0 -n 200, in llama2.c's own tests


def reference_logits(arrays: dict[str, np.ndarray], config: ModelConfig, ids: np.ndarray) -> np.ndarray:
    """run.c's forward pass over a whole text, in float64.  ids (T) -> (T, V)"""
    p = {name: array.astype(np.float64) for name, array in arrays.items()}
    T, H, G, D = len(ids), config.n_heads, config.n_kv_heads, config.head_dim
    angles = np.arange(T)[:, None] / 10000 ** (np.arange(0, D, 2) / D)
    turn = np.exp(1j * angles)[:, None]  # (T, 1, D / 2)
    mask = np.triu(np.full((T, T), -np.inf), 1)

    def norm(x, weight):
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-5) * weight

    def rotate(x):  # (T, heads, D)
        z = (x[..., ::2] + 1j * x[..., 1::2]) * turn
        return np.stack([z.real, z.imag], -1).reshape(x.shape)

    x = p["token_embedding"][ids]
    for i in range(config.n_layers):
        w = {name.split(".", 2)[2]: array for name, array in p.items() if name.startswith(f"blocks.{i}.")}
        qkv = (norm(x, w["attention_norm.weight"]) @ w["attention.qkv.weight"].T).reshape(T, H + 2 * G, D)
        q, k, v = rotate(qkv[:, :H]), rotate(qkv[:, H : H + G]), qkv[:, H + G :]
        k, v = (np.repeat(a, H // G, 1) for a in (k, v))
        scores = np.einsum("thd,shd->hts", q, k) / np.sqrt(D) + mask
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        x = x + np.einsum("hts,shd->thd", weights, v).reshape(T, H * D) @ w["attention.output.weight"].T
        h = norm(x, w["mlp_norm.weight"])
        gate = h @ w["mlp.gate.weight"].T
        x = x + (gate / (1 + np.exp(-gate)) * (h @ w["mlp.up.weight"].T)) @ w["mlp.down.weight"].T
    return norm(x, p["norm.weight"]) @ p["token_embedding"].T


@needs_stories
def test_stories260k_tells_llama2cs_own_story():
    model = gollm.load(STORIES)  # with the tok512.bin beside it
    ids = tokens_after(model.decoder, [1], max_new_tokens=200, temperature=0, stop=model.defaults.stop_tokens)
    assert ids[:9] == [403, 407, 261, 378, 432, 383, 286, 261, 376] and len(ids) == 200
    assert model.tokenizer.decode(ids).lstrip(" ") == PUBLISHED
    assert model.tokenizer.encode(PUBLISHED, add_special_tokens=True).tolist()[:10] == [1, *ids[:9]]
    text = np.array([1, *ids])
    with open_model(STORIES) as source:
        logits = reference_logits(contents(source), source.config, text)
    assert logits[:-1].argmax(-1).tolist() == ids
    found = model.logits(text)[0]
    assert np.abs(found - logits).max() < 1e-4 * np.abs(logits).max()
    nll = np.log(np.exp(logits).sum(-1))[:51] - logits[np.arange(51), ids[:51]]
    assert nll.mean() == pytest.approx(0.3601, abs=5e-5)


def with_tokenizer(config: ModelConfig) -> Source:
    tokens = [b"<unk>", b"<s>", b"</s>", *(bytes([i]) for i in range(256)), b" ", b"t", b"h", b"e", b" t", b"he"]
    types = np.full(len(tokens), PieceType.NORMAL, np.uint8)
    types[:259] = [PieceType.UNKNOWN, PieceType.CONTROL, PieceType.CONTROL, *[PieceType.BYTE] * 256]
    scores = -np.arange(len(tokens), dtype=np.float32)
    source, _ = random_source(config.replace(vocab_size=len(tokens)))
    source.tokenizer = SentencePieceTokenizer(Vocabulary.of(tokens), types, scores=scores, prefix=(1,))
    return source


def test_the_tokenizer_lies_beside_the_model(tmp_path):
    source = with_tokenizer(config_of())
    write = format_named("llama2.c").write
    write(source, tmp_path / "model.bin", "f32")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.bin", "tok265.bin"]
    with open_model(tmp_path / "model.bin") as opened:
        assert opened.tokenizer.encode("the").tolist() == source.tokenizer.encode("the").tolist()
        assert opened.defaults.bos_token == 1 and opened.defaults.stop_tokens == (1, 2)
    write(source, tmp_path / "again.bin", "q8_0")  # the same tokenizer may lie there
    (tmp_path / "tok265.bin").rename(tmp_path / "tokenizer.bin")
    with open_model(tmp_path / "again.bin") as opened:
        assert opened.tokenizer is not None
    (tmp_path / "tok265.bin").write_bytes(b"another")
    with pytest.raises(FormatError, match="another model's tokenizer"):
        write(source, tmp_path / "third.bin", "f32")
    assert not (tmp_path / "third.bin").exists()


def test_a_tokenizer_that_does_not_fit_is_left_out_and_named(tmp_path):
    source, _ = random_source(config_of())
    format_named("llama2.c").write(source, tmp_path / "model.bin", "f32")
    (tmp_path / "tokenizer.bin").write_bytes(b"\1\0\0\0")
    with open_model(tmp_path / "model.bin") as opened:
        assert opened.tokenizer is None
        assert "tokenizer.bin has 0 tokens, but 11 are wanted" in opened.without_tokenizer


@needs_stories
def test_stories260k_goes_through_every_version(tmp_path):
    convert(STORIES, tmp_path / "again.bin", "llama2.c")
    assert (tmp_path / "tok512.bin").read_bytes() == (DATA / "tok512.bin").read_bytes()
    data, again = STORIES.read_bytes(), (tmp_path / "again.bin").read_bytes()
    tables = 2 * 512 * 4 * 4  # of rotations: computed in float32 there
    assert again[:-tables] == data[:-tables]
    table, other = (np.frombuffer(d[-tables:], np.float32) for d in (data, again))
    assert np.abs(table - other).max() < 1e-4
    convert(STORIES, tmp_path / "int8.bin", "llama2.c", "q8_0")
    with open_model(STORIES) as a, open_model(tmp_path / "int8.bin") as b:
        assert a.config == b.config
        assert (a.config.d_model, a.config.d_ff, a.config.n_layers, a.config.vocab_size) == (64, 172, 5, 512)
        for name, array in contents(a).items():
            error = np.abs(contents(b)[name] - array)
            assert error.max() <= np.abs(array).max() / 127 * 0.51

"""Hostile GGUF files end in FormatError, within two seconds of CPU time each and bounded memory.

The cases run in a process of their own, under a limit on its address space and on each case's CPU time; a crash, a
MemoryError, a hang, or an exception of another kind fails the test.
"""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

from gollm.formats import format_named
from gollm.model.config import ModelConfig
from gollm.model.generation_defaults import GenerationDefaults
from gollm.tokenizers import BPETokenizer
from hostile import linux, run

from .sources import random_source
from .test_gguf import sentencepiece

pytest.importorskip("gguf")

RUNNER = textwrap.dedent('''
    import os, pathlib, random, struct, sys
    import hostile
    from gollm.errors import FormatError
    from gollm.formats.gguf import model as gguf
    from gollm.model.decoder import Decoder

    FOLDER = pathlib.Path(sys.argv[2])
    PATH = FOLDER / "case.gguf"
    GOOD = [(FOLDER / name).read_bytes() for name in ("bpe.gguf", "sentencepiece.gguf", "gpt2.gguf")]
    rng = random.Random(int(sys.argv[1]))

    def attempt(label, data):
        """What the file was refused for; reading everything must be harmless if it was not."""
        PATH.write_bytes(data)
        without = []

        def read():
            with gguf.read(PATH) as source:
                without.append(source.without_tokenizer)
                assert len(source.without_tokenizer) < 500 and "\\n" not in source.without_tokenizer, label
                for name, p in Decoder(source.config).parameters.items():
                    source.array(name, p.shape)
                if source.tokenizer is not None:
                    source.tokenizer.encode("some text")

        return hostile.attempt(label, read, FormatError) or without[0]
''')

MUTATIONS = RUNNER + textwrap.dedent("""
    hostile.limit_memory()
    assert not any(attempt("good", data) for data in GOOD)
    refused = 0
    numbers = [0, 1, 2, 3, 8, 9, 255, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**63 - 1, 2**63, 2**64 - 1]
    for i in range(600):
        data = bytearray(rng.choice(GOOD))
        head = 12_000 if len(data) > 20_000 else len(data)
        for _ in range(rng.choice([1, 1, 2, 8])):
            at = rng.randrange(rng.choice([64, 600, head, len(data)]))
            kind = rng.randrange(5)
            if kind == 0:
                data[at] = rng.randrange(256)
            elif kind == 1:
                data[at : at + 8] = struct.pack("<Q", rng.choice(numbers))
            elif kind == 2:
                data[at : at + 4] = struct.pack("<I", rng.choice(numbers) & 0xFFFFFFFF)
            elif kind == 3:
                del data[at : at + rng.choice([1, 4, 8, 300])]
            else:
                data[at:at] = data[at : at + rng.choice([1, 8, 64])]
        refused += bool(attempt(f"mutation {i}", bytes(data)))
    assert refused > 200, refused
    for data in GOOD:
        for length in [*range(0, 200), *range(200, len(data), len(data) // 60), len(data) - 40]:
            assert attempt(f"{length} bytes", data[:length]), length
    print("done")
""")

HOSTILE = RUNNER + textwrap.dedent("""
    TYPES = {"u8": 0, "i8": 1, "u32": 4, "i32": 5, "f32": 6, "bool": 7, "string": 8, "array": 9, "u64": 10, "f64": 12}
    PACK = {"u8": "B", "i8": "b", "u32": "I", "i32": "i", "f32": "f", "bool": "B", "u64": "Q", "f64": "d"}

    def string(text, length=None):
        data = text if isinstance(text, bytes) else text.encode()
        return struct.pack("<Q", len(data) if length is None else length) + data

    def value(kind, what):
        return string(what) if kind == "string" else struct.pack("<" + PACK[kind], what)

    def key(name, kind, what, length=None):
        if isinstance(what, list):
            n = len(what) if length is None else length
            return string(name) + struct.pack("<IIQ", 9, TYPES[kind], n) + b"".join(value(kind, one) for one in what)
        return string(name) + struct.pack("<I", TYPES[kind]) + value(kind, what)

    def tensor(name, dims, offset, kind=0, n_dims=None):
        sizes = b"".join(struct.pack("<Q", n) for n in dims)
        n = len(dims) if n_dims is None else n_dims
        return string(name) + struct.pack("<I", n) + sizes + struct.pack("<IQ", kind, offset)

    def build(keys, tensors, body=b"", magic=b"GGUF", version=3, n_tensors=None, n_keys=None, alignment=32):
        n = (len(tensors) if n_tensors is None else n_tensors, len(keys) if n_keys is None else n_keys)
        head = magic + struct.pack("<IQQ", version, *n) + b"".join(keys) + b"".join(tensors)
        return head + bytes(-len(head) % alignment) + body

    BLOCK = ["attn_norm", "attn_q", "attn_k", "attn_v", "attn_output", "ffn_norm", "ffn_gate", "ffn_up", "ffn_down"]
    DIMS = {"token_embd": [4, 5], "output_norm": [4]}
    DIMS |= {f"blk.0.{name}": [4] if "norm" in name else [4, 4] for name in BLOCK}

    def model(changes=(), drop=(), keys=(), tensors=None, more=(), **options):
        values = {
            "general.architecture": ("string", "llama"), "llama.context_length": ("u32", 8),
            "llama.embedding_length": ("u32", 4), "llama.block_count": ("u32", 1),
            "llama.feed_forward_length": ("u32", 4), "llama.attention.head_count": ("u32", 1),
            "llama.attention.layer_norm_rms_epsilon": ("f32", 1e-5), "tokenizer.ggml.model": ("string", "none"),
        }
        values |= dict(changes)
        packed = [key(name, *pair) for name, pair in values.items() if name not in drop]
        if tensors is None:
            tensors, at = [], 0
            for name, dims in [*DIMS.items(), *more]:
                tensors.append(tensor(name + ".weight", dims, at))
                at += -(-4 * dims[0] * (dims + [1])[1] // 32) * 32
        return build([*packed, *keys], tensors, bytes(8192), **options)

    def bpe(**changes):
        values = {"model": ("string", "gpt2"), "pre": ("string", "gpt-2"), "tokens": ("string", ["a", "b", "ab"]),
                  "token_type": ("i32", [1, 1, 1]), "merges": ("string", ["a b"]), **changes}
        return model([("tokenizer.ggml." + name, pair) for name, pair in values.items()])

    def spm(**changes):
        return bpe(**{"model": ("string", "llama"), "scores": ("f32", [0.0, 0.0, 1.0]), **changes})

    hostile.limit_memory()
    assert not attempt("good", model())
    factor = ("llama.rope.scaling.factor", ("f32", 4.0))
    eps, heads = "llama.attention.layer_norm_rms_epsilon", "llama.attention.head_count"
    cases = {
        "empty": (b"", "magic"),
        "magic": (model(magic=b"GGML"), "begin with GGUF"),
        "version 1": (model(version=1), "version is 1"),
        "version 4": (model(version=4), "version is 4"),
        "big-endian": (model(version=3 << 24), "big-endian"),
        "2^64 keys": (model(n_keys=2**64 - 1), "gollm reads up to"),
        "2^64 tensors": (model(n_tensors=2**64 - 1), "gollm reads up to"),
        "more keys than there are": (model(n_keys=60000), ""),
        "more tensors than there are": (model(n_tensors=60000), ""),
        "name of 2^64 bytes": (build([string("a", 2**64 - 1)], []), "are left"),
        "value of 2^63 bytes": (build([string("a") + struct.pack("<I", 8) + string("b", 2**63)], []), "are left"),
        "a text of an array of 2^63 bytes": (
            build([string("a") + struct.pack("<IIQ", 9, 8, 2) + string("b") + struct.pack("<Q", 2**63) + b"c"], []),
            "needs 9,223,372,036,854,775,808 bytes",
        ),
        "array of 2^61": (model(keys=[key("a", "u64", [], 2**61)]), "are left"),
        "array of 2^63 texts": (model(keys=[key("a", "string", [], 2**63)]), "texts"),
        "array of a million texts": (model(keys=[key("a", "string", [], 2**20 - 1)]), "can hold"),
        "array of arrays": (build([string("a") + struct.pack("<IIQ", 9, 9, 1) + bytes(12)], []), "array of the type 9"),
        "deep arrays": (build([string("a") + struct.pack("<II", 9, 9) * 100_000], []), "array of the type 9"),
        "type 13": (build([string("a") + struct.pack("<IQ", 13, 0)], []), "type 13"),
        "a boolean of 2": (model(keys=[key("a", "bool", 2)]), "boolean 2"),
        "not UTF-8": (model(keys=[key(b"\\xff\\xfe", "u32", 1)]), "UTF-8"),
        "an architecture that is not UTF-8": (model([("general.architecture", ("string", b"\\xff"))]), "must be text"),
        "a key twice": (model(keys=[key("llama.block_count", "u32", 1)]), "twice"),
        "a key without a name": (model(keys=[key("", "u32", 1)]), "0 characters"),
        "a key of a megabyte": (model(keys=[key("x" * 1_000_000, "u32", 1)]), "1,000,000 characters"),
        "a key with a terminal's escape": (model(keys=[key("llama.\\x1b[2J\\n" * 9, "u32", 1)]), "llama."),
        "no architecture": (model(drop=["general.architecture"]), "general.architecture"),
        "architecture a number": (model([("general.architecture", ("u32", 3))]), "it must be text"),
        "another architecture": (model([("general.architecture", ("string", "gemma"))]), "'gemma'"),
        "a long architecture": (model([("general.architecture", ("string", "x" * 5000))]), "xxx"),
        "count a text": (model([("llama.block_count", ("string", "1"))]), "whole number"),
        "count a float": (model([("llama.block_count", ("f32", 1.0))]), "whole number"),
        "count a boolean": (model([("llama.block_count", ("bool", 1))]), "whole number"),
        "count of zero": (model([(heads, ("u32", 0))]), "n_heads is 0"),
        "count negative": (model([("llama.context_length", ("i32", -8))]), "context is -8"),
        "count of 2^64": (model([("llama.context_length", ("u64", 2**64 - 1))]), "context is"),
        "layers that are not there": (model([("llama.block_count", ("u32", 2000))]), "too few for 2000 layers"),
        "2^32 layers": (model([("llama.block_count", ("u32", 2**32 - 1))]), "4,294,967,295"),
        "epsilon a text": (model([(eps, ("string", "x"))]), "floating-point"),
        "epsilon NaN": (model([(eps, ("f32", float("nan")))]), "norm_eps"),
        "epsilon infinite": (model([(eps, ("f32", float("inf")))]), "norm_eps"),
        "theta negative": (model([("llama.rope.freq_base", ("f32", -1.0))]), "rope_theta"),
        "heads by layer": (model([(heads, ("u32", [1, 2]))]), "not the same in every layer"),
        "heads by no layer": (model([(heads, ("u32", []))]), "whole number"),
        "heads as texts": (model([(heads, ("string", ["1"]))]), "whole number"),
        "experts": (model([("llama.expert_count", ("u32", 8))]), "llama.expert_count"),
        "experts by layer": (model([("llama.expert_count", ("u32", [0, 0]))]), "llama.expert_count"),
        "parts by a list": (model([("split.count", ("u32", [0, 1]))]), "split.count"),
        "yarn": (model([("llama.rope.scaling.type", ("string", "yarn")), factor]), "'yarn' with the factor 4.0"),
        "longrope": (model([("llama.rope.scaling.type", ("string", "longrope"))]), "'longrope'"),
        "a key that may matter": (model([("llama.logit_scale", ("f32", 2.0))]), "llama.logit_scale"),
        "partial rotation": (model([("llama.rope.dimension_count", ("u32", 2))]), "rope.dimension_count is 2"),
        "one of three parts": (model([("split.count", ("u32", 3))]), "one of 3 parts"),
        "alignment 0": (model([("general.alignment", ("u32", 0))]), "power of two"),
        "alignment 24": (model([("general.alignment", ("u32", 24))]), "power of two"),
        "alignment 2^31": (model([("general.alignment", ("u32", 2**31))]), "power of two"),
        "alignment a text": (model([("general.alignment", ("string", "32"))]), "whole number"),
        "no weights": (model(tensors=[]), "no weights"),
        "no embedding": (model(tensors=[tensor("output_norm.weight", [4], 0)]), "token_embd.weight"),
        "a tensor twice": (model(tensors=[tensor("t", [8], 0), tensor("t", [8], 32)]), "twice"),
        "a tensor without a name": (model(tensors=[tensor("", [8], 0)]), "0 characters"),
        "no dimensions": (model(tensors=[tensor("t", [], 0)]), "0 dimensions"),
        "2^32 dimensions": (model(tensors=[tensor("t", [8], 0, n_dims=2**32 - 1)]), "dimensions"),
        "dimensions of 2^63": (model(tensors=[tensor("t", [2**63, 2**63], 0)]), "are left"),
        "dimensions that wrap to 0": (model(tensors=[tensor("t", [2**32, 2**32], 0)]), "are left"),
        "zero times huge": (model(tensors=[tensor("t", [0, 2**63, 2**63], 0)]), "token_embd"),
        "offset with a hole": (model(tensors=[tensor("t", [8], 32)]), "behind the one before it comes 0"),
        "offset of 2^64": (model(tensors=[tensor("t", [8], 2**64 - 32)]), "behind the one before it comes 0"),
        "shared": (model(tensors=[tensor("s", [8], 0), tensor("t", [8], 0)]), "behind the one before it comes 32"),
        "unknown type": (model(tensors=[tensor("t", [8], 0, 99)]), "type 99"),
        "type Q2_K": (model(tensors=[tensor("t", [256], 0, 10)]), "type Q2_K"),
        "half a block": (model(tensors=[tensor("t", [48], 0, 8)]), "rows of 48"),
        "a tensor too many": (model(more=[("blk.0.attn_q_norm", [4])]), "blk.0.attn_q_norm"),
        "divisors of zero": (model(more=[("rope_freqs", [2])]), "rope_freqs"),
        "divisors of another size": (model(more=[("rope_freqs", [3])]), "rope_freqs"),
        "another tokenizer": (bpe(model=("string", "bert")), "'bert'"),
        "tokenizer a number": (bpe(model=("u32", 3)), "must be text"),
        "another rule": (bpe(pre=("string", "hybrid")), "'hybrid'"),
        "no tokens": (bpe(tokens=("string", [])), ""),
        "tokens numbers": (bpe(tokens=("u32", [1, 2, 3])), "array of texts"),
        "types texts": (bpe(token_type=("string", ["a"])), "array of numbers"),
        "fewer types": (bpe(token_type=("i32", [1])), "1 types"),
        "tokens not UTF-8": (bpe(tokens=("string", [b"a", b"\\xff", b"b"])), "not UTF-8"),
        "a token twice": (bpe(tokens=("string", ["a", "a", "b"])), "twice"),
        "an empty token": (bpe(tokens=("string", ["a", "b", ""])), ""),
        "not in the alphabet": (bpe(tokens=("string", ["a", "b", "a b"])), "alphabet"),
        "a merge of nothing": (bpe(merges=("string", ["ab"])), "merge 0"),
        "a merge of what is not there": (bpe(merges=("string", ["a c"])), "merge 0"),
        "a long token": (bpe(tokens=("string", ["a" * 100_000, "a" * 100_000, "b"])), "twice"),
        "fewer scores": (spm(scores=("f32", [0.0])), "scores"),
        "scores texts": (spm(scores=("string", ["a"])), "array of numbers"),
        "scores NaN": (spm(scores=("f32", [float("nan")] * 3)), ""),
        "bytes that are none": (spm(token_type=("i32", [6, 6, 6])), "byte"),
    }
    # Heads of eight values, all or some of which turn alike.
    wide = {f"blk.0.{name}": [8] if "norm" in name else [8, 8] for name in BLOCK}
    DIMS = {"token_embd": [8, 5], "output_norm": [8], **wide, "rope_freqs": [4]}
    for theta in (1.0, 1e4, 1e11):
        for _ in range(40):
            divisors = [rng.choice([1.0, 8.0, rng.uniform(1, 8), 1e38, 1 + 1e-7, float("inf")]) for _ in range(4)]
            sizes = {f"llama.{name}_length": ("u32", 8) for name in ("embedding", "feed_forward")}
            data = bytearray(model([*sizes.items(), ("llama.rope.freq_base", ("f32", theta))]))
            at = len(data) - 8192 + sum(-(-4 * d[0] * (d + [1])[1] // 32) * 32 for d in list(DIMS.values())[:-1])
            data[at : at + 16] = struct.pack("<4f", *divisors)
            attempt(f"divisors {divisors} of {theta}", bytes(data))
    for label, (data, words) in cases.items():
        found = attempt(label, data)
        assert found and words in found, (label, words, found)
    print("done")
""")

LLAMA = ModelConfig(
    n_layers=2, n_heads=2, n_kv_heads=1, d_model=32, d_ff=32, vocab_size=300, context=32, norm="rmsnorm",
    position="rope", gated_mlp=True, bias=False, activation="silu", head_dim=16, rope_scaling="llama3",
    rope_factor=8.0, rope_original_context=64,
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("gguf")
    source, _ = random_source(LLAMA)
    source.defaults = GenerationDefaults(stop_tokens=(3, 4), top_k=5, temperature=0.5, chat_template="{{ x }}")
    source.tokenizer = BPETokenizer.train("the cat sat on the mat\n" * 9, 290, special_tokens=["<|endoftext|>"])
    format_named("gguf").write(source, folder / "bpe.gguf", "q4_0")
    source.tokenizer = sentencepiece()
    format_named("gguf").write(source, folder / "sentencepiece.gguf", "q8_0")
    source, _ = random_source(ModelConfig(n_layers=1, n_heads=2, d_model=32, vocab_size=40, context=16))
    format_named("gguf").write(source, folder / "gpt2.gguf", "bf16")
    return folder


@linux
def test_hostile_files_are_refused(folder):
    assert "done" in run(HOSTILE, 0, folder)


@linux
@pytest.mark.parametrize("seed", range(3))
def test_damaged_files_are_refused_or_read(folder, seed):
    assert "done" in run(MUTATIONS, seed, folder)

"""Hostile model files end in FormatError, within two seconds of CPU time each and bounded memory.

The cases run in a process of their own, under a limit on its address space and on each case's CPU time; a crash, a
MemoryError, a hang, or an exception of another kind fails the test. What is not refused is opened and read in full.
"""

import struct
import textwrap
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gollm.errors import FormatError
from gollm.formats import format_named, open_model
from gollm.model.config import ModelConfig
from gollm.model.decoder import Decoder
from gollm.model.generation_defaults import GenerationDefaults
from gollm.nn import dtypes
from gollm.tokenizers import CharacterTokenizer
from hostile import linux, run

from .sources import random_source

FUZZ = textwrap.dedent('''
    import pathlib, random, struct, sys
    import hostile
    import gollm.language_model
    from gollm.errors import FormatError
    from gollm.formats import format_named

    PATH = pathlib.Path(sys.argv[1])
    WHOLE, HEADER = PATH.read_bytes(), int(sys.argv[2])
    WORDS = sys.argv[3] == "words"  # the header is int32, else text
    rng = random.Random(int(sys.argv[4]))

    def attempt(data, label):
        """Whether the file was refused."""
        PATH.write_bytes(data)
        return bool(hostile.attempt(label, lambda: gollm.load(PATH), FormatError, 1000))

    def with_words():
        """Numbers of the header that lie."""
        data = bytearray(WHOLE)
        for _ in range(rng.choice([1, 1, 1, 2, 3, 8])):
            at = 4 * rng.randrange(min(HEADER, 44) // 4) + rng.choice([0, 0, 0, 1])
            size = rng.choice([0, 1, 2, 3, 4, 7, 8, 64, 2**15, 2**16, 2**24, 2**30, 2**31 - 1, 2**31, 2**32 - 1])
            old = struct.unpack_from("<I", data, at)[0]
            new = rng.choice([size, old + 1, old - 1, 2 * old, -old, old + 2**16, rng.getrandbits(32)])
            struct.pack_into("<I", data, at, new % 2**32)
        return bytes(data)

    def with_text():
        """Bytes of the header that are changed, moved, or other numbers."""
        data = bytearray(WHOLE)
        for _ in range(rng.choice([1, 1, 1, 2, 5, 30])):
            at = rng.randrange(HEADER)
            kind = rng.randrange(4)
            if kind == 0:
                data[at] = rng.choice([0, 9, 10, 127, 128, 255, *b' "+,-.01579:[]\\\\eE{}'])
            elif kind == 1:
                data[at] ^= 1 << rng.randrange(8)
            elif kind == 2:
                start = rng.randrange(HEADER)
                data[at : at + 20] = WHOLE[start : start + 20]
            else:
                digits = str(rng.choice([0, 2, 64, 2**31 - 1, 2**31, 2**53, 2**63, 2**64, -1, 1e39, 1e999])).encode()
                data[at : at + len(digits)] = digits
        return bytes(data)

    assert not attempt(WHOLE, "as it was")
    hostile.limit_memory(512 << 20)

    for size in sorted({*range(0, 300, 7), *(rng.randrange(len(WHOLE)) for _ in range(60))}):
        assert attempt(WHOLE[:size], ("cut off", size))
        assert attempt(WHOLE + WHOLE[: size + 1], ("longer", size))
    for _ in range(100):
        assert attempt(rng.randbytes(rng.choice([0, 3, 4, 28, 37, 256, 1024, 5000])), "random")
        attempt(WHOLE[: rng.randrange(HEADER)] + rng.randbytes(5000), "random behind a good beginning")
    refused = sum(attempt((with_words if WORDS else with_text)(), i) for i in range(1200))
    PATH.write_bytes(b"")
    with open(PATH, "r+b") as file:  # a terabyte of nothing, behind a good beginning
        file.truncate(1 << 40)
        file.write(WHOLE[:HEADER])
    try:
        gollm.load(PATH)
        raise SystemExit("accepted: terabyte")
    except FormatError:
        pass
    assert refused > 400, refused
''')

GPT2 = ModelConfig(n_layers=2, n_heads=2, d_model=8, vocab_size=9, context=6)
LLAMA = ModelConfig(
    n_layers=2, n_heads=4, n_kv_heads=2, d_model=16, d_ff=24, vocab_size=9, context=8, norm="rmsnorm", position="rope",
    gated_mlp=True, activation="silu", bias=False,
)  # fmt: skip


SIZE = st.integers(-(2**31), 2**31 - 1) | st.integers(0, 9) | st.sampled_from([2**16, 2**24, 2**30, 2**31 - 1])
BEGINNINGS = [
    struct.pack("<2i", 20240326, 3),
    struct.pack("<2i", 20240326, 5),
    struct.pack("<Ii", 0x616B3432, 1),
    struct.pack("<Ii", 0x616B3432, 2),
    b"",  # llama2.c's version 0
    b"GoLM" + struct.pack("<i", 1),
]


@given(st.sampled_from(BEGINNINGS), st.lists(SIZE, max_size=12), st.binary(max_size=40), st.integers(0, 3000))
@settings(max_examples=600, deadline=None)
def test_any_header(tmp_path_factory, beginning, sizes, more, room):
    """Whatever the sizes at its start are: a file is refused, or it is as large as they say."""
    path = tmp_path_factory.getbasetemp() / "any.bin"
    path.write_bytes((beginning + struct.pack(f"<{len(sizes)}i", *sizes) + more).ljust(room, b"\0"))
    try:
        with open_model(path) as source:
            n = sum(source.array(name, p.shape).size for name, p in Decoder(source.config).parameters.items())
    except FormatError as error:
        assert len(str(error)) < 500
    else:
        assert n <= path.stat().st_size


@linux
@pytest.mark.parametrize(
    ("name", "dtype", "config", "header", "kind"),
    [
        ("golm", "f32", LLAMA, 4096, "text"),
        ("golm", "bf16", GPT2, 4096, "text"),
        ("golm", "int8", LLAMA, 4096, "text"),
        ("llm.c", "f32", GPT2, 1024, "words"),
        ("llm.c", "bf16", GPT2, 1024, "words"),
        ("llama2.c", "f32", LLAMA, 28, "words"),
        ("llama2.c", "q8_0", LLAMA, 256, "words"),
        ("json", "f32", GPT2, 3000, "text"),
        ("json", "f32", LLAMA, 3000, "text"),
    ],
)
def test_hostile_files(tmp_path, name, dtype, config, header, kind):
    source, _ = random_source(config)
    if name in ("golm", "json"):
        source.tokenizer = CharacterTokenizer.train("abcdefgh", unknown_token="<unk>")
    source.defaults = GenerationDefaults(stop_tokens=(1, 2), bos_token=1, temperature=0.5, chat_template="{{ a }}")
    path = Path(tmp_path / "model")
    if dtype == "int8":
        source, dtype = source.quantised(dtypes.int8), "f32"
    format_named(name).write(source, path, dtype)
    assert np.fromfile(path, np.uint8).size > header
    run(FUZZ, path, header, kind, 0)

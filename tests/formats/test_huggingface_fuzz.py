"""Hostile Hugging Face folders end in FormatError, within two seconds of CPU time each and bounded memory.

The cases run in a process of their own, under a limit on its address space and on each case's CPU time; a crash, a
MemoryError, a hang, or an exception of another kind fails the test.
"""

from __future__ import annotations

import textwrap
from pathlib import Path

import numpy as np
import pytest

from gollm.formats.huggingface import model as huggingface
from gollm.formats.source import Source
from gollm.model.config import ModelConfig
from gollm.model.generation_defaults import GenerationDefaults
from hostile import linux, run

LLAMA = ModelConfig(
    n_layers=2, n_heads=4, n_kv_heads=2, d_model=24, d_ff=20, vocab_size=300, context=32, norm="rmsnorm",
    position="rope", gated_mlp=True, bias=False, activation="silu", tied_head=False,
)  # fmt: skip

FUZZ = textwrap.dedent('''
    import json, os, pathlib, random, struct, sys
    import numpy as np
    import hostile
    from gollm.errors import FormatError
    from gollm.formats import open_model
    from gollm.model.decoder import Decoder

    FOLDER = pathlib.Path(sys.argv[2])
    GOOD = {file.name: file.read_bytes() for file in FOLDER.iterdir()}
    rng = random.Random(int(sys.argv[1]))

    def attempt(label, **files):
        """True if the folder was refused; reading everything must be harmless if it was not."""
        for name, data in {**GOOD, **files}.items():
            if (FOLDER / name).read_bytes() != data:
                (FOLDER / name).write_bytes(data)

        def read():
            with open_model(FOLDER) as source:
                for name, p in Decoder(source.config).parameters.items():
                    source.array(name, p.shape)

        return bool(hostile.attempt(label, read, FormatError))
''')

HOSTILE = FUZZ + textwrap.dedent("""
    WEIGHTS = "model.safetensors"
    data = GOOD[WEIGHTS]
    n = struct.unpack("<Q", data[:8])[0]
    table, body = json.loads(data[8 : 8 + n]), data[8 + n :]
    name = next(name for name in table if name != "__metadata__")
    many = lambda make, n=400_000: b",".join(make % i for i in range(n))
    hostile.limit_memory()
    assert not attempt("good")

    def build(header, body=body, length=None):
        text = header if isinstance(header, bytes) else json.dumps(header).encode()
        return struct.pack("<Q", len(text) if length is None else length) + text + body

    def entry(**changes):
        fields = {key: value for key, value in {**table[name], **changes}.items() if value is not None}
        return build({**table, name: fields})

    def behind(n):
        def move(fields):
            return {**fields, "data_offsets": [at + n for at in fields["data_offsets"]]}

        return {key: move(fields) for key, fields in table.items() if key != "__metadata__"}

    size = table[name]["data_offsets"][1]
    twice = json.dumps(table)[:-1] + ", " + json.dumps({name: table[name]})[1:]
    weights = {
        "nothing": b"",
        "seven bytes": data[:7],
        "only a length": data[:8],
        "length 2^64-1": build(table, length=2**64 - 1),
        "length 2^63": build(table, length=2**63),
        "length beyond the file": build(table, length=len(data)),
        "length 0": build(table, length=0),
        "length above the bound": build(b" " * (8 << 20)),
        "not JSON": build(b"{" + bytes(60)),
        "not UTF-8": build(b'{"\\xff": 1}'),
        "a list": build([]),
        "a leading space": build(b" " + json.dumps(table).encode()),
        "twice": build(twice.encode()),
        "NaN": build(b'{"a": NaN}'),
        "long integer": build(b'{"a": ' + b"9" * 4_000_000 + b"}"),
        "deep": build(b'{"a":' * 1_000_000),
        "deep lists": build(b'{"a": ' + b"[" * 2_000_000),
        "crowd": build(b"{" + many(b'"%x":{}') + b"}"),
        "crowd of lists": build(b'{"a": [' + b"[]," * 2_600_000 + b"[]]}"),
        "quotes": build(b'{"' + b'"' * 8_000_000),
        "no dtype": entry(dtype=None),
        "dtype": entry(dtype="F33"),
        "dtype a list": entry(dtype=["F32"]),
        "dtype of bytes": entry(dtype="U8"),
        "dtype of four bytes": entry(dtype="I32"),
        "shape a number": entry(shape=7200),
        "negative": entry(shape=[-300, -24]),
        "fraction": entry(shape=[300.0, 24]),
        "true": entry(shape=[True, 7200]),
        "huge": entry(shape=[2**63, 2]),
        "wraps": entry(shape=[2**32, 2**32]),
        "zero times huge": entry(shape=[0, 2**62, 2**62]),
        "rank": entry(shape=[1] * 100_000),
        "other shape": entry(shape=[24, 300]),
        "offsets turned": entry(data_offsets=[size, 0]),
        "offset 2^64": entry(data_offsets=[2**64, 2**64 + size]),
        "three offsets": entry(data_offsets=[0, size, size]),
        "overlap": entry(data_offsets=[4, size + 4]),
        "extra": entry(extra=1),
        "an entry a list": build({**table, name: []}),
        "metadata": build({**table, "__metadata__": {"format": 1}}),
        "metadata a list": build({**table, "__metadata__": []}),
        "empty name": build({**table, "": table[name]}),
        "a terminal's escape": build({**table, "\\x1b[2J": table[name]}),
        "long name": build({**table, "x" * 1_000_000: table[name]}),
        "trailing": data + b"x",
        "cut off": data[:-1],
        "hole in front": build(behind(8), bytes(8) + body),
        "half the tensors": build(dict(list(table.items())[: len(table) // 2])),
    }
    for label, bad in weights.items():
        assert attempt(label, **{WEIGHTS: bad}), f"accepted: {label}"
    os.truncate(FOLDER / WEIGHTS, 1 << 40)  # a terabyte of nothing
    with open(FOLDER / WEIGHTS, "r+b") as file:
        file.write(data)
    try:
        open_model(FOLDER)
        raise SystemExit("accepted: terabyte")
    except FormatError:
        (FOLDER / WEIGHTS).write_bytes(data)
    good = json.loads(GOOD["config.json"])
    configs = {
        "nothing": b"",
        "a list": b"[]",
        "deep": b'{"a":' * 1_000_000,
        "long": b" " * (9 << 20),
        "NaN": b'{"vocab_size": NaN}',
        "crowd": b"{" + many(b'"%x":1', 600_000) + b"}",
        "UTF-16": '{"a": 1}'.encode("utf-16"),
        "crowd of layers": json.dumps({**good, "num_hidden_layers": 2**31 - 1}).encode(),
        "wide": json.dumps({**good, "hidden_size": 2**31 - 4}).encode(),
        "message bait": json.dumps({**good, "hidden_act": "x" * 1_000_000}).encode(),
        "bait in a list": json.dumps({**good, "model_type": ["x" * 100] * 10_000}).encode(),
    }
    for label, bad in configs.items():
        assert attempt(label, **{"config.json": bad}), f"accepted: {label}"
    print("cases", len(weights) + len(configs))
""")

MUTATIONS = FUZZ + textwrap.dedent("""
    hostile.limit_memory()
    assert not attempt("good")
    refused = 0
    for name, tries in {"model.safetensors": 800, "config.json": 800, "generation_config.json": 200}.items():
        original = GOOD[name]
        end = len(original) if name != "model.safetensors" else 8 + struct.unpack("<Q", original[:8])[0]
        for size in sorted({*range(0, 30), *(rng.randrange(len(original)) for _ in range(60))}):
            refused += attempt(("truncated", name, size), **{name: original[:size]})
        for i in range(tries):
            data = bytearray(original)
            for _ in range(rng.choice([1, 1, 1, 2, 5, 30])):
                at = rng.randrange(end)
                kind = rng.randrange(4)
                if kind == 0:
                    data[at] = rng.choice([0, 1, 10, 127, 128, 255, *b' "+,-.01579:[]\\\\eE{}'])
                elif kind == 1:
                    data[at] ^= 1 << rng.randrange(8)
                elif kind == 2:
                    chunk = original[(a := rng.randrange(end)) : a + rng.randrange(40)]
                    data[at : at + len(chunk)] = chunk
                else:
                    digits = str(rng.choice([0, 64, 2**31, 2**32, 2**53, 2**63, 2**64, -1, -64])).encode()
                    data[at : at + len(digits)] = digits
            refused += attempt(("mutated", name, i), **{name: bytes(data)})
    print("refused", refused)
    assert refused > 1000
""")


@pytest.fixture
def small(tmp_path: Path) -> Path:
    defaults = GenerationDefaults((2, 5), 1, temperature=0.5, top_k=3, top_p=0.5)
    zeros = Source(LLAMA, lambda name, out: np.copyto(out, 0), defaults=defaults)
    huggingface.write(zeros, tmp_path / "m", "f32")
    return tmp_path / "m"


@linux
def test_hostile_folders(small: Path) -> None:
    assert int(run(HOSTILE, 0, small).split()[1]) > 50


@linux
@pytest.mark.parametrize("seed", range(2))
def test_truncations_and_mutations(small: Path, seed: int) -> None:
    run(MUTATIONS, seed, small)

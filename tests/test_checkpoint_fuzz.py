"""Hostile checkpoints end in CheckpointError, within two seconds of CPU time each and bounded memory.

The cases run in a process of their own, under a limit on its address space and on each case's CPU time; a crash, a
MemoryError, a hang, or an exception of another kind fails the test.
"""

import textwrap

import pytest

from hostile import linux, run

RUNNER = textwrap.dedent('''
    import json, os, pathlib, random, struct, sys, tempfile
    import hostile
    import numpy as np
    from gollm.formats.golm.checkpoint import checkpoint_info, open_checkpoint, strip, write_checkpoint
    from gollm.errors import CheckpointError

    PATH = os.path.join(tempfile.mkdtemp(dir=sys.argv[2]), "case.golm")

    def attempt(data, label):
        """True if the file was refused; reading everything must be harmless if it was not."""
        with open(PATH, "wb") as file:
            file.write(data)

        def read():
            with open_checkpoint(PATH) as file:
                for views in (file.tensors, file.training_tensors, (file.tokenizer_state() or ({}, {}))[1]):
                    for array in views.values():
                        array.tobytes()
            checkpoint_info(PATH)

        return bool(hostile.attempt(label, read, CheckpointError, 1000))

    def build(header, body=b"", version=1, length=None, magic=b"GoLM"):
        text = header if isinstance(header, bytes) else json.dumps(header).encode()
        padded = text + b" " * (-(16 + len(text)) % 64)
        return struct.pack("<4sIQ", magic, version, len(padded) if length is None else length) + padded + body

    def good():
        write_checkpoint(
            PATH,
            config={"a": [1, 2.5, "x\\\\\\"y", None], "b": {"c": True}},
            tensors={"w": np.arange(40, dtype=np.float32), "v": np.zeros((3, 4), np.float16), "z": np.zeros((0, 2))},
            tokenizer_state=({"kind": "bpe", "vocab_size": 5}, {"bytes": np.arange(9, dtype=np.uint8)}),
            generation={"stop_tokens": [2, 3], "temperature": 0.5, "chat_template": "{{ messages }}"},
            training={"step": 3}, training_tensors={"m": np.ones(40)},
        )
        return pathlib.Path(PATH).read_bytes()
''')

MUTATIONS = RUNNER + textwrap.dedent("""
    original = good()
    start = 16 + int.from_bytes(original[8:16], "little")
    hostile.limit_memory()
    rng = random.Random(int(sys.argv[1]))
    assert not attempt(original, "original")
    refused = 0

    for i in range(300):  # random bytes, with and without a good beginning
        data = rng.randbytes(rng.choice([0, 1, 15, 16, 17, 63, 64, 200, 5000]))
        assert attempt(data, "random")
        length = rng.choice([0, 48, len(data), rng.getrandbits(64)])
        attempt(struct.pack("<4sIQ", b"GoLM", 1, length) + data, "prefixed")
    sizes = {*range(0, 70), *range(start - 3, start + 70), *(rng.randrange(len(original)) for _ in range(300))}
    for size in sorted(sizes):
        assert attempt(original[:size], ("truncated", size))
        assert attempt(original + original[:size + 1], ("extended", size))
    interesting = [0, 1, 10, 127, 128, 255, *b' "+,-.01579:[]\\eE{}']
    for i in range(4000):
        data = bytearray(original)
        for _ in range(rng.choice([1, 1, 1, 2, 5, 30])):
            at = rng.randrange(start)
            kind = rng.randrange(4)
            if kind == 0:
                data[at] = rng.choice(interesting)
            elif kind == 1:
                data[at] ^= 1 << rng.randrange(8)
            elif kind == 2:
                chunk = original[(a := rng.randrange(start)) : a + rng.randrange(40)]
                data[at : at + len(chunk)] = chunk  # same length: the rest stays in place
            else:
                digits = str(rng.choice([0, 64, 2**31, 2**32, 2**53, 2**63, 2**64, -1, -64])).encode()
                data[at : at + len(digits)] = digits
        refused += attempt(bytes(data), ("mutated", i))
    print("refused", refused)
    assert refused > 2000
""")

HOSTILE = RUNNER + textwrap.dedent("""
    hostile.limit_memory()

    def entry(**changes):
        return {"dtype": "f32", "shape": [16], "layout": "row-major", "offset": 0, "group": "weights", **changes}

    def table(*entries, **parts):
        return {"config": {}, "tensors": {f"t{i}": e for i, e in enumerate(entries)}, **parts}

    def many(member):
        return b",".join(member % i for i in range(650_000))

    body = bytes(64)
    assert not attempt(build(table(entry()), body), "reference")
    assert not attempt(build(table(entry(), entry(offset=64)), 2 * body), "reference of two")

    cases = {
        "no bytes": b"",
        "only magic": b"GoLM",
        "wrong magic": build(table(), magic=b"GGUF"),
        "version 0": build(table(), version=0),
        "version 2^32-1": build(table(), version=2**32 - 1),
        "length 2^64-1": build(table(), length=2**64 - 1),
        "length 2^63": build(table(), length=2**63),
        "length above the bound": build(table(), b"", length=(8 << 20) + 48),
        "length beyond the file": build(table(), length=1 << 20),
        "length zero": build(table(), length=0),
        "length unaligned": build(table(), length=33),
        "empty header": build(b""),
        "not JSON": build(b"\\x00" * 48),
        "not UTF-8": build(b'{"config": {"a": "\\xff"}, "tensors": {}}'),
        "UTF-16": build(json.dumps(table()).encode("utf-16")),
        "list": build([]),
        "number": build(b"7"),
        "twice": build(b'{"config": {}, "tensors": {}, "tensors": {}}'),
        "twice inside": build(b'{"config": {"a": 1, "a": 2}, "tensors": {}}'),
        "NaN": build(b'{"config": {"a": NaN}, "tensors": {}}'),
        "infinity": build(b'{"config": {"a": -Infinity}, "tensors": {}}'),
        "1e999": build(b'{"config": {"a": 1e999}, "tensors": {}}'),
        "long integer": build(b'{"config": {"a": ' + b"9" * 4_000_000 + b'}, "tensors": {}}'),
        "long float": build(b'{"config": {"a": 0.' + b"9" * 4_000_000 + b'}, "tensors": {}}'),
        "trailing text": build(json.dumps(table()).encode() + b"x"),
        "two values": build(b"{} {}"),
        "no config": build({"tensors": {}}),
        "no tensors": build({"config": {}}),
        "config a list": build({"config": [], "tensors": {}}),
        "tensors a list": build({"config": {}, "tensors": []}),
        "training a number": build(table(training=1)),
        "generation a list": build(table(generation=[])),
        "generation text": build(table(generation="{{ messages }}")),
        "deep in generation": build(b'{"config": {}, "tensors": {}, "generation": {"a": ' + b"[" * 2000),
        "crowd in generation": build(b'{"config": {}, "generation": {"stop_tokens": [' + b"{}," * 2_000_000),
        "NaN in generation": build(b'{"config": {}, "tensors": {}, "generation": {"temperature": NaN}}'),
        "unknown part": build(table(extra={})),
        "deep lists": build(b"[" * 2_000_000),
        "deep objects": build(b'{"a":' * 1_000_000),
        "deep but few": build(b'{"config":' + b"[" * 5000 + b"]" * 5000 + b',"tensors":{}}'),
        "deep behind strings": build(b'{"config": {"]]]]]": "}}}", "a": ' + b'["]]]]", ' * 2000),
        "deep behind escapes": build(b'{"config": {"a": "\\\\\\\\", "b": "\\\\"]]]", "c": ' + b"[" * 2000),
        "crowd of objects": build(b'{"config": {"a": [' + b"{}," * 2_600_000 + b'{}]}, "tensors": {}}'),
        "crowd of lists": build(b'{"config": {"a": [' + b"[]," * 2_600_000 + b'[]]}, "tensors": {}}'),
        "crowd of numbers": build(b'{"config": {"a": [' + b"1," * 4_000_000 + b'1]}, "tensors": {}, "x": {}}'),
        "crowd of floats": build(b'{"config": {"a": [' + b"1e9," * 2_000_000 + b'1]}, "tensors": {}, "x": {}}'),
        "crowd of strings": build(b'{"config": {"a": [' + b'"",' * 2_600_000 + b'""]}, "tensors": {}, "x": {}}'),
        "crowd of keys": build(b'{"config": {' + many(b'"%x":1') + b'}, "x": {}}'),
        "crowd of tensors": build(b'{"config": {}, "tensors": {' + many(b'"%x":0') + b"}}"),
        "quotes": build(b'"' * 8_000_000),
        "backslashes": build(b'"' + b"\\\\" * 8_000_000),
        "spaces": build(b" " * 8_000_000),
        "hole in front": build(table(entry(offset=64)), 2 * body),
        "hole between": build(table(entry(), entry(offset=128)), 3 * body),
        "overlap": build(table(entry(), entry(offset=0)), 2 * body),
        "half an overlap": build(table(entry(shape=[32]), entry(offset=64)), 3 * body),
        "unaligned": build(table(entry(), entry(offset=60)), 2 * body),
        "negative offset": build(table(entry(offset=-64)), body),
        "offset 2^64": build(table(entry(offset=2**64)), body),
        "float offset": build(table(entry(offset=0.0)), body),
        "true offset": build(table(entry(offset=False)), body),
        "out of the file": build(table(entry(shape=[32])), body),
        "cut off": build(table(entry()), body[:-1]),
        "trailing bytes": build(table(entry()), body + b"x"),
        "trailing block": build(table(entry()), 2 * body),
        "no such dtype": build(table(entry(dtype="f31")), body),
        "dtype a list": build(table(entry(dtype=["f32"])), body),
        "dtype an object": build(table(entry(dtype={})), body),
        "no such layout": build(table(entry(layout="packed")), body),
        "no such group": build(table(entry(group="secret")), body),
        "group without its part": build({"config": {}, "tensors": {"training/t": entry(group="training")}}, body),
        "name of another group": build({"config": {}, "tensors": {"training/t": entry()}, "training": {}}, body),
        "group without prefix": build(table(entry(group="training"), training={}), body),
        "shape a number": build(table(entry(shape=16)), body),
        "negative size": build(table(entry(shape=[-16])), body),
        "two negative sizes": build(table(entry(shape=[-4, -4])), body),
        "float size": build(table(entry(shape=[16.0])), body),
        "true size": build(table(entry(shape=[True, 16])), body),
        "size 2^63": build(table(entry(shape=[2**63])), body),
        "product overflows to 16": build(table(entry(shape=[2**32 + 1, 2**32 - 1, 16])), body),
        "product wraps to 0": build(table(entry(shape=[2**32, 2**32])), b""),
        "zero times huge": build(table(entry(shape=[0, 2**62, 2**62])), b""),
        "rank 9": build(table(entry(shape=[1] * 8 + [16])), body),
        "rank 100000": build(table(entry(shape=[1] * 100_000)), body),
        "missing field": build(table({k: v for k, v in entry().items() if k != "layout"}), body),
        "additional field": build(table(entry(extra=1)), body),
        "entry a list": build(table([]), b""),
        "entry null": build(table(None), b""),
        "empty name": build({"config": {}, "tensors": {"": entry()}}, body),
        "name with NUL": build({"config": {}, "tensors": {"a\\0": entry()}}, body),
        "name with a terminal escape": build({"config": {}, "tensors": {"\\x1b[2J": entry()}}, body),
        "half a character in a name": build({"config": {}, "tensors": {"\\ud800": entry()}}, body),
        "long name": build({"config": {}, "tensors": {"x" * 1_000_000: entry()}}, body),
        "message bait": build(table(entry(dtype="x" * 1_000_000)), body),
    }
    for label, data in cases.items():
        assert attempt(data, label), f"accepted: {label}"
    os.truncate(PATH, 1 << 40)  # a terabyte of nothing, mapped under the memory limit
    data = build(table(entry()), body)
    with open(PATH, "r+b") as file:
        file.write(data)
    try:
        open_checkpoint(PATH)
        raise SystemExit("accepted: terabyte")
    except CheckpointError:
        pass
    print("cases", len(cases))
""")


@linux
def test_hostile_headers(tmp_path):
    assert int(run(HOSTILE, 0, tmp_path).split()[1]) > 80


@linux
@pytest.mark.parametrize("seed", range(3))
def test_random_bytes_truncations_and_mutations(tmp_path, seed):
    run(MUTATIONS, seed, tmp_path)

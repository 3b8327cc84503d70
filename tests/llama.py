"""llama.cpp for tests: the C functions of the package llama-cpp-py-sync, and the few things that tests ask of a model.

Its libraries are linked against glibc 2.38. Where that is newer than this machine's, copies of them that ask for the
older functions are loaded.
"""

from __future__ import annotations

import atexit
import ctypes
import functools
import shutil
import struct
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

bindings = pytest.importorskip("llama_cpp_py_sync._cffi_bindings", reason="llama-cpp-py-sync is not installed")
ffi = bindings.ffi
F32 = 0  # GGML_TYPE_F32


@functools.cache
def folder() -> Path:
    """Where the libraries are that this machine can load."""
    found = Path(bindings.__file__).parent
    try:
        ctypes.CDLL(str(found / "libllama.so"))
        return found
    except OSError as failure:
        if "GLIBC_2.38" not in str(failure):
            raise
    copies = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, copies, ignore_errors=True)
    for path in found.glob("*.so*"):
        (copies / path.name).write_bytes(for_older_glibc(path.read_bytes()))
    return copies


def for_older_glibc(library: bytes) -> bytes:
    """An ELF library for x86-64 that asks for GLIBC_2.2.5 where it was linked with GLIBC_2.38.

    Headers of the newer glibc call strtol, sscanf and others __isoc23_strtol and so on. A symbol's name is an offset
    into a table of strings, so that 9 more make the one into the other; the needed version is a name and its hash,
    which become those of the older version, from the same library."""
    data = bytearray(library)
    (headers,) = struct.unpack_from("<Q", data, 40)
    size, n = struct.unpack_from("<HH", data, 58)
    sections = [struct.unpack_from("<IIQQQQIIQQ", data, headers + i * size) for i in range(n)]
    for _, kind, _, _, at, n_bytes, strings, n_needed, *_ in sections:
        names = sections[strings][4]
        if kind == 11:  # SHT_DYNSYM
            for symbol in range(at, at + n_bytes, 24):
                name, defined_in = struct.unpack_from("<I2xH", data, symbol)
                if defined_in == 0 and data.startswith(b"__isoc23_", names + name):
                    struct.pack_into("<I", data, symbol, name + len("__isoc23_"))
        if kind == 0x6FFFFFFE:  # SHT_GNU_verneed
            for _ in range(n_needed):
                n_versions, first, following = struct.unpack_from("<2xH4xII", data, at)
                versions, version = {}, at + first
                for _ in range(n_versions):
                    hashed, name, step = struct.unpack_from("<I4xII", data, version)
                    versions[bytes(data[names + name : data.index(0, names + name)])] = version, hashed, name
                    version += step
                if b"GLIBC_2.38" in versions:
                    (new, _, _), (_, hashed, name) = versions[b"GLIBC_2.38"], versions[b"GLIBC_2.2.5"]
                    struct.pack_into("<I", data, new, hashed)
                    struct.pack_into("<I", data, new + 8, name)
                at += following
    return bytes(data)


@ffi.callback("void(enum ggml_log_level, const char *, void *)")
def _say_nothing(level, text, data) -> None:
    pass


@functools.cache
def functions():
    """The functions of llama.h."""
    found = ffi.dlopen(str(folder() / "libllama.so"))
    found.llama_log_set(_say_nothing, ffi.NULL)
    found.llama_backend_init()
    return found


def ggml() -> ctypes.CDLL:
    """ggml's, for which there are no declarations."""
    functions()
    return ctypes.CDLL(str(folder() / "libggml-base.so.0"))


class Model:
    """A GGUF file in llama.cpp."""

    def __init__(self, path: Path, *, vocab_only: bool = False) -> None:
        options = functions().llama_model_default_params()
        options.vocab_only = vocab_only
        self._model = functions().llama_model_load_from_file(str(path).encode(), options)
        assert self._model != ffi.NULL, f"llama.cpp refuses {path}"
        self._vocab = functions().llama_model_get_vocab(self._model)

    def __enter__(self) -> Model:
        return self

    def __exit__(self, *_: object) -> None:
        functions().llama_model_free(self._model)

    @property
    def end(self) -> int:
        return functions().llama_vocab_eos(self._vocab)

    def value(self, key: str) -> str:
        """Of one of the file's keys."""
        found = ffi.new("char[]", 1 << 16)
        assert functions().llama_model_meta_val_str(self._model, key.encode(), found, len(found)) >= 0, key
        return ffi.string(found).decode()

    def tokenize(self, text: str, *, special: bool = False, framing: bool = True) -> list[int]:
        """`special`: text that spells a special token becomes it; `framing`: BOS and EOS as the file asks for them."""
        data = text.encode()
        found = ffi.new("llama_token[]", len(data) + 16)
        n = functions().llama_tokenize(self._vocab, data, len(data), found, len(found), framing, special)
        assert n >= 0
        return list(found[0:n])

    def logits(self, ids: Sequence[int]) -> np.ndarray:
        """After each token. On one thread, with keys and values in float32 and no flash attention.  -> (T, V)"""
        options = functions().llama_context_default_params()
        options.n_ctx = options.n_batch = options.n_ubatch = len(ids)
        options.n_threads = options.n_threads_batch = 1
        options.type_k = options.type_v = F32
        options.flash_attn_type = functions().LLAMA_FLASH_ATTN_TYPE_DISABLED
        context = functions().llama_init_from_model(self._model, options)
        assert context != ffi.NULL
        batch = functions().llama_batch_init(len(ids), 0, 1)
        batch.n_tokens = len(ids)
        for i, token in enumerate(ids):
            batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.seq_id[i][0], batch.logits[i] = token, i, 1, 0, 1
        assert functions().llama_decode(context, batch) == 0
        shape = len(ids), functions().llama_vocab_n_tokens(self._vocab)
        found = np.frombuffer(ffi.buffer(functions().llama_get_logits(context), 4 * shape[0] * shape[1]), np.float32)
        found = found.reshape(shape).copy()
        functions().llama_batch_free(batch)
        functions().llama_free(context)
        return found

    def greedy(self, ids: Sequence[int], n: int) -> list[int]:
        """Up to n tokens that follow, without the token that ends the text."""
        tokens = list(ids)
        while len(tokens) < len(ids) + n:
            likeliest = int(self.logits(tokens)[-1].argmax())
            if likeliest == self.end:
                break
            tokens.append(likeliest)
        return tokens[len(ids) :]


def quantise(source: Path, target: Path, file_type: str) -> None:
    """Writes a model as llama.cpp's own quantiser does it; file_type: "Q4_K_M" and so on."""
    options = functions().llama_model_quantize_default_params()
    options.ftype = getattr(functions(), f"LLAMA_FTYPE_MOSTLY_{file_type}")
    options.nthread = 1
    made = ffi.new("struct llama_model_quantize_params *", options)
    assert functions().llama_model_quantize(str(source).encode(), str(target).encode(), made) == 0

"""What llama.cpp does in its turn, through llama-cpp-python or llama-cpp-py-sync, with the settings of llama-bench: the
cache in half precision, at most 512 tokens at once, flash attention where llama.cpp chooses it. Only in decoding is it
off, since that takes a third of the time with 2048 tokens in the cache. As a program, computes a prompt of the model
that it is given, and prints which llama.cpp this is and what it was built for."""

import functools
import importlib.metadata
import os
import sys
import weakref

EVERYTHING = 1 << 30  # bytes that a call works on: one set of operands is enough
AT_ONCE = 2048  # tokens of a batch at most


@functools.cache
def library():
    """llama.cpp's C functions, with the same names in both packages. It says a lot, which nobody reads."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    try:
        import llama_cpp as functions
    except ImportError:
        from llama_cpp_py_sync._cffi_bindings import get_lib

        functions = get_lib()
    functions.llama_backend_init()
    return functions


@functools.cache
def loaded(path):
    found = library().llama_model_load_from_file(path.encode(), library().llama_model_default_params())
    if not found:
        raise ValueError(f"llama.cpp cannot load {path}")
    return found


class Sequences:
    """`batch` sequences that have `depth` tokens, and a call for the next `new` tokens of each."""

    def __init__(self, path, threads, batch, depth, room, new):
        lib = self.lib = library()
        options = lib.llama_context_default_params()
        options.n_ctx = batch * (256 * -(-(depth + room) // 256))  # each sequence has as much, in whole blocks
        options.n_seq_max, options.n_batch = batch, max(AT_ONCE, batch * new)
        options.n_threads = options.n_threads_batch = threads
        if new == 1:
            options.flash_attn_type = lib.LLAMA_FLASH_ATTN_TYPE_DISABLED
        model = loaded(path)
        self.n_ids = lib.llama_vocab_n_tokens(lib.llama_model_get_vocab(model))
        self.context = lib.llama_init_from_model(model, options)
        if not self.context:
            raise MemoryError(f"llama.cpp has no memory for {batch} sequences of {depth + room} tokens")
        weakref.finalize(self, lib.llama_free, self.context)
        self.memory = lib.llama_get_memory(self.context)
        self.batch, self.depth = batch, depth
        for begin in range(0, depth, AT_ONCE):  # one sequence is computed, the others are its copies
            new_ones = min(AT_ONCE, depth - begin)
            self.run(self.tokens(1, new_ones), begin, new_ones)
        for sequence in range(1, batch if depth else 1):
            lib.llama_memory_seq_cp(self.memory, 0, sequence, -1, -1)
        self.next = self.tokens(batch, new)

    def tokens(self, batch, new):
        """The next `new` tokens of `batch` sequences; logits are asked for the last ones."""
        made = self.lib.llama_batch_init(batch * new, 0, 1)
        weakref.finalize(self, self.lib.llama_batch_free, made)
        made.n_tokens = batch * new
        for i in range(batch * new):
            made.token[i], made.n_seq_id[i], made.seq_id[i][0] = i % self.n_ids, 1, i // new
            made.logits[i] = i % new == new - 1
        return made

    def run(self, tokens, begin, new):
        """Computes them; each sequence has `begin` tokens already."""
        for i in range(tokens.n_tokens):
            tokens.pos[i] = begin + i % new
        if self.lib.llama_decode(self.context, tokens) != 0:
            raise RuntimeError("llama.cpp cannot compute the batch")
        self.lib.llama_synchronize(self.context)

    def forget(self):
        """Back to `depth` tokens in each sequence."""
        for sequence in range(self.batch):
            self.lib.llama_memory_seq_rm(self.memory, sequence, self.depth, -1)


def prefill(path, threads, depth, tokens):
    """Another `tokens` tokens at once, after `depth`."""
    sequences = Sequences(path, threads, 1, depth, tokens, tokens)

    def call():
        sequences.forget()
        sequences.run(sequences.next, depth, tokens)

    return call, EVERYTHING


def decoding(path, threads, batch, depth, tokens):
    """One token more for each of `batch` sequences; after `tokens` of them they start over at `depth`."""
    sequences = Sequences(path, threads, batch, depth, tokens, 1)
    done = 0

    def call():
        nonlocal done
        if done == tokens:
            sequences.forget()
            done = 0
        sequences.run(sequences.next, depth + done, 1)
        done += 1

    return call, EVERYTHING


def describe():
    """llama-cpp-python 0.3.36: AVX512 = 1 | ..."""
    lib = library()
    package = "llama-cpp-python" if lib is sys.modules.get("llama_cpp") else "llama-cpp-py-sync"
    features = lib.llama_print_system_info()
    if not isinstance(features, bytes):
        from llama_cpp_py_sync._cffi_bindings import ffi

        features = ffi.string(features)
    return f"{package} {importlib.metadata.version(package)}: {features.decode().strip(' |')}"


if __name__ == "__main__":
    sys.path.pop(0)  # this folder, whose files are not to be imported by their short names
    try:
        prefill(sys.argv[1], 1, 0, 64)[0]()
        print(describe())
    except Exception as failure:
        print(f"{type(failure).__name__}: {failure}")
        sys.exit(1)

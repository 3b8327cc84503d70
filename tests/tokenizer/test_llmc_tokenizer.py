"""llm.c's gpt2_tokenizer.bin: its own writer's bytes, and GPT-2's ids from them."""

import random
import struct
from pathlib import Path

import numpy as np
import pytest

from gollm.errors import TokenizerError
from gollm.tokenizers import BPETokenizer, CharacterTokenizer, load, save
from gollm.tokenizers.files import llmc
from gollm.tokenizers.files.format import TokenizerFile

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
END = "<|endoftext|>"
TEXT = "to be, or not to be:  that's the question 2026 ünïcode \U0001f600 <|endoftext|>\n\n\t"


def exported(tokens: list[bytes], end: int, version: int = 2) -> bytes:
    """What llm.c's train_gpt2.py writes."""
    header = np.zeros(256, "<i4")
    header[:4] = (20240328, version, len(tokens), end if version == 2 else 0)
    return header.tobytes() + b"".join(struct.pack("<B", len(token)) + token for token in tokens)


@pytest.fixture(scope="module")
def trained() -> BPETokenizer:
    return BPETokenizer.train("to be or not to be that is the question " * 3, 280, special_tokens=[END])


def test_written_as_its_own_program_does_and_read_back(tmp_path, trained):
    path = tmp_path / "gpt2_tokenizer.bin"
    save(trained, path)
    assert path.read_bytes() == exported(list(trained.vocabulary), trained.special_tokens[END])
    again = load(path)
    assert again.encode(TEXT).tolist() == trained.encode(TEXT).tolist()
    assert again.special_tokens == trained.special_tokens
    assert again.to_state()[0] == trained.to_state()[0]
    save(again, tmp_path / "again.bin", "llm.c")
    assert (tmp_path / "again.bin").read_bytes() == path.read_bytes()


@pytest.mark.skipif(not DATA.exists(), reason="GPT-2's vocabulary is not here")
@pytest.mark.parametrize("version", [1, 2])
def test_gpt2(tmp_path, version):
    gpt2 = load(DATA / "gpt2-encoder.json")
    path = tmp_path / "gpt2_tokenizer.bin"
    path.write_bytes(exported(list(gpt2.vocabulary), 50256, version))
    again = llmc.read(TokenizerFile(path), 50257)
    text = TEXT + (DATA / "tinyshakespeare.txt").read_text()[:200_000]
    assert np.array_equal(again.encode(text), gpt2.encode(text))
    assert np.array_equal(again.merges, gpt2.merges)
    assert again.encode(END, allowed_special="all").tolist() == [50256]
    save(gpt2, path)
    assert path.read_bytes() == exported(list(gpt2.vocabulary), 50256)


def test_tokenizers_that_would_not_come_back_are_refused(tmp_path):
    def refused(tokenizer, words):
        with pytest.raises(TokenizerError, match=words):
            save(tokenizer, tmp_path / "gpt2_tokenizer.bin")

    refused(CharacterTokenizer.train("abc"), "byte-level BPE tokenizers only")
    refused(BPETokenizer.train("to be or not to be", 258), "one special token")
    refused(BPETokenizer.train("to be or not to be", 260, special_tokens=["<a>", "<b>"]), "one special token")
    refused(BPETokenizer.train("to be or not to be", 259, special_tokens=[END], pattern="cl100k"), "GPT-2's pattern")
    long = BPETokenizer.train("a" * 4096, 270, special_tokens=[END])
    refused(long, "1 to 255 bytes")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda data: data[:1000], "does not begin as one"),
        (lambda data: data[:-1], "ends inside token"),
        (lambda data: data + b"\0", "1 bytes are left"),
        (lambda data: data[:4] + b"\3" + data[5:], "version is 3"),
        (lambda data: data[:8] + struct.pack("<i", 2**31 - 1) + data[12:], "2147483647 tokens"),
        (lambda data: data[:8] + struct.pack("<i", -1) + data[12:], "-1 tokens"),
        (lambda data: data[:12] + struct.pack("<i", 2**20) + data[16:], "1048576 ends a text"),
        (lambda data: data[:12] + struct.pack("<i", 65) + data[16:], "no token for the byte 0x41"),
        (lambda data: data[:1024] + b"\0" + data[1026:], "inside token 0, or it is empty"),
        (lambda data: data[:1025] + b"\1" + data[1026:], "two of its tokens are the same"),
    ],
)
def test_damaged_files_are_refused(tmp_path, trained, change, words):
    data = exported([bytes([i]) for i in range(256)] + [END.encode()], 256)
    (tmp_path / "tokenizer.bin").write_bytes(change(data))
    with pytest.raises(TokenizerError, match=words):
        llmc.read(TokenizerFile(tmp_path / "tokenizer.bin"))


def test_tokens_that_no_merge_makes_are_refused(tmp_path):
    path = tmp_path / "tokenizer.bin"
    path.write_bytes(exported([*(bytes([i]) for i in range(256)), b"abc", END.encode()], 257))
    with pytest.raises(TokenizerError, match="no merges of the tokens before token 256, b'abc', lead to it"):
        llmc.read(TokenizerFile(path))
    long = [bytes([i // 256, i % 256]) + 253 * b"x" for i in range(200)]
    path.write_bytes(exported([*(bytes([i]) for i in range(256)), *long, END.encode()], 456))
    with pytest.raises(TokenizerError, match="too long for a vocabulary"):
        llmc.read(TokenizerFile(path))


def test_random_damage_is_refused_or_harmless(tmp_path, trained):
    data = exported(list(trained.vocabulary), trained.special_tokens[END])
    path = tmp_path / "tokenizer.bin"
    rng = random.Random(0)
    for _ in range(400):
        damaged = bytearray(data)
        for _ in range(rng.choice([1, 2, 20])):
            damaged[rng.choice([rng.randrange(16), rng.randrange(1024, len(data))])] = rng.randrange(256)
        path.write_bytes(damaged[: rng.choice([len(data), rng.randrange(len(data))])])
        try:
            llmc.read(TokenizerFile(path)).encode(TEXT)
        except TokenizerError as error:
            assert len(str(error)) < 500

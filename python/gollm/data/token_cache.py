"""The token cache: a corpus is tokenised once, and later starts map what is there.

    CACHE/tokens/KEY/tokens_000000.bin ...   shards in llm.c's format
    CACHE/tokens/KEY/manifest.json           number of tokens and checksums
    CACHE/sources/SIGNATURE                  content hash of a large corpus that has not been written to since

KEY hashes the corpus' content and the tokenizer, never paths or times, and ends with FORMAT: a copied or renamed corpus
is found again, and an edit that keeps size and time cannot go unseen. Only for corpora above 32 MB, where reading
everything takes longer than a blink, the content hash itself is remembered under paths, sizes and times (change time
included, which programs cannot set).

A cache is built in a folder with a temporary name, flushed, and renamed; processes that want the same one wait for the
first. What is read back is checked (sizes, and checksums of up to 256 MB spread over the tokens); a damaged cache is
built again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import shutil
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np

try:
    import fcntl
except ImportError:
    fcntl = None  # type: ignore[assignment]

from gollm.data.reading import on_lines_of_their_own
from gollm.data.shards import HEADER_BYTES, Tokens, open_shard, shard_dtype, shard_header
from gollm.data.sources import DataSource, Files, TokenShards
from gollm.errors import DataError
from gollm.kernels import Array
from gollm.system.files import (
    StrPath,
    cache_folder,
    open_regular,
    read_regular,
    reason,
    replacing,
    sync_folder,
    temporary_name,
)
from gollm.tokenizers.base import Framing, Ids
from gollm.tokenizers.documents import DocumentPiece

log = logging.getLogger(__name__)

FORMAT = 2  # part of the folder's name: raise it when the same text and tokenizer would give other files
SHARD_TOKENS = 1 << 27
BLOCK_BYTES = 1 << 20
CHECKED_BLOCKS = 256
MAX_MANIFEST_BYTES = 64 << 20  # checksums of a few terabytes
REMEMBER_FROM_BYTES = 32 << 20

Progress = Callable[[int, int], None]


class TextTokenizer(Protocol):
    """What the data pipeline needs of a tokenizer; `gollm.tokenizers.Tokenizer` has it."""

    @property
    def vocab_size(self) -> int: ...
    @property
    def framing(self) -> Framing: ...
    def encode_pieces(self, pieces: Iterable[DocumentPiece]) -> Iterator[tuple[Ids, bool]]: ...
    def to_state(self) -> tuple[Mapping[str, Any], Mapping[str, Array]]: ...


def tokenizer_fingerprint(tokenizer: TextTokenizer) -> str:
    """A hash of everything that decides which ids a text gets."""
    header, arrays = tokenizer.to_state()
    digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    if header.keys() & {"prefix", "suffix"}:
        digest.update(b"framed\n")  # gollm 0.1 put no template around documents: its runs had other tokens
    for name, array in sorted(arrays.items()):
        digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def cached_tokens(
    source: DataSource,
    tokenizer: TextTokenizer,
    cache_dir: StrPath | None = None,
    progress: Progress | None = None,
) -> Tokens:
    """The tokens of `source`, from the cache or tokenised now; `progress` is told (bytes read, tokens written).

    Raises DataError for text that cannot be read, an empty corpus, or a cache folder that cannot be written.
    """
    root = cache_folder(cache_dir)
    try:
        content = content_fingerprint(source, root)
        # Names the tokens in checkpoints, and is therefore the same whatever the format of the cache.
        fingerprint = hashlib.sha256(f"1 {content} {tokenizer_fingerprint(tokenizer)}".encode()).hexdigest()[:32]
        key = f"{fingerprint}-{FORMAT}"
        folder = root / "tokens" / key
        tokens = _open(folder, tokenizer.vocab_size, source.name, fingerprint)
        if tokens is None:
            folder.parent.mkdir(parents=True, exist_ok=True)
            with _lock(folder.parent / f"{key}.lock"):
                tokens = _open(folder, tokenizer.vocab_size, source.name, fingerprint)
                if tokens is None:
                    _build(folder, source, tokenizer, progress or (lambda _bytes, _tokens: None))
                    tokens = _open(folder, tokenizer.vocab_size, source.name, fingerprint)
    except OSError as failure:
        raise DataError(
            f"cannot use the cache folder {root}: {reason(failure)}. Make room there, or set GOLLM_CACHE to a folder "
            f"that can be written"
        ) from failure
    if tokens is None:
        raise DataError(f"the token cache {folder} is damaged again right after it was built; check the disk")
    return tokens


def content_fingerprint(source: DataSource, root: Path) -> str:
    """source.fingerprint(), remembered in `root` for a large corpus that nothing was written to since."""
    signature = source.signature()
    if signature is None or source.size_bytes < REMEMBER_FROM_BYTES:
        return source.fingerprint()
    memory = root / "sources" / signature
    with contextlib.suppress(OSError, ValueError):
        known = read_regular(memory, 65).decode("ascii")
        if len(known) == 64 and int(known, 16) >= 0:
            return known
    started = time.time()
    fingerprint = source.fingerprint()
    # A file that changed within the clock's last tick could change again and look the same.
    settled = isinstance(source, Files | TokenShards) and source.newest_change() < started - 2
    if settled and source.signature() == signature:
        with contextlib.suppress(OSError, DataError):  # a cache that can only be read still serves
            memory.parent.mkdir(parents=True, exist_ok=True)
            with replacing(memory, DataError) as file:
                file.write(fingerprint.encode())
    return fingerprint


# --- reading a cache -------------------------------------------------------------------------------------------------


def _open(folder: Path, vocab_size: int, name: str, fingerprint: str) -> Tokens | None:
    """The cached tokens, or None where there are none or they are damaged."""
    manifest = folder / "manifest.json"
    try:
        record = json.loads(read_regular(manifest, MAX_MANIFEST_BYTES))
        shards: list[dict[str, Any]] = record["shards"]
        parts = [open_shard(folder / _shard_name(i)) for i in range(len(shards))]
        wanted = shard_dtype(vocab_size)
        if [part.size for part in parts] != [shard["n_tokens"] for shard in shards] or any(
            p.dtype != wanted for p in parts
        ):
            raise ValueError("its shards are not those of the manifest")
        blocks = [(s, block, crc) for s, shard in enumerate(shards) for block, crc in enumerate(shard["crc32"])]
        if len(blocks) != sum(map(_n_blocks, parts)):
            raise ValueError("checksums are missing")
        for i in np.unique(np.linspace(0, len(blocks) - 1, min(len(blocks), CHECKED_BLOCKS)).astype(int)).tolist():
            shard_number, block, crc = blocks[i]
            if _crc(folder / _shard_name(shard_number), block) != crc:
                raise ValueError(f"the checksum of block {i} differs")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, DataError, ValueError, KeyError, TypeError, RecursionError) as failure:
        log.warning("the token cache %s is damaged (%s); building it again", folder, failure)
        return None
    return Tokens(parts, vocab_size=vocab_size, fingerprint=fingerprint, name=f"the tokens of {name}")


def _shard_name(index: int) -> str:
    return f"tokens_{index:06d}.bin"


def _n_blocks(part: Array) -> int:
    return -(-part.nbytes // BLOCK_BYTES)


def _crc(shard: Path, block: int) -> int:
    # Read, not mapped: pages of a map would count as this process' memory from here on.
    with open_regular(shard, buffering=-1) as file:
        file.seek(HEADER_BYTES + block * BLOCK_BYTES)
        return zlib.crc32(file.read(BLOCK_BYTES))


# --- building one ----------------------------------------------------------------------------------------------------


def _build(folder: Path, source: DataSource, tokenizer: TextTokenizer, progress: Progress) -> None:
    """Tokenise into a temporary folder and rename it. The caller holds the lock: other such folders are left over."""
    for leftover in folder.parent.glob(f".{folder.name}.*.tmp"):
        shutil.rmtree(leftover, ignore_errors=True)
    signature = source.signature()
    temporary = temporary_name(folder)
    temporary.mkdir()
    try:
        writer = _ShardWriter(temporary, shard_dtype(tokenizer.vocab_size))
        with contextlib.closing(writer):
            _tokenise(source, tokenizer, writer, progress)
        if source.signature() != signature:
            raise DataError(f"{source.name} changed while it was being read; start again when nothing writes to it")
        if not writer.total:
            raise DataError(f"{source.name} holds no text; name a corpus that is not empty with --data")
        shards = []
        for i in range(writer.n_shards):
            shard = temporary / _shard_name(i)
            part = open_shard(shard)
            shards.append(
                {"n_tokens": int(part.size), "crc32": [_crc(shard, block) for block in range(_n_blocks(part))]}
            )
        record = {"format": FORMAT, "source": source.name, "n_tokens": writer.total, "shards": shards}
        with replacing(temporary / "manifest.json", DataError) as file:
            file.write(json.dumps(record, indent=1).encode())
        if folder.exists():  # damaged: those who still map it keep what they have
            shutil.rmtree(folder)
        os.replace(temporary, folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    sync_folder(folder.parent)


def _tokenise(source: DataSource, tokenizer: TextTokenizer, writer: _ShardWriter, progress: Progress) -> None:
    """Write the documents: each after the tokenizer's begin, and with its end where another follows, as `Framing` says;
    a tokenizer with neither has a newline between documents."""
    begin, end = (np.array(ids, np.int32) for ids in tokenizer.framing)
    framed = bool(begin.size or end.size)
    bytes_read = 0

    def count(n: int) -> None:
        nonlocal bytes_read
        bytes_read += n

    pieces = source.pieces(count) if framed else on_lines_of_their_own(source.pieces(count))
    started = False
    for ids, first in tokenizer.encode_pieces(pieces):
        if first:
            if started:
                writer.write(end)
            writer.write(begin)
            started = True
        writer.write(ids)
        progress(bytes_read, writer.total)


class _ShardWriter:
    """Appends tokens to shards of at most SHARD_TOKENS in `folder`."""

    def __init__(self, folder: Path, dtype: np.dtype[Any]) -> None:
        self.total = 0
        self.n_shards = 0
        self._folder, self._dtype = folder, dtype
        self._file: Any = None
        self._room = 0

    def write(self, ids: Ids) -> None:
        while len(ids):
            if not self._room:
                self.close()
                self._file = open(self._folder / _shard_name(self.n_shards), "xb")  # noqa: SIM115 (closed in close)
                self._file.write(bytes(HEADER_BYTES))
                self.n_shards += 1
                self._room = SHARD_TOKENS
            now, ids = ids[: self._room], ids[self._room :]
            self._file.write(np.ascontiguousarray(now, self._dtype).data)
            self._room -= len(now)
            self.total += len(now)

    def close(self) -> None:
        """Complete the shard that is being written."""
        if self._file is None:
            return
        file, self._file = self._file, None
        with file:
            file.seek(0)
            file.write(shard_header(self._dtype, SHARD_TOKENS - self._room))
            file.flush()
            os.fsync(file.fileno())
        self._room = 0


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Hold `path` against other processes; the system lets go when this one dies, however it does.

    Where Python has no such locks (Windows outside WSL) processes that start at once need a cache folder each.
    """
    lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)  # "ab" would wait for the reader of a FIFO
    try:
        if fcntl is not None:
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)

"""Where text comes from: files, folders, JSON Lines, standard input, Python strings, or Python's own standard library.

A source is a sequence of documents that can be read more than once, in an order that does not depend on the machine.
"""

from __future__ import annotations

import glob
import hashlib
import io
import os
import re
import stat
import sysconfig
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from gollm.data.corpora import CORPORA, named_corpus
from gollm.data.folders import files_below, readable, text_files
from gollm.data.parquet import is_parquet, parquet_pieces
from gollm.data.reading import json_line_pieces, on_lines_of_their_own, split_document, text_pieces
from gollm.data.shards import HEADER_BYTES, is_shard, open_shard
from gollm.errors import DataError
from gollm.system.files import StrPath, open_regular, reason
from gollm.system.plain_text import make_decoder, standard_input
from gollm.tokenizers.corpus import safe_cut
from gollm.tokenizers.documents import DocumentPiece, recut

OnRead = Callable[[int], None]

JSON_LINES = (".jsonl", ".ndjson")
COMPRESSED = (".gz", ".bz2", ".xz", ".zst")
STANDARD_LIBRARY_BYTES = 8 << 20


def _ignore(_: int) -> None:
    pass


class DataSource(ABC):
    """A corpus: documents of text that can be read again and again.

    name        how messages call it
    size_bytes  how much there is to read
    """

    name: str

    @property
    @abstractmethod
    def size_bytes(self) -> int:
        """Bytes of input."""

    @property
    def files(self) -> Sequence[Path]:
        """The files that are read, in their order; none of other sources."""
        return ()

    @abstractmethod
    def pieces(self, on_read: OnRead = _ignore) -> Iterator[DocumentPiece]:
        """The documents in order, long ones cut into pieces.

        `on_read` is called with the number of bytes of each read."""

    @abstractmethod
    def fingerprint(self) -> str:
        """A hash of the content (and of what decides how it is read): equal for equal text, wherever it lies."""

    def signature(self) -> str | None:
        """A cheap stand-in for `fingerprint` while nothing has been written to (paths, sizes, times), or None."""
        return None

    def iter_text(self, on_read: OnRead = _ignore, *, whole: bool = False) -> Iterator[str]:
        """The corpus as one stream of text in chunks of about a million characters, for training a tokenizer.

        A document that does not end with a newline gets one if another follows: each begins on a line of its own.
        Chunks end where gollm's pre-tokenizers end a piece; `whole` is one chunk for each document, for other patterns.
        Raises DataError where there is no text.
        """
        empty = True
        for text, _ in recut(on_lines_of_their_own(self.pieces(on_read)), (lambda _: 0) if whole else safe_cut):
            empty = False
            yield text
        if empty:
            raise DataError(f"{self.name} holds no text; name a corpus that is not empty with --data")


class Texts(DataSource):
    """Documents that are Python strings already."""

    def __init__(self, documents: str | Iterable[str], name: str = "the given text") -> None:
        self.name = name
        self.documents = [documents] if isinstance(documents, str) else list(documents)
        for i, document in enumerate(self.documents):
            if not isinstance(document, str):
                raise DataError(f"document {i} of {name} is a {type(document).__name__} instead of a string")

    @property
    def size_bytes(self) -> int:
        return sum(map(len, self.documents))

    def pieces(self, on_read: OnRead = _ignore) -> Iterator[DocumentPiece]:
        for document in filter(None, self.documents):
            on_read(len(document))
            yield from split_document(document)

    def fingerprint(self) -> str:
        digest = hashlib.sha256(b"texts")
        for document in self.documents:
            data = document.encode("utf-8", "surrogatepass")
            digest.update(len(data).to_bytes(8, "little") + data)
        return digest.hexdigest()


class _Streams(DataSource):
    """Sources that are read from open files: text, Parquet, or JSON Lines when `field` says which field holds it."""

    encoding: str
    errors: str

    @abstractmethod
    def _streams(self) -> Iterator[tuple[str, str | None, BinaryIO]]:
        """(name, field of JSON Lines or None for plain text, open file)"""

    def pieces(self, on_read: OnRead = _ignore) -> Iterator[DocumentPiece]:
        for name, field, stream in self._streams():
            with readable(name):
                if is_parquet(stream):
                    yield from parquet_pieces(stream, name, field or "text", on_read)
                elif field is None:
                    yield from text_pieces(stream, name, self.encoding, self.errors, on_read)
                else:
                    yield from json_line_pieces(stream, name, field, self.encoding, self.errors, on_read)

    def fingerprint(self) -> str:
        digest = hashlib.sha256(f"streams {self.encoding} {self.errors}".encode())
        for name, field, stream in self._streams():
            content, length = hashlib.sha256(), 0
            with readable(name):
                while data := stream.read(1 << 20):
                    content.update(data)
                    length += len(data)
            digest.update(f"{field!r} {length} {content.hexdigest()}\n".encode())
        return digest.hexdigest()


class Files(_Streams):
    """Files in the given order, each a document; those that end in .jsonl or .ndjson, compressed or not, and all when
    `field` is given, are JSON Lines with a document in each line (in the field "text" unless told otherwise). Parquet
    files are detected from their content: `field` names the column, each row is a document.

    encoding, errors  how bytes become text: any encoding of Python's; "strict", "replace" or "ignore"
    Raises DataError for a path that is missing, is no regular file, or cannot be read.
    """

    def __init__(
        self,
        paths: Iterable[StrPath],
        *,
        field: str | None = None,
        encoding: str = "utf-8",
        errors: str = "strict",
        name: str | None = None,
    ) -> None:
        self.paths = [Path(path) for path in paths]
        if not self.paths:
            raise DataError("no files were given; name at least one file or folder with --data")
        self.field, self.encoding, self.errors = field, encoding, errors
        make_decoder(encoding, errors, DataError)
        self.name = name or (
            str(self.paths[0]) if len(self.paths) == 1 else f"{self.paths[0]} and {len(self.paths) - 1} more"
        )
        for path in self.paths:
            _status(path)

    @property
    def size_bytes(self) -> int:
        return sum(_status(path).st_size for path in self.paths)

    @property
    def files(self) -> Sequence[Path]:
        return self.paths

    def signature(self) -> str:
        digest = hashlib.sha256(f"files {self.field!r} {self.encoding} {self.errors}".encode())
        for path in self.paths:
            s = _status(path)
            digest.update(
                f"{str(path.absolute())!a} {s.st_dev} {s.st_ino} {s.st_size} {s.st_mtime_ns} {s.st_ctime_ns}\n".encode()
            )
        return digest.hexdigest()

    def newest_change(self) -> float:
        """When a file last changed, in seconds since 1970 on the file system's clock."""
        return max(max(s.st_mtime, s.st_ctime) for s in map(_status, self.paths))

    def _streams(self) -> Iterator[tuple[str, str | None, BinaryIO]]:
        for path in self.paths:
            field = self.field or ("text" if _is_json_lines(path) else None)
            with readable(str(path)), open_regular(path, buffering=-1) as file:
                yield str(path), field, file


class StandardInput(_Streams):
    """Text from a pipe: standard input, or `stream`.

    It is copied to an unnamed file on the disk first, because a corpus is read more than once."""

    def __init__(
        self,
        *,
        field: str | None = None,
        encoding: str = "utf-8",
        errors: str = "strict",
        stream: BinaryIO | None = None,
        folder: StrPath | None = None,
        name: str = "standard input",
    ) -> None:
        self.name = name
        self.field, self.encoding, self.errors = field, encoding, errors
        make_decoder(encoding, errors, DataError)
        incoming = stream if stream is not None else standard_input(DataError)
        self._size = 0
        try:
            self._copy = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 (lives as long as this object)
            while data := _read_pipe(incoming, name):
                self._copy.write(data)
                self._size += len(data)
            self._copy.flush()
        except OSError as failure:
            raise DataError(
                f"cannot keep {name} on the disk: {reason(failure)}. Set TMPDIR to a folder with room, or use a file"
            ) from failure

    @property
    def size_bytes(self) -> int:
        return self._size

    def _streams(self) -> Iterator[tuple[str, str | None, BinaryIO]]:
        # A descriptor of its own position for each reader: two may be under way at once.
        reader = io.BufferedReader(_At(self._copy.fileno()), 1 << 18)
        yield self.name, self.field, reader


class _At(io.RawIOBase):
    """Reads a descriptor from its beginning without moving the position that others see."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor, self._position = descriptor, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        data = os.pread(self._descriptor, len(buffer), self._position)
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)


class TokenShards(DataSource):
    """A corpus that is tokenised already: shards in llm.c's format, in the given order, as one sequence.

    Raises DataError for a shard that cannot be used.
    """

    def __init__(self, paths: Sequence[StrPath]) -> None:
        self.paths = [Path(path) for path in paths]
        self._files = Files(self.paths)
        self.name = self._files.name
        for path in self.paths:
            open_shard(path)

    @property
    def size_bytes(self) -> int:
        return self._files.size_bytes

    @property
    def files(self) -> Sequence[Path]:
        return self.paths

    def fingerprint(self) -> str:
        return hashlib.sha256(f"shards {self._files.fingerprint()}".encode()).hexdigest()

    def earlier_fingerprint(self) -> str:
        """As gollm 0.1 took it: of sizes, headers and first tokens."""
        digest = hashlib.sha256(b"shards")
        for path in self.paths:
            with readable(str(path)), open_regular(path, buffering=-1) as file:
                digest.update(file.read(HEADER_BYTES + 4096))
            digest.update(str(path.stat().st_size).encode())
        return digest.hexdigest()

    def signature(self) -> str:
        return self._files.signature()

    def newest_change(self) -> float:
        return self._files.newest_change()

    def pieces(self, on_read: OnRead = _ignore) -> Iterator[DocumentPiece]:
        raise DataError(
            f"{self.name} holds token ids and no text; pass the tokenizer that they were made with (--tokenizer)"
        )


def standard_library(max_bytes: int = STANDARD_LIBRARY_BYTES) -> Files:
    """The sources of this Python's standard library: real text on every machine, the same for one version of Python.

    Modules at the top come first, then packages, each in sorted order, until `max_bytes` are full. Left out: tests,
    site-packages, tables for character sets, and what the build of this Python wrote.
    Raises DataError where Python comes without sources.
    """
    root = Path(sysconfig.get_path("stdlib"))
    skip = {"test", "tests", "idle_test", "site-packages", "dist-packages", "encodings", "pydoc_data", "__pycache__"}
    found: list[tuple[int, str, Path]] = []
    for parent, folders, names in os.walk(root):
        folders[:] = [f for f in folders if f not in skip and not f.startswith((".", "config-"))]
        for name in names:
            path = Path(parent, name)
            if (
                name.endswith(".py")
                and not name.startswith("_sysconfigdata")
                and path.is_file()
                and not path.is_symlink()
            ):
                below = path.relative_to(root)
                found.append((len(below.parts), below.as_posix(), path))
    chosen: list[Path] = []
    for _, _, path in sorted(found):
        size = path.stat().st_size
        if size <= max_bytes:
            chosen.append(path)
            max_bytes -= size
    if not chosen:
        raise DataError(f"this Python has no library sources in {root}; name a corpus of your own with --data")
    return Files(chosen, name="the Python standard library")


def open_source(
    data: StrPath | Sequence[StrPath] | None = None,
    *,
    patterns: str | Sequence[str] = (),
    field: str | None = None,
    encoding: str = "utf-8",
    errors: str = "strict",
) -> DataSource:
    """The source that `--data` names.

    None is the standard library's own text, "-" standard input (or what a shell's <(COMMAND) gives), a name of
    `CORPORA` such as "shakespeare" that corpus unless there is a file or folder of that name, anything else one
    or several paths: files, folders
    (with `patterns`), wildcards such as "books/*.txt", or token shards in llm.c's format (*.bin). See `Files` for
    `field`, `encoding` and `errors`. Files of a folder that are no text are left out with a warning. Raises DataError.
    """
    patterns = [patterns] if isinstance(patterns, str) else list(patterns)
    given = [] if data is None else [data] if isinstance(data, (str, os.PathLike)) else list(data)
    if patterns and not any(os.path.isdir(path) for path in given):
        raise DataError(f"the pattern {patterns[0]!r} chooses files of a folder, but no folder was given with --data")
    if data is None or (given == ["python"] and not os.path.lexists("python")):
        return standard_library()
    if [os.fspath(path) for path in given] == ["-"]:
        return StandardInput(field=field, encoding=encoding, errors=errors)
    pipes = [str(path) for path in given if _SHELL_PIPE.fullmatch(str(path)) and not os.path.isfile(path)]
    if pipes and len(given) == 1:
        with readable(pipes[0]), os.fdopen(os.dup(_descriptor(pipes[0])), "rb") as stream:
            return StandardInput(field=field, encoding=encoding, errors=errors, stream=stream, name=pipes[0])
    paths: list[Path] = []
    for item in [os.fspath(path) for path in given]:
        if item == "-" or item in pipes:
            raise DataError(f"a pipe ({item}) cannot be mixed with other data; pass it alone")
        if not item:
            raise DataError("a path of the data is empty; name a file or folder")
        if item in CORPORA and CORPORA[item].repository and not os.path.lexists(item):
            here = named_corpus(item)
        else:
            here = files_below(Path(item), patterns) if os.path.isdir(item) else _expand(item)
        if os.path.isdir(item) and not any(map(is_shard, here)):
            here = text_files(Path(item), here, encoding, errors)
        paths += here
    shards = [is_shard(path) for path in paths]
    if any(shards):
        if not all(shards):
            raise DataError(
                f"{paths[shards.index(False)]} is no token shard, but {paths[shards.index(True)]} is; use one kind at "
                f"a time"
            )
        return TokenShards(paths)
    name = str(given[0]) if len(given) == 1 else None
    return Files(paths, field=field, encoding=encoding, errors=errors, name=name)


_SHELL_PIPE = re.compile(r"/dev/stdin|/(?:dev|proc/self)/fd/[0-9]{1,9}")  # what <(COMMAND) becomes


def _descriptor(pipe: str) -> int:
    return 0 if pipe == "/dev/stdin" else int(pipe.rpartition("/")[2])


def _read_pipe(stream: BinaryIO, name: str) -> bytes:
    with readable(name):
        return stream.read(1 << 20)


def _is_json_lines(path: Path) -> bool:
    inner = path.with_suffix("") if path.suffix.lower() in COMPRESSED else path
    return inner.suffix.lower() in JSON_LINES


def _expand(item: str) -> list[Path]:
    if not os.path.lexists(item) and glob.has_magic(item):
        found = sorted(path for path in glob.glob(item, recursive=True) if os.path.isfile(path))
        if not found:
            raise DataError(f"no file matches {item}; check the spelling, or name a file or folder that exists")
        return [Path(path) for path in found]
    return [Path(item)]


def _status(path: Path) -> os.stat_result:
    try:
        status = path.stat()
    except (OSError, ValueError) as failure:
        why = reason(failure) if isinstance(failure, OSError) else str(failure)
        raise DataError(
            f"cannot read {path}: {why}. Check the path (relative ones start at {os.getcwd()})"
        ) from failure
    if stat.S_ISDIR(status.st_mode):
        raise DataError(
            f"{path} is a folder where a file is needed; pass it as the data itself, with --pattern '*.txt' if needed"
        )
    if not stat.S_ISREG(status.st_mode):
        raise DataError(f"{path} is no regular file; for a pipe or a device use standard input: --data - < {path}")
    return status

"""Bytes from outside as text: byte order marks, compressed files, and files that are not text at all.

Text is UTF-8 unless told otherwise. A byte order mark of UTF-8, UTF-16 or UTF-32 is honoured and dropped. Files that
gzip, bzip2, xz or Zstandard compressed are unpacked as they are read, in bounded memory. Files of other kinds are
recognised from their first bytes, and text with a NUL in it is not text.
"""

from __future__ import annotations

import codecs
import importlib
import re
import sys
import unicodedata
import zlib
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

from gollm.errors import GollmError
from gollm.system.files import refuse_pointer

READ_BYTES = 1 << 20
HEAD_BYTES = 4096  # at least so many, of a file that has them, are looked at to tell what it is
XZ_MEMORY = 256 << 20  # `xz -9` needs 65 MiB
ZSTANDARD_WINDOW_LOG = 27  # 128 MiB: what `zstd` itself unpacks unless told otherwise
MAX_RATIO = 200  # text is packed to a tenth of its size or so, a decompression bomb to a thousandth and less
MAX_RATIO_FROM = 64 << 20

_BYTE_ORDER_MARKS = (  # UTF-32 first: its mark begins with UTF-16's
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)

_GZIP, _BZIP2, _XZ = rb"\x1f\x8b\x08", rb"BZh[1-9](?:1AY&SY|\x17rE8P\x90)", rb"\xfd7zXZ\0"
_ZSTANDARD = rb"\x28\xb5\x2f\xfd"
_UNPACK = "unpack it first"
_EXPORT = (
    "write its text as JSON Lines first, for example with pandas: "
    "read_feather(FILE).to_json('text.jsonl', orient='records', lines=True)"
)
_SAVE = "save it as plain text first"
_OMIT = "leave it out"
_CONVERT = "Convert it to UTF-8 first"
_REPLACE = "Leave it out, or replace such bytes with --decode-errors replace"
_CHOICES = (
    "Name its encoding (--encoding) or convert it to UTF-8, leave the file out, or replace such bytes with "
    "--decode-errors replace"
)
_KINDS = [
    (re.compile(pattern, re.DOTALL), what, advice)
    for pattern, what, advice in (
        (_GZIP, "compressed twice (gzip)", _UNPACK),
        (_BZIP2, "compressed twice (bzip2)", _UNPACK),
        (_XZ, "compressed twice (xz)", _UNPACK),
        (_ZSTANDARD, "compressed twice (Zstandard)", _UNPACK),
        (rb"\x04\x22\x4d\x18", "compressed with LZ4", "unpack it first: lz4 -d FILE"),
        (rb"\x1f[\x9d\xa0]|LZIP\x01", "a compressed file", _UNPACK),
        (rb"PK(?:\x03\x04|\x05\x06)", "a zip archive (as .docx, .npz and PyTorch's files are)", _UNPACK),
        (rb"7z\xbc\xaf\x27\x1c|Rar!\x1a\x07|(?=.{0,120}\0).{257}ustar", "an archive", _UNPACK),
        (rb"PAR1\x15", "a Parquet file", "training reads it: pass it as a file with --data"),
        (rb"ARROW1\0\0|\xff{4}.{3}\0", "an Arrow file", _EXPORT),
        (rb"Obj\x01|\x89HDF\r\n", "a table of data", "write its text as JSON Lines first"),
        (rb"SQLite format 3\0", "an SQLite database", "write its text as JSON Lines first"),
        (rb"\x80[\x02-\x05][\x80-\xff(\[\]{}cXGKMJNI]", "a Python pickle", _SAVE),
        (rb"%PDF-[0-9]", "a PDF document", "extract its text first: pdftotext FILE"),
        (rb"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an office document", _SAVE),
        (rb"\x89PNG\r\n|\xff\xd8\xff|GIF8[79]a|II\*\0|MM\0\*|RIFF.{4}WEBP", "an image", _OMIT),
        (rb"OggS\0|fLaC\0|ID3[\x02-\x04]|RIFF.{4}(?:WAVE|AVI )|\0\0\0.ftyp|\x1a\x45\xdf\xa3", "audio or video", _OMIT),
        (rb"\x7fELF|\xcf\xfa\xed\xfe|\xca\xfe\xba\xbe|\0asm", "a program", _OMIT),
        (rb"GGUF.\0\0\0|GoLM.\0|.{4}\0{4}\{", "a model's weights", _OMIT),
        (rb"\x93NUMPY", "a NumPy array", _OMIT),
    )
]


def text_chunks(
    stream: BinaryIO,
    name: str,
    error: type[GollmError],
    encoding: str = "utf-8",
    errors: str = "strict",
    on_read: Callable[[int], None] = lambda _: None,
    named: bool = False,
) -> Iterator[str]:
    """The text of a buffered binary stream, in chunks of about a million characters; line ends stay as they are.

    errors    for bytes that are not text in this encoding, and for NULs: strict raises, replace puts U+FFFD, ignore
              leaves them out
    on_read   is called with the number of bytes of the stream that each read gave
    named     whether the user can name the encoding (--encoding) and choose `errors` (--decode-errors)

    Raises `error` for what is not text.
    """
    decoder = make_decoder(encoding, errors, error)
    wide = codecs.lookup(encoding).name.startswith(("utf-16", "utf-32"))
    chunks = _unpacked(stream, name, error, on_read)
    head = b""
    while len(head) < HEAD_BYTES and (more := next(chunks, b"")):
        head += more
    refuse_other_kinds(head, name, error)
    mark = b""
    if codecs.lookup(encoding).name in ("utf-8", "utf-8-sig"):
        mark, encoding = next((row for row in _BYTE_ORDER_MARKS if head.startswith(row[0])), (b"", "utf-8"))
        wide, decoder = len(mark) in (2, 4), make_decoder(encoding, errors, error)
    if not wide:
        _refuse_binary(head[:HEAD_BYTES], name, error, named)
    data, offset, line = head[len(mark) :], len(mark), 1
    while True:
        try:
            text = decoder.decode(data, final=not data)
        except UnicodeDecodeError as failure:
            # The decoder prepends the bytes that it kept from the chunk before.
            at = offset - (len(failure.object) - len(data)) + failure.start
            before, byte = failure.object[: failure.start], failure.object[failure.start]
            line += before.decode(failure.encoding, "replace").count("\n") if wide else before.count(b"\n")
            raise error(
                f"{name} is not {encoding.upper()} text: byte 0x{byte:02x} at line {line}, byte {at:,}. "
                + _about(name, _CHOICES if named else _CONVERT)
            ) from None
        except UnicodeError as failure:
            raise error(
                f"{name} is not {encoding.upper()} text: {failure}. Name its encoding, such as utf-16-le or utf-16-be"
            ) from None
        if offset == len(mark):
            text = text.removeprefix("\ufeff")
        if "\0" in text:
            if errors == "strict":
                line += text[: text.index("\0")].count("\n")
                raise error(
                    f"{name} is not text: there is a NUL in line {line}. "
                    + _about(name, _REPLACE if named else _OMIT.capitalize())
                )
            text = text.replace("\0", "\ufffd" if errors == "replace" else "")
        offset += len(data)
        line += text.count("\n")
        if text:
            yield text
        if not data:
            return
        data = next(chunks, b"")


def make_decoder(encoding: str, errors: str, error: type[GollmError]) -> codecs.IncrementalDecoder:
    """An incremental decoder of bytes to text. Raises `error` for an encoding that Python does not know."""
    if errors not in ("strict", "replace", "ignore"):
        raise error(f"decoding errors cannot be handled by {errors!r}; choose strict, replace or ignore")
    try:
        if not codecs.lookup(encoding)._is_text_encoding:
            raise LookupError
        return codecs.getincrementaldecoder(encoding)(errors)
    except (LookupError, ValueError, TypeError):
        raise error(
            f"the encoding {str(encoding)[:40]!r} is not known; usual ones are utf-8, utf-16, cp1252 and shift_jis"
        ) from None


def refuse_other_kinds(head: bytes, name: str, error: type[GollmError]) -> None:
    """Raises `error` where a file's first bytes say that it is of a kind that is not text."""
    refuse_pointer(name, head, error)
    for pattern, what, advice in _KINDS:
        if pattern.match(head):
            raise error(f"{name} is {what}, not text; {advice}")


def standard_input(error: type[GollmError]) -> BinaryIO:
    """Standard input as bytes. Raises `error` where it is closed."""
    if sys.stdin is None:
        raise error("standard input is closed; give the text in a file, or through a pipe")
    return sys.stdin.buffer


def _refuse_binary(head: bytes, name: str, error: type[GollmError], named: bool) -> None:
    """Raises `error` for bytes that look like UTF-16 or UTF-32 without a byte order mark, or like numbers."""
    zeros = head.count(0)
    many = zeros and 8 * zeros >= len(head)
    if not many and (not zeros or _decoded(head, "utf-8") is not None):
        return
    for encoding in ("utf-32-le", "utf-32-be", "utf-16-le", "utf-16-be"):
        text = _decoded(head, encoding) or "\0"
        if any(unicodedata.category(c) in ("Cc", "Cn", "Co", "Cs") and c not in "\t\n\r\f" for c in text):
            continue
        # Most characters are below U+10000. In the right byte order each zero of UTF-16 is the high byte of a small
        # character; in the wrong one it is the low byte.
        small = sum(character < ("\U00010000" if "32" in encoding else "\u0100") for character in text)
        if 2 * small >= (len(text) if "32" in encoding else zeros):
            raise error(
                f"{name} is not UTF-8 text: it looks like {encoding.upper()} without a byte order mark. "
                + (f"Name its encoding (--encoding {encoding}) or convert it to UTF-8" if named else _CONVERT)
            )
    if many:
        what = f"{zeros:,} of its first {len(head):,} bytes are zero"
        raise error(f"{name} is not text: {what}. " + _about(name, _OMIT.capitalize()))


def _decoded(head: bytes, encoding: str) -> str | None:
    """The text of the first bytes of a file, or None where they are no text in this encoding."""
    try:
        return codecs.getincrementaldecoder(encoding)().decode(head)
    except UnicodeDecodeError:
        return None


def _about(name: str, advice: str) -> str:
    """The advice, or what to do about the numbers that a file of this name usually holds."""
    if not name.endswith(".bin"):
        return advice
    return (
        "Token ids without a header, such as nanoGPT's train.bin, become a token shard for --data with "
        "gollm.data.write_shard('shard.bin', numpy.fromfile(FILE, 'uint16')); --tokenizer names their tokenizer"
    )


# --- compressed files ------------------------------------------------------------------------------------------------


class _Gzip:
    """zlib's decompressor, with the interface of those of bz2 and lzma."""

    def __init__(self) -> None:
        self._inner = zlib.decompressobj(wbits=31)
        self.needs_input = True

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def unused_data(self) -> bytes:
        return self._inner.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        out = self._inner.decompress(self._inner.unconsumed_tail + data, max_length)
        self.needs_input = not self._inner.unconsumed_tail and len(out) < max_length
        return out


def _zstandard() -> Any:
    """A decompressor of Python's own module, new in 3.14, or of its backport for earlier ones."""
    zstd = importlib.import_module("compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd")
    return zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: ZSTANDARD_WINDOW_LOG})


_UNPACKERS: dict[str, tuple[re.Pattern[bytes], Callable[[], Any]]] = {
    "gzip": (re.compile(_GZIP), _Gzip),
    "bzip2": (re.compile(_BZIP2), lambda: importlib.import_module("bz2").BZ2Decompressor()),
    # 1: FORMAT_XZ
    "xz": (re.compile(_XZ), lambda: importlib.import_module("lzma").LZMADecompressor(1, memlimit=XZ_MEMORY)),
    "Zstandard": (re.compile(_ZSTANDARD), _zstandard),
}


def _unpacked(stream: BinaryIO, name: str, error: type[GollmError], on_read: Callable[[int], None]) -> Iterator[bytes]:
    """The bytes of a stream, unpacked if they are compressed, in chunks of at most READ_BYTES that are not empty."""

    def read() -> bytes:
        data = stream.read(READ_BYTES)
        on_read(len(data))
        return data

    data = read()
    for method, (magic, make) in _UNPACKERS.items():
        if magic.match(data):
            yield from _unpack(data, read, magic, make, f"{name} is compressed with {method}, and", error)
            return
    while data:
        yield data
        data = read()


def _unpack(
    data: bytes,
    read: Callable[[], bytes],
    magic: re.Pattern[bytes],
    make: Callable[[], Any],
    what: str,
    error: type[GollmError],
) -> Iterator[bytes]:
    """Streams of one kind behind each other, as gzip and xz write them when files are joined."""
    n_packed, n_text = len(data), 0
    unpacker: Any = None
    while True:
        try:
            unpacker = unpacker or make()
            text = unpacker.decompress(data, READ_BYTES)
        except ImportError:
            extra = " (for Zstandard: pip install 'gollm[data]')" if make is _zstandard else ""
            raise error(f"{what} this Python cannot unpack that; {_UNPACK}{extra}") from None
        except MemoryError:
            raise
        except Exception as failure:  # zlib.error, LZMAError, OSError and EOFError
            raise error(f"{what} damaged ({' '.join(str(failure).split())}); fetch or pack it again") from None
        n_text += len(text)
        if n_text > max(MAX_RATIO_FROM, MAX_RATIO * n_packed):
            raise error(f"{what} its text is more than {MAX_RATIO} times as long, as in a bomb; {_UNPACK} if it is not")
        if text:
            yield text
        data = b""
        if unpacker.eof:
            data = unpacker.unused_data.lstrip(b"\0")  # padding
            while len(data) < 10 and (more := read()):
                data, n_packed = (data + more).lstrip(b"\0"), n_packed + len(more)
            if not data:
                return
            if not magic.match(data):
                raise error(f"{what} something else follows its end; fetch or pack it again")
            unpacker = None
        elif unpacker.needs_input:
            data = read()
            n_packed += len(data)
            if not data:
                raise error(f"{what} cut off before its end; fetch or pack it again")

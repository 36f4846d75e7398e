"""Text files given by users: lists, tables, FASTA.

The rules are the same for all of them:

- UTF-8 with or without a byte-order mark (also one in the middle, where files were concatenated); lines that are not
  UTF-8 are read as Latin-1. UTF-16 is an error.
- Lines end with LF, CRLF or CR.
- Gzip is recognised by content, not by name. Other compressions and binary files are errors.
- Nothing is read beyond `LONGEST_LINE` characters of a line, so a file without line breaks does not exhaust the memory.

Uses only the standard library: the workflow imports this module at every start.
"""

import csv
import gzip
import io
import itertools
import os
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from dplm2.core.errors import DPLM2Error

LONGEST_LINE = 1 << 20
LONGEST_TEXT = 1 << 26
LONGEST_SHOWN = 60
_SNIFFED = 4096
_BLOCK = 1 << 16
_GZIP = b"\x1f\x8b"
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")
_OTHER_COMPRESSIONS = {b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd", b"PK\x03\x04": "zip"}
_BYTE_ORDER_MARK = "\ufeff"


def read_lines(path: str | os.PathLike) -> Iterator[str]:
    """Yield the lines of a text file without line endings.

    Raises
    ------
    DPLM2Error
        If the file cannot be read, is not text, or has a line beyond `LONGEST_LINE`; the message names it.
    """
    try:
        with Path(path).open("rb") as raw:
            stream = gzip.GzipFile(fileobj=raw) if raw.peek(2)[:2] == _GZIP else raw
            _refuse_binary(path, stream.peek(_SNIFFED)[:_SNIFFED])
            yield from _lines_of(io.TextIOWrapper(stream, encoding="latin-1"), path)
    except (OSError, EOFError, zlib.error) as error:
        raise DPLM2Error(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from error


def _lines_of(text: io.TextIOBase, path: str | os.PathLike) -> Iterator[str]:
    """Lines, read block by block: a sequence file may have hundreds of millions."""
    rest = ""
    while block := text.read(_BLOCK):
        plain = rest.isascii() and block.isascii()
        *lines, rest = (rest + block).split("\n")
        if max(map(len, lines), default=0) > LONGEST_LINE or len(rest) > LONGEST_LINE:
            raise DPLM2Error(f"{path}: a line of more than {LONGEST_LINE} characters")
        yield from lines if plain else map(_decoded, lines)
    if rest:
        yield _decoded(rest)


def _refuse_binary(path: str | os.PathLike, head: bytes) -> None:
    if head.startswith(_UTF_16):
        raise DPLM2Error(f"{path}: UTF-16 text; save it as UTF-8")
    for magic, name in _OTHER_COMPRESSIONS.items():
        if head.startswith(magic):
            raise DPLM2Error(f"{path}: compressed with {name}; unpack it, or compress it with gzip")
    if b"\0" in head:
        raise DPLM2Error(f"{path}: not a text file")


def _decoded(line: str) -> str:
    """A line that was read as Latin-1, decoded as UTF-8 if possible; without a byte-order mark."""
    if line.isascii():
        return line
    try:
        return line.encode("latin-1").decode("utf-8").removeprefix(_BYTE_ORDER_MARK)
    except UnicodeDecodeError:
        return line


def read_text(path: str | os.PathLike) -> str:
    """The content of a small text file, with LF line endings.

    Raises
    ------
    DPLM2Error
        As `read_lines`, and if there are more than `LONGEST_TEXT` characters.
    """
    lines, size = [], 0
    for line in read_lines(path):
        lines.append(line)
        size += len(line) + 1
        if size > LONGEST_TEXT:
            raise DPLM2Error(f"{path}: more than {LONGEST_TEXT} characters")
    return "\n".join([*lines, ""])


def read_table(path: str | os.PathLike) -> Iterator[dict[str, str | None]]:
    """Yield the rows of a comma- or tab-separated file as mappings from the names in the header line.

    Raises
    ------
    DPLM2Error
        As `read_lines`, and if a row is not valid CSV.
    """
    lines = read_lines(path)
    first = next(lines, "")
    all_lines = (f"{line}\n" for line in itertools.chain([first], lines))
    try:
        yield from csv.DictReader(all_lines, delimiter="\t" if "\t" in first else ",", skipinitialspace=True)
    except csv.Error as error:
        raise DPLM2Error(f"{path}: cannot be read as a table ({error})") from error


def shortened(text: str) -> str:
    """``text`` for a message: shortened if long, without control characters."""
    cut = text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}..."
    return "".join(letter if letter.isprintable() else "?" for letter in cut)


def shown(value: object) -> str:
    """A value for a message: text is quoted and shortened if long; of other values, the type."""
    return f"'{shortened(value)}'" if isinstance(value, str) else f"a value of type {type(value).__name__}"


def some(names: Sequence[str], most: int = 5, count: int | None = None) -> str:
    """The first of ``names``, and the number of others of ``count`` (default: of the names)."""
    more = (len(names) if count is None else count) - min(len(names), most)
    return ", ".join(map(shortened, names[:most])) + (f" and {more} more" if more else "")


def readable_size(size: float) -> str:
    """A number of bytes in words, as ``1.2 GB``."""
    for unit, factor in (("PB", 1e15), ("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size:.0f} bytes"

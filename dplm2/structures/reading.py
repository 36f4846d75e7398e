"""Reading a structure file of any format, recognised by content; nothing is unpacked to disk."""

import os
from pathlib import Path

import numpy as np

from dplm2.settings.dataset import Reading
from dplm2.structures.atoms import Entry, UnreadableError
from dplm2.structures.formats import FORMATS
from dplm2.structures.formats.gzipped import GZIP_MAGIC, MEBIBYTE, gunzip

SNIFFED_BYTES = 4096
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
*_OTHERS, _LAST = (form.name for form in reversed(FORMATS))
NO_FORMAT = f"neither {', '.join(_OTHERS)} nor {_LAST}"


def read_structure(path: str | os.PathLike, limits: Reading | None = None) -> Entry:
    """Read one structure file of any of the formats.

    Parameters
    ----------
    path
        PDB, mmCIF, BinaryCIF or Foldcomp, plain or gzipped; the name does not matter.
    limits
        Limits on size (default: those of the configuration).

    Raises
    ------
    UnreadableError
        With one sentence about what is wrong with the file.
    """
    limits = limits or default_reading()
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise UnreadableError(f"cannot be read ({error.strerror})") from error
    return parse(data, limits)


def default_reading() -> Reading:
    """The default limits."""
    return Reading()


def parse(data: bytes, limits: Reading) -> Entry:
    """Parse a structure file's content.

    Raises
    ------
    UnreadableError
        With one sentence about what is wrong with it.
    """
    try:
        # Overflowing numbers become infinite and count as missing: no warning for each.
        with np.errstate(all="ignore"):
            return _parse(data, limits)
    except UnreadableError:
        raise
    except RecursionError as error:
        raise UnreadableError("nested too deeply") from error
    except MemoryError as error:
        raise UnreadableError("not enough memory to read it") from error
    except Exception as error:  # noqa: BLE001  (third-party parsers raise anything on broken files)
        text = " ".join(str(error).split())[:150] or "no message"
        raise UnreadableError(f"not a valid file ({type(error).__name__}: {text})") from error


def _parse(data: bytes, limits: Reading) -> Entry:
    if data.startswith(GZIP_MAGIC):
        data = gunzip(data, limits.max_megabytes * MEBIBYTE)
    if not data.strip(b"\0 \t\r\n"):
        raise UnreadableError("an empty file")
    if len(data) > limits.max_megabytes * MEBIBYTE:
        raise UnreadableError(f"more than {limits.max_megabytes} MiB")
    for form in FORMATS:
        if form.binary and form.recognizes(data):
            return form.read(data, limits)
    if b"\0" in data[:SNIFFED_BYTES]:
        raise UnreadableError(NO_FORMAT)
    data = data.removeprefix(BYTE_ORDER_MARK)
    if longest_line(data, limits.max_line_length) > limits.max_line_length:
        raise UnreadableError(f"a line of more than {limits.max_line_length} bytes")
    for form in FORMATS:
        if not form.binary and form.recognizes(data):
            return form.read(data, limits)
    raise UnreadableError(f"a web page or XML, {NO_FORMAT}" if data.lstrip().startswith(b"<") else NO_FORMAT)


def longest_line(data: bytes, limit: int) -> int:
    """Length of the first line longer than ``limit``, or 0."""
    position = 0
    while position + limit < len(data):
        end = data.rfind(b"\n", position, position + limit + 1)
        if end < 0:
            end = data.rfind(b"\r", position, position + limit + 1)
        if end < 0:
            return limit + 1
        position = end + 1
    return 0

"""Parquet files of which every byte is checked on reading; all reading and writing of Parquet goes through this module.

A file is sealed: the gap that the format allows between columns and footer contains a sum of each column chunk and a
CRC-32 of the footer with its metadata. Any Parquet reader accepts such a file. This module checks the footer and the
columns that it reads, which takes about one percent of the reading time, and rejects a file that differs from what was
written. Page checksums, which other readers support, are written too; they cover neither page headers nor metadata.
Files without a seal (older ones, or from other programs) are checked by their page checksums, if any.

The seal: zeros up to a multiple of 8 bytes, the sums (8 bytes each, in the order of row groups and columns), their
number (4 bytes), the CRC-32 of sums and footer (4 bytes), ``DPLM2SEA``.
"""

import contextlib
import mmap
import os
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dplm2.core.artifacts import atomic_path
from dplm2.core.errors import DPLM2Error

if TYPE_CHECKING:
    import pandas as pd

_MAGIC = b"DPLM2SEA"
_TAIL = 8  # bytes of a Parquet file after its footer: the footer's length, and PAR1
_WORD = 8
_SEARCHED = 1 << 16
_OPTIONS = {"compression": "zstd", "write_page_checksum": True}
MADE_FROM = "made_from"  # key of the metadata: what decides the content of a part of unfinished work
REMEDY = "restore it from a copy, or delete and regenerate it"


def write_table(
    path: str | os.PathLike,
    table: pa.Table,
    *,
    metadata: Mapping[str, str] | None = None,
    rows_per_group: int | None = None,
) -> None:
    """Write a table (zstd), sealed, atomically; ``metadata``, if given, replace those of its schema."""
    table = table if metadata is None else table.replace_schema_metadata(metadata)
    with atomic_path(path) as temporary:
        pq.write_table(table, temporary, row_group_size=rows_per_group, **_OPTIONS)
        _seal(temporary)


def write_groups(path: str | os.PathLike, schema: pa.Schema, groups: Iterable[pa.Table]) -> None:
    """Write tables as the row groups of one file (zstd), sealed, atomically; one table at a time is in memory."""
    with atomic_path(path) as temporary:
        with pq.ParquetWriter(temporary, schema, **_OPTIONS) as writer:
            for group in groups:
                writer.write_table(group)
        _seal(temporary)


def write_frame(path: str | os.PathLike, frame: "pd.DataFrame") -> None:
    """Write a data frame without its index, as `write_table`."""
    write_table(path, pa.Table.from_pandas(frame, preserve_index=False))


def read_table(path: str | os.PathLike, columns: Sequence[str] | None = None) -> pa.Table:
    """Read a file, or some of its columns.

    Parameters
    ----------
    path
        The file.
    columns
        Names of columns; those that the file lacks are omitted (see `column_names`). None: all.

    Raises
    ------
    DPLM2Error
        If it is not readable as Parquet, or differs from what was written; the message names it and says what to do.
    """
    with opened(path, columns) as file:
        chosen = None if columns is None else [name for name in columns if name in file.schema_arrow.names]
        table = file.read(chosen)
        _check_text(table)
        return table


def is_made_from(path: str | os.PathLike, made_from: str) -> bool:
    """Whether a whole file is there that was written with this value of `MADE_FROM` in its metadata."""
    try:
        with opened(path) as file:  # checks every column
            return (file.schema_arrow.metadata or {}).get(MADE_FROM.encode()) == made_from.encode()
    except DPLM2Error:  # not there, or damaged
        return False


def read_frame(path: str | os.PathLike) -> "pd.DataFrame":
    """Read a file as a data frame; raises as `read_table`."""
    with _readable(path):
        return read_table(path).to_pandas()


def read_batches(path: str | os.PathLike, columns: Sequence[str], rows: int) -> Iterator[pa.RecordBatch]:
    """Yield some columns of a file, at most ``rows`` at a time; raises as `read_table`."""
    with opened(path, columns) as file:
        for batch in file.iter_batches(batch_size=rows, columns=list(columns)):
            _check_text(batch)
            yield batch


def read_schema(path: str | os.PathLike) -> pa.Schema:
    """The schema of a file with its metadata; raises as `read_table`."""
    with opened(path, ()) as file:
        return file.schema_arrow


def read_metadata(path: str | os.PathLike) -> dict[str, str]:
    """The metadata of a file's schema that are not Arrow's or pandas' own; raises as `read_table`."""
    metadata = read_schema(path).metadata or {}
    own = {key: value for key, value in metadata.items() if not key.startswith((b"ARROW", b"pandas"))}
    return {key.decode("utf-8", "replace"): value.decode("utf-8", "replace") for key, value in own.items()}


@contextlib.contextmanager
def opened(path: str | os.PathLike, columns: Sequence[str] | None = None) -> Iterator[pq.ParquetFile]:
    """Open a file and check its footer and ``columns`` (None: all); raises as `read_table`."""
    with _readable(path), pa.memory_map(os.fspath(path)) as source:
        size = source.size()
        content = source.read_buffer(size)
        seal = _find_seal(path, content)
        if seal is None:
            with pq.ParquetFile(source, page_checksum_verification=True) as file:
                yield file
            return
        with pq.ParquetFile(source) as file:
            _check_columns(path, content, file.metadata, seal, columns)
            yield file


@contextlib.contextmanager
def _readable(path: str | os.PathLike) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise DPLM2Error(f"{path}: no such file") from error
    except MemoryError as error:
        raise DPLM2Error(f"{path}: not enough memory to read it ({_text(error)})") from error
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        raise DPLM2Error(f"{path}: not readable as Parquet ({_text(error)}); {REMEDY}") from error


def _check_text(table: pa.Table | pa.RecordBatch) -> None:
    """Reject text that is not valid UTF-8, which Arrow accepts unchecked; only files without a seal can contain it."""
    for column in table.columns:
        if pa.types.is_string(column.type):
            column.validate(full=True)


def _text(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def _seal(path: Path) -> None:
    """Insert the seal before the footer of a file that Arrow has just written."""
    with pq.ParquetFile(path) as file:
        chunks = list(_chunks(file.metadata))
    with path.open("rb+") as stream:
        size = stream.seek(0, os.SEEK_END)
        stream.seek(size - _TAIL)
        start = size - _TAIL - int.from_bytes(stream.read(4), "little")
        stream.seek(start)
        footer = stream.read()
        stream.seek(start)
        stream.write(bytes(-start % _WORD))
        stream.flush()
        with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
            sums = np.array([_sum(content, *window) for window in chunks], "<u8").tobytes()
        count = len(chunks).to_bytes(4, "little")
        stream.write(sums + count + zlib.crc32(count + sums + footer).to_bytes(4, "little") + _MAGIC + footer)


def _sum(content: pa.Buffer | mmap.mmap, start: int, end: int) -> int:
    """The sum of 64-bit words: any change of a single word changes it, and it takes a tenth of the time of a CRC."""
    return int(np.frombuffer(content, "<u8", (end - start) // _WORD, start).sum(dtype=np.uint64))


def _chunks(metadata: pq.FileMetaData) -> Iterator[tuple[int, int]]:
    """Start and end of each column chunk, extended to whole words, by row group and column."""
    for group in range(metadata.num_row_groups):
        for column in range(metadata.num_columns):
            chunk = metadata.row_group(group).column(column)
            start = chunk.dictionary_page_offset if chunk.has_dictionary_page else chunk.data_page_offset
            end = start + chunk.total_compressed_size
            yield start - start % _WORD, end + -end % _WORD


def _find_seal(path: str | os.PathLike, content: pa.Buffer) -> np.ndarray | None:
    """The sums of a sealed file, after a check of its footer; None for a file without a seal."""
    view = memoryview(content)
    size = len(view)
    start = size - _TAIL - int.from_bytes(view[size - _TAIL : size - 4], "little")
    place = start - len(_MAGIC) - 8
    if place < 0 or bytes(view[start - len(_MAGIC) : start]) != _MAGIC:
        if _MAGIC in bytes(view[-_SEARCHED:]):
            raise DPLM2Error(f"{path}: damaged, its footer is not where it was written; {REMEDY}")
        return None
    count, checksum = (int.from_bytes(view[place + at : place + at + 4], "little") for at in (0, 4))
    sums = view[max(place - count * _WORD, 0) : place]
    if zlib.crc32(view[start:], zlib.crc32(sums, zlib.crc32(view[place : place + 4]))) != checksum:
        raise DPLM2Error(f"{path}: damaged, its metadata differ from what was written; {REMEDY}")
    return np.frombuffer(sums, "<u8")


def _check_columns(
    path: str | os.PathLike,
    content: pa.Buffer,
    metadata: pq.FileMetaData,
    sums: np.ndarray,
    columns: Sequence[str] | None,
) -> None:
    for place, (start, end) in enumerate(_chunks(metadata)):
        group, column = divmod(place, metadata.num_columns)
        name = metadata.row_group(group).column(column).path_in_schema.split(".")[0]
        if (columns is None or name in columns) and _sum(content, start, end) != sums[place]:
            raise DPLM2Error(f"{path}: damaged, its column {name} differs from what was written; {REMEDY}")

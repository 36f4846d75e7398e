"""Opening structure files: what a file is, is told by its content; nothing is unpacked to disk.

A gzip stream is read up to a limit; members of archives are only ever read into memory, their names are labels and
never become paths.
"""

import os
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dplm2.settings.dataset import Reading
from dplm2.structures.atoms import Entry, UnreadableError
from dplm2.structures.manifest import entry_name, is_broken_link, sha256_of_source
from dplm2.structures.mmcif_format import read_binary_cif, read_mmcif
from dplm2.structures.pdb_format import read_pdb

GZIP_MAGIC, FOLDCOMP_MAGIC, TAR_MAGIC = b"\x1f\x8b", b"FCMP", b"ustar"
TAR_MAGIC_AT, SNIFFED_BYTES = 257, 4096
MEBIBYTE = 1 << 20
PDB_RECORDS = (
    b"ATOM ", b"HETATM", b"HEADER", b"TITLE ", b"COMPND", b"SOURCE", b"KEYWDS", b"EXPDTA", b"AUTHOR", b"REMARK",
    b"REVDAT", b"SEQRES", b"CRYST1", b"MODEL", b"DBREF", b"TER", b"END", b"OBSLTE", b"NUMMDL", b"MDLTYP", b"SPLIT ",
    b"CAVEAT", b"JRNL  ", b"HELIX ", b"SHEET ", b"SSBOND", b"LINK  ", b"MODRES", b"ORIGX1", b"SCALE1", b"MTRIX1",
    b"CONECT", b"PARENT", b"USER  ",
)  # fmt: skip
NO_FORMAT = "neither PDB, mmCIF, BinaryCIF nor Foldcomp"


@dataclass(frozen=True)
class Item:
    """One structure to read: a file by its path, or an archive's member with its bytes.

    ``entry`` is the name that chains are called after, ``member`` the name inside of the archive. An item with a
    ``problem`` becomes a reject with ``code``.
    """

    source_file: str
    source_sha256: str
    entry: str
    member: str = ""
    content: bytes | None = None
    problem: str = ""
    code: str = "unreadable"


def read_structure(path: str | os.PathLike, limits: Reading | None = None) -> Entry:
    """Read one structure file of any of the formats.

    Parameters
    ----------
    path
        PDB, mmCIF, BinaryCIF or Foldcomp, plain or gzipped; the name does not matter.
    limits
        Bounds on size; the defaults of the configuration if left out.

    Raises
    ------
    UnreadableError
        With one sentence on what is wrong with the file.
    """
    limits = limits or default_reading()
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise UnreadableError(f"cannot be read ({error.strerror})") from error
    return parse(data, limits)


def default_reading() -> Reading:
    """The bounds that hold where no configuration gives others."""
    return Reading()


def parse(data: bytes, limits: Reading) -> Entry:
    """Parse a structure file's content.

    Raises
    ------
    UnreadableError
        With one sentence on what is wrong with it.
    """
    try:
        # Numbers beyond all bounds become infinite, and infinite ones are missing: no need of a warning for each.
        with np.errstate(all="ignore"):
            return _parse(data, limits)
    except UnreadableError:
        raise
    except RecursionError as error:
        raise UnreadableError("nested too deeply") from error
    except MemoryError as error:
        raise UnreadableError("needs more memory than there is") from error
    except Exception as error:  # noqa: BLE001  (parsers of other people raise anything on broken files)
        text = " ".join(str(error).split())[:150] or "no message"
        raise UnreadableError(f"not a sound file ({type(error).__name__}: {text})") from error


def _parse(data: bytes, limits: Reading) -> Entry:
    if data[:2] == GZIP_MAGIC:
        data = gunzip(data, limits.max_megabytes * MEBIBYTE)
    if not data.strip(b"\0 \t\r\n"):
        raise UnreadableError("an empty file")
    if len(data) > limits.max_megabytes * MEBIBYTE:
        raise UnreadableError(f"more than {limits.max_megabytes} MiB")
    if data[:4] == FOLDCOMP_MAGIC:
        return _read_foldcomp(data, limits)
    if 0x80 <= data[0] <= 0x8F and b"dataBlocks" in data:
        return read_binary_cif(data, limits)
    if b"\0" in data[:SNIFFED_BYTES]:
        raise UnreadableError(NO_FORMAT)
    return _read_text(data, limits)


def _read_text(data: bytes, limits: Reading) -> Entry:
    if data[:3] == b"\xef\xbb\xbf":
        data = data[3:]
    longest = longest_line(data, limits.max_line_length)
    if longest > limits.max_line_length:
        raise UnreadableError(f"a line of more than {limits.max_line_length} bytes")
    for line in data[: 64 * SNIFFED_BYTES].splitlines():
        if line[:5].lower() == b"data_":
            return read_mmcif(data, limits)
        if line.startswith(PDB_RECORDS):
            return read_pdb(data, limits)
        if line.strip() and not line.startswith(b"#"):
            break
    if b"\nATOM " in data or b"\nHETATM" in data:
        return read_pdb(data, limits)
    if data.lstrip()[:1] == b"<":
        raise UnreadableError("a web page or XML, " + NO_FORMAT)
    raise UnreadableError(NO_FORMAT)


def longest_line(data: bytes, limit: int) -> int:
    """Length of the first line beyond ``limit``, or 0: looks from line break to line break, at most ``limit`` apart."""
    position = 0
    while position + limit < len(data):
        end = data.rfind(b"\n", position, position + limit + 1)
        if end < 0:
            end = data.rfind(b"\r", position, position + limit + 1)
        if end < 0:
            return limit + 1
        position = end + 1
    return 0


def gunzip(data: bytes, limit: int) -> bytes:
    """Inflate a gzip stream (also one of several members), at most ``limit`` bytes.

    Raises
    ------
    UnreadableError
        If it is cut short, corrupt or larger.
    """
    parts, size = [], 0
    while data:
        inflater = zlib.decompressobj(zlib.MAX_WBITS | 16)
        try:
            part = inflater.decompress(data, limit - size + 1)
        except zlib.error as error:
            raise UnreadableError(f"a corrupt gzip stream ({error})") from error
        size += len(part)
        parts.append(part)
        if size > limit:
            raise UnreadableError(f"more than {limit // MEBIBYTE} MiB when inflated")
        if not inflater.eof:
            raise UnreadableError("a gzip stream that is cut short")
        # Zeros that fill up a block (tapes, some tools) are no further member.
        data = inflater.unused_data.lstrip(b"\0")
    return b"".join(parts)


def _read_foldcomp(data: bytes, limits: Reading) -> Entry:
    try:
        import foldcomp
    except ImportError as error:
        raise UnreadableError(
            "Foldcomp content; install the package 'foldcomp' (pip install 'dplm2[foldcomp]')"
        ) from error
    _, text = foldcomp.decompress(data)
    entry = read_pdb(text.encode("ascii"), limits)
    return Entry(**{**vars(entry), "predicted": True})


def is_archive(path: Path) -> bool:
    """Whether a file holds many structures: a Foldcomp database, or a tar archive, plain or gzipped."""
    if Path(f"{path}.index").is_file() and Path(f"{path}.dbtype").is_file():
        return True
    with path.open("rb") as stream:
        head = stream.read(64 * 1024)
    if head[:2] == GZIP_MAGIC:
        try:
            head = zlib.decompressobj(zlib.MAX_WBITS | 16).decompress(head, 1024)
        except zlib.error:
            return False
    return head[TAR_MAGIC_AT : TAR_MAGIC_AT + len(TAR_MAGIC)] == TAR_MAGIC


def items_of(path: str, sha256: str, limits: Reading) -> Iterator[Item]:
    """The structures of a file: itself, or the members of an archive, one after another.

    A member that cannot be had, and an archive that breaks off, come as items with a ``problem``.
    """
    try:
        archive = is_archive(Path(path))
    except OSError as error:
        problem = "a broken link" if is_broken_link(path) else f"cannot be read ({error.strerror})"
        yield Item(path, sha256, entry_name(path), problem=problem)
        return
    if not archive:
        yield Item(path, sha256, entry_name(path))
    elif Path(f"{path}.index").is_file():
        yield from _foldcomp_members(path, sha256 or sha256_of_source(path), limits)
    else:
        yield from _tar_members(path, sha256 or sha256_of_source(path), limits)


def _member(path: str, sha256: str, name: str, content: bytes | None = None, problem: str = "") -> Item:
    name = name.encode("utf-8", "replace").decode()
    return Item(path, sha256, entry_name(name), name, content, problem)


def _tar_members(path: str, sha256: str, limits: Reading) -> Iterator[Item]:
    most = limits.max_megabytes * MEBIBYTE
    try:
        with tarfile.open(path, "r|*") as archive:
            for member in archive:
                if member.isdir():
                    continue
                if not member.isfile():
                    yield _member(path, sha256, member.name, problem="a link or device in an archive")
                elif member.name.startswith("/") or ".." in member.name.replace("\\", "/").split("/"):
                    yield _member(path, sha256, member.name, problem="a name that points outside of its archive")
                elif member.size > most:
                    yield _member(path, sha256, member.name, problem=f"more than {limits.max_megabytes} MiB")
                elif not member.name.rsplit("/", 1)[-1].startswith("."):
                    stream = archive.extractfile(member)
                    yield _member(path, sha256, member.name, stream.read() if stream else b"")
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        text = " ".join(str(error).split()) or type(error).__name__
        yield Item(path, sha256, entry_name(path), problem=f"the archive breaks off or is corrupt ({text})")


def _foldcomp_members(path: str, sha256: str, limits: Reading) -> Iterator[Item]:
    """Members of a Foldcomp database: offsets and lengths stand in ``.index``, names in ``.lookup``."""
    names = {}
    lookup = Path(f"{path}.lookup")
    if lookup.is_file():
        with lookup.open(encoding="utf-8", errors="replace") as stream:
            names = {fields[0]: fields[1] for line in stream if len(fields := line.split("\t")) >= 2}
    size = os.path.getsize(path)  # noqa: PTH202
    with Path(f"{path}.index").open(encoding="ascii", errors="replace") as index, Path(path).open("rb") as database:
        for row in index:
            fields = row.split()
            name = names.get(fields[0], fields[0]) if fields else ""
            if len(fields) != 3 or not (fields[1].isdecimal() and fields[2].isdecimal()):
                yield Item(
                    path, sha256, entry_name(path), problem=f"a broken line in {path}.index: {row.strip()[:60]!r}"
                )
                return
            start, length = int(fields[1]), int(fields[2])
            if start + length > size or length > limits.max_megabytes * MEBIBYTE:
                yield _member(path, sha256, name, problem="its place in the database lies outside of the file")
                continue
            database.seek(start)
            # MMseqs-style databases end each record with a zero byte.
            yield _member(path, sha256, name, database.read(length))

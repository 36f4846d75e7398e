"""Files that contain many structures: tar archives and Foldcomp databases.

Members are only ever read into memory; their names are labels and never become paths.
"""

import os
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dplm2.settings.dataset import Reading
from dplm2.structures.formats.gzipped import GZIP_MAGIC, MEBIBYTE
from dplm2.structures.manifest import entry_name, sha256_of_source
from dplm2.structures.scanning import is_broken_link

TAR_MAGIC, TAR_MAGIC_AT = b"ustar", 257


@dataclass(frozen=True)
class Item:
    """One structure to read: the path of a file, or an archive member with its bytes.

    ``entry`` is the name from which chain ids are derived, ``member`` the name inside the archive. An item with a
    ``problem`` becomes a reject with ``code``.
    """

    source_file: str
    source_sha256: str
    entry: str
    member: str = ""
    content: bytes | None = None
    problem: str = ""
    code: str = "unreadable"


def is_archive(path: Path) -> bool:
    """Whether a file contains many structures: a Foldcomp database, or a tar archive, plain or gzipped."""
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

    An unreadable member or a truncated archive yields an item with a ``problem``.
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
                    yield _member(path, sha256, member.name, problem="a name that points outside its archive")
                elif member.size > most:
                    yield _member(path, sha256, member.name, problem=f"more than {limits.max_megabytes} MiB")
                elif not member.name.rsplit("/", 1)[-1].startswith("."):
                    stream = archive.extractfile(member)
                    yield _member(path, sha256, member.name, stream.read() if stream else b"")
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        text = " ".join(str(error).split()) or type(error).__name__
        yield Item(path, sha256, entry_name(path), problem=f"the archive is truncated or corrupt ({text})")


def _foldcomp_members(path: str, sha256: str, limits: Reading) -> Iterator[Item]:
    """Members of a Foldcomp database: offsets and lengths are in ``.index``, names in ``.lookup``."""
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
                    path, sha256, entry_name(path), problem=f"an invalid line in {path}.index: {row.strip()[:60]!r}"
                )
                return
            start, length = int(fields[1]), int(fields[2])
            if start + length > size:
                yield _member(path, sha256, name, problem="its offset in the database is outside the file")
            elif length > limits.max_megabytes * MEBIBYTE:
                yield _member(path, sha256, name, problem=f"more than {limits.max_megabytes} MiB")
            else:
                database.seek(start)
                # MMseqs-style databases end each record with a zero byte.
                yield _member(path, sha256, name, database.read(length))

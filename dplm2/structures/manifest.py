"""The files of a dataset, divided into shards with one manifest each.

Planning a run takes as long as listing the folders: no file is read. A file is identified by its size and times; only
if the times changed and the size did not, its content is compared with the hash recorded by the job that read it.
Listing writes nothing, so that a dry run changes nothing.

Imported by the Snakefile at every start, so this module uses only the standard library.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dplm2.core.artifacts import atomic_path, read_json, sha256_of_file
from dplm2.core.errors import DPLM2Error
from dplm2.structures.scanning import is_broken_link, scan

HEADER = "# structure files: path, where its name begins, size and time of change, inode's time of change, identity"
LISTING_FILE = "listing.json"
FETCHED_HEADER = "# fetched structure files: path, size, sha256, problem"
DATABASE_ENDINGS = (".index", ".lookup", ".dbtype")
LINE = re.compile(rb"[^\t]+\t\d+\t[\d.-]+\t[\d-]+(\t[\d.-]+)?")
CHAIN_SUFFIX = re.compile(r"[_.][A-Za-z0-9]{1,2}$")
COMPRESSED_ENDINGS = (".gz", ".tgz")
NO_DATABASE_ENDINGS = (".pdb", ".cif", ".bcif", ".gz", ".ent")
FORMAT_ENDINGS = (".pdb", ".ent", ".cif", ".mmcif", ".pdbx", ".mcif", ".bcif", ".fcz", ".tar")


@dataclass(frozen=True)
class SourceFile:
    """One file of a shard.

    Attributes
    ----------
    path
        Location of the file.
    size
        Bytes.
    sha256
        SHA-256 of its content, if known before the file is read.
    problem
        Why a download is missing.
    name
        Its name within the dataset, independent of the folder's location.
    stamp
        Size and time of change when the dataset was listed.
    """

    path: str
    size: int
    sha256: str = ""
    problem: str = ""
    name: str = field(default="", compare=False)
    stamp: str = field(default="", compare=False)


def entry_name(path: str) -> str:
    """The name of an entry, from its file: ``models/1ABC.pdb.gz`` gives ``1ABC``, ``pdb1abc.ent`` gives ``1abc``."""
    name = path.replace("\\", "/").rsplit("/", 1)[-1]
    for endings in (COMPRESSED_ENDINGS, FORMAT_ENDINGS):
        for ending in endings:
            if name.lower().endswith(ending) and len(name) > len(ending):
                name = name[: -len(ending)]
                break
    archived = re.fullmatch(r"pdb(\d[A-Za-z0-9]{3})", name)
    return archived[1] if archived and ".ent" in path.lower() else name


def shard_of(path: str, shards: int) -> int:
    """The shard that a file belongs to, by a hash of its entry's name without a chain's suffix.

    Files that could give chains of the same name (``1abc.cif`` and ``old/1abc.pdb``, ``1abc_A.cif``) are thus in one
    shard, which can make their names unique without knowing the other shards.
    """
    key = CHAIN_SUFFIX.sub("", entry_name(path)).lower()
    return int.from_bytes(hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()[:8], "big") % shards


@dataclass
class Listing:
    """The current files of a dataset, divided into shards; nothing is written before `write`.

    Attributes
    ----------
    folder
        Folder of the manifests ``part-00000.tsv`` ...
    identities
        Identity of the content of each shard's files, independent of their location.
    manifests
        The text of each manifest; None if those in ``folder`` are up to date.
    listed
        Identity of the state of all files, including times.
    """

    folder: Path
    identities: list[str]
    manifests: list[bytes] | None = None
    listed: str = ""

    def path(self, shard: int) -> Path:
        """Path of a shard's manifest."""
        return self.folder / f"part-{shard:05d}.tsv"

    def identity(self, shard: int) -> str:
        """Identity of the content of a shard's files."""
        return self.identities[shard]

    def write(self) -> list[Path]:
        """Write the manifests whose content changed, and remove those of shards that no longer exist."""
        paths = [self.path(shard) for shard in range(len(self.identities))]
        if self.manifests is not None:
            for path, content in zip(paths, self.manifests, strict=True):
                write_if_changed(path, content)
            for stale in set(self.folder.glob("part-*.tsv")) - set(paths):
                stale.unlink()
            note = json.dumps({"listed": self.listed, "identities": self.identities}, indent=2)
            write_if_changed(self.folder / LISTING_FILE, note.encode())
        return paths


def list_files(files: str | Sequence[str], folder: str | os.PathLike, shards: int) -> Listing:
    """List the files of a dataset.

    Parameters
    ----------
    files
        Folders (searched recursively, without hidden files and extensions that never contain structures), files,
        or patterns with ``*``, ``?``, ``[`` or ``**``; one or several.
    folder
        Folder of the last run's manifests and of the hashes recorded by its jobs.
    shards
        Number of parts.

    Raises
    ------
    DPLM2Error
        If a source is missing, or no file is found.
    """
    folder, sources = Path(folder), [files] if isinstance(files, str) else list(map(str, files))
    found = [scan([source]) for source in sources]
    listed = _state_of(found)
    known = _last_listing(folder)
    if known is not None and known["listed"] == listed and len(known["identities"]) == shards:
        return Listing(folder, known["identities"], None, listed)
    listing = Listing(folder, [], [], listed)
    for shard, rows in enumerate(_sharded(sources, found, shards)):
        fresh = os.fsencode("".join([f"{HEADER}\n", *(line for _, line in sorted(rows))]))
        rows.clear()
        listing.manifests.append(_with_identities(fresh, listing.path(shard)))
        listing.identities.append(_identity_of(listing.manifests[-1]))
    return listing


def _sharded(sources: list[str], found: list[dict[str, os.stat_result]], shards: int) -> list[list[tuple[str, str]]]:
    """For each shard, the names of its files within the dataset, each with its line of the manifest."""
    lines: list[list[tuple[str, str]]] = [[] for _ in range(shards)]
    for name, path, stamp, changed in _named(sources, found):
        start = len(os.fsencode(path)) - len(os.fsencode(name.split(":", 1)[1]))
        lines[shard_of(path, shards)].append((name, f"{path}\t{start}\t{stamp}\t{changed}\n"))
    return lines


def _state_of(found: list[dict[str, os.stat_result]]) -> str:
    """A digest of the files' names, sizes and times: a cheap test for changes."""
    digest = hashlib.sha256(HEADER.encode())
    for files in found:
        lines = []
        for path, stat in files.items():
            lines += [
                f"{path}\t{one.st_size}\t{one.st_mtime_ns}\t{one.st_ctime_ns}"
                for one in (stat, *map(os.stat, _companions(path)))
            ]
        digest.update(os.fsencode("\n".join([*lines, "", ""])))
    return digest.hexdigest()


def _last_listing(folder: Path) -> dict | None:
    """The listing of the last run, if its manifests still exist."""
    try:
        known = read_json(folder / LISTING_FILE)
        shards = len(known["identities"])
        complete = all((folder / f"part-{shard:05d}.tsv").is_file() for shard in range(shards))
        return known if complete and isinstance(known["listed"], str) else None
    except (DPLM2Error, KeyError, TypeError):
        return None


def _identity_of(manifest: bytes) -> str:
    digest = hashlib.sha256()
    for line in manifest.split(b"\n")[1:-1]:
        path, start, *stamps = line.split(b"\t")
        digest.update(path[int(start) :] + b"\t" + (stamps[2] if len(stamps) > 2 else stamps[0]) + b"\n")
    return digest.hexdigest()[:16]


def _named(sources: list[str], found: list[dict[str, os.stat_result]]) -> Iterator[tuple[str, str, str, str]]:
    """Name within the dataset (``<source>:<path below it>``), path, stamp and inode times of each file, once each."""
    seen: set[str] = set()
    for number, (source, files) in enumerate(zip(sources, found, strict=True)):
        root = source if Path(source).is_dir() else os.path.dirname(source.split("*", 1)[0])  # noqa: PTH120
        for path, stat in files.items():
            if path not in seen:
                seen.add(path)
                stats = [stat, *map(os.stat, _companions(path))]
                stamp = "-".join(f"{one.st_size}.{one.st_mtime_ns}" for one in stats)
                changed = "-".join(str(one.st_ctime_ns) for one in stats)
                inside = path[len(root) :].lstrip("/") if path.startswith(root) else path
                yield f"{number:05d}:{inside}", path, stamp, changed


def _with_identities(fresh: bytes, path: Path) -> bytes:
    """The manifest ``fresh``, with the identities in ``path`` of files whose times changed but not their content."""
    try:
        before = path.read_bytes()
    except OSError:
        return fresh
    if before == fresh:
        return fresh
    header, *lines = fresh.split(b"\n")[:-1]
    lines_before = set(before.split(b"\n"))
    gone = [line for line in lines_before.difference(lines) if LINE.fullmatch(line)]
    # The same path comes first: files of the same name may be in several folders.
    known = {_name(line): line for line in gone} | {_path(line): line for line in gone}
    hashes = _hashes_beside(path)
    identified = (
        line if line in lines_before else _identified(line, known.get(_path(line)) or known.get(_name(line)), hashes)
        for line in lines
    )
    return b"".join(line + b"\n" for line in [header, *identified])


def _path(line: bytes) -> bytes:
    return line.split(b"\t", 1)[0]


def _name(line: bytes) -> bytes:
    path, start, *_ = line.split(b"\t")
    return path[int(start) :]


def _identified(line: bytes, before: bytes | None, hashes: Mapping[bytes, Sequence[tuple[bytes, str]]]) -> bytes:
    if before is None:
        return line
    path, _, stamp, changed = line.split(b"\t")
    path_before, _, stamp_before, changed_before, *identity = before.split(b"\t")
    if stamp == stamp_before and (path != path_before or changed == changed_before):
        return b"\t".join([line, *identity])
    size = stamp.split(b".")[0]
    # If the job was not repeated because the content was the same, the hash belongs to the first modification time.
    read = [sha256 for stamp_read, sha256 in hashes.get(_name(line), ()) if stamp_read in (stamp_before, *identity)]
    if read and size == stamp_before.split(b".")[0] and _hash(os.fsdecode(path)) in read:
        return b"\t".join([line, *(identity or [stamp_before])])
    return line if stamp != stamp_before else b"\t".join([line, stamp + b"-" + changed])


def _hashes_beside(manifest: Path) -> dict[bytes, list[tuple[bytes, str]]]:
    """Stamp and SHA-256 of the files of each name, as found by the job that last read the shard."""
    try:
        lines = _hash_file(manifest).read_bytes().split(b"\n")
    except OSError:
        return {}
    found: dict[bytes, list[tuple[bytes, str]]] = {}
    for name, stamp, sha256 in (fields for line in lines if len(fields := line.split(b"\t")) == 3):
        found.setdefault(name, []).append((stamp, sha256.decode("ascii", "replace")))
    return found


def write_hashes(manifest: str | os.PathLike, files: Iterable[SourceFile]) -> None:
    """Record the hashes of the content of a manifest's files beside it; see `list_files`."""
    rows = (os.fsencode(f"{file.name}\t{file.stamp}\t{file.sha256}\n") for file in files if file.sha256 and file.stamp)
    write_if_changed(_hash_file(Path(manifest)), b"".join(rows))


def _hash_file(manifest: Path) -> Path:
    return manifest.with_name(f"hashes-{manifest.stem.removeprefix('part-')}.tsv")


def read_manifest(path: str | os.PathLike) -> list[SourceFile]:
    """Read one shard's manifest.

    Raises
    ------
    DPLM2Error
        If it is missing, truncated, or not a manifest.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise DPLM2Error(f"{path}: cannot be read ({error.strerror})") from error
    header, *lines = os.fsdecode(data).split("\n")
    if header not in (HEADER, FETCHED_HEADER):
        raise DPLM2Error(f"{path}: not a manifest of structure files")
    if lines[-1:] != [""]:
        raise DPLM2Error(f"{path}: truncated; run again to rewrite it")
    try:
        return [(_fetched if header == FETCHED_HEADER else _listed)(*line.split("\t")) for line in lines[:-1]]
    except (ValueError, TypeError) as error:
        raise DPLM2Error(f"{path}: contains an invalid line; run again to rewrite it") from error


def _listed(path: str, start: str, stamp: str, changed: str, identity: str = "") -> SourceFile:
    name = os.fsdecode(os.fsencode(path)[int(start) :])
    return SourceFile(path, int(stamp.split(".")[0]), name=name, stamp=stamp)


def _fetched(path: str, size: str, sha256: str, problem: str = "") -> SourceFile:
    return SourceFile(path, int(size), sha256, problem)


def write_manifest(path: str | os.PathLike, files: Iterable[SourceFile]) -> None:
    """Write the manifest of downloaded files, sorted by path, unless it exists with the same content."""
    rows = ((file.path, str(file.size), file.sha256, *([file.problem] if file.problem else [])) for file in files)
    text = "".join(f"{line}\n" for line in [FETCHED_HEADER, *("\t".join(row) for row in sorted(rows))])
    write_if_changed(Path(path), os.fsencode(text))


def unchanged_since_listed(file: SourceFile) -> bool:
    """Whether a file has the same size and times as when the dataset was listed."""
    if not file.stamp:
        return True
    try:
        own = Path(file.path).lstat() if is_broken_link(file.path) else Path(file.path).stat()
        stats = [own, *(Path(path).stat() for path in _companions(file.path))]
    except OSError:
        return False
    return "-".join(f"{one.st_size}.{one.st_mtime_ns}" for one in stats) == file.stamp


def _companions(path: str) -> list[str]:
    """The further files of a Foldcomp database, with its entries and their names."""
    # Called for every file, so cheap tests come first.
    if path.endswith(NO_DATABASE_ENDINGS) or not os.path.exists(f"{path}.index"):  # noqa: PTH110
        return []
    return [f"{path}{ending}" for ending in DATABASE_ENDINGS if Path(f"{path}{ending}").is_file()]


def sha256_of_source(path: str) -> str:
    """SHA-256 of a file; for a Foldcomp database, of the hashes of all its files."""
    digests = [sha256_of_file(file) for file in (path, *_companions(path))]
    return digests[0] if len(digests) == 1 else hashlib.sha256(" ".join(digests).encode()).hexdigest()


def _hash(path: str) -> str:
    if is_broken_link(path):
        return hashlib.sha256(os.fsencode(os.readlink(path))).hexdigest()  # noqa: PTH115
    try:
        return sha256_of_source(path)
    except OSError as error:
        raise DPLM2Error(f"{path}: cannot be read ({error.strerror})") from error


def write_if_changed(path: Path, data: bytes) -> None:
    """Write a file atomically, unless it exists with the same content."""
    try:
        if path.read_bytes() == data:
            return
    except OSError:
        pass
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)

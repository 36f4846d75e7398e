"""Which files belong to a dataset, cut into shards: one manifest a shard, rewritten only if it changed.

Imported by the Snakefile at every start, so this module needs the standard library alone, and files whose size and
times are as before are not read again.
"""

import concurrent.futures
import glob
import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dplm2.artifacts import sha256_of_file, write_text
from dplm2.errors import DPLM2Error

HEADER = "path\tsize\tsha256"
CACHE_FILE = "files.tsv"
HASHING_THREADS = 8
# What lies beside structures in people's folders. A file that is named outright, or by a pattern, is always taken.
NO_STRUCTURE_ENDINGS = frozenset((
    ".csv", ".tsv", ".json", ".jsonl", ".yaml", ".yml", ".toml", ".md", ".rst", ".txt", ".log", ".html", ".htm", ".py",
    ".sh", ".ipynb", ".r", ".smk", ".pkl", ".npy", ".npz", ".parquet", ".fasta", ".fa", ".fas", ".a3m", ".sto", ".hmm",
    ".aln", ".png", ".jpg", ".jpeg", ".svg", ".pdf", ".sha256", ".md5", ".h5", ".pt", ".pth", ".safetensors", ".tmp",
    ".part", ".index", ".lookup", ".dbtype", ".source",
))  # fmt: skip
DATABASE_ENDINGS = (".index", ".lookup", ".dbtype")
CHAIN_SUFFIX = re.compile(r"[_.][A-Za-z0-9]{1,2}$")
COMPRESSED_ENDINGS = (".gz", ".tgz")
FORMAT_ENDINGS = (".pdb", ".ent", ".cif", ".mmcif", ".pdbx", ".mcif", ".bcif", ".fcz", ".tar")


@dataclass(frozen=True)
class SourceFile:
    """One line of a manifest; ``problem`` says why a file that was to be fetched is not there."""

    path: str
    size: int
    sha256: str
    problem: str = ""


def entry_name(path: str) -> str:
    """The name of an entry after its file: ``models/1ABC.pdb.gz`` gives ``1ABC``, ``pdb1abc.ent`` gives ``1abc``."""
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

    Files that could give chains of one name (``1abc.cif`` and ``old/1abc.pdb``, ``1abc_A.cif``) so meet in one shard,
    which can keep their names apart without knowing the other shards.
    """
    key = CHAIN_SUFFIX.sub("", entry_name(path)).lower()
    return int.from_bytes(hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()[:8], "big") % shards


def update_manifest(files: str | Sequence[str], folder: str | os.PathLike, shards: int) -> list[Path]:
    """Bring the manifests of a dataset up to date.

    Parameters
    ----------
    files
        Folders (searched at every depth, without hidden files and without endings that never hold structures), files,
        or patterns with ``*``, ``?``, ``[`` or ``**``; one or several.
    folder
        Where ``part-00000.tsv`` ... and the cache of sizes, times and hashes lie.
    shards
        Number of parts.

    Returns
    -------
    list of pathlib.Path
        The manifests, one per shard (an empty shard too); only those whose content changed were written.

    Raises
    ------
    DPLM2Error
        If something named is not there, nothing is found, or a file cannot be read.
    """
    folder = Path(folder)
    found = scan([files] if isinstance(files, str) else files)
    cache_path = folder / CACHE_FILE
    known = _read_cache(cache_path)
    entries = _with_hashes(found, known)
    if entries != known:
        write_lines(
            cache_path, (f"{path}\t{size}\t{times}\t{digest}" for path, (size, times, digest) in entries.items())
        )
    lines: list[list[str]] = [[] for _ in range(shards)]
    for path, (size, _, digest) in entries.items():
        lines[shard_of(path, shards)].append(f"{path}\t{size}\t{digest}")
    manifests = [folder / f"part-{shard:05d}.tsv" for shard in range(shards)]
    for manifest, content in zip(manifests, lines, strict=True):
        write_lines(manifest, [HEADER, *content])
    for stale in set(folder.glob("part-*.tsv")) - set(manifests):
        stale.unlink()
    return manifests


def read_manifest(path: str | os.PathLike) -> list[SourceFile]:
    """Read one shard's manifest.

    Raises
    ------
    DPLM2Error
        If it is missing or is no manifest.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8", errors="surrogateescape").split("\n")
    except OSError as error:
        raise DPLM2Error(f"{path}: cannot be read ({error.strerror})") from error
    if lines[0] != HEADER:
        raise DPLM2Error(f"{path}: not a manifest of structure files (its first line must be 'path, size, sha256')")
    fields = [line.split("\t") for line in lines[1:] if line]
    return [SourceFile(name, int(size), digest, *problem) for name, size, digest, *problem in fields]


def write_manifest(path: str | os.PathLike, files: Iterable[SourceFile]) -> None:
    """Write one shard's manifest, in order of paths, unless it is there with the same content."""
    rows = ((file.path, str(file.size), file.sha256, *([file.problem] if file.problem else [])) for file in files)
    write_lines(Path(path), [HEADER, *("\t".join(row) for row in sorted(rows))])


def scan(sources: Iterable[str]) -> dict[str, os.stat_result]:
    """The files that ``sources`` name, sorted by path, each with its stat; see `update_manifest`."""
    found: dict[str, os.stat_result] = {}
    for source in map(str, sources):
        before = len(found)
        if Path(source).is_dir():
            found.update(_walk(source))
        elif Path(source).exists():
            found[source] = Path(source).stat()
        elif any(mark in source for mark in "*?["):
            for path in glob.iglob(source, recursive=True):  # noqa: PTH207
                if is_broken_link(path):
                    found[path] = Path(path).lstat()
                elif Path(path).is_file():
                    found[path] = Path(path).stat()
        else:
            raise DPLM2Error(f"{source}: no such file or folder")
        if len(found) == before and not any(path.startswith(source) for path in found):
            raise DPLM2Error(f"{source}: no structure files found there")
    for path in found:
        if "\t" in path or "\n" in path or not path.isascii() and not _is_unicode(path):
            raise DPLM2Error(f"{path!r}: a file name with a tab, a line break or broken Unicode cannot be taken in")
    return dict(sorted(found.items()))


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _walk(folder: str) -> Iterator[tuple[str, os.stat_result]]:
    """Files below a folder; linked folders are followed, each folder once, under its own path rather than a link's."""
    seen = {os.path.realpath(folder)}
    waiting, links = [folder], []
    while waiting or links:
        if not waiting:
            # Links last and in order of names, so that what a file is called does not depend on the disk.
            links.sort(reverse=True)
            target = os.path.realpath(link := links.pop())
            if target in seen:
                continue
            seen.add(target)
            waiting.append(link)
        for entry in _entries(waiting.pop()):
            if entry.is_dir(follow_symlinks=False):
                seen.add(os.path.realpath(entry.path))
                waiting.append(entry.path)
            elif entry.is_symlink() and os.path.isdir(entry.path):  # noqa: PTH112
                _refuse_cycle(entry.path, folder)
                links.append(entry.path)
            elif (found := _stat(entry)) is not None:
                yield entry.path, found


def _entries(folder: str) -> list[os.DirEntry]:
    try:
        with os.scandir(folder) as entries:
            return [entry for entry in entries if not entry.name.startswith(".")]
    except OSError as error:
        raise DPLM2Error(f"{folder}: cannot be read ({error.strerror})") from error


def _stat(entry: os.DirEntry) -> os.stat_result | None:
    """The stat of what may be a structure file; of a broken link its own, so that reading it becomes a reject."""
    if os.path.splitext(entry.name)[1].lower() in NO_STRUCTURE_ENDINGS:  # noqa: PTH122
        return None
    if entry.is_symlink() and is_broken_link(entry.path):
        return entry.stat(follow_symlinks=False)
    return entry.stat() if entry.is_file() else None


def is_broken_link(path: str) -> bool:
    """Whether a path is a link that leads nowhere."""
    return not os.path.exists(path) and os.path.islink(path)  # noqa: PTH110, PTH114


def _refuse_cycle(link: str, folder: str) -> None:
    """Refuse a link below ``folder`` to a folder above it, which would be walked without end."""
    target, above = os.path.realpath(link), link
    while len(above) > len(folder):
        above = os.path.dirname(above)  # noqa: PTH120
        if f"{os.path.realpath(above)}/".startswith(f"{target.rstrip('/')}/"):
            raise DPLM2Error(f"{link}: a link to a folder above it ({target}); remove it, or name the folders below it")


def _with_hashes(found: Mapping[str, os.stat_result], known: Mapping[str, tuple]) -> dict[str, tuple[str, str, str]]:
    """Size, times and SHA-256 of each file; only files that are new or look changed are read."""
    entries, unread = {}, []
    for path, stat in found.items():
        # The inode's time of change tells of a file replaced by one with an older time of modification.
        stats = [stat, *(Path(other).stat() for other in _companions(path))]
        size, times = str(stat.st_size), "-".join(f"{one.st_mtime_ns}-{one.st_ctime_ns}" for one in stats)
        before = known.get(path)
        if before is None or before[:2] != (size, times):
            unread.append(path)
            entries[path] = (size, times, "")
        else:
            entries[path] = before
    with concurrent.futures.ThreadPoolExecutor(HASHING_THREADS) as pool:
        for path, digest in zip(unread, pool.map(_hash, unread), strict=True):
            entries[path] = (*entries[path][:2], digest)
    return entries


def _companions(path: str) -> list[str]:
    """The files without which a Foldcomp database is not what it is: which entries it has, and their names."""
    if not os.path.exists(f"{path}.index"):  # noqa: PTH110  (asked of every file)
        return []
    return [f"{path}{ending}" for ending in DATABASE_ENDINGS if Path(f"{path}{ending}").is_file()]


def _hash(path: str) -> str:
    if is_broken_link(path):
        return hashlib.sha256(os.fsencode(os.readlink(path))).hexdigest()  # noqa: PTH115
    try:
        digests = [sha256_of_file(file) for file in (path, *_companions(path))]
        return digests[0] if len(digests) == 1 else hashlib.sha256(" ".join(digests).encode()).hexdigest()
    except OSError as error:
        raise DPLM2Error(f"{path}: cannot be read ({error.strerror})") from error


def _read_cache(path: Path) -> dict[str, tuple[str, str, str]]:
    try:
        text = path.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return {}
    fields = (line.split("\t") for line in text.split("\n"))
    return {line[0]: tuple(line[1:]) for line in fields if len(line) == 4}


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """Write a text file, unless it is there with the same content."""
    text = "".join(f"{line}\n" for line in lines)
    data = text.encode("utf-8", "surrogateescape")
    if not path.is_file() or path.read_bytes() != data:
        write_text(path, text)

"""Finding structure files: recursively in folders, through links, and by patterns.

Imported by the Snakefile at every start, so this module uses only the standard library.
"""

import glob
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from dplm2.core.errors import DPLM2Error

# Other files that are common in structure folders. A file given explicitly, or by a pattern, is always included.
NO_STRUCTURE_ENDINGS = frozenset((
    ".csv", ".tsv", ".json", ".jsonl", ".yaml", ".yml", ".toml", ".md", ".rst", ".txt", ".log", ".html", ".htm", ".py",
    ".sh", ".ipynb", ".r", ".smk", ".pkl", ".npy", ".npz", ".parquet", ".fasta", ".fa", ".fas", ".a3m", ".sto", ".hmm",
    ".aln", ".png", ".jpg", ".jpeg", ".svg", ".pdf", ".sha256", ".md5", ".h5", ".pt", ".pth", ".safetensors", ".tmp",
    ".part", ".index", ".lookup", ".dbtype", ".source", ".faa", ".fna",
))  # fmt: skip


def scan(sources: Iterable[str]) -> dict[str, os.stat_result]:
    """The files given by ``sources``, sorted by path, each with its stat; see `list_files`."""
    found: dict[str, os.stat_result] = {}
    for source in map(str, sources):
        before = len(found)
        if Path(source).is_dir():
            found.update(walk(source))
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
            raise DPLM2Error(f"{source}: contains no structure files")
    for path in found:
        if "\t" in path or "\n" in path or not path.isascii() and not _is_unicode(path):
            raise DPLM2Error(f"{path!r}: file names with tabs, line breaks or invalid Unicode are not supported")
    return dict(sorted(found.items()))


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def walk(folder: str, left_out: frozenset[str] = NO_STRUCTURE_ENDINGS) -> Iterator[tuple[str, os.stat_result]]:
    """Files below a folder, without hidden ones and without those of the endings ``left_out``, each with its stat.

    Linked folders are followed, each folder once, preferably under its own path.
    """
    seen = {os.path.realpath(folder)}
    waiting, links = [folder], []
    while waiting or links:
        if not waiting:
            # Links last and sorted by name, so that file names do not depend on the disk.
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
            elif (found := _stat(entry, left_out)) is not None:
                yield entry.path, found


def _entries(folder: str) -> list[os.DirEntry]:
    try:
        with os.scandir(folder) as entries:
            return [entry for entry in entries if not entry.name.startswith(".")]
    except OSError as error:
        raise DPLM2Error(f"{folder}: cannot be read ({error.strerror})") from error


def _stat(entry: os.DirEntry, left_out: frozenset[str]) -> os.stat_result | None:
    """The stat of a possible structure file; for a broken link, that of the link, so that it becomes a reject."""
    dot = entry.name.rfind(".")
    if dot > 0 and entry.name[dot:].lower() in left_out:
        return None
    if entry.is_symlink() and is_broken_link(entry.path):
        return entry.stat(follow_symlinks=False)
    return entry.stat() if entry.is_file() else None


def is_broken_link(path: str) -> bool:
    """Whether a path is a broken link."""
    return not os.path.exists(path) and os.path.islink(path)  # noqa: PTH110, PTH114


def _refuse_cycle(link: str, folder: str) -> None:
    """Reject a link below ``folder`` to a folder above it, which would cause endless recursion."""
    target, above = os.path.realpath(link), link
    while len(above) > len(folder):
        above = os.path.dirname(above)  # noqa: PTH120
        if f"{os.path.realpath(above)}/".startswith(f"{target.rstrip('/')}/"):
            raise DPLM2Error(f"{link}: a link to a folder above it ({target}); remove it, or list the folders below it")

"""Finding structure files: in folders at every depth, behind links, and by patterns.

Imported by the Snakefile at every start, so this module needs the standard library alone.
"""

import glob
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from dplm2.core.errors import DPLM2Error

# What lies beside structures in people's folders. A file that is named outright, or by a pattern, is always taken.
NO_STRUCTURE_ENDINGS = frozenset((
    ".csv", ".tsv", ".json", ".jsonl", ".yaml", ".yml", ".toml", ".md", ".rst", ".txt", ".log", ".html", ".htm", ".py",
    ".sh", ".ipynb", ".r", ".smk", ".pkl", ".npy", ".npz", ".parquet", ".fasta", ".fa", ".fas", ".a3m", ".sto", ".hmm",
    ".aln", ".png", ".jpg", ".jpeg", ".svg", ".pdf", ".sha256", ".md5", ".h5", ".pt", ".pth", ".safetensors", ".tmp",
    ".part", ".index", ".lookup", ".dbtype", ".source", ".faa", ".fna",
))  # fmt: skip


def scan(sources: Iterable[str]) -> dict[str, os.stat_result]:
    """The files that ``sources`` name, sorted by path, each with its stat; see `list_files`."""
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


def walk(folder: str, left_out: frozenset[str] = NO_STRUCTURE_ENDINGS) -> Iterator[tuple[str, os.stat_result]]:
    """Files below a folder, without hidden ones and without those of the endings ``left_out``, each with its stat.

    Linked folders are followed, each folder once, under its own path rather than a link's.
    """
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
            elif (found := _stat(entry, left_out)) is not None:
                yield entry.path, found


def _entries(folder: str) -> list[os.DirEntry]:
    try:
        with os.scandir(folder) as entries:
            return [entry for entry in entries if not entry.name.startswith(".")]
    except OSError as error:
        raise DPLM2Error(f"{folder}: cannot be read ({error.strerror})") from error


def _stat(entry: os.DirEntry, left_out: frozenset[str]) -> os.stat_result | None:
    """The stat of what may be a structure file; of a broken link its own, so that reading it becomes a reject."""
    dot = entry.name.rfind(".")
    if dot > 0 and entry.name[dot:].lower() in left_out:
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

"""The user's input files: detecting changes of their content without reading large files.

A small file is identified by its content. A large one (weights) is identified by size and modification time until it
has been read; the job that reads it records its SHA-256 (`hash_of`), so that a file that was only touched, copied or
moved keeps its identity.
"""

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

from dplm2.core.artifacts import parse_json, read_json, sha256_of_file, write_json
from dplm2.core.errors import DPLM2Error

SMALL = 1 << 20  # bytes
MOST_FILES = 10_000  # in a folder
RECORDS = "inputs"  # below the state folder


def files_below(path: str | os.PathLike, patterns: Iterable[str]) -> list[Path]:
    """The file itself, or the files of a folder that match one of the patterns, sorted by name."""
    path = Path(path)
    if not path.is_dir():
        return [path] if path.exists() else _beside(path)
    found = sorted({file for pattern in patterns for file in path.glob(pattern) if file.is_file()})
    if len(found) > MOST_FILES:
        raise DPLM2Error(f"{path}: more than {MOST_FILES} files")
    return found


def _beside(path: Path) -> list[Path]:
    """The files of a database that is given by the common prefix of their names."""
    return sorted(file for file in path.parent.glob(f"{path.name}*") if file.is_file())


def identity(path: str | os.PathLike, patterns: Iterable[str], state: str | os.PathLike) -> str:
    """Identity of the content of a file or folder, independent of its location.

    Parameters
    ----------
    path
        File or folder.
    patterns
        Which files of a folder belong to it.
    state
        The state folder, with the records of earlier jobs.
    """
    path = Path(path)
    digest = hashlib.sha256()
    for file in files_below(path, patterns):
        name = file.relative_to(path) if path.is_dir() else file.suffix
        digest.update(f"{name}\t{_identity(file, Path(state))}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()[:16]


def _identity(file: Path, state: Path) -> str:
    return sha256_of_file(file) if file.stat().st_size <= SMALL else _recognised(file.absolute(), state)[0]


def hash_of(file: str | os.PathLike, state: str | os.PathLike, planned: str | None = None) -> str:
    """SHA-256 of a file, recorded in the state folder; a file with unchanged size and times is not read again.

    Parameters
    ----------
    file, state
        See `identity`.
    planned
        The identity with which the run was planned; the file keeps it from then on.
    """
    file, state = Path(file).absolute(), Path(state)
    stat = file.stat()
    if stat.st_size <= SMALL:
        return sha256_of_file(file)
    known, sha256 = _recognised(file, state)
    sha256 = sha256 or sha256_of_file(file)
    note = {"file": str(file), "seen": _seen(stat), "sha256": sha256, "identity": planned or known}
    record = _record(file, stat.st_size, state)
    if _read(record) != note:
        write_json(record, note)
    return sha256


def unhashed(path: str | os.PathLike, patterns: Iterable[str], state: str | os.PathLike) -> dict[str, tuple[str, str]]:
    """The large files of a file or folder whose SHA-256 is not recorded: their current stamps and identities.

    Parameters
    ----------
    path, patterns, state
        See `identity`.
    """
    found, state = {}, Path(state)
    for file in map(Path.absolute, files_below(path, patterns)):
        stat = file.stat()
        own = _read(_record(file, stat.st_size, state))
        if stat.st_size > SMALL and (own is None or own["seen"] != _seen(stat)):
            found[str(file)] = _seen(stat), _recognised(file, state)[0]
    return found


def note(text: str) -> None:
    """Record the SHA-256 of a job's input files, so that the next plan recognises them if they were only touched.

    Parameters
    ----------
    text
        JSON: ``state``, the state folder, and ``files``, as of `unhashed` when the run was planned. A file that has
        changed since is left to the next plan.
    """
    wanted = parse_json(text, "--note")
    for file, (seen, planned) in wanted["files"].items():
        if Path(file).exists() and _seen(Path(file).stat()) == seen:
            hash_of(file, wanted["state"], planned)


def _recognised(file: Path, state: Path) -> tuple[str, str | None]:
    """The identity of a large file, and its SHA-256 if it had to be computed."""
    stat = file.stat()
    own = _read(_record(file, stat.st_size, state))
    if own is not None and own["seen"] == _seen(stat):
        return own["identity"], own["sha256"]
    others = map(_read, sorted((state / RECORDS).glob(f"{stat.st_size}-*.json")))
    notes = [note for note in (own, *others) if note is not None]
    sha256 = sha256_of_file(file) if notes else None
    if equal := [note for note in notes if note["sha256"] == sha256]:
        # Of several files with this content, a copied or moved one is that of the same modification time.
        return min(equal, key=lambda note: note["seen"].split("-")[1] != str(stat.st_mtime_ns))["identity"], sha256
    stamp = f"{stat.st_size}-{stat.st_mtime_ns}"
    # Other content of the same size and modification time.
    return f"{stamp}-{stat.st_ctime_ns}" if any(note["identity"] == stamp for note in notes) else stamp, sha256


def _read(record: Path) -> dict | None:
    try:
        note = read_json(record)
    except DPLM2Error:
        return None
    return note if isinstance(note, dict) and {"seen", "sha256", "identity"} <= set(note) else None


def _record(file: Path, size: int, state: Path) -> Path:
    return state / RECORDS / f"{size}-{hashlib.sha256(os.fsencode(file)).hexdigest()[:16]}.json"


def _seen(stat: os.stat_result) -> str:
    return f"{stat.st_size}-{stat.st_mtime_ns}-{stat.st_ctime_ns}"

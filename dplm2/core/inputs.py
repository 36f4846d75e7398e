"""Files of the user's that a stage reads: what tells whether their content is the same, without reading large ones.

A small file is known by its content. A large one (weights) is known by its size and time of change, as long as nobody
has read it; the job that reads it leaves its SHA-256 behind (`hash_of`), so that a file that was only touched, copied
or moved keeps its identity.
"""

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

from dplm2.core.artifacts import parse_json, read_json, sha256_of_file, write_json
from dplm2.core.errors import DPLM2Error

SMALL = 1 << 20  # bytes
MOST_FILES = 10_000  # of a folder
RECORDS = "inputs"  # folder of the state


def files_below(path: str | os.PathLike, patterns: Iterable[str]) -> list[Path]:
    """The file itself, or the files of a folder that fit one of the patterns, in order of names."""
    path = Path(path)
    if not path.is_dir():
        return [path] if path.exists() else _beside(path)
    found = sorted({file for pattern in patterns for file in path.glob(pattern) if file.is_file()})
    if len(found) > MOST_FILES:
        raise DPLM2Error(f"{path}: more than {MOST_FILES} files")
    return found


def _beside(path: Path) -> list[Path]:
    """The files of a database that is named by what their names begin with."""
    return sorted(file for file in path.parent.glob(f"{path.name}*") if file.is_file())


def identity(path: str | os.PathLike, patterns: Iterable[str], state: str | os.PathLike) -> str:
    """Names the content of a file or folder: equal as long as the content is, wherever it lies.

    Parameters
    ----------
    path
        File or folder.
    patterns
        Which files of a folder count.
    state
        The state folder, with what jobs left behind.
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
    """SHA-256 of a file, noted in the state folder; a file that looks as it did then is not read again.

    Parameters
    ----------
    file, state
        See `identity`.
    planned
        The identity by which the run was planned, which the file keeps from then on.
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


def not_noted(path: str | os.PathLike, patterns: Iterable[str], state: str | os.PathLike) -> dict[str, tuple[str, str]]:
    """The large files of a file or folder whose SHA-256 is not noted: how they look now, and their identities.

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
    """Note the SHA-256 of the files that a job was given, so that the next plan knows them when they are only touched.

    Parameters
    ----------
    text
        JSON: ``state``, the state folder, and ``files``, as of `not_noted` when the run was planned. A file that looks
        different by now is left for the next plan to judge.
    """
    wanted = parse_json(text, "--note")
    for file, (seen, planned) in wanted["files"].items():
        if Path(file).exists() and _seen(Path(file).stat()) == seen:
            hash_of(file, wanted["state"], planned)


def _recognised(file: Path, state: Path) -> tuple[str, str | None]:
    """The identity of a large file, and its SHA-256 where that had to be known to tell."""
    stat = file.stat()
    own = _read(_record(file, stat.st_size, state))
    if own is not None and own["seen"] == _seen(stat):
        return own["identity"], own["sha256"]
    others = map(_read, sorted((state / RECORDS).glob(f"{stat.st_size}-*.json")))
    notes = [note for note in (own, *others) if note is not None]
    sha256 = sha256_of_file(file) if notes else None
    for note in notes:
        if note["sha256"] == sha256:
            return note["identity"], sha256
    stamp = f"{stat.st_size}-{stat.st_mtime_ns}"
    # Other content of the same size and time of change.
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

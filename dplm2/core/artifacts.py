"""Files that every stage writes: atomically, and with a record of how they were made."""

import contextlib
import errno
import hashlib
import json
import os
import platform
import re
import resource
import tempfile
import time
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from dplm2.core import origins
from dplm2.core.errors import DPLM2Error

RUN_FILE = "run.json"
NO_SPACE = "no space left (or quota exceeded)"
OUT_OF_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
UNWRITABLE = (*OUT_OF_SPACE, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO)
LARGEST_JSON = 1 << 28  # bytes
_CODE_IN_TEXT = re.compile(r"(?:os error |errno )(\d+)")  # in error messages of Rust and Arrow
REPORTED_LIBRARIES = ("dplm2", "torch", "transformers", "biotite", "numpy", "pandas", "pyarrow", "snakemake")


class WritingError(DPLM2Error):
    """A file could not be written; ``code`` is the system's error number."""

    def __init__(self, message: str, code: int | None) -> None:
        super().__init__(message)
        self.code = code


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; on success it is synced to disk and renamed to ``path``.

    The folder is synced last, so that the name survives a power failure too. After an exception, the temporary file is
    removed and ``path`` is unchanged.

    Raises
    ------
    WritingError
        If the folder cannot be written or the disk is full; the message names the folder.
    """
    path = Path(path)
    make_folder(path.parent)
    with explained(path):
        handle, name = tempfile.mkstemp(prefix=f".{path.name[:100]}.", suffix=".tmp", dir=path.parent)
        os.close(handle)
    temporary = Path(name)
    try:
        with explained(path, (None, name, *map(os.fsencode, [name]))):
            yield temporary
            with temporary.open("rb+") as stream:
                os.fsync(stream.fileno())
        with explained(path):
            temporary.chmod(0o666 & ~_umask())
            temporary.replace(path)
            _sync_folder(path.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def make_folder(folder: str | os.PathLike) -> None:
    """Create a folder and its parents unless they exist.

    Raises
    ------
    WritingError
        If that is not possible, for example because a file has its name.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        # A broken link is no folder either, and mkdir does not follow it.
        wrong = next((one for one in (folder, *folder.parents) if one.is_symlink() or one.is_file()), folder)
        raise WritingError(f"{wrong}: not a folder, but a folder has to be created here", error.errno) from error
    except OSError as error:
        raise WritingError(f"{folder}: this folder cannot be created ({error.strerror})", error.errno) from error


@contextlib.contextmanager
def explained(path: str | os.PathLike, names: tuple | None = None) -> Iterator[None]:
    """Turn a failure to write ``path`` into one line that names its folder.

    Parameters
    ----------
    path
        The file that is written.
    names
        Only errors about these files are converted (None: errors that name no file); by default all are. An input that
        cannot be read during writing thus keeps its own message.
    """
    try:
        yield
    except DPLM2Error:
        raise
    except Exception as error:
        code = error_code(error)
        if code is None or names is not None and (code not in UNWRITABLE or _file_of(error) not in names):
            raise
        raise WritingError(cannot_write(path, code), code) from error


def _file_of(error: Exception) -> str | None:
    return error.filename if isinstance(error, OSError) else None


def error_code(error: BaseException) -> int | None:
    """The system's error number of an exception, even if only its text mentions it."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    found = _CODE_IN_TEXT.search(str(error))
    return int(found[1]) if found else None


def cannot_write(path: str | os.PathLike, code: int) -> str:
    """One line about a file that cannot be written: the folder, the reason, and what to do."""
    path = Path(path)
    if code == errno.EFBIG:
        return f"{path.parent}: {path.name} exceeds the maximum file size; raise the limit (ulimit -f) and run again"
    if code in OUT_OF_SPACE:
        return f"{path.parent}: {NO_SPACE} for {path.name}; free some space and run again"
    if path.is_dir():
        return f"{path}: a folder, but a file has to be written here"
    return f"{path.parent}: {path.name} cannot be written in this folder ({os.strerror(code)})"


def _sync_folder(folder: Path) -> None:
    """Make renames in ``folder`` survive a power failure."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_text(path: str | os.PathLike, text: str) -> None:
    """Write ``text`` to ``path`` atomically (UTF-8)."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | os.PathLike, value: Any) -> None:
    """Write ``value`` to ``path`` as indented JSON, atomically."""
    write_text(path, json.dumps(value, indent=2, default=str) + "\n")


def read_json(path: str | os.PathLike) -> Any:
    """Read a JSON file.

    Raises
    ------
    DPLM2Error
        If the file is missing or not JSON; the message names it.
    """
    path = Path(path)
    try:
        if path.stat().st_size > LARGEST_JSON:
            raise DPLM2Error(f"{path}: larger than {LARGEST_JSON >> 20} MiB, the maximum for a JSON file")
        return parse_json(path.read_text(encoding="utf-8-sig"), str(path))
    except FileNotFoundError as error:
        raise DPLM2Error(f"{path}: no such file") from error
    except OSError as error:
        raise DPLM2Error(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise DPLM2Error(f"{path}: not a JSON file ({error})") from error


def parse_json(text: str | bytes, name: str) -> Any:
    """A JSON text.

    Raises
    ------
    DPLM2Error
        If it is not JSON, or nested too deeply; the message begins with ``name``.
    """
    try:
        return json.loads(text)
    except RecursionError as error:
        raise DPLM2Error(f"{name}: not a JSON file (nested too deeply)") from error
    except ValueError as error:  # a number of thousands of digits, too
        raise DPLM2Error(f"{name}: not a JSON file ({error})") from error


def read_json_object(path: str | os.PathLike) -> dict[str, Any]:
    """Read a JSON file that contains an object; raises as `read_json`, and if it contains anything else."""
    value = read_json(path)
    if not isinstance(value, dict):
        raise DPLM2Error(f"{path}: must contain a JSON object, not {type(value).__name__}")
    return value


def sha256_of_file(path: str | os.PathLike) -> str:
    """SHA-256 of a file's content, as hexadecimal digits."""
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def fingerprint(value: Any) -> str:
    """First 16 hexadecimal digits of the SHA-256 of ``value`` as canonical JSON: equal values, equal fingerprints."""
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


class RunRecord:
    """The record of how an artifact was made, written beside it as ``run.json``.

    Parameters
    ----------
    command
        The subcommand, for example ``"tokenizer train"``.
    settings
        The resolved settings of this stage.
    inputs
        Name of each input artifact with its fingerprint (or the SHA-256 of its file).
    device
        Device on which the work ran, for example ``"cpu"``.
    """

    def __init__(self, command: str, settings: Mapping, inputs: Mapping[str, str], device: str = "cpu") -> None:
        self.command, self.settings, self.inputs, self.device = command, dict(settings), dict(inputs), device
        self.started = time.time()

    def supersede(self, folder: str | os.PathLike, *files: str) -> None:
        """Start writing into ``folder``: leftovers of a run with other settings or inputs must not look complete.

        Its ``run.json`` is removed, and so are those of ``files`` (which not every run writes) that exist.
        """
        record = Path(folder) / RUN_FILE
        if self.is_of(folder):
            return
        for file in (record, *(Path(folder) / name for name in files)):
            with explained(file):
                file.unlink(missing_ok=True)

    def is_of(self, folder: str | os.PathLike) -> bool:
        """Whether ``folder`` was finished by the same command with the same settings and inputs."""
        expected = json.loads(json.dumps([self.command, self.settings, self.inputs], default=str))
        try:
            before = read_json_object(Path(folder) / RUN_FILE)
        except DPLM2Error:
            return False
        return [before.get(key) for key in ("command", "settings", "inputs")] == expected

    def write(self, folder: str | os.PathLike, **extra: Any) -> None:
        """Write ``run.json`` into ``folder``; ``extra`` is added to it (counts, final losses).

        ``hub``: the commits of the hub repositories that this process has used, if any.
        """
        commits = origins.noted()
        write_json(
            Path(folder) / RUN_FILE,
            {
                "command": self.command,
                "settings": self.settings,
                "inputs": self.inputs,
                **({"hub": commits} if commits else {}),
                "versions": library_versions(),
                "device": self.device,
                "machine": platform.machine(),
                "wall_seconds": round(time.time() - self.started, 3),
                "processor_seconds": round(sum(os.times()[:4]), 3),
                "peak_memory_bytes": peak_memory_bytes(),
                **extra,
            },
        )


def library_versions() -> dict[str, str]:
    """Versions of Python and of the libraries that affect results."""
    versions = {"python": platform.python_version()}
    for name in REPORTED_LIBRARIES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return versions


def peak_memory_bytes() -> int:
    """Peak resident set size of this process so far (Linux reports kilobytes, macOS bytes)."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if platform.system() == "Darwin" else peak * 1024

"""Files that every stage writes: whole or not at all, and with a note of what made them."""

import contextlib
import hashlib
import json
import os
import platform
import resource
import tempfile
import time
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from dplm2.errors import DPLM2Error

RUN_FILE = "run.json"
REPORTED_LIBRARIES = ("dplm2", "torch", "transformers", "biotite", "numpy", "pandas", "pyarrow", "snakemake")


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; on success it is synced to disk and renamed to ``path``.

    The folder is synced last, so that the name survives a loss of power too. After an exception, the temporary file is
    removed and ``path`` is as it was.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name[:100]}.", suffix=".tmp", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb+") as stream:
            os.fsync(stream.fileno())
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
        _sync_folder(path.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _sync_folder(folder: Path) -> None:
    """Make renames in ``folder`` survive a loss of power."""
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
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DPLM2Error(f"{path}: no such file") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DPLM2Error(f"{path}: not a JSON file ({error})") from error


def sha256_of_file(path: str | os.PathLike) -> str:
    """SHA-256 of a file's content, as hexadecimal digits."""
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def fingerprint(value: Any) -> str:
    """First 16 hexadecimal digits of the SHA-256 of ``value`` as canonical JSON: equal values, equal fingerprints."""
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


class RunRecord:
    """What made an artifact: written as ``run.json`` beside it.

    Parameters
    ----------
    command
        The subcommand, for example ``"tokenizer train"``.
    settings
        The resolved settings of this stage.
    inputs
        Name of each input artifact and its fingerprint (or the SHA-256 of its file).
    device
        Where the work ran, for example ``"cpu"``.
    """

    def __init__(self, command: str, settings: Mapping, inputs: Mapping[str, str], device: str = "cpu") -> None:
        self.command, self.settings, self.inputs, self.device = command, dict(settings), dict(inputs), device
        self.started = time.time()

    def write(self, folder: str | os.PathLike, **extra: Any) -> None:
        """Write ``run.json`` into ``folder``; ``extra`` is added to it (counts, final losses)."""
        write_json(
            Path(folder) / RUN_FILE,
            {
                "command": self.command,
                "settings": self.settings,
                "inputs": self.inputs,
                "versions": library_versions(),
                "device": self.device,
                "machine": platform.machine(),
                "wall_seconds": round(time.time() - self.started, 3),
                "peak_memory_bytes": peak_memory_bytes(),
                **extra,
            },
        )


def library_versions() -> dict[str, str]:
    """Versions of Python and of the libraries that decide results."""
    versions = {"python": platform.python_version()}
    for name in REPORTED_LIBRARIES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return versions


def peak_memory_bytes() -> int:
    """Largest resident set of this process so far (Linux reports kilobytes, macOS bytes)."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if platform.system() == "Darwin" else peak * 1024

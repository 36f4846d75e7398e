"""Locks on files and folders."""

import contextlib
import fcntl
import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from dplm2.core.artifacts import explained, make_folder
from dplm2.core.errors import DPLM2Error

RETRY_SECONDS = 0.2
# A killed process's workers hold its lock until they notice, which takes them up to five seconds.
PATIENCE_SECONDS = 6.0
FOLDER_LOCK = ".lock"


class HeldError(DPLM2Error):
    """Another process holds the lock; ``holder`` names it."""

    def __init__(self, message: str, holder: str) -> None:
        super().__init__(message)
        self.holder = holder


@contextlib.contextmanager
def locked(
    path: str | os.PathLike, seconds: float | None = None, stopped: Callable[[], bool] = lambda: False
) -> Iterator[IO[str]]:
    """Hold a lock file that names its holder. The lock is released when the process ends, in whatever way.

    Parameters
    ----------
    path
        The lock file; its folder is created if needed.
    seconds
        How long to wait for another holder; None: without limit.
    stopped
        Asked meanwhile whether to stop waiting.

    Raises
    ------
    HeldError
        If another process still holds it.
    """
    path = Path(path)
    make_folder(path.parent)
    with explained(path):
        stream = path.open("a+")
    with stream:
        _wait(stream, path, seconds, stopped)
        stream.truncate(0)
        stream.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        stream.flush()
        yield stream


def _wait(stream: IO[str], path: Path, seconds: float | None, stopped: Callable[[], bool]) -> None:
    if seconds is None:
        fcntl.flock(stream, fcntl.LOCK_EX)
        return
    deadline = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() >= deadline or stopped():
                stream.seek(0)
                holder = stream.read().strip() or "another process"
                raise HeldError(f"{path}: {holder} holds this lock", holder) from None
            time.sleep(RETRY_SECONDS)


@contextlib.contextmanager
def writing_into(folder: str | os.PathLike, work: str, shared: str | None = None) -> Iterator[None]:
    """Reserve a folder for one command that writes into it, or for several that belong together.

    Parameters
    ----------
    folder
        Created if needed. The lock is a hidden file in it, removed at the end.
    work
        What this command does, for the message of a second one.
    shared
        Identifies what commands must have in common to write at the same time, such as a fingerprint of their settings.
        None: exclusive.

    Raises
    ------
    DPLM2Error
        If another process holds the folder (the message names it and its command), or the folder cannot be written.
    """
    folder = Path(folder)
    is_new = not folder.exists()
    with explained(folder / FOLDER_LOCK):
        stream = _held(folder / FOLDER_LOCK, work, shared)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            # Only the last of several holders gets the exclusive lock.
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            (folder / FOLDER_LOCK).unlink(missing_ok=True)
            if is_new:
                folder.rmdir()  # only if nothing was written
        stream.close()


def _held(path: Path, work: str, shared: str | None) -> IO[str]:
    """The open lock file, once this process holds it."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        make_folder(path.parent)
        try:
            stream = path.open("a+")
        except FileNotFoundError:  # the former holder has just removed the folder, since nothing was written
            continue
        try:
            if _taken(stream, work, shared) and _is_at(stream, path):
                return stream
            if time.monotonic() >= deadline:
                _refuse(stream, path)
        except BaseException:
            stream.close()
            raise
        stream.close()
        time.sleep(RETRY_SECONDS)


def _taken(stream: IO[str], work: str, shared: str | None) -> bool:
    """Try to take a lock; a shared one is held together by all with the same second line."""
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        if shared is None:
            return False
    else:
        stream.truncate(0)
        stream.write(f"process {os.getpid()} on {socket.gethostname()} ({work})\n{shared or ''}\n")
        stream.flush()
        if shared is None:
            return True
    try:
        # Another process may step in between releasing one lock and taking the other: read the file again.
        fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    stream.seek(0)
    return stream.read().splitlines()[1:] == [shared]


def _is_at(stream: IO[str], path: Path) -> bool:
    """Whether the open lock file is still the one with that name."""
    try:
        return os.path.samestat(os.fstat(stream.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _refuse(stream: IO[str], path: Path) -> None:
    stream.seek(0)
    holder = (stream.read().splitlines() or ["another process"])[0]
    raise HeldError(
        f"{path.parent}: {holder} is writing into this folder; wait for it, end it, or choose another folder", holder
    )


def is_held(path: str | os.PathLike) -> bool:
    """Whether a process holds a lock file now."""
    try:
        with Path(path).open() as stream:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        pass
    return False

"""Files that one process at a time holds."""

import contextlib
import fcntl
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from dplm2.errors import DPLM2Error

RETRY_SECONDS = 0.2


class HeldError(DPLM2Error):
    """Another process holds the lock; ``holder`` says which."""

    def __init__(self, message: str, holder: str) -> None:
        super().__init__(message)
        self.holder = holder


@contextlib.contextmanager
def locked(path: str | os.PathLike, seconds: float | None = None) -> Iterator[IO[str]]:
    """Hold a lock file, which says who holds it. The lock goes with the process, however that ends.

    Parameters
    ----------
    path
        The lock file; its folder is made if it is not there.
    seconds
        How long to wait for another holder; None: as long as it takes.

    Raises
    ------
    HeldError
        If another process still holds it.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as stream:
        _wait(stream, path, seconds)
        stream.truncate(0)
        stream.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        stream.flush()
        yield stream


def _wait(stream: IO[str], path: Path, seconds: float | None) -> None:
    if seconds is None:
        fcntl.flock(stream, fcntl.LOCK_EX)
        return
    deadline = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() >= deadline:
                stream.seek(0)
                holder = stream.read().strip() or "another process"
                raise HeldError(f"{path}: {holder} holds this lock", holder) from None
            time.sleep(RETRY_SECONDS)


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

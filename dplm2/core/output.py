"""Output of commands and notebooks: copies in log files, progress bars."""

import contextlib
import importlib.util
import os
import selectors
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

from dplm2.core.artifacts import explained, make_folder

CHUNK, LARGEST_PIPE = 1 << 16, 1 << 20  # bytes read at once, and at most in a pipe
OUT, ERR = 1, 2  # file descriptors, which child processes inherit independently of Python's streams


@contextlib.contextmanager
def copied_to(path: str | os.PathLike) -> Iterator[None]:
    """Within this context, the output of this process and its children is also written to a file.

    Raises
    ------
    DPLM2Error
        If the file cannot be written.
    """
    path = Path(path)
    make_folder(path.parent)
    with explained(path):
        log = path.open("wb")
    with log, contextlib.ExitStack() as stack:
        for descriptor, stream in ((OUT, sys.stdout), (ERR, sys.stderr)):
            stack.enter_context(_copied(descriptor, stream, log))
        yield


@contextlib.contextmanager
def _copied(descriptor: int, stream: object, log: object) -> Iterator[None]:
    original, (reading, writing), (ended, end) = os.dup(descriptor), os.pipe(), os.pipe()
    os.dup2(writing, descriptor)
    os.close(writing)
    thread = threading.Thread(target=_copy, args=(reading, ended, original, log), daemon=True)
    thread.start()
    try:
        yield
    finally:
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
        os.dup2(original, descriptor)
        os.write(end, b".")
        thread.join()
        for each in (reading, ended, end, original):
            os.close(each)


def _written(reading: int, ended: int) -> Iterator[bytes]:
    """What is written to a pipe, up to what it holds when the end is told (children may keep it open for longer)."""
    with selectors.DefaultSelector() as selector:
        selector.register(reading, selectors.EVENT_READ)
        selector.register(ended, selectors.EVENT_READ)
        left = LARGEST_PIPE
        while left > 0:
            ready = {key.fd for key, _ in selector.select()}
            data = os.read(reading, CHUNK) if reading in ready else b""
            if not data:
                return
            left -= len(data) if ended in ready else 0
            yield data


def _copy(reading: int, ended: int, original: int, log: object) -> None:
    """Pass output on immediately; write it to the log in whole lines, since both streams write there."""
    pending = b""
    for data in _written(reading, ended):
        with contextlib.suppress(OSError):  # the terminal is closed: keep writing the log
            os.write(original, data)
        pending += data
        end = max(pending.rfind(b"\n"), pending.rfind(b"\r")) + 1 if len(pending) < CHUNK else len(pending)
        _append(log, pending[:end])
        pending = pending[end:]
    _append(log, pending)


def _append(log: object, data: bytes) -> None:
    with contextlib.suppress(OSError, ValueError):
        log.write(data)
        log.flush()


def in_notebook() -> bool:
    """Whether this process is the kernel of a notebook."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return hasattr(shell, "kernel")


def progress_bar(total: int, title: str | None, unit: str):  # noqa: ANN201
    """A progress bar for a terminal or a notebook; without a title, or where the output is neither, it shows nothing.

    Returns
    -------
    tqdm.tqdm
    """
    if in_notebook() and importlib.util.find_spec("ipywidgets") is not None:
        from tqdm.notebook import tqdm
    else:
        from tqdm import tqdm
    hidden = True if title is None else False if in_notebook() else None  # None: hidden unless a terminal
    return tqdm(total=total, desc=title, unit=unit, disable=hidden)

"""Available memory, and batches that exceed it: halved until they fit, without losing an item."""

import contextlib
import logging
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeVar

import torch

from dplm2.core.errors import ConfigError, DPLM2Error
from dplm2.core.text import readable_size

_log = logging.getLogger(__name__)
_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")  # of a container
_OUT_OF_MEMORY = (
    "out of memory",
    "can't allocate memory",
    "not enough memory",
    # oneDNN hides the reason; it compiles what worked for other sizes, and lacks memory for the code or its workspace.
    "could not create a primitive",
    "could not execute a primitive",
)
Result = TypeVar("Result")


def split_on_out_of_memory(
    batches: Iterable[list[int]],
    work: Callable[[list[int]], Result],
    length_of: Callable[[int], int],
    name_of: Callable[[int], str],
    what: str,
) -> Iterator[tuple[list[int], Result]]:
    """Process batches of numbered items one after another; if memory runs out, process the halves of the batch.

    Parameters
    ----------
    batches
        The numbers of the items in each batch.
    work
        Function that processes a batch.
    length_of, name_of
        Number of residues and name of an item, for messages.
    what
        Noun for an item, for messages.

    Yields
    ------
    tuple
        Each batch, or part of one, with its result. Every item is in exactly one of them.

    Raises
    ------
    DPLM2Error
        If the memory is too small for a single item; the message names it.
    """
    for whole in batches:
        waiting = [whole]
        while waiting:
            batch = waiting.pop()
            try:
                result = work(batch)
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
                waiting += _halves(batch, max(map(length_of, batch)), name_of, what)
            else:
                yield batch, result
                continue
            # Only here the error is released, and with it the memory that it refers to.
            if torch.cuda.is_available():
                torch.cuda.empty_cache()


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error reports that main or GPU memory ran out."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return any(text in str(error).lower() for text in _OUT_OF_MEMORY)


def _halves(batch: list[int], longest: int, name_of: Callable[[int], str], what: str) -> list[list[int]]:
    if len(batch) == 1:
        raise DPLM2Error(f"{name_of(batch[0])}: not enough memory for one {what} of {longest} residues")
    middle = (len(batch) + 1) // 2
    _log.warning(
        "out of memory with %d %ss of up to %d residues: continuing with %d", len(batch), what, longest, middle
    )
    return [batch[middle:], batch[:middle]]


def total_memory(device: torch.device | str = "cpu") -> int:
    """Bytes of memory that a device has in all; of the processor's, what this process may use at most."""
    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[1]
    sizes = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    for limit in _LIMITS:
        with contextlib.suppress(OSError, ValueError):  # not there, or "max"
            sizes.append(int(Path(limit).read_text()))
    return min(sizes)


def refuse_beyond_memory(subject: str, estimate: float, available: int, remedy: str) -> None:
    """Raise ConfigError if something would need more than the available bytes; the message contains the estimate."""
    if estimate > available:
        required, present = readable_size(estimate), readable_size(available)
        raise ConfigError(f"{subject} would need at least {required} of memory, of {present} here; {remedy}")

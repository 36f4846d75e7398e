"""How much memory there is; batches that it does not suffice for: cut in halves until it does, nothing left out."""

import contextlib
import logging
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeVar

import torch

from dplm2.core.errors import DPLM2Error

_log = logging.getLogger(__name__)
_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")  # of a container
_OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")
Result = TypeVar("Result")


def split_on_out_of_memory(
    batches: Iterable[list[int]],
    work: Callable[[list[int]], Result],
    length_of: Callable[[int], int],
    name_of: Callable[[int], str],
    what: str,
) -> Iterator[tuple[list[int], Result]]:
    """Work on batches of numbered things one after another; if memory runs out, on the halves of the batch.

    Parameters
    ----------
    batches
        The numbers of the things in each batch.
    work
        What is done to a batch.
    length_of, name_of
        Residues and name of a thing, for messages.
    what
        What a thing is, for messages.

    Yields
    ------
    tuple
        Each batch, or piece of one, that was worked on, and what came of it. Every thing is in exactly one of them.

    Raises
    ------
    DPLM2Error
        If memory does not suffice for a single thing; the message names it.
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
            # Only here is the error gone, and with it what it held in memory.
            if torch.cuda.is_available():
                torch.cuda.empty_cache()


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error says that memory ran out, of the processor or of a GPU."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return any(text in str(error).lower() for text in _OUT_OF_MEMORY)


def _halves(batch: list[int], longest: int, name_of: Callable[[int], str], what: str) -> list[list[int]]:
    if len(batch) == 1:
        raise DPLM2Error(f"{name_of(batch[0])}: memory does not suffice for one {what} of {longest} residues")
    middle = (len(batch) + 1) // 2
    _log.warning("out of memory with %d %ss of up to %d residues: going on with %d", len(batch), what, longest, middle)
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

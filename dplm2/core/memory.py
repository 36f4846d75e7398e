"""Batches that memory does not suffice for: cut in halves until it does, with nothing left out."""

import logging
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import torch

from dplm2.core.errors import DPLM2Error

_log = logging.getLogger(__name__)
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

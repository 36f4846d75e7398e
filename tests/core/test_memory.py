"""Batches that exceed the memory: messages as torch and its libraries word them."""

import pytest

from dplm2.core.errors import DPLM2Error
from dplm2.core.memory import split_on_out_of_memory

# The first two were recorded with torch 2.13 and a limit of the address space.
MESSAGES = (
    "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate 8",
    "could not create a primitive",
    "CUDA out of memory. Tried to allocate 2.00 GiB",
)


def split(error, most):
    """Lengths of the batches that were done, where longer ones raise an error."""

    def work(batch):
        if len(batch) > most:
            raise error
        return len(batch)

    done = split_on_out_of_memory([list(range(5))], work, lambda item: 9, lambda item: f"p{item}", "chain")
    return [(batch, result) for batch, result in done]


@pytest.mark.parametrize("message", MESSAGES)
def test_batches_are_halved_until_they_fit(message):
    assert split(RuntimeError(message), 2) == [([0, 1], 2), ([2], 1), ([3, 4], 2)]
    with pytest.raises(DPLM2Error, match="p0: not enough memory for one chain of 9 residues"):
        split(RuntimeError(message), 0)


def test_other_errors_are_not_hidden():
    with pytest.raises(RuntimeError, match="shapes"):
        split(RuntimeError("shapes cannot be multiplied"), 2)

"""Activation checkpointing: activations inside a block are recomputed in the backward pass."""

import functools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import nn
from torch.utils.checkpoint import checkpoint


@contextmanager
def enabled(blocks: Sequence[nn.Module]) -> Iterator[None]:
    """Within this context each block keeps only its inputs. Names of weights do not change.

    Dropout draws the same numbers both times, so gradients do not change.
    """
    for block in blocks:
        block.forward = functools.partial(checkpoint, block.forward, use_reentrant=False)
    try:
        yield
    finally:
        for block in blocks:
            del block.forward

"""What the training loop asks of a thing to train."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn


class Trainable(Protocol):
    """A network with its data and its loss.

    A task may also have any of these:

    ``begin_step(step: int)``
        Called before each update with its number, counted from 0: for schedules inside of the loss. Whatever it sets
        must be a function of the step alone, since a resumed run calls it only for the steps that remain.
    ``describe(batch) -> Mapping[str, str]``
        Called once before the first step with one batch, for the lines printed there: a decoded example of a noised
        input, the attention kernel (key ``attention``), whatever helps to see that the right thing is trained.
    ``packed: bool``
        True if ``collate`` packs chains without padding: the token budget then bounds the sum of their costs.

    Attributes
    ----------
    module
        ``forward(batch)`` gives the loss (a scalar, a mean over what the batch scores) and a mapping of scalar metrics,
        each a mean as well; a metric that a batch says nothing of is NaN or left out. Weights that do not require a
        gradient when training begins are frozen: neither optimised nor saved in the state.
    ids
        Name of each chain, for messages.
    costs
        What the network sees of each chain, in tokens (cls and eos and both tracks counted, padding not).
    clusters
        Cluster of each chain, None where a chain stands alone; None altogether if there are no clusters.
    """

    module: nn.Module
    ids: Sequence[str]
    costs: Sequence[int]
    clusters: Sequence[str | None] | None

    def collate(self, indices: list[int], generator: torch.Generator) -> dict[str, Tensor]:
        """One batch from these chains; all noise and cropping is drawn from ``generator``."""

    def validate(self, module: nn.Module) -> Mapping[str, float]:
        """Figures on held-out chains; empty if there are none.

        ``module`` is in evaluation mode without gradients. torch's random numbers are seeded alike before each call,
        so that figures of different steps can be compared. With several processes each one computes all of it.
        """


def optional(task: Trainable, name: str) -> Any:
    """The optional part ``name`` of a task, or None."""
    return getattr(task, name, None)

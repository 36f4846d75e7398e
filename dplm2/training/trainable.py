"""The interface between the training loop and the trained networks."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn


class Trainable(Protocol):
    """A network with its data and its loss.

    Optional members:

    ``begin_step(step: int)``
        Called before each update with its number, counted from 0: for schedules inside the loss. Its effect must be a
        function of the step alone, since a resumed run calls it only for the remaining steps.
    ``describe(batch) -> Mapping[str, str]``
        Called once before the first step with one batch, for the printed summary: a decoded example of a noised input,
        how attention is computed, or other checks of the setup.
    ``packed: bool``
        True if ``collate`` packs chains without padding: the token budget then bounds the sum of their costs.

    Attributes
    ----------
    module
        ``forward(batch)`` returns the loss (a scalar mean over the scored positions of the batch) and a mapping of
        scalar metrics, also means; a metric without a value for the batch is NaN or omitted. Weights that do not
        require a gradient when training starts are frozen: neither optimised nor saved in the state.
    ids
        Name of each chain, for messages.
    costs
        Number of tokens of each chain in the network (including cls, eos and both tracks, without padding).
    clusters
        Cluster of each chain, or None for an unclustered chain; None if there are no clusters.
    """

    module: nn.Module
    ids: Sequence[str]
    costs: Sequence[int]
    clusters: Sequence[str | None] | None

    def collate(self, indices: list[int], generator: torch.Generator) -> dict[str, Tensor]:
        """One batch of these chains; all noise and cropping is drawn from ``generator``."""

    def validate(self, module: nn.Module) -> Mapping[str, float]:
        """Metrics on held-out chains; empty if there are none.

        ``module`` is in evaluation mode without gradients. torch's random numbers are seeded equally before each call,
        so that the metrics of different steps are comparable. With several processes each one computes all of it.
        """


def optional(task: Trainable, name: str) -> Any:
    """The optional part ``name`` of a task, or None."""
    return getattr(task, name, None)

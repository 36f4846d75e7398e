"""Batches by token budget from buckets of similar length, in an order that depends only on seed and epoch.

The chains of an epoch are shuffled, sorted into buckets of similar cost, divided into batches under the budget, and the
batches are shuffled. The batches of all epochs form one endless stream; processes and accumulated gradients take from
it in turn, so that for any number of them every chain occurs exactly once per epoch.

A set of many millions is processed in windows of about a million chains, made of pages of neighbouring rows: memory is
limited to one window, and a task that reads its chains from files reads them page by page.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from dplm2.core.errors import DPLM2Error
from dplm2.training import randomness

BUCKET_RATIO = 1.1  # longest over shortest chain of a bucket: limits the padding of a full batch to about 10 %
PAGE = 8192  # neighbouring rows that are kept together in shuffling
PAGES_PER_WINDOW = 128


@dataclass(frozen=True)
class Position:
    """A position in the stream: the window, and the number of its batches before the position."""

    window: int = 0
    offset: int = 0


@dataclass(frozen=True)
class MicroBatch:
    """The work of one process between two summations of gradients.

    Attributes
    ----------
    number
        Its number in the whole training, from which its random seed is derived.
    indices
        The chains.
    epoch
        Epochs completed before the stream's position ``after``, with the fraction of the current one.
    tokens
        Number of tokens in this turn's micro-batches of all processes, without padding.
    after
        Position of the stream after the micro-batches of all processes.
    """

    number: int
    indices: list[int]
    epoch: float
    tokens: int
    after: Position


class Batches:
    """The endless stream of batches.

    Parameters
    ----------
    costs
        Number of tokens of each chain in the network.
    token_budget
        Maximum number of tokens of a batch, including padding: longest chain times number of chains (their sum if
        ``packed``).
    max_batch_size
        Maximum number of chains of a batch.
    seed
        Seed of the order.
    clusters
        If given, an epoch is one random chain of each cluster; a chain whose cluster is None forms its own cluster.
    packed
        Whether batches contain no padding.

    Raises
    ------
    DPLM2Error
        If there is no chain, or a cost is not positive.
    """

    def __init__(
        self,
        costs: Sequence[int],
        *,
        token_budget: int,
        max_batch_size: int | None,
        seed: int,
        clusters: Sequence[str | None] | None = None,
        packed: bool = False,
    ) -> None:
        self.costs = np.asarray(costs, dtype=np.int32)
        if self.costs.size == 0:
            raise DPLM2Error("there is no chain to train on; check the filters and splits of the datasets")
        if self.costs.min() < 1:
            raise DPLM2Error(f"chain number {int(self.costs.argmin())} is empty and cannot be used for training")
        self.token_budget, self.packed, self.seed = token_budget, packed, seed
        self.max_batch_size = max_batch_size or self.costs.size
        self._members = None if clusters is None else _members(clusters)
        self.units = self.costs.size if self._members is None else len(self._members[1]) - 1
        self.windows = -(-self.units // (PAGE * PAGES_PER_WINDOW))
        # Two windows: processes and prefetching look beyond the end of one.
        self.window = lru_cache(maxsize=2)(self._window)

    def _window(self, number: int) -> list[np.ndarray]:
        """The batches of a window, each an array of chains; its epoch is ``number // windows``."""
        epoch, part = divmod(number, self.windows)
        pages = np.random.default_rng(randomness.derive(self.seed, randomness.EPOCH, epoch)).permutation(
            -(-self.units // PAGE)
        )[part * PAGES_PER_WINDOW : (part + 1) * PAGES_PER_WINDOW]
        units = np.concatenate([np.arange(page * PAGE, min((page + 1) * PAGE, self.units)) for page in pages])
        random = np.random.default_rng(randomness.derive(self.seed, randomness.WINDOW, number))
        random.shuffle(units)
        chains = units if self._members is None else self._choose(units, random)
        # The bucket boundaries move from epoch to epoch, so that no two lengths are always separated.
        bucket = np.floor(np.log(self.costs[chains]) / np.log(BUCKET_RATIO) + random.random())
        batches = self._cut(chains[np.argsort(-bucket, kind="stable")])
        return [batches[i] for i in random.permutation(len(batches))]

    def _choose(self, clusters: np.ndarray, random: np.random.Generator) -> np.ndarray:
        order, starts = self._members
        sizes = starts[clusters + 1] - starts[clusters]
        return order[starts[clusters] + random.integers(0, sizes)]

    def _cut(self, chains: np.ndarray) -> list[np.ndarray]:
        """Divide chains, in this order, into the largest batches within the budget."""
        borders, start, longest, total = [], 0, 0, 0
        for place, cost in enumerate(self.costs[chains].tolist()):
            longest, total, count = max(longest, cost), total + cost, place - start + 1
            seen = total if self.packed else longest * count
            if count > 1 and (seen > self.token_budget or count > self.max_batch_size):
                borders.append(place)
                start, longest, total = place, cost, cost
        return np.split(chains, borders)

    def seen(self, batch: np.ndarray) -> int:
        """Tokens of a batch, including padding."""
        costs = self.costs[batch]
        return int(costs.sum() if self.packed else costs.max() * len(costs))

    def stream(self, position: Position, number: int, rank: int = 0, processes: int = 1) -> Iterator[MicroBatch]:
        """Yield the micro-batches of one process from ``position`` on; ``number`` is that of the first."""
        source = self._walk(position)
        while True:
            turn = [next(source) for _ in range(processes)]
            after, epoch = turn[-1][1:]
            yield MicroBatch(
                number=number + rank,
                indices=turn[rank][0].tolist(),
                epoch=epoch,
                tokens=int(sum(self.costs[batch].sum() for batch, *_ in turn)),
                after=after,
            )
            number += processes

    def _walk(self, position: Position) -> Iterator[tuple[np.ndarray, Position, float]]:
        window, offset = position.window, position.offset
        while True:
            batches = self.window(window)
            for place in range(offset, len(batches)):
                epoch = (window + (place + 1) / len(batches)) / self.windows
                yield batches[place], Position(window, place + 1), epoch
            window, offset = window + 1, 0


def _members(clusters: Sequence[str | None]) -> tuple[np.ndarray, np.ndarray]:
    """Chains ordered by cluster, and the start of each cluster (one more entry than clusters)."""
    names = [f"={name}" if name is not None else f"-{chain}" for chain, name in enumerate(clusters)]
    _, cluster_of_chain = np.unique(np.asarray(names), return_inverse=True)
    order = np.argsort(cluster_of_chain, kind="stable")
    starts = np.concatenate([[0], np.cumsum(np.bincount(cluster_of_chain))])
    return order, starts

"""Preparation of batches, in this process or ahead in worker processes."""

import signal
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from dplm2.training import randomness
from dplm2.training.batches import MicroBatch
from dplm2.training.signals import STOP_SIGNALS
from dplm2.training.trainable import Trainable


class _Collated(Dataset):
    """Maps a micro-batch to its batch; the noise depends only on its number, not on the worker."""

    def __init__(self, task: Trainable, seed: int) -> None:
        self.task, self.seed = task, seed

    def __getitem__(self, micro: MicroBatch) -> tuple[MicroBatch, dict[str, Tensor]]:
        return micro, collate(self.task, self.seed, micro)


def collate(task: Trainable, seed: int, micro: MicroBatch) -> dict[str, Tensor]:
    """The batch of a micro-batch."""
    return task.collate(micro.indices, randomness.generator(seed, randomness.NOISE, micro.number))


def load(
    stream: Iterator[MicroBatch], task: Trainable, seed: int, *, workers: int, pin: bool
) -> Iterator[tuple[MicroBatch, dict[str, Tensor]]]:
    """Yield each micro-batch of ``stream`` with its batch, prepared by ``workers`` processes, or this one if 0."""
    if not workers:
        return ((micro, collate(task, seed, micro)) for micro in stream)
    loader = DataLoader(
        _Collated(task, seed),
        sampler=stream,
        batch_size=None,
        num_workers=workers,
        pin_memory=pin,
        worker_init_fn=_ignore_stop_signals,
        generator=torch.Generator(),
    )
    return iter(loader)


def _ignore_stop_signals(_: int) -> None:
    # A signal to the whole job must not end the workers before the current step is finished.
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)

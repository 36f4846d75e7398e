"""Entry point of the training loop of structure tokenizer and language model."""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from dplm2.core.errors import ConfigError, DPLM2Error
from dplm2.settings.training import TrainingSettings
from dplm2.training import checkpointing
from dplm2.training.devices import Machine, blocks
from dplm2.training.run import FitResult, Run
from dplm2.training.signals import StopRequests
from dplm2.training.state import StateFolder
from dplm2.training.trainable import Trainable

__all__ = ["FitResult", "fit"]


def fit(
    task: Trainable,
    settings: TrainingSettings,
    *,
    seed: int,
    state: Path,
    fingerprint: str,
    metrics: Path,
    device: str = "auto",
    label: str,
    made_from: Mapping[str, Any] | None = None,
) -> FitResult:
    """Train ``task.module`` in place, resuming from saved state if it exists; afterwards it is in evaluation mode.

    With ``ema_decay`` the module then has the averaged weights. The caller saves them, with several processes only if
    ``FitResult.main``.

    Parameters
    ----------
    task
        Network, data and loss.
    settings
        The section ``training``.
    seed
        Seed of every random choice.
    state
        Folder for resumable state; this training is saved in ``state / fingerprint``.
    fingerprint
        Fingerprint of everything that decides the result: settings, inputs, seed. State with another fingerprint is
        never used.
    metrics
        Path of ``metrics.csv`` in the results; updated at every checkpoint.
    device
        ``auto``, ``cpu``, ``cuda`` or ``mps``.
    label
        Name of the training, for messages.
    made_from
        What the fingerprint names; saved with the state for `dplm2 status` and `dplm2 clean`.

    Raises
    ------
    Preempted
        If stopped by SIGTERM, SIGUSR1 or the time limit; the state is saved.
    ConfigError
        If a setting is impossible or has no effect.
    DPLM2Error
        If the loss is not finite (the chains are named), the state is in use, the disk is full, or a process died.
    """
    _check_task(task, settings)
    machine = Machine(settings, device)
    folder = StateFolder(state, fingerprint, label, made_from)
    with contextlib.ExitStack() as stack:
        stop = stack.enter_context(StopRequests())
        stack.enter_context(_other_processes(machine, label))
        machine.from_main(lambda: _enter(stack, folder.locked(lambda: stop.received is not None)))
        if settings.activation_checkpointing:
            stack.enter_context(checkpointing.enabled(blocks(task.module)))
        return Run(task, settings, seed, machine, folder, Path(metrics), stop).train()


def _enter(stack: contextlib.ExitStack, context: contextlib.AbstractContextManager) -> None:
    stack.enter_context(context)


def _check_task(task: Trainable, settings: TrainingSettings) -> None:
    if not len(task.ids) == len(task.costs) or (task.clusters is not None and len(task.clusters) != len(task.ids)):
        raise ValueError("the ids, costs and clusters of a task differ in length")
    if settings.sample_by == "cluster" and task.clusters is None:
        raise ConfigError("training.sample_by: cluster needs clusters, which these data lack; use chain")
    if settings.activation_checkpointing and not blocks(task.module):
        raise ConfigError("training.activation_checkpointing: this network has no repeated blocks; omit it")


@contextlib.contextmanager
def _other_processes(machine: Machine, label: str) -> Iterator[None]:
    """Report plainly that another process has died, instead of the network library's connection error."""
    try:
        yield
    except RuntimeError as error:
        signs = ("Connection closed", "Connection reset", "connection", "gloo", "Gloo", "NCCL")
        if machine.processes == 1 or not any(sign in str(error) for sign in signs):
            raise
        raise DPLM2Error(
            f"{label}: process {machine.rank} lost the connection: another process has ended, see its output. "
            "Run again to resume from the latest checkpoint"
        ) from error

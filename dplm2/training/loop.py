"""The training loop, one for structure tokenizer and language model: where it is entered."""

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
from dplm2.training.task import Task

__all__ = ["FitResult", "fit"]


def fit(
    task: Task,
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
    """Train ``task.module`` in place, from saved state if there is any; afterwards it is in evaluation mode.

    With ``ema_decay`` the module then has the averaged weights. Writing them out is the caller's, and with several
    processes only ``FitResult.main``'s.

    Parameters
    ----------
    task
        Network, data and loss.
    settings
        The section ``training``.
    seed
        Seed of every random choice.
    state
        Folder for resumable state; what this training saves lies in ``state / fingerprint``.
    fingerprint
        Names everything that decides the result: what decides of the settings, inputs, seed. State
        of another fingerprint is never used.
    metrics
        Where ``metrics.csv`` is to appear; refreshed at every checkpoint.
    device
        ``auto``, ``cpu``, ``cuda`` or ``mps``.
    label
        What is trained, for messages.
    made_from
        What the fingerprint names; kept beside the state for `dplm2 status` and `dplm2 clean`.

    Raises
    ------
    Preempted
        If told to stop by SIGTERM, SIGUSR1 or the time limit; the state is saved.
    ConfigError
        If a setting is impossible or has no effect.
    DPLM2Error
        If the loss is not finite (names the chains), the state is in use, there is no room, or a process died.
    """
    _check_task(task, settings)
    machine = Machine(settings, device)
    folder = StateFolder(state, fingerprint, label, made_from)
    with contextlib.ExitStack() as stack:
        stop = stack.enter_context(StopRequests())
        stack.enter_context(_other_processes(machine, label))
        machine.from_main(lambda: _enter(stack, folder.locked()))
        if settings.activation_checkpointing:
            stack.enter_context(checkpointing.enabled(blocks(task.module)))
        return Run(task, settings, seed, machine, folder, Path(metrics), stop).train()


def _enter(stack: contextlib.ExitStack, context: contextlib.AbstractContextManager) -> None:
    stack.enter_context(context)


def _check_task(task: Task, settings: TrainingSettings) -> None:
    if not len(task.ids) == len(task.costs) or (task.clusters is not None and len(task.clusters) != len(task.ids)):
        raise ValueError("a task's ids, costs and clusters are of different lengths")
    if settings.sample_by == "cluster" and task.clusters is None:
        raise ConfigError("training.sample_by: cluster needs clusters, and these data have none; use chain")
    if settings.activation_checkpointing and not blocks(task.module):
        raise ConfigError("training.activation_checkpointing: this network has no repeated blocks; leave it out")


@contextlib.contextmanager
def _other_processes(machine: Machine, label: str) -> Iterator[None]:
    """Say plainly that another process has died, instead of what the network library says of its connection."""
    try:
        yield
    except RuntimeError as error:
        signs = ("Connection closed", "Connection reset", "connection", "gloo", "Gloo", "NCCL")
        if machine.processes == 1 or not any(sign in str(error) for sign in signs):
            raise
        raise DPLM2Error(
            f"{label}: process {machine.rank} lost the others: one of them is gone, and what it wrote says why. "
            "Run again to go on from the newest checkpoint"
        ) from error

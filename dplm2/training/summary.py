"""Summary of a training, printed before the first step, with a trial of the largest batch."""

import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from dplm2.core.artifacts import peak_memory_bytes
from dplm2.core.errors import DPLM2Error
from dplm2.core.memory import is_out_of_memory
from dplm2.settings.training import TrainingSettings
from dplm2.training import randomness
from dplm2.training.batches import Batches
from dplm2.training.devices import Machine
from dplm2.training.log import duration
from dplm2.training.optimizer import trained_parameters
from dplm2.training.trainable import Trainable, optional

GIGABYTE = 1e9


@dataclass(frozen=True)
class Trial:
    """Measurements of one forward and backward pass of the largest batch.

    Attributes
    ----------
    tokens
        Tokens in it, including padding.
    seconds
        Duration; a first pass is slower than later ones.
    memory
        Peak memory in bytes: on a GPU torch's allocation, else the process's resident set.
    without_gradient
        Names of the trained parameters without a gradient.
    """

    tokens: int
    seconds: float
    memory: int
    without_gradient: list[str]


def run_trial(
    task: Trainable, module: nn.Module, batches: Batches, batch: dict[str, Tensor], machine: Machine, *, compiled: bool
) -> Trial:
    """Run the largest batch forward and backward without changing weights, gradients or buffers.

    Raises
    ------
    DPLM2Error
        If there is not enough memory.
    """
    buffers = [(buffer, buffer.detach().clone()) for buffer in task.module.buffers()]
    largest = largest_batch(batches)
    batch = machine.to_device(batch)
    on_gpu = machine.device.type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(machine.device)
    randomness.seed_globally(machine.device, randomness.derive(batches.seed, randomness.TRIAL))
    # The first pass of a compiled network compiles it; the second is timed.
    for _ in range(2 if compiled else 1):
        for parameter in task.module.parameters():
            parameter.grad = None
        began = time.perf_counter()
        try:
            with machine.autocast():
                loss, _ = module(batch)
            loss.backward()
            float(loss.detach())
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            raise DPLM2Error(
                f"a batch of {batches.seen(largest)} tokens ({len(largest)} chains) does not fit into memory: lower "
                "training.token_budget (and raise accumulate instead), or set activation_checkpointing or bf16"
            ) from error
        seconds = time.perf_counter() - began
    memory = torch.cuda.max_memory_allocated(machine.device) if on_gpu else peak_memory_bytes()
    without = [name for name, parameter in trained_parameters(task.module).items() if parameter.grad is None]
    for parameter in task.module.parameters():
        parameter.grad = None
    with torch.no_grad():
        for buffer, former in buffers:
            buffer.copy_(former)
    return Trial(batches.seen(largest), seconds, memory, without)


def largest_batch(batches: Batches) -> np.ndarray:
    """The largest batch, including padding, at the beginning of the first epoch."""
    return max(batches.window(0), key=batches.seen)


def lines(
    task: Trainable,
    settings: TrainingSettings,
    batches: Batches,
    batch: dict[str, Tensor],
    machine: Machine,
    trial: Trial,
) -> Iterator[str]:
    """Yield the lines of the summary."""
    with machine.autocast():
        described = dict((optional(task, "describe") or (lambda _: {}))(batch))
    total = sum(p.numel() for p in task.module.parameters())
    trained = sum(p.numel() for p in trained_parameters(task.module).values())
    yield f"parameters: {total:,} in total, {trained:,} trained"
    yield from _about_batches(settings, batches, machine)
    per_step = trial.seconds * machine.share(settings.accumulate)
    yield (
        f"estimate from the largest batch ({trial.tokens:,} tokens): {trial.memory / GIGABYTE:.2f} GB of "
        f"{'GPU memory' if machine.device.type == 'cuda' else 'memory'}, at most {per_step:.2g} s per step, "
        f"{duration(per_step * settings.steps)} in total"
    )
    sharing = (
        "" if machine.processes == 1 else f", {machine.processes} processes ({'fsdp' if machine.sharded else 'ddp'})"
    )
    yield f"device: {_device_name(machine.device)}{sharing}; precision: {settings.precision}"
    for name, text in described.items():
        yield f"{name}: {text}"
    if trial.without_gradient:
        names = ", ".join(trial.without_gradient[:5]) + (", ..." if len(trial.without_gradient) > 5 else "")
        yield f"note: {len(trial.without_gradient)} trained parameters have no gradient from that batch: {names}"


def _about_batches(settings: TrainingSettings, batches: Batches, machine: Machine) -> Iterator[str]:
    window = batches.window(0)
    tokens = np.array([batches.costs[batch].sum() for batch in window])
    seen = np.array([batches.seen(batch) for batch in window])
    kind = "chains" if settings.sample_by == "chain" else "clusters"
    epoch = len(window) * batches.windows
    per_step = settings.accumulate
    yield (
        f"data: {batches.units:,} {kind}, about {epoch:,} batches per epoch, "
        f"{settings.steps * per_step / epoch:.3g} epochs in total"
    )
    each = f", {per_step} batches per step" if per_step > 1 else ""
    yield (
        f"tokens per batch: {tokens.mean():,.0f} of {settings.token_budget:,} on average, "
        f"{100 * (1 - tokens.sum() / seen.sum()):.1f} % padding{each}"
    )
    alone = int((seen > settings.token_budget).sum())
    if alone:
        yield f"note: {alone} of these are single chains above token_budget; the longest has {seen.max():,} tokens"


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return f"cpu ({torch.get_num_threads()} threads)" if device.type == "cpu" else str(device)

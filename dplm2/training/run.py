"""A training run, step by step.

Every random choice follows from the run's seed and its position in the training, so that a run that was interrupted at
any point gives the same weights as an uninterrupted one (bit for bit on a CPU).
"""

import contextlib
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

from dplm2.core.artifacts import write_json
from dplm2.core.errors import DPLM2Error, Preempted
from dplm2.settings.training import TrainingSettings
from dplm2.training import randomness, snapshot, summary
from dplm2.training.batches import Batches, MicroBatch, Position
from dplm2.training.devices import Machine, compiled
from dplm2.training.loader import load
from dplm2.training.log import (
    FIRST_COLUMNS,
    LAST_COLUMNS,
    VALIDATION,
    Means,
    MetricLog,
    OtherLoggers,
    Progress,
    mute_closed_outputs,
    say,
)
from dplm2.training.optimizer import (
    MovingAverage,
    allocate_moments,
    learning_rate,
    make_optimizer,
    trained_parameters,
)
from dplm2.training.signals import StopRequests
from dplm2.training.state import StateFolder
from dplm2.training.trainable import Trainable, optional

# On a GPU the host runs ahead and reading a loss makes it wait, so losses are read only this often.
STEPS_BETWEEN_CHECKS_ON_GPU = 25
NO_STOP, INTERRUPT, TIME_LIMIT, SIGNAL = range(4)
NAMED_CHAINS = 40  # in a message; a file in the state folder lists all
NOT_FINITE = "not_finite.json"


@dataclass(frozen=True)
class FitResult:
    """Result of a training.

    Attributes
    ----------
    steps
        Total number of updates.
    epochs
        Number of passes over the data.
    tokens
        Total number of tokens processed, without padding.
    seconds
        Time spent in the loop, including earlier runs of the same training.
    resumed_from
        Updates done by an earlier run; 0 if there was none.
    figures
        The latest value of each column of ``metrics.csv``; empty except in the main process.
    device
        For example ``"cpu"`` or ``"cuda:0"``.
    main
        Whether this process exports the model; with several processes, the others are finished.
    """

    steps: int
    epochs: float
    tokens: int
    seconds: float
    resumed_from: int
    figures: dict[str, float]
    device: str
    main: bool


@dataclass
class Pending:
    """Metrics of one step, possibly still being computed on the device."""

    step: int
    micro_batches: list[MicroBatch]
    names: list[tuple[str, ...]]
    values: list[Tensor]
    norm: Tensor


class Run:
    """One training, from its current state to its end."""

    def __init__(
        self,
        task: Trainable,
        settings: TrainingSettings,
        seed: int,
        machine: Machine,
        folder: StateFolder,
        metrics: Path,
        stop: StopRequests,
    ) -> None:
        self.task, self.settings, self.seed, self.stop = task, settings, seed, stop
        self.machine, self.folder, self.label = machine, folder, folder.label
        self.share = machine.share(settings.accumulate)
        self.batches = Batches(
            task.costs,
            token_budget=settings.token_budget,
            max_batch_size=settings.max_batch_size,
            seed=seed,
            clusters=task.clusters if settings.sample_by == "cluster" else None,
            packed=bool(optional(task, "packed")),
        )
        task.module.to(machine.device)
        machine.agree(task.module)
        if machine.sharded:
            machine.shard(task.module)
        self.trained = trained_parameters(task.module)
        self.optimizer = make_optimizer(task.module, settings)
        self.average = MovingAverage(self.trained, settings.ema_decay) if settings.ema_decay else None
        self.step, self.number, self.tokens, self.earlier_seconds, self.epoch = 0, 0, 0, 0.0, 0.0
        self.position, self.means = Position(), Means()
        self.pending: list[Pending] = []
        self.shown: dict[str, float] = {}
        self._restore()
        allocate_moments(self.optimizer)
        self.resumed_from = self.saved_step = self.step
        self.log = self.others = None
        if machine.main:
            self.log = MetricLog(folder.folder / "metrics.csv", metrics, self.step)
        self.began = self.saved_at = time.monotonic()

    def train(self) -> FitResult:
        """Do the remaining steps."""
        if self.step < self.settings.steps:
            self._prepare()
            with contextlib.closing(self.others) if self.others is not None else contextlib.nullcontext():
                self._steps()
        if self.average is not None:
            self.average.swap()
        self.machine.unshard()
        self.task.module.eval()
        self._publish()
        return FitResult(
            steps=self.step,
            epochs=self.epoch,
            tokens=self.tokens,
            seconds=self.seconds,
            resumed_from=self.resumed_from,
            figures=self.log.last() if self.log is not None else {},
            device=str(self.machine.device),
            main=self.machine.main,
        )

    @property
    def seconds(self) -> float:
        """Time in the loop so far, including earlier runs."""
        return self.earlier_seconds + time.monotonic() - self.began

    def _prepare(self) -> None:
        """Compile and wrap the network, try the largest batch, and print a summary."""
        task, settings, machine = self.task, self.settings, self.machine
        task.module.train()
        self._begin_step()
        module = compiled(task.module, machine.device) if settings.compile else task.module
        # Sharding must precede the trial; otherwise the trial determines the wrapper.
        if machine.sharded:
            machine.wrap(module, unused_parameters=False)
        indices = summary.largest_batch(self.batches).tolist()
        batch = task.collate(indices, randomness.generator(self.seed, randomness.TRIAL))
        trial = summary.run_trial(task, module, self.batches, batch, machine, compiled=settings.compile)
        self.module = machine.wrap(module, unused_parameters=bool(machine.largest([len(trial.without_gradient)])[0]))
        if machine.main:
            self.others = OtherLoggers(
                settings.loggers, self.folder.folder, self.label, self.folder.fingerprint, self.resumed_from
            )
            start = f"resumes after step {self.step} of" if self.step else "starts:"
            say(f"{self.label}: {start} {settings.steps} steps; state in {self.folder.folder}")
            for line in summary.lines(task, settings, self.batches, batch, machine, trial):
                say(f"  {line}")

    def _steps(self) -> None:
        settings, machine = self.settings, self.machine
        stream = self.batches.stream(self.position, self.number, machine.rank, machine.processes)
        remaining = (settings.steps - self.step) * self.share
        loader = load(
            islice(stream, remaining),
            self.task,
            self.seed,
            workers=settings.workers,
            pin=machine.device.type == "cuda",
        )
        progress = Progress(self.label, self.step, settings.steps, quiet=not machine.main)
        self.began = self.saved_at = time.monotonic()
        with contextlib.closing(progress):
            if machine.largest([len(self.means.sums)])[0]:
                self._write_row_if_due()
            while self.step < settings.steps:
                before = self.tokens
                stop, save_due = self._update(loader)
                # First, so that nothing delays a checkpoint after a request to stop.
                self._after_step(stop, save_due)
                progress.advance(self.step, self.tokens - before, self.shown)

    def _update(self, loader: Iterator[tuple[MicroBatch, dict[str, Tensor]]]) -> tuple[int, bool]:
        """Update the weights once; returns whether to stop, and whether a checkpoint is due by time."""
        settings, machine = self.settings, self.machine
        self._begin_step()
        rate = learning_rate(self.step, settings)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        entry = Pending(self.step, [], [], [], torch.empty(0))
        for turn in range(self.share):
            micro, batch = next(loader)
            randomness.seed_globally(machine.device, randomness.derive(self.seed, randomness.FORWARD, micro.number))
            with machine.gradients(last=turn == self.share - 1):
                with machine.autocast():
                    loss, figures = self.module(machine.to_device(batch))
                machine.fabric.backward(loss / self.share)
            self._note(entry, micro, loss, figures)
        entry.norm = self._clip()
        self.pending.append(entry)
        at_once = machine.device.type == "cpu"
        bad = self._look() if at_once or self._looking_is_due() else None
        failed, stop, save_due = machine.largest([int(bad is not None), self._stop_code(), int(self._save_is_due())])
        if failed:
            self._refuse(bad)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.average is not None:
            self.average.update(self.step)
        self.step += 1
        return stop, bool(save_due)

    def _begin_step(self) -> None:
        begin = optional(self.task, "begin_step")
        if begin is not None:
            begin(self.step)

    def _note(self, entry: Pending, micro: MicroBatch, loss: Tensor, figures: dict[str, Tensor]) -> None:
        if clash := set(figures) & {*FIRST_COLUMNS, *LAST_COLUMNS}:
            raise ValueError(f"metrics of a task must not be named {', '.join(sorted(clash))}: the loop uses these")
        loss = loss.detach().float()
        others = [
            torch.as_tensor(value, dtype=torch.float32, device=loss.device).detach() for value in figures.values()
        ]
        entry.micro_batches.append(micro)
        entry.names.append(("loss", *figures))
        entry.values.append(torch.stack([loss, *others]))
        self.tokens += micro.tokens
        self.position, self.epoch = micro.after, micro.epoch
        self.number += self.machine.processes

    def _clip(self) -> Tensor:
        """Norm of the gradient before clipping."""
        limit = math.inf if self.settings.gradient_clip is None else self.settings.gradient_clip
        norm = torch.nn.utils.clip_grad_norm_(list(self.trained.values()), limit)
        return norm.full_tensor() if hasattr(norm, "full_tensor") else norm

    def _looking_is_due(self) -> bool:
        after = self.step + 1
        return len(self.pending) >= STEPS_BETWEEN_CHECKS_ON_GPU or self._row_is_due(after)

    def _look(self) -> dict | None:
        """Add the metrics of the pending steps; returns a description of the first non-finite one."""
        bad = None
        for entry in self.pending:
            for micro, names, values in zip(entry.micro_batches, entry.names, entry.values, strict=True):
                figures = dict(zip(names, values.tolist(), strict=True))
                self.means.add(figures)
                self.shown = {"loss": figures["loss"]}
                if bad is None and not math.isfinite(figures["loss"]):
                    bad = {"of": "loss", "value": figures["loss"], "step": entry.step, "chains": micro.indices}
            norm = float(entry.norm)
            self.means.add({"gradient_norm": norm})
            if bad is None and not math.isfinite(norm):
                chains = [chain for micro in entry.micro_batches for chain in micro.indices]
                bad = {"of": "norm of the gradient", "value": norm, "step": entry.step, "chains": chains}
        self.pending.clear()
        return bad

    def _refuse(self, bad: dict | None) -> None:
        """Stop because of a non-finite loss, naming the chains; checkpoints are unchanged."""
        found = [part for part in self.machine.gather(bad) if part is not None]
        # A gradient is shared by all processes: if a loss identifies the process, only its chains are listed.
        found = [part for part in found if part["of"] == "loss"] or found
        what = f"the {found[0]['of']} is {found[0]['value']} at step {found[0]['step'] + 1}"
        ids = [str(self.task.ids[chain]) for part in found for chain in part["chains"]]
        if self.machine.main:
            write_json(self.folder.folder / NOT_FINITE, {"what": what, "chains": ids})
        named = ", ".join(ids[:NAMED_CHAINS])
        if len(ids) > NAMED_CHAINS:
            named += f" and {len(ids) - NAMED_CHAINS} more (all in {self.folder.folder / NOT_FINITE})"
        kept = f"checkpoint of step {self.saved_step} is kept" if self.saved_step else "there is no checkpoint"
        raise DPLM2Error(
            f"{self.label}: {what}; chains of the batch: {named}; {kept}. "
            "Check these chains, or lower learning_rate or gradient_clip"
        )

    def _stop_code(self) -> int:
        limit = self.settings.time_limit_minutes
        if self.stop.received is not None:
            return INTERRUPT if self.stop.received.name == "SIGINT" else SIGNAL
        return TIME_LIMIT if limit is not None and time.monotonic() - self.began > 60 * limit else NO_STOP

    def _save_is_due(self) -> bool:
        every = self.settings.save_every_seconds
        return self.machine.main and every is not None and time.monotonic() - self.saved_at >= every

    def _row_is_due(self, after: int) -> bool:
        return after % self.settings.log_every == 0 or self._validation_is_due(after)

    def _validation_is_due(self, after: int) -> bool:
        every = self.settings.validate_every
        return after == self.settings.steps or (every is not None and after % every == 0)

    def _after_step(self, stop: int, save_due: bool) -> None:
        """Write due rows and checkpoints; stop if requested."""
        settings = self.settings
        done = self.step == settings.steps
        if stop and not done:
            # A validation may take longer than the grace period: the next run starts with this step's row.
            self._save()
            self._leave(stop)
        self._write_row_if_due()
        by_steps = settings.save_every is not None and self.step % settings.save_every == 0
        if save_due or by_steps or done:
            self._save()

    def _write_row_if_due(self) -> None:
        if self._row_is_due(self.step):
            self._write_row(self._validate() if self._validation_is_due(self.step) else {})

    def _validate(self) -> dict[str, float]:
        module = self.task.module
        module.eval()
        averaged = self.average.in_place() if self.average is not None else contextlib.nullcontext()
        randomness.seed_globally(self.machine.device, randomness.derive(self.seed, randomness.VALIDATION))
        with averaged, torch.no_grad(), self.machine.autocast():
            figures = self.task.validate(module)
            self.machine.forget_gathered(module)
        module.train()
        return {name if name.startswith(VALIDATION) else VALIDATION + name: float(v) for name, v in figures.items()}

    def _write_row(self, validation: dict[str, float]) -> None:
        means = self._all_means()
        self.means = Means()
        if self.log is None:
            return
        figures = means.means()
        norm = figures.pop("gradient_norm")
        row = {
            "step": self.step,
            "epoch": self.epoch,
            **figures,
            "learning_rate": learning_rate(self.step - 1, self.settings),
            "gradient_norm": norm,
            "tokens": self.tokens,
            "seconds": round(self.seconds, 3),
            **validation,
        }
        with self.folder.explained("write metrics.csv"):
            self.log.add(row)
            self.others.add(row)

    def _all_means(self) -> Means:
        """The sums of all processes; only the main process uses them."""
        total = Means()
        for sums in self.machine.gather(self.means.sums):
            total.merge(Means(sums))
        return total

    def _leave(self, stop: int) -> None:
        self._publish()
        mute_closed_outputs()  # printing the message must not change the exit status
        if stop == INTERRUPT:
            raise KeyboardInterrupt
        why = "time limit reached" if stop == TIME_LIMIT else f"stopped ({self._signal_name()})"
        raise Preempted(f"{self.label}: {why}; saved at step {self.step} of {self.settings.steps}; run again to resume")

    def _signal_name(self) -> str:
        return self.stop.received.name if self.stop.received is not None else "in another process"

    def _publish(self) -> None:
        if self.log is not None:
            with self.folder.explained("write metrics.csv"):
                self.log.publish()

    def _save(self) -> None:
        """Write a checkpoint, unless this step already has one."""
        self.saved_at = time.monotonic()
        if self.step == self.saved_step:
            return
        bad = self._look()
        if self.machine.largest([int(bad is not None)])[0]:
            self._refuse(bad)
        tensors = snapshot.collect(self.task.module, self.trained, self.optimizer, self.average, keep=self.machine.main)
        progress = {
            "steps": self.settings.steps,
            "position": [self.position.window, self.position.offset],
            "micro_batches": self.number,
            "epoch": self.epoch,
            "tokens": self.tokens,
            "seconds": self.seconds,
            "means": self._all_means().sums,
        }
        self.machine.from_main(lambda: self.folder.save(self.step, tensors, progress, self.settings.keep))
        self.saved_step = self.step
        self._publish()

    def _restore(self) -> None:
        """Resume from the latest valid checkpoint, if there is one."""
        checkpoint = self.machine.from_main(lambda: self.folder.load(say))
        if checkpoint is None:
            return
        snapshot.restore(checkpoint.tensors(), self.task.module, self.trained, self.optimizer, self.average)
        progress = checkpoint.progress
        self.step, self.number = checkpoint.step, progress["micro_batches"]
        self.position, self.epoch = Position(*progress["position"]), progress["epoch"]
        self.tokens, self.earlier_seconds = progress["tokens"], progress["seconds"]
        self.means = Means(progress["means"] if self.machine.main else None)

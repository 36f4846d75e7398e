"""Resumable training state on disk: locked, atomic, checked, and free of pickle.

A folder ``<state>/<fingerprint>/`` contains one training: ``lock``, the newest checkpoints
(``step-00000500.safetensors`` with the tensors, ``step-00000500.json`` with size, SHA-256 and progress),
``latest.json`` (which is the newest) and ``metrics.csv``. A checkpoint is valid only with its JSON, which is written
last; so the latest valid checkpoint is complete whenever a process is killed.
"""

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from dplm2.core.artifacts import (
    NO_SPACE,
    OUT_OF_SPACE,
    WritingError,
    atomic_path,
    error_code,
    make_folder,
    read_json,
    sha256_of_file,
    write_json,
)
from dplm2.core.errors import DPLM2Error
from dplm2.core.layout import MADE_FROM
from dplm2.core.locks import HeldError, locked
from dplm2.training.log import say

FORMAT_VERSION = 1
LATEST = "latest.json"
# A killed process's workers hold its lock until they notice, which takes them up to five seconds.
LOCK_PATIENCE_SECONDS = 10.0
# Slurm repeats a job elsewhere if it loses a node, on which the first one may still be running. Less than gloo's
# 30 minutes, for which the other processes of a training wait.
PATIENCE_IN_A_JOB_SECONDS = 1200.0
IN_A_JOB = "SLURM_JOB_ID"  # in the environment


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose size and SHA-256 are right.

    Attributes
    ----------
    file
        The safetensors file.
    step
        Updates done.
    progress
        Other state of the loop: position in the stream, counters, sums of unfinished rows.
    """

    file: Path
    step: int
    progress: dict[str, Any]

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Yield each tensor, read one at a time, on the CPU."""
        with safe_open(self.file, framework="pt") as stream:
            for name in stream.keys():  # noqa: SIM118 (no mapping)
                yield name, stream.get_tensor(name)


class StateFolder:
    """The state of one training.

    Parameters
    ----------
    folder
        The stage's state folder; the state is in a subfolder named by the fingerprint.
    fingerprint
        Fingerprint of settings and inputs. State with any other fingerprint is ignored.
    label
        Name of the training, for messages.
    made_from
        What the fingerprint names, to be saved in the folder.
    """

    def __init__(self, folder: Path, fingerprint: str, label: str, made_from: Mapping[str, Any] | None = None) -> None:
        self.folder = Path(folder) / fingerprint
        self.fingerprint, self.label, self.made_from = fingerprint, label, made_from

    @contextlib.contextmanager
    def locked(self, stopped: Callable[[], bool] = lambda: False) -> Iterator[None]:
        """Lock the folder against other writers, and remove partial files of a killed one.

        A job of Slurm waits for minutes for another process that holds it; any other process does so for seconds.

        Parameters
        ----------
        stopped
            Asked meanwhile whether to stop waiting.

        Raises
        ------
        DPLM2Error
            If another process holds it; the message names it.
        """
        with self.explained("create the state folder"):
            make_folder(self.folder)
        with contextlib.ExitStack() as stack:
            more = [PATIENCE_IN_A_JOB_SECONDS] if IN_A_JOB in os.environ else []
            self._take_lock(stack, stopped, LOCK_PATIENCE_SECONDS, *more)
            self._remove_leftovers()
            if self.made_from is not None:
                with self.explained("write what made it"):
                    write_json(self.folder / MADE_FROM, {"label": self.label, **self.made_from})
            yield

    def _take_lock(
        self, stack: contextlib.ExitStack, stopped: Callable[[], bool], seconds: float, *more: float
    ) -> None:
        path = self.folder / "lock"
        try:
            with self.explained("open the lock"):
                stack.enter_context(locked(path, seconds, stopped))
        except HeldError as error:
            running = f"{self.label}: {error.holder} is already running this training (it holds {path})"
            if not more or stopped():
                raise DPLM2Error(f"{running}; wait for it, or end it and run again") from None
            say(f"{running}; waiting for its end, up to {more[0] / 60:.0f} minutes")
            self._take_lock(stack, stopped, *more)

    def _remove_leftovers(self) -> None:
        """Remove partially written or removed files of a killed holder."""
        for leftover in self.folder.glob(".*.tmp"):
            leftover.unlink(missing_ok=True)
        for file in self.folder.glob("step-*.safetensors"):
            if not file.with_suffix(".json").exists():
                file.unlink(missing_ok=True)

    def save(self, step: int, tensors: Mapping[str, Tensor], progress: Mapping[str, Any], keep: int) -> Path:
        """Write a checkpoint, make it the latest, and remove all but the latest ``keep``.

        Raises
        ------
        DPLM2Error
            If the disk is full, or writing fails otherwise; earlier checkpoints are unchanged.
        """
        file = self.folder / f"step-{step:08d}.safetensors"
        with self.explained(f"save step {step}"):
            with atomic_path(file) as temporary:
                save_file(dict(tensors), temporary)
                digest, size = sha256_of_file(temporary), temporary.stat().st_size
            pointer = {"file": file.name, "step": step, "size": size, "sha256": digest}
            write_json(
                file.with_suffix(".json"),
                {**pointer, "format": FORMAT_VERSION, "fingerprint": self.fingerprint, "label": self.label, **progress},
            )
            write_json(self.folder / LATEST, pointer)
        for old in self._records()[keep:]:
            # First the record, so that none ever refers to a missing file.
            old.unlink(missing_ok=True)
            old.with_suffix(".safetensors").unlink(missing_ok=True)
        return file

    def load(self, say: Any) -> Checkpoint | None:
        """The latest valid checkpoint, or None; ``say`` is called with a message about each invalid one.

        A damaged checkpoint is removed, so that its number can be written again.
        """
        records = self._records()
        for record in records:
            checkpoint = self._checked(record, say)
            if checkpoint is not None:
                return checkpoint
            record.unlink(missing_ok=True)
            record.with_suffix(".safetensors").unlink(missing_ok=True)
        if records:
            say(f"{self.label}: none of the {len(records)} checkpoints is valid; training starts from the beginning")
        return None

    def _records(self) -> list[Path]:
        return sorted(self.folder.glob("step-*.json"), reverse=True)

    def _checked(self, record: Path, say: Any) -> Checkpoint | None:
        file = record.with_suffix(".safetensors")
        try:
            known = read_json(record)
            problem = self._problem(file, known)
        except (DPLM2Error, KeyError, TypeError, OSError) as error:
            problem = f"its record cannot be used ({error})"
        if problem is None:
            return Checkpoint(file, known["step"], known)
        say(f"{self.label}: the checkpoint {file} is damaged: {problem}; falling back to the one before")
        return None

    def _problem(self, file: Path, known: Mapping[str, Any]) -> str | None:
        if known["format"] != FORMAT_VERSION:
            return f"it has format {known['format']}, this version of dplm2 reads {FORMAT_VERSION}"
        if known["fingerprint"] != self.fingerprint:
            return f"it belongs to another training ({known['fingerprint']})"
        if not file.is_file():
            return "the file is missing"
        if (size := file.stat().st_size) != known["size"]:
            return f"it has {size} bytes instead of {known['size']}"
        if (digest := sha256_of_file(file)) != known["sha256"]:
            return f"its SHA-256 is {digest[:12]}... instead of {known['sha256'][:12]}..."
        return None

    @contextlib.contextmanager
    def explained(self, what: str) -> Iterator[None]:
        """Convert write failures to one clear line."""
        try:
            yield
        except (WritingError, OSError, SafetensorError) as error:
            code = error.code if isinstance(error, WritingError) else error_code(error)
            reason = NO_SPACE if code in OUT_OF_SPACE else str(error)
            raise DPLM2Error(
                f"{self.label}: cannot {what} in {self.folder}: {reason}. Earlier checkpoints are unchanged; "
                "free some space and run again to resume from the latest"
            ) from error

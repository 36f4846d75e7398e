"""Logging of a training: rows of metrics, and progress."""

import contextlib
import csv
import math
import os
import select
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm

from dplm2.core.artifacts import atomic_path
from dplm2.core.errors import ConfigError

FIRST_COLUMNS = ("step", "epoch", "loss")
LAST_COLUMNS = ("learning_rate", "gradient_norm", "tokens", "seconds")
VALIDATION = "validation_"
# Without a terminal, an occasional line replaces the bar, so that the log of a job shows the progress.
SECONDS_BETWEEN_LINES = 30.0
LONGEST_NUMBER = 18  # digits of a step number


class Means:
    """Sums and counts of metrics since the last row; NaN is ignored."""

    def __init__(self, saved: Mapping[str, list[float]] | None = None) -> None:
        self.sums: dict[str, list[float]] = {name: list(pair) for name, pair in (saved or {}).items()}

    def add(self, figures: Mapping[str, float]) -> None:
        """Add the metrics of one micro-batch or one step."""
        for name, value in figures.items():
            pair = self.sums.setdefault(name, [0.0, 0])
            if not math.isnan(value):
                pair[0] += value
                pair[1] += 1

    def merge(self, other: "Means") -> None:
        """Add the sums of another process."""
        for name, (total, count) in other.sums.items():
            pair = self.sums.setdefault(name, [0.0, 0])
            pair[0] += total
            pair[1] += count

    def means(self) -> dict[str, float]:
        """Mean of each metric, NaN without values."""
        return {name: total / count if count else math.nan for name, (total, count) in self.sums.items()}


class MetricLog:
    """``metrics.csv``: a row per ``log_every`` steps and per validation.

    The rows are kept in the state folder, since declared outputs of a failed job may be deleted; `publish` copies them
    to the results.

    Parameters
    ----------
    file
        The file in the state folder.
    destination
        Target of `publish`.
    step
        Updates done; rows of later steps, which an interrupted run wrote but did not save, are dropped.
    """

    def __init__(self, file: Path, destination: Path, step: int) -> None:
        self.file, self.destination = file, Path(destination)
        self.rows: list[dict[str, str]] = []
        if file.is_file():
            self.rows = [row for row in _read_rows(file) if int(row["step"]) <= step]
        self.columns = _ordered(self.rows)
        self._write(self.file)

    def add(self, row: Mapping[str, float]) -> None:
        """Append a row; a new column causes the file to be rewritten."""
        text = {name: _text(value) for name, value in row.items()}
        self.rows.append(text)
        if set(text) <= set(self.columns):
            with self.file.open("a", newline="", encoding="utf-8") as stream:
                csv.DictWriter(stream, self.columns, restval="").writerow(text)
        else:
            self.columns = _ordered(self.rows)
            self._write(self.file)

    def publish(self) -> None:
        """Copy the rows to the results."""
        self._write(self.destination)

    def last(self) -> dict[str, float]:
        """The latest value of every column."""
        return {name: float(row[name]) for row in self.rows for name in self.columns if row.get(name)}

    def _write(self, path: Path) -> None:
        with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, self.columns, restval="")
            writer.writeheader()
            writer.writerows(self.rows)


def _read_rows(file: Path) -> list[dict[str, str]]:
    """The complete rows of a metrics file; of a damaged file, the readable ones."""
    rows = []
    with file.open(newline="", encoding="utf-8", errors="replace") as stream:
        try:
            # A truncated last line lacks the learning rate; a valid row has an integer step.
            rows += filter(_whole_row, csv.DictReader(stream))
        except csv.Error as error:
            say(f"{file}: damaged ({error}); earlier rows of metrics are lost; the training itself is not affected")
    return rows


def _whole_row(row: Mapping[str | None, Any]) -> bool:
    step = row.get("step") or ""
    if None in row or not (step.isascii() and step.isdigit() and len(step) < LONGEST_NUMBER):
        return False
    return all(value is not None and (not value or _is_number(value)) for value in row.values())


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _ordered(rows: list[dict[str, str]]) -> list[str]:
    seen = dict.fromkeys(name for row in rows for name in row)
    middle = [n for n in seen if n not in FIRST_COLUMNS + LAST_COLUMNS and not n.startswith(VALIDATION)]
    validation = [name for name in seen if name.startswith(VALIDATION)]
    return [*FIRST_COLUMNS, *middle, *LAST_COLUMNS, *validation]


def _text(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.8g}"


class OtherLoggers:
    """TensorBoard and Weights & Biases, if configured.

    Raises
    ------
    ConfigError
        If a logger's package is not installed.
    """

    def __init__(self, names: tuple[str, ...], folder: Path, label: str, fingerprint: str, step: int) -> None:
        self._tensorboard = self._wandb = None
        if "tensorboard" in names:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError as error:
                raise _missing("tensorboard") from error
            self._tensorboard = SummaryWriter(folder / "tensorboard", purge_step=step + 1)
        if "wandb" in names:
            try:
                import wandb
            except ImportError as error:
                raise _missing("wandb") from error
            self._wandb = wandb.init(dir=folder, name=label, id=fingerprint, resume="allow")

    def add(self, row: Mapping[str, float]) -> None:
        """Log a row."""
        step = int(row["step"])
        for name, value in row.items():
            if self._tensorboard is not None and name != "step":
                self._tensorboard.add_scalar(name, value, step)
        if self._wandb is not None:
            self._wandb.log(dict(row), step=step)

    def close(self) -> None:
        """Flush and close."""
        if self._tensorboard is not None:
            self._tensorboard.close()
        if self._wandb is not None:
            self._wandb.finish()


def _missing(package: str) -> ConfigError:
    return ConfigError(f"training.loggers: {package} is not installed; `pip install {package}` or omit it")


def say(text: str) -> None:
    """Print a line without breaking the progress bar; a closed output is ignored."""
    with _unheard():
        tqdm.write(text, file=sys.stderr)
        sys.stderr.flush()


def mute_closed_outputs() -> None:
    """Redirect standard output and error to the null device if their reader has ended, as after a shared signal."""
    for output in (1, 2):
        state = select.poll()
        state.register(output, 0)
        if any(event & (select.POLLERR | select.POLLHUP) for _, event in state.poll(0)):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, output)
            os.close(nowhere)


@contextlib.contextmanager
def _unheard() -> Iterator[None]:
    """Ignore printing errors: a closed terminal must not end the training."""
    try:
        yield
    except OSError:
        mute_closed_outputs()


class Progress:
    """A progress bar on a terminal, else a line every half minute.

    Parameters
    ----------
    label
        Text before the bar and each line.
    step, steps
        Updates already done, and in total.
    quiet
        Print nothing.
    unit
        Name of a step.
    """

    def __init__(self, label: str, step: int, steps: int, quiet: bool, unit: str = "step") -> None:
        self.label, self.steps, self.unit = label, steps, unit
        self._first, self._began = step, time.monotonic()
        self._last_line = self._began
        self._tokens = 0
        self._quiet = quiet
        self._bar = tqdm(total=steps, initial=step, desc=label, unit=unit, disable=True if quiet else None)

    def advance(self, step: int, tokens: int, figures: Mapping[str, Any]) -> None:
        """Report that ``step`` steps are done, the last with ``tokens`` tokens; ``figures`` are shown."""
        self._tokens += tokens
        if not self._bar.disable:
            with _unheard():
                self._bar.set_postfix({name: f"{value:.4g}" for name, value in figures.items()}, refresh=False)
                self._bar.update()
            return
        now = time.monotonic()
        if self._quiet or now - self._last_line < SECONDS_BETWEEN_LINES:
            return
        self._last_line = now
        each = (now - self._began) / max(1, step - self._first)
        shown = "".join(f"{name} {value:.4g}, " for name, value in figures.items())
        say(
            f"{self.label}: {self.unit} {step} of {self.steps} ({100 * step / self.steps:.0f} %), {shown}"
            f"{self._tokens / (now - self._began):,.0f} tokens/s, {duration(each * (self.steps - step))} left"
        )

    def close(self) -> None:
        """Remove the bar."""
        with _unheard():
            self._bar.close()


def duration(seconds: float) -> str:
    """A readable duration: ``45 s``, ``12 min``, ``3 h 5 min``, ``2 d 4 h``."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes // 1440} d {minutes % 1440 // 60} h"

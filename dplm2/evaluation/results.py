"""Results of an evaluation: a row per sample, and a summary table with intervals.

The rule for failed samples is the same everywhere. A sample that could not be evaluated keeps its row, with ``failed``
and a reason. Quantities (RMSD, TM-score, ...) are averaged over the samples that have them; shares (designable,
success, ...) count a failed sample as a miss. ``n`` is the number of samples of a value, ``n_failed`` the number of
failed ones, and ``failed_rule`` tells which of the two rules applies.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from dplm2.core import parquet
from dplm2.core.artifacts import RunRecord, atomic_path

SUMMARY_COLUMNS = [
    "model", "task", "dataset", "metric", "value", "n", "backend", "n_failed", "median", "low", "high", "failed_rule",
]  # fmt: skip
LEFT_OUT, COUNTED = "left out", "counted as a miss"
NOTES = {
    LEFT_OUT: "failed samples are left out of quantities",
    COUNTED: "failed samples count as misses in shares and counts (designable, match, success, max_cluster, ...)",
}
INTERVAL = (2.5, 97.5)


@dataclass(frozen=True)
class Source:
    """Subject of a table's rows.

    Attributes
    ----------
    model, task, dataset
        Names in the table.
    backend
        The folding program, or "none" where no structure was predicted by one.
    """

    model: str
    task: str
    dataset: str
    backend: str = "none"


def bootstrap_interval(values: np.ndarray, resamples: int, seed: int = 0) -> tuple[float, float]:
    """95 % percentile interval of the mean over resamples with replacement; NaN for fewer than two values.

    Efron & Tibshirani, An Introduction to the Bootstrap (1993), chapter 13.
    """
    if resamples == 0 or len(values) < 2:
        return float("nan"), float("nan")
    generator = np.random.default_rng(seed)
    means = np.empty(resamples)
    block = max(1, 2_000_000 // len(values))
    for start in range(0, resamples, block):
        count = min(block, resamples - start)
        means[start : start + count] = values[generator.integers(0, len(values), (count, len(values)))].mean(1)
    low, high = np.percentile(means, INTERVAL)
    return float(low), float(high)


def summarize(metrics: pd.DataFrame, columns: Sequence[str], source: Source, resamples: int) -> list[dict]:
    """One summary row for each metric column.

    Parameters
    ----------
    metrics
        A row per sample, with a boolean column ``failed``. Columns of booleans are shares.
    columns
        Columns to summarise; missing and empty columns are skipped.
    source
        Values of the columns for the table's subject.
    resamples
        Of the bootstrap.
    """
    rows = []
    failed = metrics["failed"].to_numpy(dtype=bool)
    for name in columns:
        if name not in metrics or metrics[name].isna().all():
            continue
        is_share = set(map(type, metrics[name].dropna())) <= {bool, np.bool_}
        values = pd.to_numeric(metrics[name].astype(object).map(lambda v: np.nan if v is None else float(v)))
        values = values.fillna(0.0).to_numpy() if is_share else values[~failed].dropna().to_numpy()
        if not len(values):
            continue
        low, high = bootstrap_interval(values, resamples)
        rows.append(
            summary_row(
                source,
                name,
                values.mean(),
                len(values),
                int(failed.sum()),
                float(np.median(values)),
                low,
                high,
                COUNTED if is_share else LEFT_OUT,
            )  # fmt: skip
        )
    return rows


def misses_filled(metrics: pd.DataFrame, shares: Sequence[str]) -> pd.DataFrame:
    """``metrics`` with a miss in each of these columns where a failed sample left it empty."""
    present = [name for name in shares if name in metrics]
    return metrics.assign(**{name: metrics[name].eq(True).astype(bool) for name in present})


def summary_row(
    source: Source,
    metric: str,
    value: float,
    n: int,
    n_failed: int = 0,
    median: float = float("nan"),
    low: float = float("nan"),
    high: float = float("nan"),
    failed_rule: str = LEFT_OUT,
) -> dict:
    """One row of ``summary.csv``; also for properties of a whole set, which have no median."""
    return {
        "model": source.model,
        "task": source.task,
        "dataset": source.dataset,
        "metric": metric,
        "value": float(value),
        "n": n,
        "backend": source.backend,
        "n_failed": n_failed,
        "median": median,
        "low": low,
        "high": high,
        "failed_rule": failed_rule,
    }


def write_results(
    out: Path,
    metrics: pd.DataFrame,
    summary: Sequence[Mapping],
    record: RunRecord,
    groups: Sequence[Mapping] = (),
    **extra,
) -> None:
    """Write ``metrics.parquet``, ``summary.csv``, ``groups.csv`` (by length or problem, if given) and ``run.json``.

    Rows of ``summary`` that name a ``group`` go to ``groups.csv``.
    """
    record.supersede(out, "groups.csv")
    parquet.write_frame(out / "metrics.parquet", metrics)
    _write_table(out / "summary.csv", _of_the_whole(summary), SUMMARY_COLUMNS)
    groups = [*groups, *(row for row in summary if "group" in row)]
    if groups:
        _write_table(out / "groups.csv", groups, ["group", *SUMMARY_COLUMNS])
    failed = int(metrics["failed"].sum()) if "failed" in metrics else 0
    record.write(out, samples=len(metrics), failed=failed, **extra)


def _write_table(path: Path, rows: Sequence[Mapping], columns: list[str]) -> None:
    with atomic_path(path) as temporary:
        pd.DataFrame(list(rows), columns=columns).to_csv(temporary, index=False, float_format="%.6g")


def _of_the_whole(summary: Sequence[Mapping]) -> list[Mapping]:
    return [row for row in summary if "group" not in row]


def rule_note(rules: Iterable[str]) -> str:
    """A one-line explanation of a table's rules for failed samples; empty without rules."""
    present = set(rules)
    return "; ".join(NOTES[rule] for rule in NOTES if rule in present)


def describe(summary: Sequence[Mapping]) -> str:
    """The summary as lines for the terminal."""
    table = pd.DataFrame(_of_the_whole(summary), columns=SUMMARY_COLUMNS)
    shown = table[["dataset", "metric", "value", "low", "high", "median", "n", "n_failed", "backend"]]
    lines = shown.to_string(index=False, float_format=lambda value: f"{value:.4g}", na_rep="")
    return f"{lines}\nlow, high: 95 % interval of the mean; {rule_note(table['failed_rule'])}"

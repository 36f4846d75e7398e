"""The paper's table of representations (DPLM-2, table 6) beside probes of this package."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd

from dplm2.core.artifacts import write_text
from dplm2.core.errors import DPLM2Error
from dplm2.core.text import read_table
from dplm2.evaluation.published import published
from dplm2.representations.saprot import BENCHMARKS

TABLE_FILE, RESULTS_FILE = "table.csv", "results.csv"
COLUMNS = ("task", "model", "metric", "value", "spread", "seeds", "n", "probe", "source")
THIS_RUN = "this run"


def published_results(tasks: Sequence[str]) -> Iterator[dict]:
    """The published values of some of the nine tasks, in our units."""
    for row in published():
        for task in tasks:
            benchmark = BENCHMARKS[task]
            if row["task"] == "representation" and row["metric"] == benchmark.published:
                value = float(row["value"]) * benchmark.unit
                yield {
                    "task": task, "model": row["model"], "metric": benchmark.metric, "value": value,
                    "source": row["source"],
                }  # fmt: skip


def own_results(folder: Path) -> Iterator[dict]:
    """The main metric on the test split, from the ``summary.csv`` of one of the nine tasks.

    Raises
    ------
    DPLM2Error
        If it is the summary of another task.
    """
    rows = [row for row in read_table(folder / "summary.csv") if (row["dataset"] or "").endswith("/test")]
    task = rows[0]["dataset"].removesuffix("/test") if rows else ""
    if task not in BENCHMARKS:
        raise DPLM2Error(f"{folder}: not a probe of one of the nine tasks ({', '.join(BENCHMARKS)})")
    for row in rows:
        if row["metric"] == BENCHMARKS[task].metric:
            numbers = {name: float(row[name]) if row[name] else None for name in ("value", "spread", "seeds", "n")}
            yield {
                "task": task, "model": row["model"], "metric": row["metric"], **numbers, "probe": row["backend"],
                "source": THIS_RUN,
            }  # fmt: skip


def write_comparison(folders: Sequence[Path], out: Path) -> pd.DataFrame:
    """Write ``results.csv``, a row per result, and ``table.csv``, a row per model as in the paper; returns the latter.

    Only tasks are listed of which there is a result of this run.

    Raises
    ------
    DPLM2Error
        As `own_results`.
    """
    ours = [row for folder in folders for row in own_results(folder)]
    tasks = [task for task in BENCHMARKS if any(row["task"] == task for row in ours)]
    results = pd.DataFrame([*published_results(tasks), *ours], columns=COLUMNS)
    results["seeds"], results["n"] = (results[name].astype("Int64") for name in ("seeds", "n"))
    table = _table(results, tasks)
    write_text(out / RESULTS_FILE, results.to_csv(index=False))
    write_text(out / TABLE_FILE, table.to_csv(index=False))
    return table


def _table(results: pd.DataFrame, tasks: Sequence[str]) -> pd.DataFrame:
    """A row per model, source and probe, a column per task."""
    rows = results.fillna({"probe": ""}).copy()
    rows["column"] = [f"{task} ({metric})" for task, metric in zip(rows["task"], rows["metric"], strict=True)]
    columns = [f"{task} ({BENCHMARKS[task].metric})" for task in tasks]
    keys = ["model", "probe", "source"]
    wide = rows.pivot_table(index=keys, columns="column", values="value", sort=False).reindex(columns=columns)
    wide = wide.reset_index().rename_axis(columns=None)
    return wide.sort_values("source", key=lambda source: source == THIS_RUN, kind="stable", ignore_index=True)

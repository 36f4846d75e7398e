"""Sampling speed: seconds per sample by length, compared with published values."""

from collections.abc import Iterator, Mapping

import pandas as pd

from dplm2.evaluation.published import MISSING, published
from dplm2.report.results import Results, RunDetails, read_table

COLUMNS = [
    "model", "task", "length", "samples", "steps", "device", "seconds_per_sample", "published", "published_model",
    "source", "measured",
]  # fmt: skip
PUBLISHED_TASK, PUBLISHED_METRIC = "sampling_speed", "seconds_per_sample"
MOST_LENGTHS = 12
BIN = 100  # residues per bin: a test set has too many lengths for a row each
EACH, WHOLE = "per batch", "whole job, including loading"


def sampling_speed(results: Results, model: str | Mapping[str, str] | None) -> pd.DataFrame:
    """A row for each model, task and length; where the samples record no times, one for each job.

    ``model`` is the published one to compare with, or one for each of ours; values that were not published are
    "missing".
    """
    rows = [row for run in results.runs if run.place.startswith("samples/") for row in _rows(results, run)]
    figures = {
        (row["model"], row["dataset"], row["length_or_problem"]): row  # the dataset is the task that was timed
        for row in published()
        if row["task"] == PUBLISHED_TASK and row["metric"] == PUBLISHED_METRIC
    }
    for row in rows:
        named = model.get(row["model"]) if isinstance(model, Mapping) else model
        theirs = figures.get((named, row["task"], row["length"]))
        row["published"] = float(theirs["value"]) if theirs else MISSING
        row["published_model"] = theirs["model"] if theirs else MISSING
        row["source"] = theirs["source"] if theirs else MISSING
    return pd.DataFrame(rows, columns=COLUMNS)


def _rows(results: Results, run: RunDetails) -> Iterator[dict]:
    path = results.folder / run.place / "samples.parquet"
    if not path.is_file():
        return
    samples = read_table(path, ["length", "steps"]).to_pandas()
    if not len(samples) or "length" not in samples:
        return
    _, model, task, *_ = run.place.split("/")
    shared = {"model": model, "task": task, "device": str(run.record.get("device", ""))}
    if "steps" in samples:
        shared["steps"] = f"{samples['steps'].mean():.4g}"
    if isinstance(timed := run.record.get("seconds_per_sample"), dict) and timed:
        table = pd.DataFrame([(int(length), *figures) for length, figures in timed.items()])
        table.columns = ["length", "samples", "seconds"]
        for length, part in table.groupby(_lengths(table["length"]), sort=False):
            number = int(part["samples"].sum())
            seconds = float((part["seconds"] * part["samples"]).sum()) / number
            yield shared | {"length": length, "samples": number, "seconds_per_sample": seconds, "measured": EACH}
    elif isinstance(seconds := run.record.get("wall_seconds"), int | float):
        low, high = samples["length"].min(), samples["length"].max()
        length = str(low) if low == high else f"{low} to {high}"
        number = len(samples)
        yield shared | {"length": length, "samples": number, "seconds_per_sample": seconds / number, "measured": WHOLE}


def _lengths(lengths: pd.Series) -> pd.Series:
    """Label of each sample's length: the length, or its hundred if there are many."""
    if lengths.nunique() <= MOST_LENGTHS:
        return lengths.astype(str)
    first = lengths // BIN * BIN
    return first.astype(str) + " to " + (first + BIN - 1).astype(str)

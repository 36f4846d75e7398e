"""The section that compares this run with published results."""

import math
from collections.abc import Mapping

import pandas as pd

from dplm2.evaluation import published
from dplm2.report.blocks import Details, PageSection, frame_table
from dplm2.report.results import Results

NUMBERS = ("value", "n", "n_failed", "median", "low", "high")
COLUMNS = {
    "task": "task",
    "dataset": "dataset",
    "group": "group",
    "metric": "metric",
    "statistic": "statistic",
    "model": "model",
    "ours": "ours",
    "low": "low",
    "high": "high",
    "published": "published",
    "difference": "difference",
    "in_interval": "published value in our 95 % interval",
    "n": "n",
    "n_failed": "failed",
    "failed_rule": "failed samples are",
    "backend": "folded by",
    "published_model": "published model",
    "source": "source",
}


def compared(results: Results, model: str | Mapping[str, str] | None) -> pd.DataFrame:
    """This run's results next to those published for ``model``, for common tasks and datasets.

    A result of only one of them also gets a row, in which the other is "missing".
    """
    frames = [evaluation.summary.assign(group="") for evaluation in results.evaluations]
    frames += [evaluation.groups for evaluation in results.evaluations]
    frames = [frame for frame in frames if len(frame)]
    if model is None or not frames:
        return pd.DataFrame(columns=published.TABLE_COLUMNS)
    ours = pd.concat(frames, ignore_index=True)
    for name in NUMBERS:
        # Summaries of other programs may lack all but the value.
        ours[name] = pd.to_numeric(ours[name], errors="coerce") if name in ours else math.nan
    ours["failed_rule"] = ours["failed_rule"].fillna("") if "failed_rule" in ours else ""
    table = published.compare_with_published(ours[ours["value"].notna()], model)
    both = (table["ours"] != published.MISSING) & (table["published"] != published.MISSING)
    shared = both.groupby([table["task"], table["dataset"]]).transform("any")
    return table[shared].reset_index(drop=True)


def comparison(table: pd.DataFrame, model: str | Mapping[str, str] | None, most: int) -> PageSection:
    """The section; ``table`` is that of `compared`."""
    part = PageSection("published", "Comparison with published results")
    if model is None:
        return part
    named = ", ".join(model.values()) if isinstance(model, Mapping) else model
    part.absent = f"no result of this run has a published counterpart for {named} (same task, dataset and metric)"
    if len(table):
        part.about = (
            f"Published results of {named}. They are comparable only if the folding program, the dataset and the "
            "number of samples agree: see the columns."
        )
        shown = table[list(COLUMNS)].rename(columns=COLUMNS)
        both = (table["ours"] != published.MISSING) & (table["published"] != published.MISSING)
        part.body.append(frame_table("published-table", shown[both], most, "published.csv"))
        if not both.all():
            others = frame_table("unpublished-table", shown[~both], most, "published.csv")
            part.body.append(Details(f"{(~both).sum():,} results that only one of the two has", [others]))
    return part


def published_success(table: pd.DataFrame) -> dict[str, float]:
    """The published success rate of each motif problem of the table."""
    rows = table[(table["task"] == "scaffolding") & table["group"].astype(str).str.startswith("problem=")]
    rows = rows[rows["published"] != published.MISSING]
    return {row["group"].removeprefix("problem="): float(row["published"]) for _, row in rows.iterrows()}

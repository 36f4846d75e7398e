"""What a model has learned: its main figures on held-out chains beside those of a baseline that knows nothing."""

from collections.abc import Iterator

import pandas as pd

from dplm2.evaluation.metrics.design import RECOVERY, RECOVERY_ALL_LEUCINE
from dplm2.evaluation.metrics.language import CROSS_ENTROPY
from dplm2.evaluation.metrics.metric import Metric
from dplm2.evaluation.metrics.structure import ALL_COIL, SECONDARY_STRUCTURE
from dplm2.language.vocabulary import TRACKS
from dplm2.report import tables
from dplm2.report.blocks import PageSection, Table
from dplm2.report.labels import task_kind
from dplm2.report.results import Results

HEADS = ("model", "chains", "measure", "model's", "baseline's", "baseline", "better")


_TRAINING = "/train"  # ends the names of training splits in the tables


def _of_track(track: str, network: str) -> Metric:
    return CROSS_ENTROPY.filled(track=track, network=network)


# Task, metric, the same of the baseline, and what the baseline is.
COMPARED = (
    *(
        (
            "likelihood",
            _of_track(track, "trained"),
            _of_track(track, "unigram"),
            "unigram: frequencies in the other chains",
        )
        for track in TRACKS
    ),
    ("inverse-folding", RECOVERY, RECOVERY_ALL_LEUCINE, "all leucine"),
    ("folding", SECONDARY_STRUCTURE, ALL_COIL, "all coil"),
)


def learned(results: Results) -> PageSection:
    """The table, by model and dataset, without training splits, which a model can memorise."""
    part = PageSection("learned", "What the model has learned", absent="no model was compared with a baseline")
    rows = list(_rows(tables.summary(results)))
    if rows:
        note = "Cross-entropies are in nats per masked token: lower is better. The others are means over chains."
        part.body = [Table("learned-table", HEADS, rows, note=note)]
    return part


def _rows(summary: pd.DataFrame) -> Iterator[tuple[object, ...]]:
    values = {
        (task_kind(row["task"]), row["model"], row["dataset"], row["metric"]): row for _, row in summary.iterrows()
    }
    sources = list(dict.fromkeys((model, dataset) for _, model, dataset, _ in values))
    for model, dataset in sources:
        if dataset.endswith(_TRAINING):
            continue
        for task, metric, baseline, meaning in COMPARED:
            found, reference = (values.get((task, model, dataset, each.name)) for each in (metric, baseline))
            if found is None or reference is None or "" in (found["value"], reference["value"]):
                continue
            mine, known = float(found["value"]), float(reference["value"])
            better = mine < known if metric.better == "lower" else mine > known
            interval = tables.interval(found)
            shown = tables.shown(found["value"]) + (f" ({interval})" if interval else "")
            yield model, dataset, metric.title, shown, known, meaning, "yes" if better else "no"

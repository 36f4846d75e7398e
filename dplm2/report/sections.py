"""The sections of the page; a section without data reports what was not run."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

import pandas as pd

from dplm2.evaluation.metrics.registry import declared
from dplm2.evaluation.published import MISSING
from dplm2.report import evaluations, figures
from dplm2.report.blocks import MOST_UNFILTERED_ROWS, Details, Heading, PageSection, Table, frame_table, typed
from dplm2.report.drawing import slug
from dplm2.report.models import validation_curves
from dplm2.report.results import REQUIRED_COLUMNS, Results
from dplm2.report.scale import scales
from dplm2.report.scenes import Picked
from dplm2.report.tables import further_tables, run_row, summary
from dplm2.settings.report import ReportSettings
from dplm2.training.log import duration

# Columns of a summary after its first seven, and their titles.
HEADS = {"low": "low", "high": "high", "median": "median", "n_failed": "failed", "failed_rule": "failed samples are"}


def quality(
    results: Results, settings: ReportSettings, success: Mapping[str, float], picked: Sequence[Picked]
) -> list[PageSection]:
    """How good the designs are, a part for each task.

    ``success`` is the published success rate of each motif problem.
    """
    parts = [
        evaluations.co_generation(results),
        evaluations.folding(results),
        evaluations.inverse_folding(results),
        evaluations.scaffolding(results, success),
        evaluations.likelihood(results),
        other_evaluations(results),
    ]
    tables = further_tables(results, settings.published_model)
    parts.append(speed(tables.get("sampling_speed"), settings.max_table_rows))
    return _with_samples(parts, tables, picked, settings)


def preparation(results: Results, settings: ReportSettings, picked: Sequence[Picked]) -> list[PageSection]:
    """Where the model comes from: training, the tokenizer, the data."""
    parts = [training(results, settings), evaluations.reconstruction(results), tokens(results), data(results)]
    return _with_samples(parts, further_tables(results, settings.published_model), picked, settings)


def _with_samples(
    parts: list[PageSection], tables: Mapping[str, pd.DataFrame], picked: Sequence[Picked], settings: ReportSettings
) -> list[PageSection]:
    """The parts with the picked samples, residue by residue, and the tables of all samples."""
    for part in parts:
        kinds = KINDS.get(part.name, ())
        part.figures += evaluations.by_residue([one for one in picked if one.evaluation.kind in kinds])
        for kind in kinds:
            if (name := f"samples-{kind}") in tables:
                shown = frame_table(name, tables[name], settings.max_table_rows, f"{name}.csv")
                part.body.append(Details(f"Metrics of each sample ({kind})", [shown]))
    return parts


# Assignment of sample tables to parts of the page.
KINDS = {
    "reconstruction": ("reconstruction",),
    "co-generation": ("co-generation", "backbone", "sequence"),
    "folding": ("folding",),
    "inverse-folding": ("inverse-folding",),
    "scaffolding": ("scaffolding",),
    "likelihood": ("likelihood",),
    "others": ("other",),
}


def summary_table(results: Results) -> Table:
    """Every row of every summary, sortable, with its interval."""
    table = _summary_rows("summary-table", summary(results), REQUIRED_COLUMNS)
    return replace(
        table,
        filtered=True,
        note="low, high: 95 % interval of the mean (bootstrap).",
        file="summary_intervals.csv",
    )


def _summary_rows(name: str, frame: pd.DataFrame, first: Sequence[str]) -> Table:
    """Rows of a summary with values as numbers; names remain text, even if they look like numbers."""
    columns = list(dict.fromkeys([*first, "value", "n", *(name for name in HEADS if name in frame)]))
    numbers = {"value", "n", *HEADS}
    rows = [
        [typed(text) if column in numbers else text for column, text in zip(columns, row, strict=True)]
        for row in frame[columns].itertuples(index=False, name=None)
    ]
    return Table(name, [HEADS.get(column, column) for column in columns], rows)


def metrics_table(results: Results) -> Table:
    """Unit, direction and source of each metric in the summaries."""
    known = [metric for column in summary(results)["metric"] if (metric := declared(column))]
    # A metric of trained and untrained weights, or of a baseline, has one row.
    by_name = {entry.name: entry for metric in known for entry in [metric.base or metric]}
    rows = [
        [name, entry.title, entry.unit, f"{entry.better or ''} {entry.arrow}".strip(), entry.of, entry.source]
        for name, entry in sorted(by_name.items())
    ]
    return Table("metrics-table", ["metric", "title", "unit", "better", "share or number of", "source"], rows)


def data(results: Results) -> PageSection:
    """Datasets: number of chains, and rejects with reasons."""
    part = PageSection(
        "data", "Data: chains kept and rejected", absent="no structures were cleaned in this results folder"
    )
    if not results.datasets:
        return part
    part.about = (
        "Files and chains that cannot be used are rejected with a reason; processing continues with the others."
    )
    for dataset in results.datasets:
        reasons = _reasons(dataset.rejected)
        if reasons:
            name = slug("rejected", dataset.name)
            title = f"{dataset.name}: rejected files and chains"
            caption = (
                f"{len(dataset.rejected):,} rejected, {dataset.chains:,} chains kept. A single dominant reason may "
                "mean that a filter is too strict for these files."
            )
            part.figures.append(figures.bars(name, title, {"rejected": reasons}, "files or chains", caption))
    rows = [[d.name, d.chains, len(d.rejected), _spelled(_reasons(d.rejected))] for d in results.datasets]
    heads = ["dataset", "chains kept", "rejected", "reasons"]
    some = any(len(dataset.rejected) for dataset in results.datasets)
    part.body.append(Table("datasets", heads, rows, file="rejected.csv" if some else "datasets.csv"))
    return part


def _reasons(rejected: pd.DataFrame) -> dict[str, int]:
    column = next((name for name in ("code", "reason") if name in rejected and rejected[name].notna().any()), None)
    counts = Counter() if column is None else Counter(rejected[column].fillna("unknown").astype(str))
    return dict(counts.most_common())


def _spelled(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{reason}: {count}" for reason, count in counts.items())


def training(results: Results, settings: ReportSettings) -> PageSection:
    """Training curves of tokenizers and models."""
    part = PageSection("training", "Training", absent="nothing was trained: no metrics.csv in this results folder")
    for curve in results.curves:
        part.figures += figures.training(curve, settings.max_training_figures)
    part.figures += validation_curves(results)
    known = [scale.sentence for scale in scales(results)]
    if known and results.curves:
        part.about = (
            "; ".join(known) + ". Solid lines: training, averaged since the previous row; dashed lines: validation."
        )
    return part


def tokens(results: Results) -> PageSection:
    """Use of the structure tokens."""
    part = PageSection(
        "tokens", "Use of structure tokens", absent="no structures were tokenized in this results folder"
    )
    by_tokenizer: dict[str, list] = {}
    for usage in results.token_usage:
        if usage.counts.sum():
            by_tokenizer.setdefault(usage.tokenizer, []).append(usage)
    part.figures = [figures.token_usage(tokenizer, usages) for tokenizer, usages in by_tokenizer.items()]
    return part


def speed(table: pd.DataFrame | None, most: int) -> PageSection:
    """Seconds per sample, by length."""
    part = PageSection("speed", "Sampling speed", absent="no samples with recorded times were found")
    if table is not None:
        part.about = (
            "Seconds per sample, including decoding: measured per batch where this was recorded, otherwise the wall "
            "time of the job divided by its number of samples. Times depend on the machine."
        )
        unpublished = (table["published"] == MISSING).all()
        shown = table.drop(columns=["published", "published_model", "source"]) if unpublished else table
        part.body.append(frame_table("speed-table", shown, most, "sampling_speed.csv"))
    return part


def other_evaluations(results: Results) -> PageSection:
    """Summaries of evaluations whose task is not one of those above."""
    part = PageSection("others", "Other evaluations")
    for evaluation in results.of_kind(None):
        if not len(evaluation.summary):
            continue
        shown = _summary_rows(slug("other", evaluation.place), evaluation.summary.fillna(""), ("model", "metric"))
        part.body += [Heading(evaluation.label), shown]
    return part


def run_details(results: Results) -> PageSection:
    """Stages, times, devices and versions."""
    part = PageSection("run", "Run details", absent="no run.json was found")
    if not results.runs:
        return part
    rows = []
    for run in results.runs:
        row = run_row(run.place, run.record)
        seconds = row["wall_seconds"]
        took = "" if seconds is None else duration(seconds)
        rows.append([row["place"], row["command"], row["device"], took, seconds, row["peak_memory_megabytes"]])
    total = sum(row[4] or 0 for row in rows)
    part.about = f"Total wall time of all stages: {duration(total)}."
    heads = ["result", "command", "device", "wall time", "seconds", "peak memory (MB)"]
    runs = Table("runs", heads, rows, len(rows) > MOST_UNFILTERED_ROWS, file="runs.csv")
    part.body.append(Details(f"{len(rows)} stages", [runs]))
    versions: dict[str, set[str]] = {}
    for run in results.runs:
        for name, version in dict(run.record.get("versions") or {}).items():
            versions.setdefault(str(name), set()).add(str(version))
    if versions:
        pairs = [[name, ", ".join(sorted(found))] for name, found in versions.items()]
        part.body.append(Details("Versions of packages", [Table("versions", ["package", "version"], pairs)]))
    return part

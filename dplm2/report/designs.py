"""The ranked designs: the best of all in one table beside the viewer, then a table for each model and task."""

from collections.abc import Iterator

import pandas as pd

from dplm2.core.artifacts import RUN_FILE, read_json_object
from dplm2.evaluation.metrics.registry import declared
from dplm2.generation.designs import FASTA_FILE, TABLE_FILE
from dplm2.report.blocks import (
    MOST_UNFILTERED_ROWS,
    Best,
    Design,
    Details,
    Download,
    Downloads,
    PageSection,
    Table,
    Viewer,
    typed,
)
from dplm2.report.drawing import slug
from dplm2.report.labels import number, task_kind
from dplm2.report.results import Designs, Results
from dplm2.report.scenes import FACTS, Picked, key_of
from dplm2.settings.report import ReportSettings
from dplm2.viewer.html import values_of

NAMES = ("rank", "id", "problem", "length", "passes", "score")
NO_METRICS = (*NAMES, "sequence")  # a loss of the tokenizer has this name, too
FILES = {"file": "design", "prediction": "prediction"}  # columns of structure files, and what the links say


MOST_BEST, MOST_OF_ONE = 12, 4  # rows of the first table, in equal numbers for each model and task
MOST_MEASURES = 3


def best(results: Results, picked: list[Picked]) -> PageSection:
    """What was asked for: the viewer, and the best designs in one table."""
    part = PageSection("best", "The best designs" if results.designs else "Structures")
    part.about = " ".join(_asked_for(results))
    if picked:
        part.body.append(Viewer(values_of([one.scene() for one in picked])))
    keys = {one.key for one in picked}
    most = min(MOST_OF_ONE, max(1, MOST_BEST // max(1, len(results.designs))))
    rows = [_design(each, row, keys) for each in results.designs for row in each.table.head(most).to_dict("records")]
    if rows:
        part.body.append(Best(rows))
    return part


# What a task makes, and what for.
MADE = {
    "folding": ("predictions", "chains"),
    "inverse-folding": ("sequences", "backbones"),
    "scaffolding": ("designs", "motifs"),
}


def _asked_for(results: Results) -> Iterator[str]:
    """A sentence for each model and task: how many designs, and how many of them pass the thresholds."""
    several = len({each.model for each in results.designs}) > 1
    for each in results.designs:
        table = each.table
        made, of = MADE.get(task_kind(each.task), ("proteins", "lengths"))
        problems = table["problem"].nunique() if "problem" in table else 0
        what = f"{len(table):,} {made}" + (f" of {problems:,} {of}" if problems > 1 else "")
        passing = f", {(table['passes'] == 'True').sum():,} within the thresholds" if has_thresholds(each) else ""
        yield f"{each.model + ', ' if several else ''}{each.task}: {what}{passing}."


def has_thresholds(designs: Designs) -> bool:
    """Whether the ranking had thresholds: without them every design passes."""
    settings = read_json_object(designs.folder / RUN_FILE).get("settings") or {}
    return bool(settings.get("at_least") or settings.get("at_most"))


def _design(designs: Designs, row: dict[str, str], keys: set[str]) -> Design:
    measures = []
    for metric in FACTS:
        value = typed(row.get(metric.name, ""))
        if isinstance(value, int | float):
            measures.append(f"{metric.title} {number(value)}{metric.suffix}")
    key = key_of(designs.model, designs.task, row["id"])
    subject = f"{designs.model} \u00b7 {designs.task}" + (f", {row['length']} residues" if row.get("length") else "")
    passes = {"True": "yes", "False": "no"}.get(row["passes"], "") if has_thresholds(designs) else ""
    return Design(row["id"], subject, passes, measures[:MOST_MEASURES], key if key in keys else "")


def designs(results: Results, settings: ReportSettings) -> PageSection:
    """All ranked designs of each model and task, with files to save."""
    part = PageSection("designs", "All designs, with files", absent="no designs were ranked in this results folder")
    if not results.designs:
        return part
    part.about = (
        "Ranked by the section evaluation.ranking of the configuration: the score is the weighted mean of the fraction "
        "of the other designs that are worse. Designs that pass the thresholds come first. A click on a head sorts; "
        "the links save files that are contained in this page."
    )
    for each in results.designs:
        files = [each.folder / TABLE_FILE, each.folder / FASTA_FILE]
        name = slug(each.model, each.task)
        downloads = [Download(file.name, f"{name}-{file.name}", file.read_bytes()) for file in files if file.is_file()]
        title = f"{each.model} \u00b7 {each.task}: {len(each.table):,} designs"
        part.body.append(Details(title, [Downloads(downloads), _table(each, f"designs-{name}", settings)]))
    return part


def _table(designs: Designs, name: str, settings: ReportSettings) -> Table:
    shown = designs.table.head(settings.max_table_rows)
    metrics = [c for c in shown if c not in NO_METRICS and declared(c) is not None and (designs.table[c] != "").any()]
    heads = [*NAMES, *(f"{(metric := declared(c)).title} {metric.arrow}".rstrip() for c in metrics)]
    rows = [[_value(row, column) for column in (*NAMES, *metrics)] for row in shown.to_dict("records")]
    downloads = [_structures(designs, row) for row in shown.head(settings.max_downloads).to_dict("records")]
    if any(each.files for each in downloads):
        heads.append("structures")
        rows = [[*row, downloads[i] if i < len(downloads) else None] for i, row in enumerate(rows)]
    if "failure" in shown and (shown["failure"] != "").any():
        heads.append("not evaluated because")
        rows = [[*row, reason] for row, reason in zip(rows, shown["failure"], strict=True)]
    note = "Sequences and all columns: designs.csv, above"
    if len(designs.table) > len(shown):
        note = f"{len(shown):,} of {len(designs.table):,} designs; all, with sequences: designs.csv, above"
    return Table(name, heads, rows, len(rows) > MOST_UNFILTERED_ROWS, note)


def _value(row: dict[str, str], column: str) -> object:
    text = row.get(column, "")
    if column in ("id", "problem"):
        return text
    return {"True": True, "False": False}.get(text, typed(text))


def _structures(designs: Designs, row: dict[str, str]) -> Downloads:
    """The structure files of a design that lie below the table."""
    found = []
    for column, label in FILES.items():
        path = designs.folder / row[column]
        if row[column] and ".." not in path.parts and path.is_file():
            found.append(Download(label, path.name, path.read_bytes()))
    return Downloads(found)


def all_designs(results: Results) -> pd.DataFrame:
    """All designs in one table of text."""
    frames = [each.table.assign(model=each.model, task=each.task) for each in results.designs if len(each.table)]
    if not frames:
        return pd.DataFrame()
    table = pd.concat(frames, ignore_index=True).fillna("").drop(columns=list(FILES))
    return table[["model", "task", *(name for name in table if name not in ("model", "task"))]]

"""The section of ranked designs: a table for each model and task, with files to download."""

import pandas as pd

from dplm2.evaluation.metrics.registry import declared
from dplm2.generation.designs import FASTA_FILE, TABLE_FILE
from dplm2.report.blocks import MOST_UNFILTERED_ROWS, Download, Downloads, Heading, PageSection, Table, typed
from dplm2.report.drawing import slug
from dplm2.report.results import Designs, Results
from dplm2.settings.report import ReportSettings

NAMES = ("rank", "id", "problem", "length", "passes", "score")
NO_METRICS = (*NAMES, "sequence")  # a loss of the tokenizer has this name, too
FILES = {"file": "design", "prediction": "prediction"}  # columns of structure files, and what the links say


def designs(results: Results, settings: ReportSettings) -> PageSection:
    """The ranked designs of each model and task."""
    part = PageSection("designs", "Designs", absent="no designs were ranked in this results folder")
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
        heading = Heading(f"{each.model} \u00b7 {each.task}")
        part.body += [heading, Downloads(downloads), _table(each, f"designs-{name}", settings)]
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

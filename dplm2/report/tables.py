"""Tables of the report: all summaries in one, the headline metrics, and the CSV tables."""

from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd

from dplm2.evaluation.metrics.metric import Metric
from dplm2.evaluation.metrics.registry import HEADLINES, metric_of
from dplm2.evaluation.results import rule_note
from dplm2.report.designs import all_designs
from dplm2.report.labels import number, task_kind, task_order
from dplm2.report.models import cross_entropies
from dplm2.report.results import REQUIRED_COLUMNS, Results
from dplm2.report.speed import sampling_speed

MIDDLE_DOT = "\u00b7"
ROWS_OF_ONE_CARD = 8
# Tables with a row per sample, step or file are too long for a paper.
ROWS_WITHOUT_END = ("designs", "samples-", "training", "rejected")


@dataclass(frozen=True)
class Headline:
    """The headline metrics of one task, model and dataset, of trained and untrained weights together."""

    task: str
    model: str
    dataset: str
    backend: str
    rows: pd.DataFrame

    @property
    def subject(self) -> str:
        """Model and dataset."""
        return f" {MIDDLE_DOT} ".join(part for part in (self.model, self.dataset) if part)


def summary(results: Results) -> pd.DataFrame:
    """Every row of every ``summary.csv`` as text; the seven required columns first, then any others."""
    frames = [evaluation.summary for evaluation in results.evaluations if len(evaluation.summary)]
    if not frames:
        return pd.DataFrame(columns=list(REQUIRED_COLUMNS), dtype=str)
    combined = pd.concat(frames, ignore_index=True).fillna("")
    extras = [name for name in combined if name not in REQUIRED_COLUMNS]
    return combined[[*REQUIRED_COLUMNS, *extras]]


def headlines(table: pd.DataFrame) -> list[Headline]:
    """The headline metrics of a summary, by task in the order of the workflow, then model and dataset."""
    found = []
    for (task, model, dataset), rows in table.groupby(["task", "model", "dataset"], sort=False):
        kind = task_kind(task)
        chosen = _chosen(rows, HEADLINES.get(kind))
        if len(chosen):
            backends = [name for name in dict.fromkeys(chosen["backend"]) if name not in ("", "none")]
            found.append((task_order(kind), Headline(task, model, dataset, ", ".join(backends), chosen)))
    return [headline for _, headline in sorted(found, key=lambda pair: (pair[0], *_names(pair[1])))]


def _names(headline: Headline) -> tuple[str, str, str]:
    return headline.task, headline.model, headline.dataset


def _chosen(rows: pd.DataFrame, headlines: tuple[Metric, ...] | None) -> pd.DataFrame:
    """The rows of these metrics (of an unknown task: all), at most as many as a card holds."""
    # By name, independent of the order of reading.
    named = sorted(rows["metric"].items(), key=lambda item: item[1])
    if headlines is None:
        chosen = [index for index, _ in named]
    else:
        chosen = [index for metric in headlines for index, column in named if metric.match(column)]
    return rows.loc[chosen[:ROWS_OF_ONE_CARD]]


def shown(text: str) -> str:
    """Display form of a value from a CSV file: rounded if it is a number, else unchanged."""
    try:
        return number(float(text)) if text != "" else ""
    except ValueError:
        return text


def interval(row: pd.Series) -> str:
    """The 95 % interval of a summary row, or nothing."""
    low, high = (shown(str(row.get(name, ""))) for name in ("low", "high"))
    return f"{low} to {high}" if low and high else ""


def as_text(table: pd.DataFrame) -> str:
    """The headline metrics, aligned for a terminal; the rule for failed samples below."""
    columns = ("task", "model", "dataset", "metric", "value", "95 % interval", "median", "n", "failed", "backend")
    optional = {"95 % interval", "median", "failed"}
    rules: list[str] = []
    lines: list[tuple[str, ...]] = []
    for headline in headlines(table):
        for index, (_, row) in enumerate(headline.rows.iterrows()):
            names = (headline.task, headline.model, headline.dataset) if index == 0 else ("", "", "")
            unit = metric_of(row["metric"]).unit
            metric = row["metric"] + (f" ({unit})" if unit else "")
            median, failed = shown(row.get("median", "")), row.get("n_failed", "")
            figures = (shown(row["value"]), interval(row), median, row["n"], failed)
            lines.append((*names, metric, *figures, row["backend"]))
            rules.append(row.get("failed_rule", ""))
    lines = [tuple(_printable(cell) for cell in line) for line in lines]
    keep = [i for i, name in enumerate(columns) if name not in optional or any(line[i] for line in lines)]
    widths = [max(len(line[i]) for line in [columns, *lines]) for i in range(len(columns))]
    right = {columns.index(name) for name in ("value", "median", "n", "failed")}

    def aligned(line: tuple[str, ...]) -> str:
        return "  ".join(line[i].rjust(widths[i]) if i in right else line[i].ljust(widths[i]) for i in keep).rstrip()

    rule = "  ".join("-" * widths[i] for i in keep)
    note = rule_note(rules)
    return "\n".join([aligned(columns), rule, *map(aligned, lines), *([note] if note else [])])


def _printable(text: str) -> str:
    """Text without terminal control characters."""
    return "".join(character if character.isprintable() else "?" for character in text)


def further_tables(results: Results, published_model: str | Mapping[str, str] | None) -> dict[str, pd.DataFrame]:
    """Further tables below ``tables/``, by file name; tables without rows are omitted."""
    tables = {
        "designs": all_designs(results),
        "groups": _joined([evaluation.groups for evaluation in results.evaluations]),
        "models": cross_entropies(results),
        "sampling_speed": sampling_speed(results, published_model),
        "training": _joined([curve.rows.assign(trained=curve.place) for curve in results.curves], first=["trained"]),
        "token_usage": pd.DataFrame([_token_row(usage) for usage in results.token_usage]),
        "datasets": pd.DataFrame(
            [{"dataset": d.name, "chains": d.chains, "rejected": len(d.rejected)} for d in results.datasets]
        ),
        "rejected": _joined(
            [dataset.rejected.assign(dataset=dataset.name) for dataset in results.datasets], first=["dataset"]
        ),
        "runs": pd.DataFrame([run_row(run.place, run.record) for run in results.runs]),
    }
    for kind in dict.fromkeys(evaluation.kind for evaluation in results.evaluations):
        frames = [_with_names(evaluation) for evaluation in results.of_kind(kind) if len(evaluation.metrics)]
        tables[f"samples-{kind or 'other'}"] = _joined(frames, first=["model", "task", "dataset"])
    return {name: table for name, table in tables.items() if len(table)}


def _with_names(evaluation) -> pd.DataFrame:
    scalar = [name for name, column in evaluation.metrics.items() if not column.map(_is_sequence).any()]
    names = {"model": evaluation.model, "task": evaluation.task, "dataset": evaluation.dataset}
    missing = {name: text for name, text in names.items() if name not in evaluation.metrics}
    if evaluation.variant:
        missing["variant"] = evaluation.variant
    return evaluation.metrics[scalar].assign(**missing)


def _is_sequence(value: object) -> bool:
    return hasattr(value, "__len__") and not isinstance(value, str)


def _joined(frames: list[pd.DataFrame], first: list[str] | None = None) -> pd.DataFrame:
    frames = [frame for frame in frames if len(frame)]
    if not frames:
        return pd.DataFrame()
    # Columns that are empty in one frame must not decide another's type.
    combined = pd.concat([frame.astype(object) for frame in frames], ignore_index=True)
    first = [name for name in first or [] if name in combined]
    return combined[[*first, *(name for name in combined if name not in first)]]


def _token_row(usage) -> dict:
    return {
        "tokenizer": usage.tokenizer,
        "dataset": usage.dataset,
        "codebook_size": usage.codebook_size,
        "tokens": int(usage.counts.sum()),
        "used": usage.used,
        "perplexity": round(usage.perplexity, 3),
    }


def run_row(place: str, record: dict) -> dict:
    """The row of one ``run.json``."""
    memory = record.get("peak_memory_bytes")
    seconds = record.get("wall_seconds")
    return {
        "place": place,
        "command": str(record.get("command", "")),
        "device": str(record.get("device", "")),
        "wall_seconds": seconds if isinstance(seconds, int | float) else None,
        "peak_memory_megabytes": round(memory / 1e6) if isinstance(memory, int | float) else None,
    }

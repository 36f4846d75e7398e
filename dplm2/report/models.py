"""Models side by side: cross-entropies of masked residues by track and task; the paper's warm-up table in miniature."""

from collections.abc import Mapping

import pandas as pd

from dplm2.core.artifacts import read_json_object
from dplm2.evaluation.metrics.language import CROSS_ENTROPY, CROSS_ENTROPY_OF_TASK
from dplm2.evaluation.metrics.registry import declared
from dplm2.evaluation.metrics.training import CROSS_ENTROPY as LOGGED_CROSS_ENTROPY
from dplm2.report.drawing import SERIES, Figure, axes, slug
from dplm2.report.labels import number
from dplm2.report.results import Curve, Results

PREFIX = "validation_cross_entropy_"
VALIDATION = "validation, at the end of training"
ALL_TASKS = "all"
TRACKS = ("sequence", "structure")
FREQUENCIES = "unigram baseline"
KEYS = ["dataset", "tokenizer", "track", "task"]


def cross_entropies(results: Results) -> pd.DataFrame:
    """Cross-entropies (nats): a row for each dataset, track and task, a column for each model.

    ``task`` is the conditioning: ``all`` pools all tasks; in ``folding`` the sequence is given, in ``inverse_folding``
    the structure. Values of structure tokens are comparable within one tokenizer only; the column ``tokenizer`` has its
    fingerprint if the model is among the results. `FREQUENCIES` is the unigram baseline.
    """
    rows: dict[tuple[str, ...], dict[str, float]] = {}
    for curve in results.curves:
        stage, _, model = curve.place.partition("/")
        if stage == "models" and "/" not in model:
            _add_validation(rows, curve, model, _tokenizer_of(results, model))
    for evaluation in results.of_kind("likelihood"):
        for line in evaluation.summary.to_dict("records"):
            model = line["model"]
            _add_measured(rows, line, _tokenizer_of(results, model))
    table = pd.DataFrame([dict(zip(KEYS, key, strict=True)) | values for key, values in rows.items()])
    if not len(table):
        return table
    models = sorted(set(table) - {*KEYS, FREQUENCIES})
    present = [name for name in (FREQUENCIES, *models) if name in table]
    # The frequencies do not depend on the task.
    if FREQUENCIES in present:
        table[FREQUENCIES] = table.groupby(["dataset", "tokenizer", "track"])[FREQUENCIES].transform("max")
    order = table.assign(pooled=table["task"] != ALL_TASKS, place=range(len(table)))
    order = order.sort_values(["dataset", "tokenizer", "track", "pooled", "place"])
    return order[[*KEYS, *present]].reset_index(drop=True)


def _tokenizer_of(results: Results, model: str) -> str:
    path = results.folder / "models" / model / "config.json"
    described = read_json_object(path).get("dplm2") if path.is_file() else None
    return str(described.get("tokenizer_fingerprint") or "") if isinstance(described, dict) else ""


def _add_validation(rows: dict, curve: Curve, model: str, tokenizer: str) -> None:
    for column in curve.rows:
        values = curve.rows[column].dropna()
        if column.startswith(PREFIX) and len(values):
            track, task = _track_and_task(column.removeprefix(PREFIX))
            rows.setdefault((VALIDATION, tokenizer, track, task), {})[model] = float(values.iloc[-1])


def _add_measured(rows: dict, line: Mapping[str, str], tokenizer: str) -> None:
    metric = declared(line["metric"])
    if metric is None or metric.family not in (CROSS_ENTROPY, CROSS_ENTROPY_OF_TASK):
        return
    named = metric.parameters
    column = {"trained": line["model"], "unigram": FREQUENCIES}.get(named["network"])
    if column:
        key = (line["dataset"], tokenizer, named["track"], named.get("given", ALL_TASKS))
        rows.setdefault(key, {})[column] = float(line["value"])


def _track_and_task(name: str) -> tuple[str, str]:
    track, _, task = name.partition("_")
    return track, task or ALL_TASKS


def validation_curves(results: Results) -> list[Figure]:
    """For each track the validation cross-entropies of all models over their updates, if there are several models."""
    updates = {curve.place: int(curve.rows["step"].max()) for curve in results.curves}
    models = {
        curve.place.removeprefix("models/"): (curve.rows, updates.get(f"{curve.place}/initial", 0))
        for curve in results.curves
        if curve.place.startswith("models/") and curve.place.count("/") == 1
    }
    figures = []
    for track in TRACKS:
        column = PREFIX + track
        series = {name: (rows, before) for name, (rows, before) in models.items() if column in rows}
        if len(series) > 1:
            figures.append(_compared_curves(track, column, series))
    return figures


def _compared_curves(track: str, column: str, series: Mapping[str, tuple[pd.DataFrame, int]]) -> Figure:
    ends = []
    with axes() as (ax, out):
        for i, (name, (rows, before)) in enumerate(series.items()):
            measured = rows[["step", column]].dropna()
            color = SERIES[i % len(SERIES)]
            ax.plot(measured["step"] + before, measured[column], color=color, marker="o", markersize=3.5, label=name)
            if before:
                ax.axvline(before, color=color, linestyle=":", linewidth=1)
            ends.append(f"{name}: {number(float(measured[column].iloc[-1]))}")
        ax.set(xlabel="updates, including the sequence stage", ylabel=LOGGED_CROSS_ENTROPY.axis, xlim=(0, None))
        ax.legend()
    caption = (
        f"Validation chains, all tasks pooled. Final values: {'; '.join(ends)}. A dotted line marks where a sequence "
        "stage ended and training on both tracks began."
    )
    return Figure(slug("models", track), f"All models: cross-entropy of the {track} track", caption, out[0])

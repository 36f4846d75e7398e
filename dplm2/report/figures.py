"""One function for each figure of the report: values in, a `Figure` with its caption out."""

import math
import re
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from dplm2.evaluation.metrics.metric import Metric
from dplm2.evaluation.metrics.registry import metric_of
from dplm2.report.drawing import FAINT, GRID, HEIGHT, INK, MARKERS, SERIES, Figure, axes, logarithmic, shorten, slug
from dplm2.report.labels import number
from dplm2.report.reading import reading
from dplm2.report.results import Curve, TokenUsage
from dplm2.training.log import VALIDATION

MOST_NAMED_CHAINS = 48
MOST_DOTS = 60
MOST_SCATTERED = 2000
LARGEST_LINEAR_RATIO = 30
SMALLEST_VIOLIN = 4
NOT_CURVES = {"step", "epoch", "learning_rate", "gradient_norm", "tokens", "seconds"}


def training(curve: Curve, most: int) -> list[Figure]:
    """The loss of one training, then the validation metrics, then the other terms; at most ``most`` figures."""
    groups: dict[str, list[str]] = {}
    for column in curve.rows:
        if column not in NOT_CURVES and curve.rows[column].notna().any():
            groups.setdefault(_curve_group(column), []).append(column)
    ordered = sorted(groups, key=lambda name: (name != "loss", not any(c.startswith(VALIDATION) for c in groups[name])))
    return [_training_figure(curve, name, groups[name]) for name in ordered[:most]]


def _curve_group(column: str) -> str:
    """Columns of one quantity share a figure: training and validation, sequence and structure track."""
    return re.sub(r"_(sequence|structure)(?=$|_)", "", column.removeprefix(VALIDATION), count=1)


def _training_figure(curve: Curve, name: str, columns: list[str]) -> Figure:
    what = metric_of(name)
    bases = list(dict.fromkeys(column.removeprefix(VALIDATION) for column in columns))
    with axes() as (ax, out):
        for column in columns:
            rows = curve.rows[["step", column]].dropna()
            place = bases.index(column.removeprefix(VALIDATION))
            held_out = column.startswith(VALIDATION)
            ax.plot(
                rows["step"], rows[column], color=SERIES[place % len(SERIES)], linestyle="--" if held_out else "-",
                marker=MARKERS[place % len(MARKERS)] if held_out or len(rows) == 1 else None, markersize=3.5,
                label=_curve_label(column, name, bases),
            )  # fmt: skip
        _log_if_wide(ax, curve.rows[columns].to_numpy(dtype=float))
        ax.set(xlabel="step", ylabel=what.axis)
        if len(columns) > 1:
            ax.legend()
    return Figure(
        slug("training", curve.place, name), f"{_trained(curve)}: {what.title}", _course(curve, name, columns), out[0]
    )


def _trained(curve: Curve) -> str:
    """What was trained, in words."""
    kind, name, *stage = curve.place.split("/")
    return f"{kind.removesuffix('s')} {name}{', sequence stage' if stage else ''}"


def _course(curve: Curve, name: str, columns: Sequence[str]) -> str:
    """Each line of a training in words, the validation first."""
    better = metric_of(name).better
    bases = list(dict.fromkeys(column.removeprefix(VALIDATION) for column in columns))
    said = []
    for column in sorted(columns, key=lambda column: not column.startswith(VALIDATION)):
        rows = curve.rows[["step", column]].dropna()
        label = _curve_label(column, name, bases)
        course = reading(
            rows["step"].to_numpy(float), rows[column].to_numpy(float), better, column.startswith(VALIDATION)
        )
        said.append(f"{label[:1].upper()}{label[1:]}: {course}.")
    return " ".join([*said, *([f"{better.capitalize()} is better."] if better else [])])


def _curve_label(column: str, name: str, bases: list[str]) -> str:
    base = column.removeprefix(VALIDATION)
    track = next((word for word in ("sequence", "structure") if word in base.split("_")), "") if base != name else ""
    stage = "validation" if column.startswith(VALIDATION) else "training"
    return f"{track}, {stage}" if track and len(bases) > 1 else stage


def _log_if_wide(ax: Axes, values: np.ndarray, axis: str = "y") -> None:
    values = values[np.isfinite(values)]
    if len(values) and values.min() > 0 and values.max() / values.min() > LARGEST_LINEAR_RATIO:
        logarithmic(ax.yaxis if axis == "y" else ax.xaxis)


def error_by_chain(name: str, title: str, series: Mapping[str, pd.DataFrame], column: str) -> Figure:
    """An error for every chain: a row per chain if there are few, else a dot per chain against its length.

    Parameters
    ----------
    series
        Frames with ``sample_id``, ``length`` and ``column``, by what they are called.
    """
    frames = {label: _with_ids(frame, column) for label, frame in series.items()}
    largest = max(len(frame) for frame in frames.values())
    named = largest <= MOST_NAMED_CHAINS
    what = metric_of(column)
    with axes(height=0.9 + 0.155 * largest if named else HEIGHT) as (ax, out):
        if named:
            _chain_rows(ax, frames, column)
        else:
            for i, (label, frame) in enumerate(_thinned(frames).items()):
                ax.scatter(
                    frame["length"], frame[column], s=9, alpha=0.6, color=SERIES[i % 6], marker=MARKERS[i % 6],
                    linewidths=0, label=label,
                )  # fmt: skip
            ax.set_xlabel("length (residues)")
        _log_if_wide(ax, np.concatenate([f[column].to_numpy(float) for f in frames.values()]), "x" if named else "y")
        (ax.set_xlabel if named else ax.set_ylabel)(what.axis)
        if len(frames) > 1:
            ax.figure.legend(loc="outside lower center", ncols=3)
    means = "; ".join(f"{label} {number(float(frame[column].mean()))}" for label, frame in frames.items())
    each = "Each row is a chain, sorted by error" if named else f"Each dot is a chain{_shown(frames)}"
    caption = f"{each}. {_better(what)}Means: {means}. Outliers deserve a closer look."
    return Figure(name, title, caption, out[0])


def _thinned(frames: Mapping[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """At most `MOST_SCATTERED` random rows of each, so that a page on large sets stays light."""
    return {
        name: frame.sample(MOST_SCATTERED, random_state=0) if len(frame) > MOST_SCATTERED else frame
        for name, frame in frames.items()
    }


def _shown(frames: Mapping[str, pd.DataFrame]) -> str:
    """What `_thinned` left out, as part of a sentence."""
    return f" (a random {MOST_SCATTERED:,} are drawn)" if max(map(len, frames.values())) > MOST_SCATTERED else ""


def _with_ids(frame: pd.DataFrame, column: str) -> pd.DataFrame:
    ids = frame.get("sample_id", frame.get("chain_id", pd.Series(frame.index.astype(str), index=frame.index)))
    values = pd.to_numeric(frame[column], errors="coerce")
    lengths = pd.to_numeric(frame["length"], errors="coerce") if "length" in frame else math.nan
    table = pd.DataFrame({"id": ids.astype(str), "length": lengths, column: values})
    return table[np.isfinite(table[column])]


def _chain_rows(ax: Axes, frames: Mapping[str, pd.DataFrame], column: str) -> None:
    first = next(iter(frames.values())).sort_values(column)
    order = list(dict.fromkeys([*first["id"], *(name for frame in frames.values() for name in frame["id"])]))
    for i, (label, frame) in enumerate(frames.items()):
        rows = [order.index(name) for name in frame["id"]]
        ax.scatter(frame[column], rows, s=16, color=SERIES[i % 6], marker=MARKERS[i % 6], label=label, zorder=3 - i)
    ax.set_yticks(range(len(order)), [shorten(name, 22) for name in order], fontsize=7)
    ax.set_ylim(len(order) - 0.4, -0.6)
    ax.tick_params(axis="y", length=0)


def histogram(
    name: str, title: str, series: Mapping[str, np.ndarray], column: str, thresholds: Sequence[float] = ()
) -> Figure:
    """Distribution of a metric over samples, with dashed lines at ``thresholds``."""
    what = metric_of(column)
    everything = np.concatenate(list(series.values()))
    with axes() as (ax, out):
        edges = np.linspace(*what.limits, 21) if what.limits else np.histogram_bin_edges(everything, 20)
        ax.hist(
            list(series.values()), bins=edges, label=list(series), color=[SERIES[i % 6] for i in range(len(series))]
        )
        for threshold in thresholds:
            if edges[0] <= threshold <= edges[-1]:
                ax.axvline(threshold, color=INK, linestyle="--", linewidth=1)
        ax.set(xlabel=what.axis, ylabel="samples")
        ax.yaxis.get_major_locator().set_params(integer=True)
        if len(series) > 1:
            ax.legend()
    medians = "; ".join(f"{label} {number(float(np.median(v)))} (n = {len(v)})" for label, v in series.items())
    return Figure(name, title, f"{_better(what)}Medians: {medians}.{_dashed(thresholds)}", out[0])


def _better(metric: Metric) -> str:
    """The sentence that says which direction is better."""
    return f"{metric.better.capitalize()} is better. " if metric.better else ""


def _dashed(thresholds: Sequence[float]) -> str:
    """The sentence about threshold lines."""
    if not thresholds:
        return ""
    lines, name = ("lines", "thresholds") if len(thresholds) > 1 else ("line", "threshold")
    return f" Dashed {lines}: {name} of {' and '.join(map(number, thresholds))}."


def by_length(name: str, title: str, frame: pd.DataFrame, column: str, thresholds: Sequence[float] = ()) -> Figure:
    """Violins of a metric by length, with the samples as dots and the medians as bars."""
    what = metric_of(column)
    groups = [(int(length), rows[column].to_numpy(float)) for length, rows in frame.groupby("length")]
    generator = np.random.default_rng(0)
    with axes() as (ax, out):
        for place, (_, values) in enumerate(groups):
            if len(values) >= SMALLEST_VIOLIN and np.ptp(values) > 0:
                parts = ax.violinplot([values], positions=[place], widths=0.85, showextrema=False)
                for body in parts["bodies"]:
                    body.set(facecolor=SERIES[0], alpha=0.3)
            dots = values if len(values) <= MOST_DOTS else generator.choice(values, MOST_DOTS, replace=False)
            ax.scatter(place + generator.uniform(-0.09, 0.09, len(dots)), dots, s=7, color=SERIES[0], linewidths=0)
            ax.hlines(np.median(values), place - 0.3, place + 0.3, color=INK, linewidth=1.6)
        for threshold in thresholds:
            ax.axhline(threshold, color=INK, linestyle="--", linewidth=1)
        ax.set_xticks(range(len(groups)), [str(length) for length, _ in groups])
        ax.grid(axis="x", visible=False)
        ax.set(xlabel="length (residues)", ylabel=what.axis)
    medians = ", ".join(f"{length}: {number(float(np.median(values)))}" for length, values in groups)
    caption = (
        f"Medians (bars) by length: {medians}. {_better(what)}Longer chains usually score worse.{_dashed(thresholds)}"
    )
    return Figure(name, title, caption, out[0])


def by_residue(
    name: str, title: str, series: Mapping[str, np.ndarray], axis: str, limits: tuple[float, float] | None, worst: str
) -> Figure:
    """A value of each residue along the chain, a line for each sample.

    ``worst`` is ``highest`` or ``lowest``: which values the caption points at.
    """
    said = []
    with axes() as (ax, out):
        for i, (label, values) in enumerate(series.items()):
            ax.plot(np.arange(1, len(values) + 1), values, color=SERIES[i % 6], linewidth=1.2, label=label)
            said.append(_residues_in_words(label, values, worst))
        ax.set(xlabel="residue", ylabel=axis, xlim=(1, max(map(len, series.values()))), ylim=(0, None))
        if limits:
            ax.set_ylim(limits[0] - 0.03 * limits[1], 1.03 * limits[1])
        if len(series) > 1:
            ax.figure.legend(loc="outside lower center", ncols=1)
    return Figure(name, title, " ".join(said), out[0])


def _residues_in_words(label: str, values: np.ndarray, worst: str) -> str:
    place = int(np.nanargmax(values) if worst == "highest" else np.nanargmin(values))
    return (
        f"{label}: mean {number(float(np.nanmean(values)))}, {worst} {number(float(values[place]))} at residue "
        f"{place + 1} of {len(values)}."
    )


def token_usage(tokenizer: str, usages: Sequence[TokenUsage]) -> Figure:
    """Frequency of each structure token, the most frequent first."""
    size = max(usage.codebook_size for usage in usages)
    with axes() as (ax, out):
        for i, usage in enumerate(usages):
            ordered = np.sort(usage.counts[usage.counts > 0])[::-1]
            ax.plot(
                np.arange(1, len(ordered) + 1), ordered / max(ordered.sum(), 1), color=SERIES[i % 6],
                label=usage.dataset, linestyle=("-", "--", "-.", ":")[i % 4],
                marker=MARKERS[i % 6] if len(ordered) == 1 else None,
            )  # fmt: skip
        ax.axhline(1 / size, color=FAINT, linewidth=1, linestyle=":")
        ax.set(xlabel=f"structure tokens by rank, of {size:,}", ylabel="share of residues", xlim=(0.8, size))
        logarithmic(ax.xaxis)
        logarithmic(ax.yaxis)
        ax.legend()
    facts = "; ".join(
        f"{u.dataset}: {u.used:,} of {u.codebook_size:,} used, perplexity {number(u.perplexity)}" for u in usages
    )
    caption = (
        f"{facts}. The dotted line marks uniform use of all tokens; the flatter and longer a curve, the better the "
        "codebook is used. A steep drop means that few tokens account for most residues."
    )
    return Figure(slug("token-usage", tokenizer), f"{tokenizer}: use of structure tokens", caption, out[0])


def scatter(name: str, title: str, series: Mapping[str, pd.DataFrame], across: str, up: str, caption: str) -> Figure:
    """One metric against another (or against the length), a dot per sample."""
    with axes() as (ax, out):
        for i, (model, frame) in enumerate(_thinned(series).items()):
            ax.scatter(
                frame[across], frame[up], s=14, alpha=0.75, color=SERIES[i % 6], marker=MARKERS[i % 6], linewidths=0,
                label=model,
            )  # fmt: skip
        if limits := metric_of(up).limits:
            ax.set_ylim(-0.03 * limits[1], 1.03 * limits[1])
        ax.set(xlabel=metric_of(across).axis, ylabel=metric_of(up).axis)
        if len(series) > 1:
            ax.legend()
    return Figure(name, title, f"Each dot is a sample{_shown(series)}. {caption}", out[0])


def bars(
    name: str,
    title: str,
    series: Mapping[str, Mapping[str, float]],
    axis: str,
    caption: str,
    limit: float | None = None,
) -> Figure:
    """Horizontal bars, a group for every row; rows missing in a series have no bar."""
    rows = list(dict.fromkeys(row for values in series.values() for row in values))
    thick = 0.8 / len(series)
    with axes(height=0.8 + (0.12 + 0.12 * len(series)) * len(rows)) as (ax, out):
        for i, (label, values) in enumerate(series.items()):
            places = [rows.index(row) - 0.4 + thick * (i + 0.5) for row in values]
            drawn = ax.barh(places, list(values.values()), height=thick, color=SERIES[i % 6], label=label)
            ax.bar_label(drawn, [number(value) for value in values.values()], padding=2, fontsize=7, color=INK)
        ax.set_yticks(range(len(rows)), [shorten(row) for row in rows])
        ax.set_ylim(len(rows) - 0.4, -0.6)
        ax.tick_params(axis="y", length=0)
        ax.grid(axis="y", visible=False)
        ax.grid(axis="x", color=GRID)
        ax.set(xlabel=axis, xlim=(0, limit) if limit else None)
        ax.margins(x=0.12)
        if len(series) > 1:
            ax.figure.legend(loc="outside lower center", ncols=3)
    return Figure(name, title, caption, out[0])

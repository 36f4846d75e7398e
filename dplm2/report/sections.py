"""The sections of the page; a section without data says what was not run."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd

from dplm2.evaluation.metrics.design import MOTIF_RMSD, RECOVERY, SC_RMSD, SC_TM, SUCCESS
from dplm2.evaluation.metrics.language import CROSS_ENTROPY
from dplm2.evaluation.metrics.metric import Metric
from dplm2.evaluation.metrics.registry import declared, metric_of, threshold_columns
from dplm2.evaluation.metrics.structure import (
    BASELINES,
    CA_RMSD,
    COMPOSITION,
    LDDT_CA,
    LENGTH,
    NATIVE_COMPOSITION,
    PLDDT,
    TM_SCORE,
)
from dplm2.report import figures
from dplm2.report.blocks import MOST_UNFILTERED_ROWS, Block, Details, Heading, Table, frame_table, typed
from dplm2.report.drawing import Figure, slug
from dplm2.report.models import FREQUENCIES, cross_entropies, validation_curves
from dplm2.report.results import REQUIRED_COLUMNS, Evaluation, Results
from dplm2.report.scale import scales
from dplm2.report.tables import further_tables, run_row, summary
from dplm2.settings.report import ReportSettings
from dplm2.training.log import duration

DOT = " \u00b7 "
SEVERAL = 2
UNIGRAM = "unigram baseline"
BASELINE_TM_SCORE = next(metric for metric in BASELINES if metric.base is TM_SCORE)
# Columns of a summary beyond its first seven, and what they are called.
HEADS = {"low": "low", "high": "high", "median": "median", "n_failed": "failed", "failed_rule": "failed samples are"}


@dataclass
class Section:
    """A part of the page.

    Attributes
    ----------
    name, title
        Id and heading.
    about
        A sentence below the heading.
    figures
        Drawn one beside the other.
    body
        What follows the figures.
    absent
        If there is nothing to show: what was not run.
    """

    name: str
    title: str
    about: str = ""
    figures: list[Figure] = field(default_factory=list)
    body: list[Block] = field(default_factory=list)
    absent: str = ""

    @property
    def empty(self) -> bool:
        """Whether there is nothing to show."""
        return not self.figures and not self.body


def sections(results: Results, settings: ReportSettings, success: Mapping[str, float]) -> list[Section]:
    """All parts after the summary and the viewer, in the order of the data.

    ``success`` is the published success rate of each motif problem.
    """
    parts = [
        data(results),
        training(results, settings),
        reconstruction(results),
        tokens(results),
        co_generation(results),
        folding(results),
        inverse_folding(results),
        scaffolding(results, success),
        likelihood(results),
        other_evaluations(results),
    ]
    tables = further_tables(results, settings.published_model)
    parts.append(speed(tables.get("sampling_speed"), settings.max_table_rows))
    for part in parts:
        for kind in KINDS.get(part.name, ()):
            if (name := f"samples-{kind}") in tables:
                shown = frame_table(name, tables[name], settings.max_table_rows, f"{name}.csv")
                part.body.append(Details(f"Metrics of each sample ({kind})", shown))
    return parts


# Which tables of samples belong to which part of the page.
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
        note="low, high: 95 % interval of the mean (bootstrap). Also: tables/summary_intervals.csv",
    )


def _summary_rows(name: str, frame: pd.DataFrame, first: Sequence[str]) -> Table:
    """Rows of a summary as text, figures as numbers; names stay text, even if they look like numbers."""
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


def data(results: Results) -> Section:
    """Datasets: chains kept, and what was rejected and why."""
    part = Section("data", "Data: chains kept and rejected", absent="no structures were cleaned in this results folder")
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
    part.body.append(Table("datasets", heads, rows, note="Also: tables/rejected.csv"))
    return part


def _reasons(rejected: pd.DataFrame) -> dict[str, int]:
    column = next((name for name in ("code", "reason") if name in rejected and rejected[name].notna().any()), None)
    counts = Counter() if column is None else Counter(rejected[column].fillna("unknown").astype(str))
    return dict(counts.most_common())


def _spelled(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{reason}: {count}" for reason, count in counts.items())


def training(results: Results, settings: ReportSettings) -> Section:
    """Training curves of tokenizers and models."""
    part = Section("training", "Training", absent="nothing was trained: no metrics.csv in this results folder")
    for curve in results.curves:
        part.figures += figures.training(curve, settings.max_training_figures)
    part.figures += validation_curves(results)
    known = [scale.sentence for scale in scales(results)]
    if known and results.curves:
        part.about = (
            "; ".join(known) + ". Solid lines: training, averaged since the previous row; dashed lines: validation."
        )
    return part


def reconstruction(results: Results) -> Section:
    """How well tokenizers reconstruct structures."""
    part = Section("reconstruction", "Tokenizer reconstruction", absent="tokenizer reconstruction was not evaluated")
    part.about = "Each chain is encoded as structure tokens, decoded, and superimposed on the original."
    by_dataset: dict[tuple[str, str], dict[str, Evaluation]] = {}
    for evaluation in results.of_kind("reconstruction"):
        if len(evaluation.metrics):
            variants = by_dataset.setdefault((evaluation.model, evaluation.dataset), {})
            variants[evaluation.variant or evaluation.place] = evaluation
    for (tokenizer, dataset), variants in by_dataset.items():
        # The trained one first: it decides the order of chains.
        ordered = dict(sorted(variants.items(), key=lambda pair: "untrained" in pair[0]))
        for metric in (CA_RMSD, LDDT_CA):
            column = metric.name
            frames = {name: e.succeeded() for name, e in ordered.items() if len(e.values(column))}
            if not frames:
                continue
            title = f"{tokenizer}{DOT}{dataset}: {metric.title}"
            name = slug("reconstruction", tokenizer, dataset, column)
            if metric is CA_RMSD:
                part.figures.append(figures.error_by_chain(name, f"{title} by chain", frames, column))
            else:
                values = {label: ordered[label].values(column) for label in frames}
                part.figures.append(figures.histogram(name, title, values, column))
    return part


def tokens(results: Results) -> Section:
    """How evenly the structure tokens are used."""
    part = Section("tokens", "Use of structure tokens", absent="no structures were tokenized in this results folder")
    by_tokenizer: dict[str, list] = {}
    for usage in results.token_usage:
        if usage.counts.sum():
            by_tokenizer.setdefault(usage.tokenizer, []).append(usage)
    part.figures = [figures.token_usage(tokenizer, usages) for tokenizer, usages in by_tokenizer.items()]
    return part


def co_generation(results: Results) -> Section:
    """Unconditional samples: self-consistency and confidence, by length."""
    part = Section("co-generation", "Unconditional generation", absent="no unconditional samples were evaluated")
    part.about = (
        "Each generated sequence is folded and the prediction is compared with the generated structure: scTM near 1 "
        "and scRMSD near 0 mean that sequence and structure agree."
    )
    for task, evaluations in _by_task(results, "co-generation", "backbone", "sequence"):
        part.figures += _histograms(task, evaluations, (SC_TM, SC_RMSD, PLDDT))
        for evaluation in evaluations:
            part.figures += _violins(evaluation, (SC_TM, SC_RMSD, PLDDT))
    part.figures += _compositions(results)
    return part


def _compositions(results: Results) -> Iterator[Figure]:
    """Shares of helix, strand and coil in generated structures beside those of the chains that were reconstructed."""
    shares: dict[str, dict[str, float]] = {}
    for evaluation in results.of_kind("co-generation", "backbone", "sequence", "reconstruction"):
        of_natives = evaluation.kind == "reconstruction"
        metrics = NATIVE_COMPOSITION if of_natives else COMPOSITION
        means = {of.title: evaluation.values(metric.name) for of, metric in zip(COMPOSITION, metrics, strict=True)}
        if evaluation.variant != "untrained" and all(len(values) for values in means.values()):
            label = f"natives{DOT}{evaluation.dataset}" if of_natives else f"{evaluation.model}{DOT}{evaluation.task}"
            shares[label] = {name: float(values.mean()) for name, values in means.items()}
    if any(not label.startswith("natives") for label in shares):
        caption = (
            "Mean shares of residues (P-SEA, from C\u03b1 positions). Almost entirely helical designs are easy to "
            "generate and to fold; native proteins contain more strand."
        )
        title = "Secondary structure of generated and native structures"
        yield figures.bars("secondary-structure", title, shares, "share of residues", caption, 1.0)


def folding(results: Results) -> Section:
    """Predicted structures against natives."""
    part = Section("folding", "Folding", absent="folding was not evaluated")
    for task, evaluations in _by_task(results, "folding"):
        part.figures += _scatters(task, evaluations, LENGTH, TM_SCORE, "Higher is better; long chains are harder.")
        part.figures += _scatters(
            task, evaluations, CA_RMSD, TM_SCORE,
            "Good predictions lie at the top left. A low TM-score at a low RMSD indicates a short chain.",
        )  # fmt: skip
        part.figures += _scatters(
            task, evaluations, BASELINE_TM_SCORE, TM_SCORE,
            "On the diagonal, the folding program predicts the same sequences equally well.",
        )  # fmt: skip
        part.figures += _histograms(task, evaluations, (CA_RMSD,))
    return part


def inverse_folding(results: Results) -> Section:
    """Designed sequences for given structures."""
    part = Section("inverse-folding", "Inverse folding", absent="inverse folding was not evaluated")
    part.about = "Recovery is the share of residues identical to the native sequence; about 0.06 is expected by chance."
    for task, evaluations in _by_task(results, "inverse-folding"):
        part.figures += _histograms(task, evaluations, (RECOVERY, SC_TM, PLDDT))
        part.figures += _scatters(
            task, evaluations, RECOVERY, SC_TM, "Designs that fold into the given structure lie at the top."
        )
    return part


def scaffolding(results: Results, published: Mapping[str, float]) -> Section:
    """Motif scaffolding: success by problem, beside the published rates of the same problems."""
    part = Section("scaffolding", "Motif scaffolding", absent="motif scaffolding was not evaluated")
    for task, evaluations in _by_task(results, "scaffolding"):
        rates, columns = {}, []
        for evaluation in evaluations:
            column = next(filter(SUCCESS.match, evaluation.metrics), None)
            if column is not None and "problem" in evaluation.metrics:
                # A failed design is one that did not succeed.
                won = evaluation.metrics.assign(won=evaluation.metrics[column].fillna(False).astype(float))
                rates[evaluation.model] = won.groupby(won["problem"].astype(str))["won"].mean().to_dict()
                columns.append(metric_of(column).title)
        if rates:
            beside = {problem: published[problem] for problem in _problems(rates) if problem in published}
            rates |= {"published": beside} if beside else {}
            designs = sum(len(evaluation.metrics) for evaluation in evaluations)
            caption = (
                f"Share of designs with {columns[0]}; {designs:,} designs in total. "
                "Problems without a bar are unsolved."
            )
            name = slug(task, "success")
            part.figures.append(
                figures.bars(name, f"{task}: success by problem", rates, "share of designs", caption, 1.0)
            )
        part.figures += _histograms(task, evaluations, (MOTIF_RMSD, SC_TM))
    return part


def _problems(rates: Mapping[str, Mapping[str, float]]) -> list[str]:
    return list(dict.fromkeys(problem for by_problem in rates.values() for problem in by_problem))


def likelihood(results: Results) -> Section:
    """Cross-entropy of masked tokens beside the unigram baseline and the untrained model."""
    part = Section("likelihood", "Likelihood of masked tokens", absent="no likelihoods were evaluated")
    for evaluation in results.of_kind("likelihood"):
        for dataset, rows in evaluation.summary.groupby("dataset", sort=False):
            entropies = _cross_entropies(rows)
            if entropies:
                name = slug("likelihood", evaluation.model, str(dataset))
                title = f"{evaluation.model}{DOT}{dataset}: cross-entropy by track"
                caption = (
                    "Lower is better. The unigram baseline is the entropy of the track's token frequencies, the best "
                    "that a model without context can reach."
                )
                part.figures.append(figures.bars(name, title, entropies, "nats per masked token", caption))
    table = cross_entropies(results)
    if len(table):
        part.absent = ""
        part.about = (
            "Cross-entropies (nats) of masked residues for all models, by track and by what was given. Lower is "
            "better; values of structure tokens are comparable within one tokenizer only."
        )
        shown = table.rename(columns={FREQUENCIES: UNIGRAM})
        part.body.append(frame_table("models-table", shown, len(table), "models.csv"))
    return part


def speed(table: pd.DataFrame | None, most: int) -> Section:
    """Seconds per sample, by length."""
    part = Section("speed", "Sampling speed", absent="no samples with recorded times were found")
    if table is not None:
        part.about = (
            "Seconds per sample, including decoding: measured per batch where this was recorded, otherwise the wall "
            'time of the job divided by its number of samples. Times depend on the machine. "missing": no published '
            "value."
        )
        part.body.append(frame_table("speed-table", table, most, "sampling_speed.csv"))
    return part


def _cross_entropies(rows: pd.DataFrame) -> dict[str, dict[str, float]]:
    """By variant (trained, untrained, unigram) and track."""
    values: dict[str, dict[str, float]] = {"trained": {}, "untrained": {}, "unigram": {}}
    for column, value in zip(rows["metric"], map(typed, rows["value"]), strict=True):
        metric = CROSS_ENTROPY.match(column)
        if metric and not isinstance(value, str):
            values[metric.parameters["network"]][metric.parameters["track"]] = value
    named = {"unigram": UNIGRAM}
    return {named.get(network, network): by_track for network, by_track in values.items() if by_track}


def other_evaluations(results: Results) -> Section:
    """Summaries of evaluations whose task is not one of those above."""
    part = Section("others", "Other evaluations")
    for evaluation in results.of_kind(None):
        if not len(evaluation.summary):
            continue
        shown = _summary_rows(slug("other", evaluation.place), evaluation.summary.fillna(""), ("model", "metric"))
        part.body += [Heading(evaluation.label), shown]
    return part


def _by_task(results: Results, *kinds: str) -> Iterator[tuple[str, list[Evaluation]]]:
    """Evaluations of one task and dataset together: their models share a figure."""
    groups: dict[str, list[Evaluation]] = {}
    for evaluation in results.of_kind(*kinds):
        if len(evaluation.metrics):
            title = DOT.join(dict.fromkeys(part for part in (evaluation.task, evaluation.dataset) if part))
            groups.setdefault(title, []).append(evaluation)
    yield from groups.items()


def _histograms(task: str, evaluations: list[Evaluation], metrics: tuple[Metric, ...]) -> Iterator[Figure]:
    for metric in metrics:
        column = metric.name
        series = {_named(e, evaluations): e.values(column) for e in evaluations if len(e.values(column))}
        if series:
            thresholds = sorted({t for e in evaluations for t in threshold_columns(e.metrics, column).values()})
            yield figures.histogram(slug(task, column), f"{task}: {metric.title}", series, column, thresholds)


def _named(evaluation: Evaluation, among: list[Evaluation]) -> str:
    """The model's name, or the place where one model has several evaluations."""
    twice = sum(other.model == evaluation.model for other in among) > 1
    return evaluation.place if twice else evaluation.model


def _violins(evaluation: Evaluation, metrics: tuple[Metric, ...]) -> Iterator[Figure]:
    for metric in metrics:
        column = metric.name
        frame = evaluation.succeeded()
        if column not in frame or "length" not in frame:
            continue
        frame = frame[["length", column]].apply(pd.to_numeric, errors="coerce").dropna()
        lengths = frame["length"].nunique()
        # Violins say something where lengths were asked for, not where every sample has one of its own.
        if lengths >= SEVERAL and len(frame) >= SEVERAL * lengths:
            title = f"{evaluation.label}: {metric.title} by length"
            thresholds = sorted(threshold_columns(evaluation.metrics, column).values())
            yield figures.by_length(slug(evaluation.place, column, "by-length"), title, frame, column, thresholds)


def _scatters(task: str, evaluations: list[Evaluation], across: Metric, up: Metric, caption: str) -> Iterator[Figure]:
    pair = [across.name, up.name]
    series = {}
    for evaluation in evaluations:
        frame = evaluation.succeeded()
        if set(pair) <= set(frame):
            frame = frame[pair].apply(pd.to_numeric, errors="coerce")
            frame = frame[np.isfinite(frame).all(axis=1)]
            if len(frame):
                series[_named(evaluation, evaluations)] = frame
    if series:
        counts = ", ".join(f"{name}: {len(frame)}" for name, frame in series.items())
        title = f"{task}: {up.title} against {across.title}"
        name = slug(task, up.name, "against", across.name)
        yield figures.scatter(name, title, series, *pair, f"{caption} Samples: {counts}.")


def run_details(results: Results) -> Section:
    """Stages, times, devices and versions."""
    part = Section("run", "Run details", absent="no run.json was found")
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
    part.body.append(Table("runs", heads, rows, len(rows) > MOST_UNFILTERED_ROWS, "Also: tables/runs.csv"))
    versions: dict[str, set[str]] = {}
    for run in results.runs:
        for name, version in dict(run.record.get("versions") or {}).items():
            versions.setdefault(str(name), set()).add(str(version))
    if versions:
        pairs = [[name, ", ".join(sorted(found))] for name, found in versions.items()]
        part.body += [Heading("Versions"), Table("versions", ["package", "version"], pairs)]
    return part

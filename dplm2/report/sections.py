"""What the page shows, part by part; a part whose data are absent says what was not run."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from dplm2.report import figures, markup
from dplm2.report.drawing import Figure, slug
from dplm2.report.labels import quantity, split_variant, threshold_columns
from dplm2.report.markup import Html
from dplm2.report.models import cross_entropies, validation_curves
from dplm2.report.results import Evaluation, Results
from dplm2.report.scale import scales
from dplm2.report.tables import further_tables, run_row, summary
from dplm2.settings.report import ReportSettings
from dplm2.training.log import duration

DOT = " \u00b7 "
SEVERAL = 2
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
    body: list[Html] = field(default_factory=list)
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
                shown = markup.frame_table(name, tables[name], settings.max_table_rows, f"{name}.csv")
                part.body.append(markup.details(f"Every row of metrics ({kind})", shown))
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


def summary_table(results: Results) -> Html:
    """Every row of every summary, sortable, with its interval."""
    frame = summary(results)
    known = ["model", "task", "dataset", "metric", "value", "n", "backend"]
    wanted = [name for name in HEADS if name in frame]
    rows = []
    for _, row in frame.iterrows():
        cells = [markup.typed(row[name]) if name in ("value", "n") else row[name] for name in known]
        rows.append([*cells, *(markup.typed(row[name]) for name in wanted)])
    heads = [*known, *(HEADS[name] for name in wanted)]
    return markup.table(
        "summary-table",
        heads,
        rows,
        filtered=True,
        note="low, high: 95 % interval of the mean (bootstrap). Also: tables/summary_intervals.csv",
    )


def data(results: Results) -> Section:
    """Datasets: chains kept, and what was rejected and why."""
    part = Section(
        "data", "Data: what was kept and rejected", absent="no structures were cleaned in this results folder"
    )
    if not results.datasets:
        return part
    part.about = "A file or chain that cannot be used is left out with its reason; the run goes on with the others."
    for dataset in results.datasets:
        reasons = _reasons(dataset.rejected)
        if reasons:
            name = slug("rejected", dataset.name)
            title = f"{dataset.name}: rejected files and chains"
            caption = (
                f"{len(dataset.rejected):,} left out, {dataset.chains:,} chains kept. One long bar may mean "
                "a filter that is too strict for these files."
            )
            part.figures.append(figures.bars(name, title, {"rejected": reasons}, "files or chains", caption))
    rows = [[d.name, d.chains, len(d.rejected), _spelled(_reasons(d.rejected))] for d in results.datasets]
    part.body.append(
        markup.table("datasets", ["dataset", "chains kept", "left out", "why"], rows, note="Also: tables/rejected.csv")
    )
    return part


def _reasons(rejected: pd.DataFrame) -> dict[str, int]:
    column = next((name for name in ("code", "reason") if name in rejected and rejected[name].notna().any()), None)
    counts = Counter() if column is None else Counter(rejected[column].fillna("unknown").astype(str))
    return dict(counts.most_common())


def _spelled(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{reason}: {count}" for reason, count in counts.items())


def training(results: Results, settings: ReportSettings) -> Section:
    """Training curves of tokenizers and models."""
    part = Section("training", "Training", absent="nothing was trained in this results folder (no metrics.csv)")
    for curve in results.curves:
        part.figures += figures.training(curve, settings.max_training_figures)
    part.figures += validation_curves(results)
    known = [scale.sentence for scale in scales(results)]
    if known and results.curves:
        part.about = "; ".join(known) + ". Solid: training, a mean since the last row; dashed: validation."
    return part


def reconstruction(results: Results) -> Section:
    """How well tokenizers give structures back."""
    part = Section(
        "reconstruction", "Reconstruction by the tokenizer", absent="no tokenizer's reconstruction was evaluated"
    )
    part.about = "Each chain is turned into structure tokens and back, and laid over what it was."
    by_dataset: dict[tuple[str, str], dict[str, Evaluation]] = {}
    for evaluation in results.of_kind("reconstruction"):
        if len(evaluation.metrics):
            variants = by_dataset.setdefault((evaluation.model, evaluation.dataset), {})
            variants[evaluation.variant or evaluation.place] = evaluation
    for (tokenizer, dataset), variants in by_dataset.items():
        # The trained one first: it decides the order of chains.
        ordered = dict(sorted(variants.items(), key=lambda pair: "untrained" in pair[0]))
        for column in ("ca_rmsd", "lddt_ca"):
            frames = {name: e.succeeded() for name, e in ordered.items() if len(e.values(column))}
            if not frames:
                continue
            title = f"{tokenizer}{DOT}{dataset}: {quantity(column).name} by chain"
            name = slug("reconstruction", tokenizer, dataset, column)
            if column == "ca_rmsd":
                part.figures.append(figures.error_by_chain(name, title, frames, column))
            else:
                values = {label: ordered[label].values(column) for label in frames}
                title = f"{tokenizer}{DOT}{dataset}: {quantity(column).name}"
                part.figures.append(figures.histogram(name, title, values, column))
    return part


def tokens(results: Results) -> Section:
    """How evenly the structure tokens are used."""
    part = Section(
        "tokens", "Structure tokens in use", absent="no structures were turned into tokens in this results folder"
    )
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
        "A generated sequence is folded and the prediction is laid over the generated structure: scTM near 1 and "
        "scRMSD near 0 mean that sequence and structure agree."
    )
    for task, evaluations in _by_task(results, "co-generation", "backbone", "sequence"):
        part.figures += _histograms(task, evaluations, ("sc_tm", "sc_rmsd", "plddt"))
        for evaluation in evaluations:
            part.figures += _violins(evaluation, ("sc_tm", "sc_rmsd", "plddt"))
    part.figures += _compositions(results)
    return part


def _compositions(results: Results) -> Iterator[Figure]:
    """Shares of helix, strand and coil in generated structures beside those of the chains that were reconstructed."""
    shares: dict[str, dict[str, float]] = {}
    for evaluation in results.of_kind("co-generation", "backbone", "sequence", "reconstruction"):
        prefix = "native_" if evaluation.kind == "reconstruction" else ""
        means = {name: evaluation.values(prefix + name) for name in ("helix", "strand", "coil")}
        if evaluation.variant != "untrained" and all(len(values) for values in means.values()):
            label = f"natives{DOT}{evaluation.dataset}" if prefix else f"{evaluation.model}{DOT}{evaluation.task}"
            shares[label] = {name: float(values.mean()) for name, values in means.items()}
    if any(not label.startswith("natives") for label in shares):
        caption = (
            "Mean shares of residues (P-SEA, from C-alpha alone). Designs that are nearly all helix are easy to make "
            "and to fold; natives hold more strand."
        )
        title = "Secondary structure of generated and of native structures"
        yield figures.bars("secondary-structure", title, shares, "share of residues", caption, 1.0)


def folding(results: Results) -> Section:
    """Predicted structures against natives."""
    part = Section("folding", "Folding", absent="folding was not evaluated")
    for task, evaluations in _by_task(results, "folding"):
        part.figures += _scatters(
            task, evaluations, "length", "tm_score", "High is better; long chains are the harder ones."
        )
        part.figures += _scatters(
            task, evaluations, "ca_rmsd", "tm_score",
            "Good predictions gather at the top left. A low TM-score at a low RMSD is a short chain.",
        )  # fmt: skip
        part.figures += _scatters(
            task, evaluations, "baseline_tm_score", "tm_score",
            "Dots on the diagonal: the folding program's models of the same sequences are as good.",
        )  # fmt: skip
        part.figures += _histograms(task, evaluations, ("ca_rmsd",))
    return part


def inverse_folding(results: Results) -> Section:
    """Designed sequences for given structures."""
    part = Section("inverse-folding", "Inverse folding", absent="inverse folding was not evaluated")
    part.about = "Recovery is the share of residues that are the native's; by chance alone it is about 0.06."
    for task, evaluations in _by_task(results, "inverse-folding"):
        part.figures += _histograms(task, evaluations, ("recovery", "sc_tm", "plddt"))
        part.figures += _scatters(
            task, evaluations, "recovery", "sc_tm", "Designs that fold into the given structure stand high."
        )
    return part


def scaffolding(results: Results, published: Mapping[str, float]) -> Section:
    """Motif scaffolding: success by problem, beside the published rates of the same problems."""
    part = Section("scaffolding", "Motif scaffolding", absent="motif scaffolding was not evaluated")
    for task, evaluations in _by_task(results, "scaffolding"):
        rates, columns = {}, []
        for evaluation in evaluations:
            column = next((name for name in evaluation.metrics if name.startswith("success")), None)
            if column is not None and "problem" in evaluation.metrics:
                # A failed design is one that did not succeed.
                won = evaluation.metrics.assign(won=evaluation.metrics[column].fillna(False).astype(float))
                rates[evaluation.model] = won.groupby(won["problem"].astype(str))["won"].mean().to_dict()
                columns.append(quantity(column).name)
        if rates:
            beside = {problem: published[problem] for problem in _problems(rates) if problem in published}
            rates |= {"published": beside} if beside else {}
            designs = sum(len(evaluation.metrics) for evaluation in evaluations)
            caption = (
                f"Share of designs with {columns[0]}, of {designs:,} in all. Problems without a bar are not solved."
            )
            name = slug(task, "success")
            part.figures.append(
                figures.bars(name, f"{task}: success by problem", rates, "share of designs", caption, 1.0)
            )
        part.figures += _histograms(task, evaluations, ("motif_rmsd", "sc_tm"))
    return part


def _problems(rates: Mapping[str, Mapping[str, float]]) -> list[str]:
    return list(dict.fromkeys(problem for by_problem in rates.values() for problem in by_problem))


def likelihood(results: Results) -> Section:
    """Cross-entropy of masked tokens beside that of what knows frequencies only, and of what is untrained."""
    part = Section("likelihood", "Likelihood of masked tokens", absent="no likelihoods were evaluated")
    for evaluation in results.of_kind("likelihood"):
        for dataset, rows in evaluation.summary.groupby("dataset", sort=False):
            entropies = _cross_entropies(rows)
            if entropies:
                name = slug("likelihood", evaluation.model, str(dataset))
                title = f"{evaluation.model}{DOT}{dataset}: cross-entropy by track"
                caption = (
                    "Shorter is better. Unigram: the entropy of the track's token frequencies, which a model that "
                    "looks at nothing can reach; a model that has learned lies below it."
                )
                part.figures.append(figures.bars(name, title, entropies, "nats per masked token", caption))
    table = cross_entropies(results)
    if len(table):
        part.absent = ""
        part.about = (
            "Cross-entropies (nats) of masked residues, by track and by what was given, the models side by side. "
            "Less is better; figures of structure tokens compare within one tokenizer."
        )
        part.body.append(markup.frame_table("models-table", table, len(table), "models.csv"))
    return part


def speed(table: pd.DataFrame | None, most: int) -> Section:
    """Seconds for each sample, by length."""
    part = Section("speed", "Sampling speed", absent="no samples with times were found, so there is no speed to tell")
    if table is not None:
        part.about = (
            "Seconds for each sample, decoding included: of the batches that it was made in where the samples tell, "
            "else of the whole job over its samples. They depend on the machine; what nobody published is said to be "
            "missing."
        )
        part.body.append(markup.frame_table("speed-table", table, most, "sampling_speed.csv"))
    return part


def _cross_entropies(rows: pd.DataFrame) -> dict[str, dict[str, float]]:
    """By variant (trained, untrained, unigram) and track."""
    values: dict[str, dict[str, float]] = {"trained": {}, "untrained": {}, "unigram": {}}
    for metric, value in zip(rows["metric"], map(markup.typed, rows["value"]), strict=True):
        name, variant = split_variant(metric)
        if variant and name.endswith("cross_entropy") and not isinstance(value, str):
            values[variant][name.removesuffix("_cross_entropy")] = value
    return {variant: by_track for variant, by_track in values.items() if by_track}


def other_evaluations(results: Results) -> Section:
    """Evaluations of a task that is not known here: their summaries."""
    part = Section("others", "Other evaluations")
    for evaluation in results.of_kind(None):
        if not len(evaluation.summary):
            continue
        names = ["value", "n", *(name for name in HEADS if name in evaluation.summary)]
        rows = [
            [row["model"], row["metric"], *(markup.typed(row[name]) for name in names)]
            for _, row in evaluation.summary.fillna("").iterrows()
        ]
        heads = ["model", "metric", *(HEADS.get(name, name) for name in names)]
        shown = markup.table(slug("other", evaluation.place), heads, rows)
        part.body += [markup.element("h3", evaluation.label), shown]
    return part


def _by_task(results: Results, *kinds: str) -> Iterator[tuple[str, list[Evaluation]]]:
    """Evaluations of one task and dataset together: their models share a figure."""
    groups: dict[str, list[Evaluation]] = {}
    for evaluation in results.of_kind(*kinds):
        if len(evaluation.metrics):
            title = DOT.join(dict.fromkeys(part for part in (evaluation.task, evaluation.dataset) if part))
            groups.setdefault(title, []).append(evaluation)
    yield from groups.items()


def _histograms(task: str, evaluations: list[Evaluation], columns: tuple[str, ...]) -> Iterator[Figure]:
    for column in columns:
        series = {_named(e, evaluations): e.values(column) for e in evaluations if len(e.values(column))}
        if series:
            thresholds = sorted({t for e in evaluations for t in threshold_columns(e.metrics, column).values()})
            title = f"{task}: {quantity(column).name}"
            yield figures.histogram(slug(task, column), title, series, column, thresholds)


def _named(evaluation: Evaluation, among: list[Evaluation]) -> str:
    """The model's name, or the place where one model has several evaluations."""
    twice = sum(other.model == evaluation.model for other in among) > 1
    return evaluation.place if twice else evaluation.model


def _violins(evaluation: Evaluation, columns: tuple[str, ...]) -> Iterator[Figure]:
    for column in columns:
        frame = evaluation.succeeded()
        if column not in frame or "length" not in frame:
            continue
        frame = frame[["length", column]].apply(pd.to_numeric, errors="coerce").dropna()
        lengths = frame["length"].nunique()
        # Violins say something where lengths were asked for, not where every sample has one of its own.
        if lengths >= SEVERAL and len(frame) >= SEVERAL * lengths:
            title = f"{evaluation.label}: {quantity(column).name} by length"
            thresholds = sorted(threshold_columns(evaluation.metrics, column).values())
            yield figures.by_length(slug(evaluation.place, column, "by-length"), title, frame, column, thresholds)


def _scatters(task: str, evaluations: list[Evaluation], across: str, up: str, caption: str) -> Iterator[Figure]:
    series = {}
    for evaluation in evaluations:
        frame = evaluation.succeeded()
        if across in frame and up in frame:
            frame = frame[[across, up]].apply(pd.to_numeric, errors="coerce")
            frame = frame[np.isfinite(frame).all(axis=1)]
            if len(frame):
                series[_named(evaluation, evaluations)] = frame
    if series:
        counts = ", ".join(f"{name}: {len(frame)}" for name, frame in series.items())
        over = "length" if across == "length" else quantity(across).name
        title = f"{task}: {quantity(up).name} against {over}"
        yield figures.scatter(
            slug(task, up, "against", across), title, series, across, up, f"{caption} Samples: {counts}."
        )


def run_facts(results: Results) -> Section:
    """What made these results: stages, times, devices, versions."""
    part = Section("run", "How this was made", absent="no run.json was found")
    if not results.runs:
        return part
    rows = []
    for run in results.runs:
        row = run_row(run.place, run.record)
        seconds = row["wall_seconds"]
        took = "" if seconds is None else duration(seconds)
        rows.append([row["place"], row["command"], row["device"], took, seconds, row["peak_memory_megabytes"]])
    total = sum(row[4] or 0 for row in rows)
    part.about = f"Wall time of all stages together: {duration(total)}."
    heads = ["result", "command", "device", "took", "seconds", "peak memory (MB)"]
    part.body.append(markup.table("runs", heads, rows, filtered=len(rows) > 10, note="Also: tables/runs.csv"))
    versions: dict[str, set[str]] = {}
    for run in results.runs:
        for name, version in dict(run.record.get("versions") or {}).items():
            versions.setdefault(str(name), set()).add(str(version))
    if versions:
        pairs = [[name, ", ".join(sorted(found))] for name, found in versions.items()]
        part.body += [markup.element("h3", "Versions"), markup.table("versions", ["package", "version"], pairs)]
    return part

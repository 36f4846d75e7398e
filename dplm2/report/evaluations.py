"""The sections about evaluations, a function for each task."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pandas as pd

from dplm2.evaluation.metrics.design import MOTIF_RMSD, RECOVERY, SC_RMSD, SC_TM, SUCCESS
from dplm2.evaluation.metrics.language import CROSS_ENTROPY
from dplm2.evaluation.metrics.metric import ANGSTROM, Metric
from dplm2.evaluation.metrics.registry import metric_of, threshold_columns
from dplm2.evaluation.metrics.structure import (
    BASELINES,
    CA_RMSD,
    COMPOSITION,
    HELIX,
    LDDT_CA,
    LENGTH,
    NATIVE_COMPOSITION,
    PLDDT,
    TM_SCORE,
)
from dplm2.report import figures
from dplm2.report.blocks import PageSection, frame_table, typed
from dplm2.report.drawing import Figure, slug
from dplm2.report.models import FREQUENCIES, cross_entropies
from dplm2.report.results import Evaluation, Results
from dplm2.report.scenes import Picked

DOT = " \u00b7 "
SEVERAL = 2
UNIGRAM = "unigram baseline"
BASELINE_TM_SCORE = next(metric for metric in BASELINES if metric.base is TM_SCORE)


def reconstruction(results: Results) -> PageSection:
    """How well tokenizers reconstruct structures."""
    part = PageSection(
        "reconstruction", "Tokenizer reconstruction", absent="tokenizer reconstruction was not evaluated"
    )
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


def co_generation(results: Results) -> PageSection:
    """Unconditional samples: self-consistency and confidence, by length."""
    part = PageSection("co-generation", "Unconditional generation", absent="no unconditional samples were evaluated")
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
    """Shares of helix, strand and coil in generated structures, compared with those of the reconstructed chains."""
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
        yield figures.bars("secondary-structure", title, shares, f"share of {HELIX.of}", caption, 1.0)


def folding(results: Results) -> PageSection:
    """Predicted structures against natives."""
    part = PageSection("folding", "Folding", absent="folding was not evaluated")
    for task, evaluations in _by_task(results, "folding"):
        part.figures += _scatters(task, evaluations, LENGTH, TM_SCORE, "Higher is better; long chains are harder.")
        part.figures += _scatters(
            task, evaluations, CA_RMSD, TM_SCORE,
            "Good predictions are at the top left. A low TM-score at a low RMSD indicates a short chain.",
        )  # fmt: skip
        part.figures += _scatters(
            task, evaluations, BASELINE_TM_SCORE, TM_SCORE,
            "On the diagonal, the folding program predicts the same sequences equally well.",
        )  # fmt: skip
        part.figures += _histograms(task, evaluations, (CA_RMSD,))
    return part


def inverse_folding(results: Results) -> PageSection:
    """Designed sequences for given structures."""
    part = PageSection("inverse-folding", "Inverse folding", absent="inverse folding was not evaluated")
    part.about = "Recovery is the share of residues identical to the native sequence; about 0.06 is expected by chance."
    for task, evaluations in _by_task(results, "inverse-folding"):
        part.figures += _histograms(task, evaluations, (RECOVERY, SC_TM, PLDDT))
        part.figures += _scatters(
            task, evaluations, RECOVERY, SC_TM, "Designs that fold into the given structure are at the top."
        )
    return part


def scaffolding(results: Results, published: Mapping[str, float]) -> PageSection:
    """Motif scaffolding: success by problem, compared with the published rates of the same problems."""
    part = PageSection("scaffolding", "Motif scaffolding", absent="motif scaffolding was not evaluated")
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
                figures.bars(name, f"{task}: success by problem", rates, f"share of {SUCCESS.of}", caption, 1.0)
            )
        part.figures += _histograms(task, evaluations, (MOTIF_RMSD, SC_TM))
    return part


def _problems(rates: Mapping[str, Mapping[str, float]]) -> list[str]:
    return list(dict.fromkeys(problem for by_problem in rates.values() for problem in by_problem))


def likelihood(results: Results) -> PageSection:
    """Cross-entropy of masked tokens, compared with the unigram baseline and the untrained model."""
    part = PageSection("likelihood", "Likelihood of masked tokens", absent="no likelihoods were evaluated")
    for evaluation in results.of_kind("likelihood"):
        for dataset, rows in evaluation.summary.groupby("dataset", sort=False):
            entropies = _cross_entropies(rows)
            if entropies:
                name = slug("likelihood", evaluation.model, str(dataset))
                title = f"{evaluation.model}{DOT}{dataset}: cross-entropy by track"
                caption = (
                    "Lower is better. The unigram baseline predicts each chain's tokens from their frequencies in the "
                    "other chains, without context."
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


def _cross_entropies(rows: pd.DataFrame) -> dict[str, dict[str, float]]:
    """By variant (trained, untrained, unigram) and track."""
    values: dict[str, dict[str, float]] = {"trained": {}, "untrained": {}, "unigram": {}}
    for column, value in zip(rows["metric"], map(typed, rows["value"]), strict=True):
        metric = CROSS_ENTROPY.match(column)
        if metric and not isinstance(value, str):
            values[metric.parameters["network"]][metric.parameters["track"]] = value
    named = {"unigram": UNIGRAM}
    return {named.get(network, network): by_track for network, by_track in values.items() if by_track}


# What the distances of two structures are between, by task; elsewhere a design and its prediction.
BETWEEN = {
    "reconstruction": "native and reconstruction",
    "folding": "native and prediction",
    "inverse-folding": "native and designed sequence, folded",
}


def by_residue(picked: Sequence[Picked]) -> Iterator[Figure]:
    """Residue by residue: distances of the two structures, lDDT of reconstructions, and pLDDT where there is one."""
    groups: dict[str, list[Picked]] = {}
    for one in picked:
        groups.setdefault(one.evaluation.place, []).append(one)
    for place, group in groups.items():
        # The best, the one in the middle and the worst: more lines are not readable.
        chosen = {f"{one.name} ({one.place})": one for one in (group[0], group[len(group) // 2], group[-1])}
        evaluation = group[0].evaluation
        between = BETWEEN.get(evaluation.kind, "design and prediction")
        measures = (
            ("deviation", f"distance between {between}", f"C\u03b1 distance ({ANGSTROM})", None, "highest",
             {label: one.deviation() for label, one in chosen.items()}),
            ("lddt", "lDDT of residues", LDDT_CA.axis, LDDT_CA.limits, "lowest",
             {label: one.lddt for label, one in chosen.items()}),
            ("plddt", "pLDDT of residues", PLDDT.axis, PLDDT.limits, "lowest",
             {label: one.plddt for label, one in chosen.items()}),
        )  # fmt: skip
        for name, title, axis, limits, worst, values in measures:
            series = {label: each for label, each in values.items() if each is not None and np.isfinite(each).any()}
            if series:
                named = slug(place, name, "by-residue")
                yield figures.by_residue(named, f"{evaluation.label}: {title}", series, axis, limits, worst)


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
        # Violins are informative for chosen lengths, not if every sample has a different one.
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

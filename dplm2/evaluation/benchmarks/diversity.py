"""Diversity and novelty of sets of structures (DPLM-2, section 4.1).

- ``clusters``: number of clusters at a TM-score threshold, each length clustered on its own, of ``n`` structures.
- ``max_cluster``: clusters per sample, all ``n`` samples counted, failed ones too. With ``..._designable_...`` only the
  designable structures are clustered, as the released evaluator does; they are still divided by the number of all
  samples.
- ``inner_tm_<program>``: mean TM-score over the ``n`` pairs of different structures of one length. ``foldseek`` is its
  exhaustive search with TM-align, normalized by the query as in the paper; ``tm_align`` is that program; ``tm_score``
  is ours, residue by residue, which does not detect shifted similarity and is lower. (The authors' notebook also counts
  each sample's score of 1 with itself, which raises it by about 1/n.)
- ``pdb_tm``: highest TM-score to a known structure, per sample.

A sample that failed, or that has no structure, is in no cluster and in no pair.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from dplm2.core.errors import DPLM2Error
from dplm2.evaluation.backends import foldseek, tm_align
from dplm2.evaluation.benchmarks.self_consistency import designable_columns
from dplm2.evaluation.metrics.diversity import CLUSTERS, INNER_TM, MAX_CLUSTER
from dplm2.evaluation.results import COUNTED, INTERVAL, Source, summary_row
from dplm2.evaluation.samples import EvaluatedSample
from dplm2.geometry.pairs import all_pairs_tm_score
from dplm2.settings.evaluation import EvaluationSettings

CA = 1
ALL_PAIRS: dict[str, Callable[[Sequence[np.ndarray]], np.ndarray]] = {
    "tm_align": tm_align.pairwise_tm_align,
    "tm_score": all_pairs_tm_score,
}


def linked_clusters(scores: np.ndarray, threshold: float) -> np.ndarray:
    """Greedy clusters of a score matrix, as set-cover clustering makes them.

    Repeatedly, the structure with most remaining neighbours at ``threshold`` or above (the first of equals) forms a
    cluster with them. Returns each one's representative (n,).
    """
    near = np.where(np.isnan(scores), 0.0, scores) >= threshold
    near &= near.T  # normalized by either length: both have to reach the threshold, as in Foldseek's clusters
    np.fill_diagonal(near, True)
    representative = np.full(len(scores), -1)
    left = np.ones(len(scores), dtype=bool)
    while left.any():
        counts = np.where(left, (near & left).sum(1), -1)
        center = int(counts.argmax())
        members = near[center] & left
        representative[members] = center
        left &= ~members
    return representative


@dataclass(frozen=True)
class LengthDiversity:
    """Results for the samples of one length.

    Attributes
    ----------
    samples, failed
        Number of samples, and number of failed ones.
    clusters
        For each subset (a suffix of the column's name) the number of clusters and of structures clustered.
    scores
        (n, n) TM-scores of the structures above the diagonal, NaN elsewhere and where there is none.
    """

    samples: int
    failed: int
    clusters: Mapping[str, tuple[int, int]]
    scores: np.ndarray


def diversity_rows(
    metrics: pd.DataFrame,
    structures: Sequence[np.ndarray | None],
    samples: Sequence[EvaluatedSample],
    settings: EvaluationSettings,
    source: Source,
) -> list[dict]:
    """Summary rows of diversity: of all lengths together and, where there are several, of each (``group``)."""
    if settings.diversity == "none":
        return []
    failed = metrics["failed"].to_numpy(dtype=bool)
    usable = np.array([structure is not None for structure in structures]) & ~failed
    subsets = {"": usable}
    for name in designable_columns(settings):
        if name in metrics:
            subsets[f"_{name}"] = usable & metrics[name].to_numpy(dtype=bool)
    lengths = np.array([sample.length for sample in samples])
    found = {}
    for length in np.unique(lengths).tolist():
        members = np.flatnonzero(lengths == length)
        named = {samples[i].sample_id: structures[i] for i in members if usable[i]}
        chosen = {suffix: [samples[i].sample_id for i in members if mask[i]] for suffix, mask in subsets.items()}
        clusters, scores = _compared(named, chosen, settings)
        scores = np.where(np.triu(np.ones(scores.shape, dtype=bool), 1), scores, np.nan)
        found[length] = LengthDiversity(len(members), int(failed[members].sum()), clusters, scores)
    rows = _rows(list(found.values()), source, settings)
    if len(found) > 1:
        for length, part in found.items():
            rows += [{"group": f"length={length}"} | row for row in _rows([part], source, settings)]
    return rows


def _rows(parts: Sequence[LengthDiversity], source: Source, settings: EvaluationSettings) -> list[dict]:
    samples, failed = sum(part.samples for part in parts), sum(part.failed for part in parts)
    criterion = {"program": settings.diversity, "cluster_threshold": settings.cluster_tm_score}
    clusters, max_cluster = CLUSTERS.column(**criterion), MAX_CLUSTER.column(**criterion)
    rows = []
    for suffix in parts[0].clusters:
        count, clustered = (sum(part.clusters[suffix][i] for part in parts) for i in (0, 1))
        share = count / samples
        rows.append(summary_row(source, clusters + suffix, count, clustered, failed))
        rows.append(summary_row(source, max_cluster + suffix, share, samples, failed, failed_rule=COUNTED))
    pairs = np.concatenate([part.scores[np.isfinite(part.scores)] for part in parts])
    if len(pairs):
        name, median = INNER_TM.column(program=settings.diversity), float(np.median(pairs))
        low, high = mean_of_pairs_interval([part.scores for part in parts], settings.bootstrap_samples)
        rows.append(summary_row(source, name, pairs.mean(), len(pairs), failed, median, low, high))
    return rows


def mean_of_pairs_interval(scores: Sequence[np.ndarray], resamples: int, seed: int = 0) -> tuple[float, float]:
    """95 % interval of the mean over all pairs: structures are resampled, not pairs, which are not independent.

    Parameters
    ----------
    scores
        A matrix (n, n) for each set of structures, NaN where a pair does not count.
    resamples, seed
        Of the bootstrap.
    """
    random = np.random.default_rng(seed)
    sums, counts = np.zeros(resamples), np.zeros(resamples)
    for matrix in (each for each in scores if len(each) > 1):
        n = len(matrix)
        drawn = random.multinomial(n, np.full(n, 1 / n), resamples)  # how often each structure is drawn
        counted = np.isfinite(matrix)
        sums += ((drawn @ np.where(counted, matrix, 0.0)) * drawn).sum(1)
        counts += ((drawn @ counted.astype(float)) * drawn).sum(1)
    means = sums[counts > 0] / counts[counts > 0]
    if len(means) == 0:
        return float("nan"), float("nan")
    return tuple(np.percentile(means, INTERVAL).tolist())


def _compared(
    structures: Mapping[str, np.ndarray], subsets: Mapping[str, Sequence[str]], settings: EvaluationSettings
) -> tuple[dict[str, tuple[int, int]], np.ndarray]:
    """For each subset its number of clusters and of structures; and the scores (n, n) of all pairs."""
    if len(structures) < 2:
        return {suffix: (len(chosen), len(chosen)) for suffix, chosen in subsets.items()}, np.empty((0, 0))
    if settings.diversity == "foldseek":
        counts = {suffix: _foldseek_count(structures, chosen, settings) for suffix, chosen in subsets.items()}
        return counts, foldseek.pair_scores(structures, settings.foldseek)
    scores = ALL_PAIRS[settings.diversity]([structure[:, CA] for structure in structures.values()])
    places = {name: place for place, name in enumerate(structures)}
    counts = {}
    for suffix, chosen in subsets.items():
        rows = np.array([places[name] for name in chosen], dtype=int)
        found = linked_clusters(scores[np.ix_(rows, rows)], settings.cluster_tm_score)
        counts[suffix] = len(np.unique(found)), len(chosen)
    return counts, scores


def _foldseek_count(
    structures: Mapping[str, np.ndarray], chosen: Sequence[str], settings: EvaluationSettings
) -> tuple[int, int]:
    if len(chosen) < 2:
        return len(chosen), len(chosen)
    program = settings.foldseek
    found = foldseek.cluster({name: structures[name] for name in chosen}, program, settings.cluster_tm_score)
    return foldseek.count_clusters(found, chosen), len(chosen)


def novelty_columns(
    metrics: pd.DataFrame,
    structures: Sequence[np.ndarray | None],
    samples: Sequence[EvaluatedSample],
    settings: EvaluationSettings,
) -> pd.DataFrame:
    """``metrics`` with the column ``pdb_tm``, if novelty is asked for."""
    if settings.novelty == "none":
        return metrics
    chosen = settings.foldseek
    if chosen.database is None:
        raise DPLM2Error("evaluation.foldseek.database: novelty needs a database of known structures")
    named = {
        sample.sample_id: structure
        for sample, structure in zip(samples, structures, strict=True)
        if structure is not None
    }
    found = foldseek.novelty(named, chosen)
    return metrics.assign(pdb_tm=[found.get(sample.sample_id, np.nan) for sample in samples])

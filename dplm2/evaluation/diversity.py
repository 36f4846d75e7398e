"""Diversity and novelty of sets of structures (DPLM-2, section 4.1).

- ``clusters``: number of clusters at a TM-score threshold, per length; ``max_cluster``: clusters per sample. The
  released evaluator clusters the designable samples only; here both are given, the latter as ``..._designable``.
- ``inner_tm``: mean TM-score over pairs of different samples. (The authors' notebook also counts each sample's score
  of 1 with itself, which raises it by about 1/n.)
- ``pdb_tm``: highest TM-score to a known structure, per sample.
"""

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from dplm2.errors import DPLM2Error
from dplm2.evaluation import alignment, foldseek
from dplm2.evaluation.pairs import all_pairs_tm_score
from dplm2.evaluation.results import Source, summary_row
from dplm2.evaluation.samples import Sample
from dplm2.evaluation.self_consistency import designable_columns
from dplm2.evaluation.settings import EvaluationSettings, backend_settings

CA = 1


def linked_clusters(scores: np.ndarray, threshold: float) -> np.ndarray:
    """Greedy clusters of a score matrix, as set-cover clustering makes them.

    Again and again the structure with most neighbours at ``threshold`` or above among those left (the first of equals)
    takes them into its cluster. Returns each one's representative (n,).
    """
    near = np.where(np.isnan(scores), 0.0, scores) >= threshold
    near &= near.T  # a score per length: both have to reach the threshold, as in Foldseek's clusters
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


def diversity_rows(
    metrics: pd.DataFrame,
    structures: Sequence[np.ndarray | None],
    samples: Sequence[Sample],
    settings: EvaluationSettings,
    source: Source,
) -> list[dict]:
    """Summary rows of diversity, clusters counted for each length on its own and added up."""
    if settings.diversity == "none":
        return []
    there = [i for i, structure in enumerate(structures) if structure is not None]
    lengths = {i: len(structures[i]) for i in there}
    clusters: dict[int, tuple[int, object]] = {}
    inner: list[float] = []
    for length in sorted(set(lengths.values())):
        members = [i for i in there if lengths[i] == length]
        found, scores = _clusters_of(members, structures, samples, settings)
        clusters |= {i: (length, representative) for i, representative in zip(members, found, strict=True)}
        if scores is not None and len(members) > 1:
            inner += scores[np.triu_indices(len(members), k=1)].tolist()
    rows = _cluster_rows(clusters, there, "", source, settings)
    for name in designable_columns(settings):
        if name in metrics:
            designable = [i for i in there if bool(metrics[name].iloc[i])]
            rows += _cluster_rows(clusters, designable, f"_{name}", source, settings)
    if inner:
        rows.append(summary_row(source, "inner_tm", float(np.nanmean(inner)), len(inner)))
    return rows


def _cluster_rows(
    clusters: dict[int, tuple[int, object]],
    chosen: Sequence[int],
    suffix: str,
    source: Source,
    settings: EvaluationSettings,
) -> list[dict]:
    if not chosen:
        return []
    count = len({clusters[i] for i in chosen})
    at = f"_{settings.diversity}_{settings.cluster_tm_score:g}"
    return [
        summary_row(source, f"clusters{at}{suffix}", count, len(chosen)),
        summary_row(source, f"max_cluster{at}{suffix}", count / len(chosen), len(chosen)),
    ]


def _clusters_of(
    members: Sequence[int],
    structures: Sequence[np.ndarray | None],
    samples: Sequence[Sample],
    settings: EvaluationSettings,
) -> tuple[list[object], np.ndarray | None]:
    """The cluster of each member, and the matrix of scores where all pairs were compared."""
    if settings.diversity == "foldseek":
        named = {samples[i].sample_id: structures[i] for i in members}
        found = foldseek.cluster(named, backend_settings(settings, "foldseek"), settings.cluster_tm_score)
        return [found[samples[i].sample_id] for i in members], None
    all_pairs: dict[str, Callable[[Sequence[np.ndarray]], np.ndarray]] = {
        "tm_align": alignment.pairwise_tm_align,
        "tm_score": all_pairs_tm_score,
    }
    scores = all_pairs[settings.diversity]([structures[i][:, CA] for i in members])
    return linked_clusters(scores, settings.cluster_tm_score).tolist(), scores


def novelty_columns(
    metrics: pd.DataFrame,
    structures: Sequence[np.ndarray | None],
    samples: Sequence[Sample],
    settings: EvaluationSettings,
) -> pd.DataFrame:
    """``metrics`` with the column ``pdb_tm``, if novelty is asked for."""
    if settings.novelty == "none":
        return metrics
    chosen = backend_settings(settings, "foldseek")
    if chosen.database is None:
        raise DPLM2Error("evaluation.foldseek.database: novelty needs known structures to search in")
    named = {
        sample.sample_id: structure
        for sample, structure in zip(samples, structures, strict=True)
        if structure is not None
    }
    found = foldseek.novelty(named, chosen)
    return metrics.assign(pdb_tm=[found.get(sample.sample_id, np.nan) for sample in samples])

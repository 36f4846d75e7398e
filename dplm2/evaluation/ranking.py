"""The ranking of designs by their metrics (`RankingSettings`)."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from dplm2.evaluation.metrics.registry import metric_of
from dplm2.settings.designs import RankingSettings

RANK, SCORE, PASSES, FAILED = "rank", "score", "passes", "failed"


@dataclass(frozen=True)
class Ranking:
    """Ranked designs.

    Attributes
    ----------
    table
        The given rows in order, with the columns ``rank`` (from 1), ``score`` (0 to 1) and ``passes`` first; failed
        designs come last, without rank and score. Without any metric to rank by, the order is the given one and
        ``rank`` and ``score`` are empty.
    weights
        Those that were applied.
    missing
        Metrics of weights and thresholds that no design has.
    """

    table: pd.DataFrame
    weights: Mapping[str, float]
    missing: tuple[str, ...]


def rank(metrics: pd.DataFrame, settings: RankingSettings, task: str) -> Ranking:
    """Rank designs.

    Parameters
    ----------
    metrics
        A row per design, with a boolean column ``failed``.
    settings
        Weights and thresholds. A threshold on a metric that no design has is not applied.
    task
        Of the designs, for the default weights.
    """
    wanted = settings.weights_of(task)
    named = dict.fromkeys([*wanted, *settings.at_least, *settings.at_most])
    missing = tuple(name for name in named if name not in metrics or metrics[name].isna().all())
    weights = {name: weight for name, weight in wanted.items() if name not in missing}
    ranked = ~metrics[FAILED].to_numpy(dtype=bool)
    passes = ranked & _passing(metrics, settings, missing)
    score = np.full(len(metrics), np.nan)
    if weights:
        score[ranked] = _scores(metrics[ranked], weights)
    # Stable: designs that are equal keep their order.
    order = np.lexsort((-np.nan_to_num(score, nan=-1.0), ~passes, ~ranked))
    table = metrics.assign(**{SCORE: score, PASSES: passes}).iloc[order].reset_index(drop=True)
    place = pd.Series(np.arange(1, len(table) + 1), dtype="Int64").where(table[SCORE].notna())
    first = pd.DataFrame({RANK: place, SCORE: table[SCORE], PASSES: table[PASSES]})
    return Ranking(first.join(table.drop(columns=[SCORE, PASSES])), weights, missing)


def better_than(values: np.ndarray, higher: bool) -> np.ndarray:
    """For each value the fraction of the others that are worse; equal ones count half, NaN is worse than any number.

    A single value gives 1.
    """
    if len(values) < 2:
        return np.ones(len(values))
    signed = np.where(np.isnan(values), -np.inf, values if higher else -values)
    ordered = np.sort(signed)
    below = np.searchsorted(ordered, signed, side="left")
    equal = np.searchsorted(ordered, signed, side="right") - below - 1
    return (below + equal / 2) / (len(values) - 1)


def _scores(metrics: pd.DataFrame, weights: Mapping[str, float]) -> np.ndarray:
    total = np.zeros(len(metrics))
    for name, weight in weights.items():
        # A negative weight turns the direction round.
        higher = (metric_of(name).better != "lower") == (weight > 0)
        total += abs(weight) * better_than(_values(metrics, name), higher)
    return total / sum(map(abs, weights.values()))


def _passing(metrics: pd.DataFrame, settings: RankingSettings, missing: tuple[str, ...]) -> np.ndarray:
    passes = np.ones(len(metrics), dtype=bool)
    for name, least in settings.at_least.items():
        passes &= True if name in missing else _values(metrics, name) >= least
    for name, most in settings.at_most.items():
        passes &= True if name in missing else _values(metrics, name) <= most
    return passes


def _values(metrics: pd.DataFrame, name: str) -> np.ndarray:
    return pd.to_numeric(metrics[name], errors="coerce").to_numpy(dtype=float)

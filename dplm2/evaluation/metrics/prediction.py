"""Quality of predictions: rank correlation, accuracy, area under the ROC curve, Fmax.

Shapes: N items, C classes or labels.
"""

import numpy as np
from scipy.stats import rankdata, spearmanr

from dplm2.evaluation.metrics.metric import SHARE, Metric

_MODULE = "dplm2.evaluation.metrics.prediction"
SPEARMAN = Metric("spearman", "Spearman's rank correlation", "", "higher", source=f"DPLM-2, table 6; {_MODULE}")
ACCURACY = Metric("accuracy", "accuracy", SHARE, "higher", of="predictions", source=f"DPLM-2, table 6; {_MODULE}")
FMAX = Metric("fmax", "Fmax", "", "higher", source=f"DPLM-2, table 6; CAFA (Radivojac et al. 2013); {_MODULE}")
AUC = Metric("auc", "area under the ROC curve", "", "higher", source=_MODULE)
METRICS = (SPEARMAN, ACCURACY, FMAX, AUC)


def correlation(scores: np.ndarray, measured: np.ndarray) -> float:
    """Spearman's rank correlation; NaN if either side is constant, where it is undefined."""
    if len(np.unique(scores)) < 2 or len(np.unique(measured)) < 2:
        return float("nan")
    return float(spearmanr(scores, measured).statistic)


def accuracy(predicted_N: np.ndarray, truth_N: np.ndarray) -> float:
    """Share of predictions that are right; NaN of none."""
    return float(np.mean(predicted_N == truth_N)) if len(truth_N) else float("nan")


def area_under_curve(scores_N: np.ndarray, positive_N: np.ndarray) -> float:
    """Area under the ROC curve, equal scores counted half (Mann-Whitney); NaN without both classes."""
    positive_N = np.asarray(positive_N, dtype=bool)
    count, others = int(positive_N.sum()), int((~positive_N).sum())
    if not count or not others:
        return float("nan")
    return float((rankdata(scores_N)[positive_N].sum() - count * (count + 1) / 2) / (count * others))


def mean_area_under_curve(scores_NC: np.ndarray, positive_NC: np.ndarray) -> float:
    """Mean of `area_under_curve` over the labels that have both classes; NaN if none has."""
    areas = [area_under_curve(scores, own) for scores, own in zip(scores_NC.T, positive_NC.T, strict=True)]
    return float(np.nanmean(areas)) if np.isfinite(areas).any() else float("nan")


def fmax(scores_NC: np.ndarray, positive_NC: np.ndarray) -> float:
    """Maximum over thresholds of the protein-centric F1 score (Radivojac et al. 2013).

    At each threshold, precision is the mean over the items with a score of at least it, recall that over all items, and
    F1 their harmonic mean. Items without a true label are left out; NaN if there is no other.
    """
    labelled_N = positive_NC.any(1)
    scores_NC, positive_NC = np.asarray(scores_NC)[labelled_N], np.asarray(positive_NC, dtype=bool)[labelled_N]
    if not labelled_N.any():
        return float("nan")
    count, labels = scores_NC.shape
    order_NC = np.argsort(-scores_NC, axis=1, kind="stable")
    hits_NC = np.take_along_axis(positive_NC, order_NC, 1).cumsum(1)
    precision_NC = hits_NC / np.arange(1, labels + 1)
    recall_NC = hits_NC / hits_NC[:, -1:]
    sorted_NC = np.take_along_axis(scores_NC, order_NC, 1)
    # As the threshold falls past a score, one item's precision and recall change by these steps.
    by_score = np.argsort(-sorted_NC.ravel(), kind="stable")
    precision = np.diff(precision_NC, axis=1, prepend=0.0).ravel()[by_score].cumsum()
    recall = np.diff(recall_NC, axis=1, prepend=0.0).ravel()[by_score].cumsum() / count
    begun = np.zeros((count, labels))
    begun[:, 0] = 1
    precision /= begun.ravel()[by_score].cumsum()
    falling = sorted_NC.ravel()[by_score]
    last_of_ties = np.append(falling[1:] != falling[:-1], True)
    total = (precision + recall)[last_of_ties]
    product = 2 * (precision * recall)[last_of_ties]
    return float(np.divide(product, total, out=np.zeros_like(total), where=total > 0).max())

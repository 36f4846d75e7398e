"""Linear probes: prediction of a property from representations by a linear model.

A regression is ridge regression in closed form, scored by Spearman's rank correlation (as Thermostability is in the
paper's Table 6); a classification is multinomial logistic regression, scored by accuracy. The strength of the
regularization is chosen on the validation rows.

Shapes: N proteins, D width, C classes.
"""

import io
import os
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from scipy.stats import spearmanr

from dplm2.core.errors import DPLM2Error
from dplm2.core.text import read_text, shown

STRENGTHS = tuple(10.0**power for power in range(-4, 5))
SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Probe:
    """A fitted probe.

    Parameters
    ----------
    metric
        ``spearman`` or ``accuracy``.
    strength
        Strength of the regularization with the best score on the validation rows.
    scores
        The metric on each split.
    predictions
        For all rows, in their order.
    """

    metric: str
    strength: float
    scores: dict[str, float]
    predictions: np.ndarray


def read_labels(path: str | os.PathLike) -> pd.DataFrame:
    """Read a table of labels: the columns ``chain_id``, ``label`` (numbers or names) and ``split``.

    Raises
    ------
    DPLM2Error
        If it cannot be read, lacks a column, has empty cells or a chain twice; the message names the file.
    """
    try:
        labels = pd.read_csv(io.StringIO(read_text(path)), dtype={"chain_id": str, "split": str}, low_memory=False)
    except ValueError as error:
        raise DPLM2Error(f"{path}: cannot be read as a table ({' '.join(str(error).split())[:200]})") from error
    if missing := [name for name in ("chain_id", "label", "split") if name not in labels.columns]:
        raise DPLM2Error(f"{path}: no column {', '.join(missing)}")
    labels = labels[["chain_id", "label", "split"]]
    if labels.isna().any(axis=None):
        raise DPLM2Error(f"{path}: row {int(labels.isna().any(axis=1).to_numpy().argmax()) + 1} has an empty cell")
    if labels["chain_id"].duplicated().any():
        twice = labels["chain_id"][labels["chain_id"].duplicated()].iloc[0]
        raise DPLM2Error(f"{path}: {shown(twice)} occurs twice")
    return labels


def fit_probe(features_ND: np.ndarray, labels_N: np.ndarray, splits_N: np.ndarray) -> Probe:
    """Fit a probe: a regression if the labels are numbers with a fractional part, else a classification.

    Raises
    ------
    DPLM2Error
        If a split is empty.
    """
    for split in SPLITS:
        if not (splits_N == split).any():
            raise DPLM2Error(f"no row of the split {split}: a probe needs {', '.join(SPLITS)}")
    train = splits_N == "train"
    mean, spread = features_ND[train].mean(0), features_ND[train].std(0) + 1e-8
    scaled_ND = (features_ND - mean) / spread
    regression = np.issubdtype(labels_N.dtype, np.floating) and not np.all(labels_N == np.round(labels_N))
    predict = _ridge if regression else _logistic
    score = _spearman if regression else _accuracy
    best: tuple[float, float, np.ndarray] | None = None
    for strength in STRENGTHS:
        predictions = predict(scaled_ND, labels_N, train, strength)
        validation = score(predictions, labels_N, splits_N == "validation")
        if best is None or validation > best[0]:
            best = validation, strength, predictions
    _, strength, predictions = best
    scores = {split: score(predictions, labels_N, splits_N == split) for split in SPLITS}
    return Probe("spearman" if regression else "accuracy", strength, scores, predictions)


def _ridge(features_ND: np.ndarray, labels_N: np.ndarray, train: np.ndarray, strength: float) -> np.ndarray:
    inputs, centre = features_ND[train], labels_N[train].mean()
    gram = inputs.T @ inputs + strength * len(inputs) * np.eye(inputs.shape[1])
    return features_ND @ np.linalg.solve(gram, inputs.T @ (labels_N[train] - centre)) + centre


def _logistic(features_ND: np.ndarray, labels_N: np.ndarray, train: np.ndarray, strength: float) -> np.ndarray:
    classes, numbers_N = np.unique(labels_N, return_inverse=True)
    inputs = torch.tensor(features_ND, dtype=torch.float64)
    targets = torch.tensor(numbers_N)
    weights_DC = torch.zeros(inputs.shape[1], len(classes), dtype=torch.float64, requires_grad=True)
    biases_C = torch.zeros(len(classes), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights_DC, biases_C], max_iter=200, line_search_fn="strong_wolfe")
    chosen = torch.tensor(train)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        logits = inputs[chosen] @ weights_DC + biases_C
        loss = torch.nn.functional.cross_entropy(logits, targets[chosen]) + strength * weights_DC.square().sum() / 2
        loss.backward()
        return loss

    optimizer.step(closure)
    with torch.no_grad():
        return classes[(inputs @ weights_DC + biases_C).argmax(-1).numpy()]


def _spearman(predictions: np.ndarray, labels: np.ndarray, rows: np.ndarray) -> float:
    if len(np.unique(predictions[rows])) < 2 or len(np.unique(labels[rows])) < 2:
        return 0.0  # the correlation with a constant is undefined: nothing was predicted
    return float(spearmanr(predictions[rows], labels[rows]).statistic)


def _accuracy(predictions: np.ndarray, labels: np.ndarray, rows: np.ndarray) -> float:
    return float((predictions[rows] == labels[rows]).mean())


def features_of(rows: pd.DataFrame) -> np.ndarray:
    """The vectors (N, D) of both tracks side by side, where all proteins have them.

    Raises
    ------
    DPLM2Error
        If there is not one vector per protein.
    """
    tracks = [rows[name] for name in ("sequence_embedding", "structure_embedding") if rows[name].notna().all()]
    if not tracks or any((track.map(len) != rows["width"]).any() for track in tracks):
        raise DPLM2Error("a probe needs one vector per protein: use --pool mean and the same tracks for all embeddings")
    return np.concatenate([np.stack(track.to_numpy()) for track in tracks], axis=1).astype(np.float64)

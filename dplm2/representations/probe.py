"""Probes: prediction of labels from frozen representations, by a linear model or a small network.

Linear: ridge regression or logistic regression (one per label for several labels) of scikit-learn. What is chosen, the
strength of the regularization or the epoch of the network, is chosen on the validation rows.

Shapes: M items (proteins, pairs or residues), F features, C outputs.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from dplm2.core.errors import DPLM2Error
from dplm2.evaluation.metrics.prediction import accuracy, area_under_curve, correlation, fmax, mean_area_under_curve
from dplm2.representations.tasks import SPLITS, Task, label_names

Base = Literal["regression", "classification", "multi-label"]
STRENGTHS = tuple(10.0**power for power in range(-4, 5))
"""Strengths of the regularization that are tried, per training item."""


@dataclass(frozen=True)
class Items:
    """What is predicted.

    Attributes
    ----------
    base
        ``regression``, ``classification`` or ``multi-label``.
    targets
        Numbers (M,), indices of ``names`` (M,), or booleans (M, C).
    names
        Classes or labels; none for a regression.
    splits, rows, positions
        Of each item (M,): its split, its row in the table, and its residue (from 1; 0 if it is no residue).
    """

    base: Base
    targets: np.ndarray
    names: list[str]
    splits: np.ndarray
    rows: np.ndarray
    positions: np.ndarray

    @property
    def outputs(self) -> int:
        """Number of outputs of a probe."""
        return 1 if self.base == "regression" else len(self.names)


@dataclass(frozen=True)
class Probe:
    """A fitted probe.

    Attributes
    ----------
    outputs
        Of all items (M, C): predicted numbers (C = 1), or probabilities of classes or labels.
    scores
        Each metric on each split; the first metric is the main one.
    chosen
        What the validation rows decided: the strength, or the epoch.
    """

    outputs: np.ndarray
    scores: dict[str, dict[str, float]]
    chosen: float


@dataclass(frozen=True)
class Network:
    """Settings of the small network: one hidden layer, AdamW, early stopping."""

    hidden: int = 256
    dropout: float = 0.1
    learning_rate: float = 1e-3
    weight_decay: float = 1e-2
    batch: int = 64
    epochs: int = 300
    patience: int = 20


def items_of(task: Task, features: Sequence[np.ndarray]) -> tuple[Items, np.ndarray]:
    """The items of a task and their features (M, F); residues without a label are left out.

    Raises
    ------
    DPLM2Error
        If a protein has another number of labels than residues; the message names row and protein.
    """
    items = labelled_items(task, [len(own) for own in features])
    if not task.is_of_residues:
        return items, np.stack(features).astype(np.float64)
    places = zip(items.rows, items.positions, strict=True)
    return items, np.stack([features[row][position - 1] for row, position in places]).astype(np.float64)


def labelled_items(task: Task, lengths: Sequence[int]) -> Items:
    """The items of a task whose proteins have these numbers of residues; see `items_of`."""
    base: Base = task.kind.removeprefix("residue-")
    if not task.is_of_residues:
        rows, positions = np.arange(len(task.labels)), np.zeros(len(task.labels), dtype=int)
        labels: Any = task.labels
    else:
        for number, (length, label) in enumerate(zip(lengths, task.labels, strict=True), start=1):
            if length != len(label):
                name = task.rows["id"][number - 1]
                raise DPLM2Error(f"row {number}: {len(label)} labels for the {length} residues of {name}")
        known = [
            np.flatnonzero([bool(one) if base == "classification" else one == one for one in label])
            for label in task.labels
        ]
        rows = np.repeat(np.arange(len(known)), [len(own) for own in known])
        positions = np.concatenate(known) + 1
        labels = [label for own, kept in zip(task.labels, known, strict=True) for label in own[kept]]
    targets, names = _encoded(base, labels)
    return Items(base, targets, names, task.splits[rows], rows, positions)


def _encoded(base: Base, labels: Sequence) -> tuple[np.ndarray, list[str]]:
    if base == "regression":
        return np.array(labels, dtype=np.float64), []
    if base == "classification":
        names, numbers = np.unique(np.array([str(label) for label in labels]), return_inverse=True)
        return numbers, names.tolist()
    names = label_names(labels)
    return np.array([[name in own for name in names] for own in labels], dtype=bool).reshape(len(labels), -1), names


def metrics_of(items: Items, outputs_MC: np.ndarray, split: str) -> dict[str, float]:
    """Metrics of a split, the main one first; NaN where one is not defined."""
    chosen = items.splits == split
    outputs, targets = outputs_MC[chosen], items.targets[chosen]
    if items.base == "regression":
        return {"spearman": correlation(outputs[:, 0], targets)}
    if items.base == "multi-label":
        return {"fmax": fmax(outputs, targets), "auc": mean_area_under_curve(outputs, targets)}
    found = {"accuracy": accuracy(outputs.argmax(1), targets)}
    if len(items.names) == 2:
        found["auc"] = area_under_curve(outputs[:, 1], targets == 1)
    return found


def fit_linear(features_MF: np.ndarray, items: Items, strengths: Sequence[float] = STRENGTHS) -> Probe:
    """Fit a linear probe with the one of some strengths of the regularization that is best on the validation rows.

    Raises
    ------
    DPLM2Error
        If a split is empty, the training rows have one class only, or scikit-learn is not installed.
    """
    scaled_MF = _scaled(features_MF, items)
    train = items.splits == "train"
    make = {"regression": _ridge, "classification": _logistic, "multi-label": _logistic_per_label}[items.base]
    best: tuple[float, float, np.ndarray] | None = None
    for strength in strengths:
        outputs_MC = make(scaled_MF, items, train, strength * train.sum())
        validation = _main(metrics_of(items, outputs_MC, "validation"))
        if best is None or validation > best[0]:
            best = validation, strength, outputs_MC
    return scored(items, best[2], best[1])


def scored(items: Items, outputs_MC: np.ndarray, chosen: float) -> Probe:
    """A probe with its metrics on each split."""
    of_split = {split: metrics_of(items, outputs_MC, split) for split in SPLITS}
    names = next(iter(of_split.values()))
    return Probe(outputs_MC, {name: {s: of_split[s][name] for s in SPLITS} for name in names}, chosen)


def _main(metrics: dict[str, float]) -> float:
    """The main metric, for a comparison: what is not defined is below every number."""
    value = next(iter(metrics.values()))
    return -np.inf if np.isnan(value) else value


def check_splits(items: Items) -> None:
    """Refuse items of which a probe cannot be fitted.

    Raises
    ------
    DPLM2Error
        If a split has no item with a label, or the training rows have one class only.
    """
    for split in SPLITS:
        if not (items.splits == split).any():
            raise DPLM2Error(f"no item of the split {split} has a label: a probe needs {', '.join(SPLITS)}")
    if items.base == "classification" and len(np.unique(items.targets[items.splits == "train"])) < 2:
        raise DPLM2Error("the training rows have one class only")


def _scaled(features_MF: np.ndarray, items: Items) -> np.ndarray:
    check_splits(items)
    train = items.splits == "train"
    return (features_MF - features_MF[train].mean(0)) / (features_MF[train].std(0) + 1e-8)


def _sklearn():  # noqa: ANN202
    try:
        from sklearn import linear_model
    except ImportError as error:
        raise DPLM2Error("linear probes need scikit-learn: pip install 'dplm2[probe]'") from error
    return linear_model


def _ridge(scaled_MF: np.ndarray, items: Items, train: np.ndarray, penalty: float) -> np.ndarray:
    model = _sklearn().Ridge(alpha=penalty).fit(scaled_MF[train], items.targets[train])
    return model.predict(scaled_MF)[:, None]


def _logistic(scaled_MF: np.ndarray, items: Items, train: np.ndarray, penalty: float) -> np.ndarray:
    model = _sklearn().LogisticRegression(C=1 / penalty, max_iter=1000).fit(scaled_MF[train], items.targets[train])
    outputs_MC = np.zeros((len(scaled_MF), len(items.names)))
    outputs_MC[:, model.classes_] = model.predict_proba(scaled_MF)
    return outputs_MC


def _logistic_per_label(scaled_MF: np.ndarray, items: Items, train: np.ndarray, penalty: float) -> np.ndarray:
    outputs_MC = np.empty(items.targets.shape)
    for column, own in enumerate(items.targets[train].T):
        if own.all() or not own.any():  # nothing to learn
            outputs_MC[:, column] = own[0]
            continue
        model = _sklearn().LogisticRegression(C=1 / penalty, max_iter=1000).fit(scaled_MF[train], own)
        outputs_MC[:, column] = model.predict_proba(scaled_MF)[:, 1]
    return outputs_MC


def fit_network(features_MF: np.ndarray, items: Items, seed: int, settings: Network | None = None) -> Probe:
    """Fit a network with one hidden layer; training stops when the loss on the validation rows no longer falls.

    Raises
    ------
    DPLM2Error
        As `fit_linear`, except for scikit-learn.
    """
    settings = settings or Network()
    scaled_MF = torch.tensor(_scaled(features_MF, items), dtype=torch.float32)
    train, validation = (torch.from_numpy(np.flatnonzero(items.splits == name)) for name in SPLITS[:2])
    targets, loss, read = objective_of(items)
    outputs = items.outputs
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = nn.Sequential(
            nn.Linear(scaled_MF.shape[1], settings.hidden),
            nn.GELU(),
            nn.Dropout(settings.dropout),
            nn.Linear(settings.hidden, outputs),
        )
        optimizer = torch.optim.AdamW(
            network.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
        )
        lowest, best_outputs, best_epoch = np.inf, None, 0
        for epoch in range(1, settings.epochs + 1):
            network.train()
            for batch in train[torch.randperm(len(train))].split(settings.batch):
                optimizer.zero_grad()
                loss(network(scaled_MF[batch]), targets[batch]).backward()
                optimizer.step()
            network.eval()
            with torch.no_grad():
                outputs_MC = network(scaled_MF)
                validation_loss = float(loss(outputs_MC[validation], targets[validation]))
            if best_outputs is None or validation_loss < lowest:
                lowest, best_outputs, best_epoch = validation_loss, read(outputs_MC), epoch
            if epoch - best_epoch >= settings.patience:
                break
    return scored(items, best_outputs, best_epoch)


def objective_of(items: Items) -> tuple[torch.Tensor, Callable, Callable]:
    """Targets, loss, and how outputs become numbers or probabilities."""
    if items.base == "classification":
        return torch.from_numpy(items.targets), nn.functional.cross_entropy, lambda x: x.softmax(-1).double().numpy()
    if items.base == "multi-label":
        targets = torch.from_numpy(items.targets).float()
        return targets, nn.functional.binary_cross_entropy_with_logits, lambda x: x.sigmoid().double().numpy()
    train = items.targets[items.splits == "train"]
    mean, spread = train.mean(), train.std() + 1e-8
    targets = torch.tensor((items.targets - mean) / spread, dtype=torch.float32)[:, None]
    return targets, nn.functional.mse_loss, lambda x: x.double().numpy() * spread + mean

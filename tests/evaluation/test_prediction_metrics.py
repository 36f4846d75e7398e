"""Metrics of predictions against scikit-learn, loops over the definition, and closed forms."""

import numpy as np
import pytest

from dplm2.evaluation.metrics.prediction import accuracy, area_under_curve, correlation, fmax, mean_area_under_curve


def fmax_by_definition(scores, positive):
    """A loop over thresholds and proteins."""
    kept = positive.any(1)
    scores, positive = scores[kept], positive[kept]
    best = 0.0
    for threshold in np.unique(scores):
        predicted = scores >= threshold
        precisions = [(p & t).sum() / p.sum() for p, t in zip(predicted, positive, strict=True) if p.any()]
        recalls = [(p & t).sum() / t.sum() for p, t in zip(predicted, positive, strict=True)]
        precision, recall = np.mean(precisions), np.mean(recalls)
        if precision + recall:
            best = max(best, 2 * precision * recall / (precision + recall))
    return best


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("digits", [1, 8])  # with and without equal scores
def test_fmax_is_the_best_f1_over_thresholds(seed, digits):
    random = np.random.default_rng(seed)
    positive = random.random((11, 7)) < 0.3
    scores = np.round(random.random((11, 7)) + 0.4 * positive, digits)
    assert fmax(scores, positive) == pytest.approx(fmax_by_definition(scores, positive))
    assert fmax(scores[::-1], positive[::-1]) == pytest.approx(fmax(scores, positive))
    assert fmax(np.exp(3 * scores), positive) == pytest.approx(fmax(scores, positive))


def test_fmax_of_one_label_per_protein_and_one_threshold_is_the_f1_score():
    metrics = pytest.importorskip("sklearn.metrics")
    random = np.random.default_rng(0)
    positive = np.zeros((50, 4), dtype=bool)
    positive[np.arange(50), random.integers(0, 4, 50)] = True
    predicted = np.zeros((50, 4), dtype=bool)
    predicted[np.arange(50), np.where(random.random(50) < 0.7, positive.argmax(1), random.integers(0, 4, 50))] = True
    # Below the one threshold everything is predicted, which is worse here.
    expected = metrics.f1_score(positive, predicted, average="micro")
    assert expected > 0.5 and fmax(predicted.astype(float), positive) == pytest.approx(expected)


def test_fmax_of_perfect_and_of_absent_labels():
    positive = np.array([[True, False], [False, True], [False, False]])
    assert fmax(positive.astype(float), positive) == 1.0
    assert np.isnan(fmax(np.ones((2, 2)), np.zeros((2, 2), dtype=bool)))


def test_area_and_accuracy_equal_scikit_learn():
    metrics = pytest.importorskip("sklearn.metrics")
    random = np.random.default_rng(1)
    positive = random.random((60, 5)) < 0.4
    scores = np.round(random.random((60, 5)) + 0.3 * positive, 1)
    for column in range(5):
        expected = metrics.roc_auc_score(positive[:, column], scores[:, column])
        assert area_under_curve(scores[:, column], positive[:, column]) == pytest.approx(expected)
    assert mean_area_under_curve(scores, positive) == pytest.approx(metrics.roc_auc_score(positive, scores))
    a, b = random.integers(0, 3, 60), random.integers(0, 3, 60)
    assert accuracy(a, b) == pytest.approx(metrics.accuracy_score(b, a))


def test_closed_forms():
    assert correlation(np.array([1.0, 2, 3, 4]), np.array([10.0, 30, 20, 40])) == pytest.approx(1 - 6 * 2 / (4 * 15))
    assert np.isnan(correlation(np.zeros(3), np.arange(3.0)))
    # Pairs: (3 > 2), (3 > 1), (2 = 2) half, (2 > 1): 3.5 of 4.
    assert area_under_curve(np.array([3.0, 2, 2, 1]), np.array([1, 1, 0, 0])) == 3.5 / 4
    assert np.isnan(area_under_curve(np.arange(3.0), np.ones(3)))
    assert np.isnan(accuracy(np.array([]), np.array([])))

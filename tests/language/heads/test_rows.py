"""Initial rows of output layers."""

import math

import pytest
import torch

from dplm2.language.heads.rows import smooth_features


@pytest.mark.parametrize("values", [[[-1.0], [1.0]], [[0.0, 0.0], [3.0, 4.0], [0.0, 4.0]]])
def test_products_of_smooth_features_are_a_mixture_of_gaussians(values):
    """Of four lengths, in units of the root mean square distance of two rows drawn independently."""
    values = torch.tensor(values)
    features = smooth_features(values, 200_000, torch.Generator().manual_seed(0))
    found = features @ features.T / features.shape[1]
    squares = torch.cdist(values, values).square()
    for row in range(len(values)):
        for column in range(len(values)):
            ratio = squares[row, column] / squares.mean()
            expected = sum(math.exp(-ratio / (2 * length**2)) for length in (0.1, 0.2, 0.4, 0.8)) / 4
            assert found[row, column].item() == pytest.approx(expected, abs=0.01)
    assert features.mean().item() == pytest.approx(0, abs=0.01)

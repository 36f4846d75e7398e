"""Initial values of the heads' rows.

Shapes: D model width, V values of a code, R rows of a table.
"""

import math

import torch
from torch import Tensor

NEW_ROW_SPREAD = 0.02
"""Standard deviation of new rows of an output layer, as in the authors' program."""

_LENGTH_SCALES = (0.1, 0.2, 0.4, 0.8)  # of `smooth_features`, in units of the typical distance between rows


def smooth_features(values_RV: Tensor, width: int, generator: torch.Generator) -> Tensor:
    """Random Fourier features (R, D) of values (Rahimi and Recht 2007), with mean 0 and variance 1.

    The expected product of two rows decreases with the distance of their values like a mixture of Gaussians.
    """
    typical_distance = (2 * values_RV.var(0, correction=0).sum()).sqrt()
    length_scale_D = typical_distance * torch.tensor(_LENGTH_SCALES)[torch.arange(width) % len(_LENGTH_SCALES)]
    directions_VD = torch.randn(values_RV.shape[1], width, generator=generator) / length_scale_D
    phase_D = 2 * math.pi * torch.rand(width, generator=generator)
    return math.sqrt(2) * torch.cos(values_RV @ directions_VD + phase_D)

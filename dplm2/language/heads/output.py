"""ESM-2's output layer in any size, and the initialization of the heads' rows.

Shapes: N positions, D model width, O outputs, C codes, V values of a code, R rows of a table.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from dplm2.cpu.products import linear

NEW_ROW_SPREAD = 0.02
"""Standard deviation of new rows of an output layer, as in the authors' program."""

_LENGTH_SCALES = (0.1, 0.2, 0.4, 0.8)  # of `smooth_features`, in units of the typical distance between rows
_NORM_EPSILON = 1e-5  # ESM-2's


class OutputLayer(nn.Module):
    """Dense layer, GELU, normalisation and decoder, as in transformers' ``EsmLMHead``.

    Parameters
    ----------
    width
        Model width.
    outputs
        Number of rows.
    """

    def __init__(self, width: int, outputs: int) -> None:
        super().__init__()
        self.dense = nn.Linear(width, width)
        self.layer_norm = nn.LayerNorm(width, eps=_NORM_EPSILON)
        self.decoder = nn.Linear(width, outputs, bias=False)
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, hidden_ND: Tensor) -> Tensor:
        """Outputs (N, O)."""
        return linear(features(self, hidden_ND), self.decoder.weight, self.bias)

    @torch.no_grad()
    def start(self, spread: float, row_spread: float, generator: torch.Generator) -> None:
        """Initialize the dense layer and the rows with these standard deviations, and the biases with 0."""
        self.dense.weight.normal_(0.0, spread, generator=generator)
        self.decoder.weight.normal_(0.0, row_spread, generator=generator)
        self.layer_norm.reset_parameters()
        self.dense.bias.zero_()
        self.bias.zero_()


def features(layer: nn.Module, hidden_ND: Tensor) -> Tensor:
    """Input (N, D) of the decoder of an output layer (ours or transformers')."""
    return layer.layer_norm(functional.gelu(linear(hidden_ND, layer.dense.weight, layer.dense.bias)))


def smooth_features(values_RV: Tensor, width: int, generator: torch.Generator) -> Tensor:
    """Random Fourier features (R, D) of values (Rahimi and Recht 2007), with mean 0 and variance 1.

    The expected product of two rows decreases with the distance of their values like a mixture of Gaussians.
    """
    typical_distance = (2 * values_RV.var(0, correction=0).sum()).sqrt()
    length_scale_D = typical_distance * torch.tensor(_LENGTH_SCALES)[torch.arange(width) % len(_LENGTH_SCALES)]
    directions_VD = torch.randn(values_RV.shape[1], width, generator=generator) / length_scale_D
    phase_D = 2 * math.pi * torch.rand(width, generator=generator)
    return math.sqrt(2) * torch.cos(values_RV @ directions_VD + phase_D)

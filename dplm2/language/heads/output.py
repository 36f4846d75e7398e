"""The output layer that ESM-2 has for amino acids, in any size, and what heads draw their first weights by.

Shapes: N positions, D model width, O outputs, C codes, V values of a code, R rows of a table.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

NEW_ROW_SPREAD = 0.02
"""Standard deviation of new rows of an output layer, as the authors draw them."""

# How far apart the codes are that a new row's features tell apart, by the distance of two typical codes.
_REACHES = (0.1, 0.2, 0.4, 0.8)
_NORM_EPSILON = 1e-5  # ESM-2's


class OutputLayer(nn.Module):
    """Dense layer, GELU, normalisation and rows, as of transformers' ``EsmLMHead``.

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
        return functional.linear(features(self, hidden_ND), self.decoder.weight, self.bias)

    @torch.no_grad()
    def start(self, spread: float, row_spread: float, generator: torch.Generator) -> None:
        """Draw the weights anew: of the dense layer and of the rows with these standard deviations, biases 0."""
        self.dense.weight.normal_(0.0, spread, generator=generator)
        self.decoder.weight.normal_(0.0, row_spread, generator=generator)
        self.layer_norm.reset_parameters()
        self.dense.bias.zero_()
        self.bias.zero_()


def features(layer: nn.Module, hidden_ND: Tensor) -> Tensor:
    """What the rows of an output layer (ours or transformers') are multiplied with (N, D)."""
    return layer.layer_norm(functional.gelu(layer.dense(hidden_ND)))


def smooth_features(values_RV: Tensor, width: int, generator: torch.Generator) -> Tensor:
    """Random functions (R, D) of values, of mean 0 and variance 1, smooth over short and long distances.

    Their products fall with the distance of two rows' values like a mixture of Gaussians (Rahimi and Recht 2007).
    """
    typical = (2 * values_RV.var(0, correction=0).sum()).sqrt()
    reach_D = typical * torch.tensor(_REACHES)[torch.arange(width) % len(_REACHES)]
    directions_VD = torch.randn(values_RV.shape[1], width, generator=generator) / reach_D
    phase_D = 2 * math.pi * torch.rand(width, generator=generator)
    return math.sqrt(2) * torch.cos(values_RV @ directions_VD + phase_D)

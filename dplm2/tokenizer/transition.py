"""Layers and functions shared by the networks of the decoder."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from dplm2.cpu.products import Linear

# Pairs are processed in chunks of rows whose widest tensor has 4 MB in float32, which fits into a CPU's cache (without
# chunks up to 2.5 times slower) and limits the memory of long chains to about that of the pair features. A GPU needs
# larger chunks. With gradients there are no chunks, since autograd would keep all of them.
CHUNK_ELEMENTS = {"cpu": 1 << 20, "cuda": 1 << 27}
CHUNK_ELEMENTS_ELSEWHERE = 1 << 24


class Transition(nn.Module):
    """Residual update by a two-layer perceptron with a layer norm: ``contract(relu(expand(norm(x))))``."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.expand = Linear(width, hidden)
        self.contract = Linear(hidden, width)
        zero_(self.contract)

    def forward(self, values: Tensor) -> Tensor:
        """Update of ``values``."""
        return self.contract(functional.relu_(self.expand(self.norm(values))))


class InputPerceptron(nn.Module):
    """Layer norm (unless ``normalize`` is False), linear, ReLU, linear."""

    def __init__(self, inputs: int, width: int, normalize: bool = True) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(inputs) if normalize else nn.Identity()
        self.expand = nn.Linear(inputs, width)
        self.contract = nn.Linear(width, width)

    def forward(self, values: Tensor) -> Tensor:
        """``(..., inputs)`` to ``(..., width)``."""
        return self.contract(functional.relu(self.expand(self.norm(values))))


def zero_(linear: nn.Linear) -> None:
    """Initialize the last layer of a residual branch with zeros, so that the branch is initially zero."""
    nn.init.zeros_(linear.weight)
    if linear.bias is not None:
        nn.init.zeros_(linear.bias)


def lecun_(weight: Tensor, gain: float = 1.0) -> None:
    """Draw ``weight`` (outputs, inputs) from a normal distribution of variance ``gain / inputs``."""
    nn.init.normal_(weight, std=math.sqrt(gain / weight.shape[1]))


def rows_per_chunk(pairs_BIJP: Tensor, widened: int = 1) -> int:
    """Number of rows of pairs per chunk in a step that widens them by a factor; all rows with gradients."""
    batch, length, _, width = pairs_BIJP.shape
    if torch.is_grad_enabled():
        return length
    elements = CHUNK_ELEMENTS.get(pairs_BIJP.device.type, CHUNK_ELEMENTS_ELSEWHERE)
    return max(1, min(length, elements // (widened * batch * length * width)))


def by_rows(function: Callable[..., Tensor], rows: int, *tensors: Tensor) -> Tensor:
    """Apply ``function`` to slices of ``rows`` of dimension 1 of each tensor and join the results."""
    length = tensors[0].shape[1]
    if rows >= length:
        return function(*tensors)
    first = function(*(tensor[:, :rows] for tensor in tensors))
    joined = first.new_empty(first.shape[0], length, *first.shape[2:])
    joined[:, :rows] = first
    for start in range(rows, length, rows):
        joined[:, start : start + rows] = function(*(tensor[:, start : start + rows] for tensor in tensors))
    return joined


def add_by_rows(function: Callable[..., Tensor], rows: int, pairs: Tensor, *tensors: Tensor) -> Tensor:
    """``pairs + function(pairs, *tensors)`` in chunks of rows; each row must depend only on that row of each tensor.

    Without gradients ``pairs`` is overwritten: allocating a tensor of its size in every step would take longer than the
    arithmetic.
    """
    if torch.is_grad_enabled():
        return pairs + function(pairs, *tensors)
    for start in range(0, pairs.shape[1], rows):
        part = slice(start, start + rows)
        pairs[:, part] += function(pairs[:, part], *(tensor[:, part] for tensor in tensors))
    return pairs

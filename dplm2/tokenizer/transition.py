"""Small parts that several networks of the decoder share."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from dplm2.cpu.products import Linear

# A step over pairs is done for as many rows of pairs at a time as keep its widest tensor at 4 MB of float32: that stays
# in a processor's cache (all at once is up to 2.5 times slower), is not too little for a call, and long chains need
# hardly more memory than the pair features themselves. On a GPU more rows at a time keep it busy. While gradients are
# recorded all rows are done at once, since autograd would keep every piece anyway.
CHUNK_ELEMENTS = {"cpu": 1 << 20, "cuda": 1 << 27}
CHUNK_ELEMENTS_ELSEWHERE = 1 << 24


class Transition(nn.Module):
    """Two-layer perceptron behind a layer norm, the update of a residual: ``contract(relu(expand(norm(x))))``."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.expand = Linear(width, hidden)
        self.contract = Linear(hidden, width)
        zero_(self.contract)

    def forward(self, values: Tensor) -> Tensor:
        """What is to be added to ``values``."""
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
    """Start a layer at zero, so that the residual branch it ends begins as nothing."""
    nn.init.zeros_(linear.weight)
    if linear.bias is not None:
        nn.init.zeros_(linear.bias)


def lecun_(weight: Tensor, gain: float = 1.0) -> None:
    """Draw ``weight`` (outputs, inputs) from a normal distribution of variance ``gain / inputs``."""
    nn.init.normal_(weight, std=math.sqrt(gain / weight.shape[1]))


def rows_per_chunk(pairs_BIJP: Tensor, widened: int = 1) -> int:
    """How many rows of pairs to do at a time, in a step that makes them wider; all while gradients are recorded."""
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
    """``pairs + function(pairs, *tensors)``, where a row of the result needs only that row of each tensor.

    Without gradients ``pairs`` itself is overwritten: a new tensor of that size for each of a block's steps would cost
    more time than the steps' arithmetic.
    """
    if torch.is_grad_enabled():
        return pairs + function(pairs, *tensors)
    for start in range(0, pairs.shape[1], rows):
        part = slice(start, start + rows)
        pairs[:, part] += function(pairs[:, part], *(tensor[:, part] for tensor in tensors))
    return pairs

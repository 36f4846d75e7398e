"""The three kinds of matrix products, each by torch's default library and by oneDNN; `dplm2.cpu.routine` chooses.

No form is differentiable. The values agree within rounding.

Shapes: N rows, I inputs, O outputs; A and B rows of matrices, K their columns.
"""

from collections.abc import Callable, Mapping
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from dplm2.cpu import torch_private

Library = Literal["onednn", "torch"]
Product = Literal["linear", "weight_gradient", "batched"]


def linear_by_one_dnn(values_NI: Tensor, weight_OI: Tensor, bias_O: Tensor | None = None) -> Tensor:
    """``values @ weight.T + bias``; the weight may be prepacked."""
    return torch_private.one_dnn_linear(values_NI.contiguous(), weight_OI, bias_O)


def weight_gradient_by_torch(gradient_NO: Tensor, input_NI: Tensor) -> Tensor:
    """``gradient.T @ input``."""
    return gradient_NO.T @ input_NI


def weight_gradient_by_one_dnn(gradient_NO: Tensor, input_NI: Tensor) -> Tensor:
    """``gradient.T @ input``."""
    return linear_by_one_dnn(gradient_NO.T, input_NI.T)


def batched_by_torch(a_AK: Tensor, b_BK: Tensor) -> Tensor:
    """``a @ b.T`` of each pair of matrices (..., A, K) and (..., B, K)."""
    return a_AK @ b_BK.mT


def batched_by_one_dnn(a_AK: Tensor, b_BK: Tensor) -> Tensor:
    """``a @ b.T`` of each pair of matrices (..., A, K) and (..., B, K), one after the other."""
    products_AB = a_AK.new_empty(*a_AK.shape[:-1], b_BK.shape[-2])
    for a, b, product in zip(*(matrices.flatten(0, -3) for matrices in (a_AK, b_BK, products_AB)), strict=True):
        product.copy_(linear_by_one_dnn(a, b))
    return products_AB


KERNELS: Mapping[Product, Mapping[Library, Callable[..., Tensor]]] = {
    "linear": {"onednn": linear_by_one_dnn, "torch": functional.linear},
    "weight_gradient": {"onednn": weight_gradient_by_one_dnn, "torch": weight_gradient_by_torch},
    "batched": {"onednn": batched_by_one_dnn, "torch": batched_by_torch},
}

# About the smallest for which the choice matters, so that measuring takes milliseconds.
_SHAPES: Mapping[Product, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "linear": ((256, 640), (640, 640)),
    "weight_gradient": ((512, 640), (512, 640)),
    "batched": ((4, 192, 300), (4, 300, 300)),
}


def example(product: Product, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Operands of typical shapes, without drawing random numbers."""
    first, second = (torch.linspace(-1, 1, torch.Size(shape).numel()).view(shape) for shape in _SHAPES[product])
    return first.to(dtype), second.to(dtype)

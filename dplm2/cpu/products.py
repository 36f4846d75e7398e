"""Matrix products by the faster of two libraries (`dplm2.cpu.routine`).

Without gradients, weights are converted once to oneDNN's layout and cached, which needs a second copy in memory. The
values agree within rounding.

Shapes: N rows, I inputs, O outputs; A and B rows of matrices, K their columns.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from dplm2.cpu import torch_private
from dplm2.cpu.caching import cached_from_weights
from dplm2.cpu.kernels import KERNELS, Product, linear_by_one_dnn
from dplm2.cpu.routine import routine

# Minimum numbers of multiply-adds (for "batched", of each matrix) for which oneDNN's set-up for a new shape and the
# conversion of a weight pay off. Prepacked weights are always faster.
MIN_WORK: Mapping[Product, int] = {"linear": 1 << 26, "weight_gradient": 1 << 26, "batched": 1 << 23}


def prepacked(weight_OI: Tensor) -> Tensor:
    """A weight for repeated calls of `linear` without gradients, in oneDNN's layout if `linear` uses oneDNN."""
    return torch_private.prepacked(weight_OI) if uses_one_dnn(weight_OI) else weight_OI


def linear(values: Tensor, weight_OI: Tensor, bias_O: Tensor | None = None) -> Tensor:
    """``values @ weight.T + bias``, (..., I) to (..., O); differentiable, unless the weight is `prepacked`.

    Values and weight must have the same type, which is that of the result.
    """
    if weight_OI.is_mkldnn:
        if values.numel() == 0:
            return values.new_zeros(*values.shape[:-1], weight_OI.shape[0])
        return linear_by_one_dnn(values, weight_OI, bias_O)
    large = values.numel() * len(weight_OI) >= MIN_WORK["linear"]
    if large and values.dtype == weight_OI.dtype and uses_one_dnn(values):
        return linear_by_one_dnn(values, weight_OI, bias_O)
    return functional.linear(values, weight_OI, bias_O)


def weight_gradient(gradient_NO: Tensor, input_NI: Tensor) -> Tensor:
    """``gradient.T @ input`` (O, I), the gradient of a linear layer's weight; differentiable."""
    return _product("weight_gradient", gradient_NO.numel() * input_NI.shape[1], gradient_NO, input_NI)


def batched(a_AK: Tensor, b_BK: Tensor) -> Tensor:
    """``a @ b.T`` (..., A, B) of each pair of matrices (..., A, K) and (..., B, K); differentiable."""
    return _product("batched", a_AK.shape[-2:].numel() * b_BK.shape[-2], a_AK, b_BK)


def _product(product: Product, work: int, first: Tensor, second: Tensor) -> Tensor:
    one_dnn = work >= MIN_WORK[product] and first.dtype == second.dtype and uses_one_dnn(first, product)
    return KERNELS[product]["onednn" if one_dnn else "torch"](first, second)


def uses_one_dnn(values: Tensor, product: Product = "linear") -> bool:
    """Whether products with these values use oneDNN: on a CPU, not compiled, without gradients and autocast."""
    return (
        values.device.type == "cpu"
        and not torch.compiler.is_compiling()
        and not torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cpu")
        and routine(values.dtype, product) == "onednn"
    )


class Linear(nn.Linear):
    """A linear layer by `linear`, in the type of its input, with weights in float32."""

    def forward(self, values: Tensor) -> Tensor:
        """(..., I) to (..., O)."""
        return linear(values, *cached_from_weights(self, values.dtype, lambda: self._prepacked(values.dtype)))

    def _prepacked(self, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
        weight_OI, bias_O = self.weights(dtype)
        return prepacked(weight_OI), bias_O

    def weights(self, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
        """Weight and bias in a type."""
        return self.weight.to(dtype), None if self.bias is None else self.bias.to(dtype)

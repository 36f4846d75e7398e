"""Matrix products by the faster of two libraries (`dplm2.cpu.routine`).

Without gradients, weights are converted once to oneDNN's layout and cached, which needs a second copy in memory. The
values agree within rounding.

Shapes: I inputs, O outputs.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from dplm2.cpu import torch_private
from dplm2.cpu.caching import cached_from_weights
from dplm2.cpu.routine import routine

# Minimum number of multiply-adds (a millisecond) for which oneDNN's set-up for a new shape and the conversion of a
# weight pay off. Prepacked weights are always faster.
MIN_ONE_DNN_WORK = 1 << 26


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
        return torch_private.one_dnn_linear(values.contiguous(), weight_OI, bias_O)
    large = values.numel() * len(weight_OI) >= MIN_ONE_DNN_WORK
    if large and values.dtype == weight_OI.dtype and uses_one_dnn(values):
        return torch_private.one_dnn_linear(values.contiguous(), weight_OI, bias_O)
    return functional.linear(values, weight_OI, bias_O)


def uses_one_dnn(values: Tensor) -> bool:
    """Whether products with these values use oneDNN: on a CPU, not compiled, without gradients and autocast."""
    return (
        values.device.type == "cpu"
        and not torch.compiler.is_compiling()
        and not torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cpu")
        and routine(values.dtype) == "onednn"
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

"""Matrix products at the speed of the machine.

On a processor, without gradients and in float32, products go through oneDNN, which PyTorch's own linear function uses
for lower precisions only; it is a fifth faster than the default library on processors that have AVX-512 and are not
Intel's, and the values agree to rounding.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def linear(values: Tensor, weight: Tensor, bias: Tensor | None = None, added: Tensor | None = None) -> Tensor:
    """``values @ weight.T + bias + added``; differentiable.

    Parameters
    ----------
    values
        (..., inputs).
    weight
        (outputs, inputs).
    bias
        (outputs,).
    added
        (..., outputs), of the same type; it is not changed.
    """
    if _one_dnn_takes(values, weight):
        values, weight = values.contiguous(), weight.contiguous()  # oneDNN is hundreds of times slower otherwise
        if added is None:
            return torch.ops.mkldnn._linear_pointwise(values, weight, bias, "none", [], "")
        return torch.ops.mkldnn._linear_pointwise.binary(values, added, weight, bias, "add")
    product = F.linear(values, weight, bias)
    return product if added is None else product + added


def _one_dnn_takes(values: Tensor, weight: Tensor) -> bool:
    return (
        values.device.type == "cpu"
        and values.dtype == weight.dtype == torch.float32
        and not torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cpu")
        and torch.backends.mkldnn.enabled
        and torch.backends.mkldnn.is_available()
        and values.numel() > 0
    )


class Linear(nn.Linear):
    """A linear layer whose products are those of ``linear``, in the type of its input.

    Weights are kept in float32; their copy in a lower precision is made at the first use and again when they change.
    """

    _lower: tuple[tuple, Tensor, Tensor | None] | None = None

    def forward(self, values: Tensor, added: Tensor | None = None) -> Tensor:
        """(..., inputs) to (..., outputs), plus ``added``."""
        return linear(values, *self.weights(values.dtype), added)

    def weights(self, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
        """Weight and bias in a type."""
        if dtype == self.weight.dtype:
            return self.weight, self.bias
        if torch.is_grad_enabled():
            return self.weight.to(dtype), None if self.bias is None else self.bias.to(dtype)
        key = (self.weight.data_ptr(), self.weight._version, dtype)
        if self._lower is None or self._lower[0] != key:
            self._lower = key, self.weight.to(dtype), None if self.bias is None else self.bias.to(dtype)
        return self._lower[1:]

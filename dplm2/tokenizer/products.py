"""Matrix products at the speed of the machine.

On a processor, without gradients, products go through oneDNN with weights laid out for it once: in float32 that is a
fifth faster than the default library on processors that have AVX-512 and are not Intel's, in bfloat16 it spares the
conversion of small or odd shapes. The values agree to rounding. The price is a second copy of the weights in memory.

What is derived from weights, such laid out copies among it, is kept until a weight changes.
"""

import weakref
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Derived = TypeVar("Derived")
ROWS = 256  # for which oneDNN is asked for a layout of weights; it is the same for any large number
_kept: weakref.WeakKeyDictionary[nn.Module, tuple[tuple, object]] = weakref.WeakKeyDictionary()


def derived(module: nn.Module, dtype: torch.dtype, make: Callable[[], Derived]) -> Derived:
    """What ``make`` computes from the parameters of a module for a type of input.

    It is computed when it is first asked for and again when a parameter or the type changes; each time while gradients
    are recorded or the network is compiled, or if parameters were made in inference mode and do not tell of changes.
    """
    if torch.is_grad_enabled() or torch.compiler.is_compiling():
        return make()
    if any(parameter.is_inference() for parameter in module.parameters()):
        return make()
    key = dtype, torch.is_autocast_enabled("cpu"), *((p.data_ptr(), p._version) for p in module.parameters())
    if module not in _kept or _kept[module][0] != key:
        _kept[module] = key, make()
    return _kept[module][1]


def laid_out(weight: Tensor) -> Tensor:
    """A weight (outputs, inputs) for many calls of ``linear``: in oneDNN's own layout where that will be used."""
    if not one_dnn_takes(weight):
        return weight
    return torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), ROWS)


def linear(
    values: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    added: Tensor | None = None,
    activation: str | None = None,
) -> Tensor:
    """``activation(values @ weight.T + bias + added)``; differentiable, unless the weight is laid out.

    Parameters
    ----------
    values
        (..., inputs).
    weight
        (outputs, inputs), of the same type; ``laid_out`` or not.
    bias
        (outputs,).
    added
        (..., outputs), of the same type; it is not changed.
    activation
        None, "relu" or "sigmoid".
    """
    if weight.is_mkldnn or values.numel() > 0 and one_dnn_takes(values) and values.dtype == weight.dtype:
        # oneDNN is hundreds of times slower with values that are not contiguous
        return _one_dnn(values.contiguous(), weight, bias, added, activation)
    product = F.linear(values, weight, bias)
    if added is not None:
        product = product + added
    if activation is None:
        return product
    return F.relu_(product) if activation == "relu" else torch.sigmoid(product)


def _one_dnn(
    values: Tensor, weight: Tensor, bias: Tensor | None, added: Tensor | None, activation: str | None
) -> Tensor:
    if values.numel() == 0:
        return values.new_zeros(*values.shape[:-1], weight.shape[0])
    if not weight.is_mkldnn:
        weight = weight.contiguous()
    if added is None:
        return torch.ops.mkldnn._linear_pointwise(values, weight, bias, activation or "none", [], "")
    product = torch.ops.mkldnn._linear_pointwise.binary(values, added, weight, bias, "add")
    if activation is None:
        return product
    return product.relu_() if activation == "relu" else product.sigmoid_()


def one_dnn_takes(values: Tensor) -> bool:
    """Whether products with these values go through oneDNN: on a processor, not compiled, no gradients, no autocast."""
    return (
        values.device.type == "cpu"
        and not torch.compiler.is_compiling()
        and not torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cpu")
        and torch.backends.mkldnn.enabled
        and torch.backends.mkldnn.is_available()
        and (
            values.dtype == torch.float32
            or values.dtype == torch.bfloat16
            and torch.ops.mkldnn._is_mkldnn_bf16_supported()
        )
    )


class Linear(nn.Linear):
    """A linear layer whose products are those of ``linear``, in the type of its input; weights are kept in float32."""

    def forward(self, values: Tensor, added: Tensor | None = None, activation: str | None = None) -> Tensor:
        """(..., inputs) to (..., outputs), plus ``added``, then ``activation``."""
        weight, bias = derived(self, values.dtype, lambda: self._laid_out(values.dtype))
        return linear(values, weight, bias, added, activation)

    def _laid_out(self, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
        weight, bias = self.weights(dtype)
        return laid_out(weight), bias

    def weights(self, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
        """Weight and bias in a type."""
        return self.weight.to(dtype), None if self.bias is None else self.bias.to(dtype)

"""The undocumented functions of torch that this package calls, each with an equivalent plain form.

Undocumented functions may change with any release. Untested releases (`is_tested`) use the plain forms, which have the
same results but are slower.
"""

import functools
import importlib

import torch
from torch import Tensor
from torch.nn import functional

FIRST_TESTED, FIRST_UNTESTED = (2, 6), (2, 14)
PREPACKING_ROWS = 256  # number of rows for which weights are prepacked; the layout is the same for any large number


def is_tested() -> bool:
    """Whether the functions below were tested with this release of torch."""
    return _is_tested(str(torch.__version__))


@functools.cache
def _is_tested(version: str) -> bool:
    numbers = version.split("+")[0].split(".")[:2]
    return all(number.isdigit() for number in numbers) and FIRST_TESTED <= tuple(map(int, numbers)) < FIRST_UNTESTED


def import_late_modules() -> None:
    """Import what torch imports only when a network is made without memory for its weights."""
    if is_tested():
        for name in ("torch._dynamo", "torch._refs"):
            importlib.import_module(name)


def has_one_dnn(dtype: torch.dtype) -> bool:
    """Whether oneDNN can be called for products of a type on this CPU."""
    if not (is_tested() and torch.backends.mkldnn.is_available() and torch.backends.mkldnn.enabled):
        return False
    if dtype == torch.bfloat16:
        return torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return dtype == torch.float32


def prepacked(weight_OI: Tensor) -> Tensor:
    """A weight in oneDNN's layout, for repeated calls of `one_dnn_linear`; requires `has_one_dnn`."""
    return torch.ops.mkldnn._reorder_linear_weight(weight_OI.contiguous(), PREPACKING_ROWS)


def one_dnn_linear(values: Tensor, weight_OI: Tensor, bias_O: Tensor | None) -> Tensor:
    """``values @ weight.T + bias`` by oneDNN, not differentiable; requires `has_one_dnn`.

    ``values`` (..., I) must be contiguous: otherwise oneDNN is hundreds of times slower.
    """
    return torch.ops.mkldnn._linear_pointwise(values, weight_OI, bias_O, "none", [], "")


def softmax_backward(gradient: Tensor, probabilities: Tensor) -> Tensor:
    """Gradient of the input of a softmax over the last dimension, from that of its result."""
    if is_tested():
        return torch._softmax_backward_data(gradient, probabilities, -1, probabilities.dtype)
    return plain_softmax_backward(gradient, probabilities)


def plain_softmax_backward(gradient: Tensor, probabilities: Tensor) -> Tensor:
    """`softmax_backward` by its definition, in at least float32."""
    wide, gradient = (
        tensor.to(torch.promote_types(tensor.dtype, torch.float32)) for tensor in (probabilities, gradient)
    )
    return (wide * (gradient - (gradient * wide).sum(-1, keepdim=True))).to(probabilities.dtype)


def gelu_backward_into(gradient: Tensor, values: Tensor) -> None:
    """Overwrite the gradient of ``gelu(values)`` with that of ``values``."""
    if is_tested():
        torch.ops.aten.gelu_backward.grad_input(gradient, values, grad_input=gradient)
    else:
        with torch.enable_grad():
            tracked = values.detach().requires_grad_()
            gradient.copy_(torch.autograd.grad(functional.gelu(tracked), tracked, gradient)[0])


def glu_into(out: Tensor, values: Tensor) -> None:
    """Write ``a * sigmoid(b)`` into ``out``, with a, b the halves of ``values`` in dimension 1; not differentiable."""
    if is_tested():
        torch.ops.aten.glu.out(values, 1, out=out)
    else:
        out.copy_(functional.glu(values, 1))


def changes(tensor: Tensor) -> int | None:
    """Number of in-place changes of a tensor; None if unknown."""
    return tensor._version if is_tested() and not tensor.is_inference() else None

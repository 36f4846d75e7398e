"""The undocumented functions of torch that this package calls, each with the plain form that can take its place.

What has no documentation may change with any release. In a release that was not tried with them (`is_tried`), none of
them is called: the plain forms give the same values, only slower.
"""

import functools

import torch
from torch import Tensor
from torch.nn import functional

FIRST_TRIED, FIRST_UNTRIED = (2, 6), (2, 14)
ROWS = 256  # for which oneDNN is asked to lay out weights; the layout is the same for any large number


def is_tried() -> bool:
    """Whether this release of torch is one with which the functions below were tried."""
    return _is_tried(str(torch.__version__))


@functools.cache
def _is_tried(version: str) -> bool:
    numbers = version.split("+")[0].split(".")[:2]
    return all(number.isdigit() for number in numbers) and FIRST_TRIED <= tuple(map(int, numbers)) < FIRST_UNTRIED


def has_one_dnn(dtype: torch.dtype) -> bool:
    """Whether oneDNN can be called for products of a type on this processor."""
    if not (is_tried() and torch.backends.mkldnn.is_available() and torch.backends.mkldnn.enabled):
        return False
    if dtype == torch.bfloat16:
        return torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return dtype == torch.float32


def prepacked(weight_OI: Tensor) -> Tensor:
    """A weight in oneDNN's own layout, for many calls of `one_dnn_linear`; only where `has_one_dnn`."""
    return torch.ops.mkldnn._reorder_linear_weight(weight_OI.contiguous(), ROWS)


def one_dnn_linear(values: Tensor, weight_OI: Tensor, bias_O: Tensor | None) -> Tensor:
    """``values @ weight.T + bias`` by oneDNN, not differentiable; only where `has_one_dnn`.

    ``values`` (..., I) must be contiguous: oneDNN is hundreds of times slower with others.
    """
    return torch.ops.mkldnn._linear_pointwise(values, weight_OI, bias_O, "none", [], "")


def softmax_backward(gradient: Tensor, probabilities: Tensor) -> Tensor:
    """Gradient of the inputs of a softmax over the last dimension, from that of its result."""
    if is_tried():
        return torch._softmax_backward_data(gradient, probabilities, -1, probabilities.dtype)
    return plain_softmax_backward(gradient, probabilities)


def plain_softmax_backward(gradient: Tensor, probabilities: Tensor) -> Tensor:
    """`softmax_backward` by its definition, in float32 or more precisely."""
    shares, passed = (
        tensor.to(torch.promote_types(tensor.dtype, torch.float32)) for tensor in (probabilities, gradient)
    )
    return (shares * (passed - (passed * shares).sum(-1, keepdim=True))).to(probabilities.dtype)


def glu_into(out: Tensor, values: Tensor) -> None:
    """Write ``a * sigmoid(b)`` into ``out``, a and b the halves of ``values`` along dimension 1; not differentiable."""
    if is_tried():
        torch.ops.aten.glu.out(values, 1, out=out)
    else:
        out.copy_(functional.glu(values, 1))


def changes(tensor: Tensor) -> int | None:
    """How often a tensor was changed in place; None where that is not known."""
    return tensor._version if is_tried() and not tensor.is_inference() else None

"""A layer of the language model on CPUs, with explicit forward and backward passes.

The results are those of the plain layer (`dplm2.language.esm`), except for the random numbers of dropout. Frozen
weights get no gradient, and the low-rank updates of query, key and value share one dropout mask.

Saved per token for the backward pass are ``6 D + I`` numbers: the inputs of both normalisations, the rotated query and
key, the value, the attention's result, and the input of GELU. Cheap values (normalised inputs, GELU, dropout masks,
weights in half precision) are computed again.

Shapes: N tokens of all segments, D model width, I inputs and O outputs of a matrix, R rank, H heads, C channels of a
head.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from dplm2.cpu import attention, torch_private
from dplm2.cpu.caching import cached_from_weights
from dplm2.cpu.products import linear, prepacked, weight_gradient

_LANES = 4  # 16-bit random numbers in one of 64 bits
_LANE_VALUES = 1 << 16


def forward(layer: nn.Module, x_ND: Tensor, angles: tuple[Tensor, Tensor], segments: Sequence[int]) -> Tensor:
    """Hidden states (N, D) after a `dplm2.language.esm.Layer`; for ``segments`` see `dplm2.cpu.attention`."""
    output = layer.attention.output
    attended = _attend(layer.attention, x_ND, angles, segments)
    x_ND = add_projected(x_ND, attended, output.dense, output.dropout, gelu=False)
    inner = project(x_ND, layer.LayerNorm, [layer.intermediate.dense])
    return add_projected(x_ND, inner, layer.output.dense, layer.output.dropout, gelu=True)


def _attend(block: nn.Module, x_ND: Tensor, angles: tuple[Tensor, Tensor], segments: Sequence[int]) -> list[Tensor]:
    """Result of the attention, in the order of tokens, as parts (n, D)."""
    own = block.self
    cos_N1C, sin_N1C = (table[0].unsqueeze(1) for table in angles)
    q_ND, k_ND, v_ND = project(x_ND, block.LayerNorm, [own.query, own.key, own.value])
    q_NHC, k_NHC, v_NHC = (track_ND.unflatten(1, (own.heads, -1)) for track_ND in (q_ND, k_ND, v_ND))
    # ESM-2 scales the queries before their rotation.
    q_NHC = _Rotation.apply(q_NHC, cos_N1C, sin_N1C, q_NHC.shape[-1] ** -0.5)
    k_NHC = _Rotation.apply(k_NHC, cos_N1C, sin_N1C, 1.0)
    parts = attention.parts_within_segments(q_NHC, k_NHC, v_NHC, segments, scaling=1.0)
    return [part.flatten(1) for part in parts]


class _Matrix(NamedTuple):
    """A matrix with its bias and its low-rank update, if any."""

    weight_OI: Tensor
    bias_O: Tensor
    a_RI: Tensor | None
    b_OR: Tensor | None


class _Options(NamedTuple):
    """Options of a layer other than tensors."""

    dtype: torch.dtype
    epsilon: float = 0.0
    scaling: float = 1.0
    low_rank_dropout: float = 0.0
    dropout: float = 0.0
    gelu: bool = False


def project(x_ND: Tensor, norm: nn.LayerNorm, matrices: Sequence[nn.Module]) -> tuple[Tensor, ...]:
    """``matrix(norm(x))`` (N, O) for each matrix; either all or none have peft's low-rank update."""
    scaling, dropout = _low_rank_options(matrices[0])
    options = _Options(_dtype(x_ND), norm.eps, scaling, dropout)
    tensors = [tensor for matrix in matrices for tensor in _tensors(matrix, options.dtype)]
    return _Project.apply(options, x_ND, norm.weight, norm.bias, *tensors)


def add_projected(
    x_ND: Tensor, parts: Sequence[Tensor], matrix: nn.Module, dropout: nn.Dropout, *, gelu: bool
) -> Tensor:
    """``x + dropout(matrix(input))`` (N, D), or with ``gelu``, ``x + dropout(matrix(gelu(input)))``.

    The rows of the input (N, I) are given in parts, which are concatenated here: whoever computed them saves them, too.
    """
    scaling, low_rank_dropout = _low_rank_options(matrix)
    dtype = _dtype(x_ND)
    options = _Options(dtype, 0.0, scaling, low_rank_dropout, dropout.p if dropout.training else 0.0, gelu)
    return _AddProjected.apply(options, x_ND, *_tensors(matrix, dtype), *parts)


def _dtype(x: Tensor) -> torch.dtype:
    """Type of products with ``x``."""
    return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype


def _tensors(matrix: nn.Module, dtype: torch.dtype) -> _Matrix:
    """A module's parameters; for inference in this type and prepacked."""
    if torch.is_inference_mode_enabled():
        return cached_from_weights(matrix, dtype, lambda: _prepacked(_in_type(_parameters(matrix), dtype)))
    return _parameters(matrix)


def _parameters(matrix: nn.Module) -> _Matrix:
    if isinstance(matrix, nn.Linear):
        return _Matrix(matrix.weight, matrix.bias, None, None)
    base, (name,) = matrix.get_base_layer(), matrix.active_adapters
    return _Matrix(base.weight, base.bias, matrix.lora_A[name].weight, matrix.lora_B[name].weight)


def _in_type(tensors: Sequence[Tensor | None], dtype: torch.dtype) -> _Matrix:
    return _Matrix(*(None if tensor is None else tensor.to(dtype) for tensor in tensors))


@torch.autocast("cpu", enabled=False)
def _prepacked(matrix: _Matrix) -> _Matrix:
    return matrix._replace(weight_OI=prepacked(matrix.weight_OI))


def _low_rank_options(matrix: nn.Module) -> tuple[float, float]:
    if isinstance(matrix, nn.Linear):
        return 1.0, 0.0
    (name,) = matrix.active_adapters
    dropout = matrix.lora_dropout[name]
    return matrix.scaling[name], dropout.p if dropout.training and isinstance(dropout, nn.Dropout) else 0.0


class DropoutMask(NamedTuple):
    """A dropout mask, as the seed from which it is drawn whenever it is needed: this costs less than its memory.

    Attributes
    ----------
    seed
        Of the mask's generator, which is several times faster than torch's.
    dropped
        Number of values that are dropped, of 2**16 on average.
    """

    seed: int
    dropped: int

    @classmethod
    def drawn(cls, probability: float) -> "DropoutMask | None":
        """A mask for this probability of dropping, rounded to a multiple of 2**-16; None: all are kept."""
        dropped = round(probability * _LANE_VALUES)
        return cls(int(torch.randint(2**63 - 1, ())), dropped) if dropped else None

    def kept(self, shape: torch.Size) -> Tensor:
        """1 where kept, otherwise 0; uint8, which converts to floats five times faster than bool."""
        lanes = np.random.SFC64(self.seed).random_raw(-(-shape.numel() // _LANES)).view(np.uint16)[: shape.numel()]
        return torch.from_numpy((lanes >= self.dropped).view(np.uint8)).view(shape)

    @property
    def rescaling(self) -> float:
        """Factor of the kept values."""
        return _LANE_VALUES / (_LANE_VALUES - self.dropped)


def _kept(mask: DropoutMask | None, shape: torch.Size) -> tuple[Tensor | None, float]:
    """Kept values and their factor."""
    return (None, 1.0) if mask is None else (mask.kept(shape), mask.rescaling)


def _zero_dropped(x: Tensor, kept: Tensor | None, out: Tensor | None = None) -> Tensor:
    """``x`` with dropped values set to zero, not rescaled; ``out`` may be ``x``."""
    return x if kept is None else torch.mul(x, kept, out=out)


def _add_kept(x: Tensor, y: Tensor, kept: Tensor | None, rescaling: float, out: Tensor | None = None) -> Tensor:
    """``x + rescaling * y`` where kept, otherwise ``x``; ``out`` may be ``x``."""
    return torch.add(x, y, out=out) if kept is None else torch.addcmul(x, y, kept, value=rescaling, out=out)


class _Rotation(torch.autograd.Function):
    """Rotary positions of (N, H, C), times a scale; saves only the angles, which all layers share."""

    @staticmethod
    def forward(context, x_NHC: Tensor, cos_N1C: Tensor, sin_N1C: Tensor, scale: float) -> Tensor:
        context.save_for_backward(cos_N1C, sin_N1C)
        context.scale = scale
        return _rotate(x_NHC, cos_N1C, sin_N1C, scale, 1)

    @staticmethod
    def backward(context, gradient_NHC: Tensor) -> tuple[Tensor, None, None, None]:
        return _rotate(gradient_NHC, *context.saved_tensors, context.scale, -1), None, None, None


def _rotate(x_NHC: Tensor, cos_N1C: Tensor, sin_N1C: Tensor, scale: float, direction: int) -> Tensor:
    """In float32 as the plain layer, which is also several times faster than in half precision."""
    cos_N1C, sin_N1C = (table.float() * scale for table in (cos_N1C, sin_N1C))
    wide_NHC = x_NHC.float()
    out_NHC = wide_NHC * cos_N1C
    (first, second), (sin_first, sin_second) = wide_NHC.chunk(2, -1), sin_N1C.chunk(2, -1)
    out_first, out_second = out_NHC.chunk(2, -1)
    out_first.addcmul_(second, sin_first, value=-direction)
    out_second.addcmul_(first, sin_second, value=direction)
    return out_NHC.to(x_NHC.dtype)


class _Project(torch.autograd.Function):
    """`project`; saves its input, and the result of the low-rank matrices."""

    @staticmethod
    @torch.autocast("cpu", enabled=False)
    def forward(context, options: _Options, x_ND, norm_D, shift_D, *tensors) -> tuple[Tensor, ...]:
        matrices = _matrices(tensors, options.dtype)
        normed_ND = functional.layer_norm(x_ND, norm_D.shape, norm_D, shift_D, options.epsilon).to(options.dtype)
        outputs = [linear(normed_ND, m.weight_OI, m.bias_O) for m in matrices]
        context.mask = narrow = None
        context.factor = options.scaling
        if matrices[0].a_RI is not None:
            context.mask = DropoutMask.drawn(options.low_rank_dropout)
            kept, rescaling = _kept(context.mask, normed_ND.shape)
            context.factor *= rescaling
            dropped_ND = _zero_dropped(normed_ND, kept, normed_ND)
            narrow = linear(dropped_ND, torch.cat([m.a_RI for m in matrices]))
            for m, output, part in zip(matrices, outputs, narrow.chunk(len(matrices), 1), strict=True):
                output.addmm_(part, m.b_OR.T, alpha=context.factor)
        context.options = options
        context.save_for_backward(x_ND, norm_D, shift_D, narrow, *tensors)
        return tuple(outputs)

    @staticmethod
    @torch.autocast("cpu", enabled=False)
    def backward(context, *gradients) -> tuple[Tensor | None, ...]:
        x_ND, norm_D, shift_D, narrow, *tensors = context.saved_tensors
        dtype = context.options.dtype
        matrices = _matrices(tensors, dtype)
        with torch.enable_grad():
            inputs = [tensor.detach().requires_grad_() for tensor in (x_ND, norm_D, shift_D)]
            tracked_ND = functional.layer_norm(inputs[0], norm_D.shape, *inputs[1:], context.options.epsilon)
        normed_ND = tracked_ND.detach().to(dtype)
        weight_grads: list[Tensor | None] = []
        grad_normed_ND = None
        for number, (m, gradient) in enumerate(zip(matrices, gradients, strict=True)):
            trained = any(context.needs_input_grad[4 + 4 * number : 6 + 4 * number])
            weight_grads += _matrix_gradients(gradient, normed_ND) if trained else [None, None]
            weight_grads += [None, None]
            grad_ND = linear(gradient, m.weight_OI.T)
            grad_normed_ND = grad_ND if grad_normed_ND is None else grad_normed_ND.add_(grad_ND)
        if narrow is not None:
            grad_narrow = [linear(g, m.b_OR.T) for m, g in zip(matrices, gradients, strict=True)]
            grad_narrow = torch.cat(grad_narrow, 1) * context.factor
            kept, _ = _kept(context.mask, normed_ND.shape)
            # The normalised input may be overwritten: its backward pass needs only its input.
            dropped_ND = _zero_dropped(normed_ND, kept, normed_ND)
            grad_a = (grad_narrow.T @ dropped_ND).chunk(len(matrices))
            parts = narrow.chunk(len(matrices), 1)
            for number, (gradient, part) in enumerate(zip(gradients, parts, strict=True)):
                weight_grads[4 * number + 2 : 4 * number + 4] = grad_a[number], (gradient.T @ part) * context.factor
            grad_ND = grad_narrow @ torch.cat([m.a_RI for m in matrices])
            grad_normed_ND = _add_kept(grad_normed_ND, grad_ND, kept, 1.0, grad_normed_ND)
        required = [i for i in range(3) if context.needs_input_grad[1 + i]]
        input_grads: list[Tensor | None] = [None, None, None]
        if required:
            computed = torch.autograd.grad(
                tracked_ND, [inputs[i] for i in required], grad_normed_ND.to(tracked_ND.dtype)
            )
            for i, gradient in zip(required, computed, strict=True):
                input_grads[i] = gradient
        return None, *input_grads, *weight_grads


class _AddProjected(torch.autograd.Function):
    """`add_projected`; saves its input, and the result of the low-rank matrix."""

    @staticmethod
    @torch.autocast("cpu", enabled=False)
    def forward(context, options: _Options, x_ND, weight_OI, bias_O, a_RI, b_OR, *parts) -> Tensor:
        (m,) = _matrices((weight_OI, bias_O, a_RI, b_OR), options.dtype)
        input_NI = _joined(parts)
        active_NI = functional.gelu(input_NI) if options.gelu else input_NI
        output_ND = linear(active_NI, m.weight_OI, m.bias_O)
        context.low_rank_mask = narrow = None
        context.factor = options.scaling
        if a_RI is not None:
            context.low_rank_mask = DropoutMask.drawn(options.low_rank_dropout)
            kept, rescaling = _kept(context.low_rank_mask, active_NI.shape)
            context.factor *= rescaling
            dropped_NI = _zero_dropped(active_NI, kept, active_NI if options.gelu else None)
            narrow = linear(dropped_NI, m.a_RI)
            output_ND.addmm_(narrow, m.b_OR.T, alpha=context.factor)
        context.mask = DropoutMask.drawn(options.dropout)
        context.options = options
        context.save_for_backward(narrow, weight_OI, bias_O, a_RI, b_OR, *parts)
        return _add_kept(x_ND, output_ND, *_kept(context.mask, output_ND.shape))

    @staticmethod
    @torch.autocast("cpu", enabled=False)
    def backward(context, gradient_ND: Tensor) -> tuple[Tensor | None, ...]:
        narrow, *tensors = context.saved_tensors
        tensors, parts = tensors[:4], tensors[4:]
        (m,) = _matrices(tensors, context.options.dtype)
        kept, rescaling = _kept(context.mask, gradient_ND.shape)
        grad_output_ND = _zero_dropped(gradient_ND, kept).to(context.options.dtype)
        if kept is not None:
            grad_output_ND = grad_output_ND.mul_(rescaling)
        input_NI = _joined(parts)
        active_NI = functional.gelu(input_NI) if context.options.gelu else input_NI
        trained = any(context.needs_input_grad[2:4])
        weight_grads = _matrix_gradients(grad_output_ND, active_NI) if trained else [None, None]
        grad_input_NI = linear(grad_output_ND, m.weight_OI.T)
        if narrow is None:
            weight_grads += [None, None]
        else:
            grad_narrow = linear(grad_output_ND, m.b_OR.T) * context.factor
            kept, _ = _kept(context.low_rank_mask, grad_input_NI.shape)
            grad_input_NI = _add_kept(grad_input_NI, grad_narrow @ m.a_RI, kept, 1.0, grad_input_NI)
            dropped_NI = _zero_dropped(active_NI, kept, active_NI if context.options.gelu else None)
            weight_grads += [grad_narrow.T @ dropped_NI, (grad_output_ND.T @ narrow) * context.factor]
        if context.options.gelu:
            torch_private.gelu_backward_into(grad_input_NI, input_NI)
        return None, gradient_ND, *weight_grads, *grad_input_NI.split([len(part) for part in parts])


def _joined(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _matrices(tensors: Sequence[Tensor | None], dtype: torch.dtype) -> list[_Matrix]:
    return [_in_type(tensors[first : first + 4], dtype) for first in range(0, len(tensors), 4)]


def _matrix_gradients(gradient_NO: Tensor, input_NI: Tensor) -> list[Tensor]:
    """Gradients of a matrix and its bias."""
    return [weight_gradient(gradient_NO, input_NI), gradient_NO.sum(0)]

"""A layer of the language model on CPUs, with explicit forward and backward passes.

The results are those of transformers' layer, except for the random numbers of dropout. Cheap values (normalised inputs,
GELU, inputs after dropout) are recomputed in the backward pass instead of saved, frozen weights get no gradient, and
the low-rank updates of query, key and value share one dropout mask.

Shapes: N tokens of all segments, D model width, I inputs and O outputs of a matrix, R rank, H heads, C channels of a
head.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from torch.nn import functional
from transformers import EsmConfig, EsmForMaskedLM
from transformers.models.esm.modeling_esm import EsmLayer

from dplm2.cpu import attention
from dplm2.cpu.caching import cached_from_weights
from dplm2.cpu.products import linear, prepacked, weight_gradient

_LANES = 4  # 16-bit random numbers in one of 64 bits
_LANE_VALUES = 1 << 16


def install(model: EsmForMaskedLM) -> None:
    """Replace each layer by a `Layer` with the same weights under the same names."""
    layers = model.esm.encoder.layer
    for number, layer in enumerate(layers):
        if not isinstance(layer, Layer):
            layers[number] = Layer(layer, model.config)


class Layer(EsmLayer):
    """transformers' layer, optimised for packed samples.

    Parameters
    ----------
    layer
        The layer to replace; its modules are reused.
    config
        Configuration of the network.
    """

    def __init__(self, layer: EsmLayer, config: EsmConfig) -> None:
        with torch.device("meta"):  # skips the initialization of weights that are replaced below
            super().__init__(config)
        for name, part in layer.named_children():
            setattr(self, name, part)
        self.train(layer.training)

    def feed_forward_chunk(self, attention_output: Tensor) -> Tensor:
        """The feed-forward part with torch's exact GELU, which is five times faster and saves only its input."""
        inner = self.intermediate.dense(self.LayerNorm(attention_output))
        return self.output(functional.gelu(inner), attention_output)

    def forward(self, hidden_states: Tensor, *positional, segments: Sequence[int] | None = None, **named) -> Tensor:
        """Hidden states (1, N, D) after the layer; for ``segments`` see `dplm2.cpu.attention`."""
        if segments is None or hidden_states.device.type != "cpu":
            return super().forward(hidden_states, *positional, segments=segments, **named)
        return self._forward_packed(hidden_states[0], named["position_embeddings"], segments).unsqueeze(0)

    def _forward_packed(self, x_ND: Tensor, angles: tuple[Tensor, Tensor], segments: Sequence[int]) -> Tensor:
        output = self.attention.output
        attended_ND = self._attend(x_ND, angles, segments)
        x_ND = add_projected(x_ND, attended_ND, output.dense, output.dropout, gelu=False)
        (inner_NI,) = project(x_ND, self.LayerNorm, [self.intermediate.dense])
        return add_projected(x_ND, inner_NI, self.output.dense, self.output.dropout, gelu=True)

    def _attend(self, x_ND: Tensor, angles: tuple[Tensor, Tensor], segments: Sequence[int]) -> Tensor:
        own = self.attention.self
        cos_N1C, sin_N1C = (table[0].unsqueeze(1) for table in angles)
        split = (len(x_ND), own.num_attention_heads, own.attention_head_size)
        q_ND, k_ND, v_ND = project(x_ND, self.attention.LayerNorm, [own.query, own.key, own.value])
        # ESM-2 scales the queries before their rotation.
        scale = own.attention_head_size**-0.5
        q_NHC = _Rotation.apply(q_ND.view(split), cos_N1C * scale, sin_N1C * scale)
        k_NHC = _Rotation.apply(k_ND.view(split), cos_N1C, sin_N1C)
        inputs = (t.transpose(0, 1).unsqueeze(0) for t in (q_NHC, k_NHC, v_ND.view(split)))
        attended_1NHC, _ = attention.attention_within_segments(own, *inputs, None, segments, scaling=1.0)
        return attended_1NHC.reshape(x_ND.shape)


class _Matrix(NamedTuple):
    """A matrix with its bias and its low-rank update, if any."""

    weight_OI: Tensor
    bias_O: Tensor
    a_RI: Tensor | None
    b_OR: Tensor | None


class _Options(NamedTuple):
    """Scalar options of a layer."""

    epsilon: float = 0.0
    scaling: float = 1.0
    low_rank_dropout: float = 0.0
    dropout: float = 0.0
    gelu: bool = False


def project(x_ND: Tensor, norm: nn.LayerNorm, matrices: Sequence[nn.Module]) -> tuple[Tensor, ...]:
    """``matrix(norm(x))`` (N, O) for each matrix; either all or none have peft's low-rank update."""
    scaling, dropout = _low_rank_options(matrices[0])
    options = _Options(norm.eps, scaling, dropout)
    tensors = [tensor for matrix in matrices for tensor in _tensors(matrix, x_ND)]
    return _Project.apply(options, x_ND, norm.weight, norm.bias, *tensors)


def add_projected(x_ND: Tensor, input_NI: Tensor, matrix: nn.Module, dropout: nn.Dropout, *, gelu: bool) -> Tensor:
    """``x + dropout(matrix(input))`` (N, D), or with ``gelu``, ``x + dropout(matrix(gelu(input)))``."""
    scaling, low_rank_dropout = _low_rank_options(matrix)
    options = _Options(0.0, scaling, low_rank_dropout, dropout.p if dropout.training else 0.0, gelu)
    return _AddProjected.apply(options, x_ND, input_NI, *_tensors(matrix, x_ND))


def _tensors(matrix: nn.Module, x: Tensor) -> _Matrix:
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
    if torch.is_inference_mode_enabled():
        return cached_from_weights(matrix, dtype, lambda: _prepacked(_in_type(matrix, dtype)))
    return _in_type(matrix, dtype)


def _in_type(matrix: nn.Module, dtype: torch.dtype) -> _Matrix:
    if not isinstance(matrix, LoraLayer):
        return _Matrix(matrix.weight.to(dtype), matrix.bias.to(dtype), None, None)
    base, (name,) = matrix.get_base_layer(), matrix.active_adapters
    low_rank = (matrix.lora_A[name].weight, matrix.lora_B[name].weight)
    return _Matrix(*(tensor.to(dtype) for tensor in (base.weight, base.bias, *low_rank)))


@torch.autocast("cpu", enabled=False)
def _prepacked(matrix: _Matrix) -> _Matrix:
    return matrix._replace(weight_OI=prepacked(matrix.weight_OI))


def _low_rank_options(matrix: nn.Module) -> tuple[float, float]:
    if not isinstance(matrix, LoraLayer):
        return 1.0, 0.0
    (name,) = matrix.active_adapters
    dropout = matrix.lora_dropout[name]
    return matrix.scaling[name], dropout.p if dropout.training and isinstance(dropout, nn.Dropout) else 0.0


def draw_kept(shape: torch.Size, probability: float) -> tuple[Tensor | None, float]:
    """Draw a dropout mask (uint8, 1: kept; None: all kept), and the factor by which kept values are multiplied.

    Only a seed is drawn from torch's generator; the generator of the mask is several times faster. The probability is
    rounded to a multiple of 2**-16. The mask is uint8, which converts to floats five times faster than bool.
    """
    dropped = round(probability * _LANE_VALUES)
    if not dropped:
        return None, 1.0
    seed = int(torch.randint(2**63 - 1, ()))
    lanes = np.random.SFC64(seed).random_raw(-(-shape.numel() // _LANES)).view(np.uint16)[: shape.numel()]
    return torch.from_numpy((lanes >= dropped).view(np.uint8)).view(shape), _LANE_VALUES / (_LANE_VALUES - dropped)


def _zero_dropped(x: Tensor, kept: Tensor | None, out: Tensor | None = None) -> Tensor:
    """``x`` with dropped values set to zero, not rescaled; ``out`` may be ``x``."""
    return x if kept is None else torch.mul(x, kept, out=out)


def _add_kept(x: Tensor, y: Tensor, kept: Tensor | None, rescaling: float) -> Tensor:
    """``x + rescaling * y`` where kept, otherwise ``x``."""
    return x + y if kept is None else torch.addcmul(x, y, kept, value=rescaling)


class _Rotation(torch.autograd.Function):
    """Rotary positions of (N, H, C); saves only the angles."""

    @staticmethod
    def forward(context, x_NHC: Tensor, cos_N1C: Tensor, sin_N1C: Tensor) -> Tensor:
        context.save_for_backward(cos_N1C, sin_N1C)
        return _rotate(x_NHC, cos_N1C, sin_N1C, 1)

    @staticmethod
    def backward(context, gradient_NHC: Tensor) -> tuple[Tensor, None, None]:
        return _rotate(gradient_NHC, *context.saved_tensors, -1), None, None


def _rotate(x_NHC: Tensor, cos_N1C: Tensor, sin_N1C: Tensor, direction: int) -> Tensor:
    cos_N1C, sin_N1C = cos_N1C.to(x_NHC.dtype), sin_N1C.to(x_NHC.dtype)
    out_NHC = x_NHC * cos_N1C
    (first, second), (sin_first, sin_second) = x_NHC.chunk(2, -1), sin_N1C.chunk(2, -1)
    out_first, out_second = out_NHC.chunk(2, -1)
    out_first.addcmul_(second, sin_first, value=-direction)
    out_second.addcmul_(first, sin_second, value=direction)
    return out_NHC


class _Project(torch.autograd.Function):
    """`project`; saves its input, which is needed elsewhere, and the dropout mask."""

    @staticmethod
    @torch.autocast("cpu", enabled=False)
    def forward(context, options: _Options, x_ND, norm_D, shift_D, *tensors) -> tuple[Tensor, ...]:
        matrices = _matrices(tensors)
        normed_ND = functional.layer_norm(x_ND, norm_D.shape, norm_D, shift_D, options.epsilon).to(tensors[0].dtype)
        outputs = [linear(normed_ND, m.weight_OI, m.bias_O) for m in matrices]
        kept = narrow = None
        context.factor = options.scaling
        if matrices[0].a_RI is not None:
            kept, rescaling = draw_kept(normed_ND.shape, options.low_rank_dropout)
            context.factor *= rescaling
            dropped_ND = _zero_dropped(normed_ND, kept, normed_ND)
            narrow = linear(dropped_ND, torch.cat([m.a_RI for m in matrices]))
            for m, output, part in zip(matrices, outputs, narrow.chunk(len(matrices), 1), strict=True):
                output.addmm_(part, m.b_OR.T, alpha=context.factor)
        context.options = options
        context.save_for_backward(x_ND, norm_D, shift_D, kept, narrow, *tensors)
        return tuple(outputs)

    @staticmethod
    @torch.autocast("cpu", enabled=False)
    def backward(context, *gradients) -> tuple[Tensor | None, ...]:
        x_ND, norm_D, shift_D, kept, narrow, *tensors = context.saved_tensors
        matrices, dtype = _matrices(tensors), tensors[0].dtype
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
            dropped_ND = _zero_dropped(normed_ND, kept)
            grad_a = (grad_narrow.T @ dropped_ND).chunk(len(matrices))
            parts = narrow.chunk(len(matrices), 1)
            for number, (gradient, part) in enumerate(zip(gradients, parts, strict=True)):
                weight_grads[4 * number + 2 : 4 * number + 4] = grad_a[number], (gradient.T @ part) * context.factor
            grad_ND = grad_narrow @ torch.cat([m.a_RI for m in matrices])
            grad_normed_ND = _add_kept(grad_normed_ND, grad_ND, kept, 1.0)
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
    """`add_projected`; saves its input and the dropout masks."""

    @staticmethod
    @torch.autocast("cpu", enabled=False)
    def forward(context, options: _Options, x_ND, input_NI, *tensors) -> Tensor:
        m = _Matrix(*tensors)
        active_NI = functional.gelu(input_NI) if options.gelu else input_NI
        output_ND = linear(active_NI, m.weight_OI, m.bias_O)
        low_kept = narrow = None
        context.factor = options.scaling
        if m.a_RI is not None:
            low_kept, rescaling = draw_kept(input_NI.shape, options.low_rank_dropout)
            context.factor *= rescaling
            narrow = linear(_zero_dropped(active_NI, low_kept, active_NI if options.gelu else None), m.a_RI)
            output_ND.addmm_(narrow, m.b_OR.T, alpha=context.factor)
        kept, context.rescaling = draw_kept(output_ND.shape, options.dropout)
        context.options = options
        context.save_for_backward(input_NI, low_kept, narrow, kept, *tensors)
        return _add_kept(x_ND, output_ND, kept, context.rescaling)

    @staticmethod
    @torch.autocast("cpu", enabled=False)
    def backward(context, gradient_ND: Tensor) -> tuple[Tensor | None, ...]:
        input_NI, low_kept, narrow, kept, *tensors = context.saved_tensors
        m = _Matrix(*tensors)
        grad_output_ND = _zero_dropped(gradient_ND, kept).to(m.weight_OI.dtype)
        if kept is not None:
            grad_output_ND = grad_output_ND.mul_(context.rescaling)
        tracked_NI = active_NI = input_NI
        if context.options.gelu:
            with torch.enable_grad():
                input_NI = input_NI.detach().requires_grad_()
                tracked_NI = functional.gelu(input_NI)
            active_NI = tracked_NI.detach()
        trained = any(context.needs_input_grad[3:5])
        weight_grads = _matrix_gradients(grad_output_ND, active_NI) if trained else [None, None]
        grad_input_NI = linear(grad_output_ND, m.weight_OI.T)
        if narrow is None:
            weight_grads += [None, None]
        else:
            grad_narrow = linear(grad_output_ND, m.b_OR.T) * context.factor
            grad_input_NI = _add_kept(grad_input_NI, grad_narrow @ m.a_RI, low_kept, 1.0)
            # GELU's result may be overwritten: its backward pass needs only its input.
            dropped_NI = _zero_dropped(active_NI, low_kept, active_NI if context.options.gelu else None)
            weight_grads += [grad_narrow.T @ dropped_NI, (grad_output_ND.T @ narrow) * context.factor]
        if context.options.gelu:
            (grad_input_NI,) = torch.autograd.grad(tracked_NI, input_NI, grad_input_NI)
        return None, gradient_ND, grad_input_NI, *weight_grads


def _matrices(tensors: Sequence[Tensor | None]) -> list[_Matrix]:
    return [_Matrix(*tensors[first : first + 4]) for first in range(0, len(tensors), 4)]


def _matrix_gradients(gradient_NO: Tensor, input_NI: Tensor) -> list[Tensor]:
    """Gradients of a matrix and its bias."""
    return [weight_gradient(gradient_NO, input_NI), gradient_NO.sum(0)]

"""A layer of the network for training on a CPU, written out forward and backward.

The results are those of the library's layer; dropout draws other numbers. What costs little is computed again in the
backward pass instead of being kept (normalised inputs, GELU, what dropout left), frozen weights get no gradient, and a
layer's low-rank updates of query, key and value read one dropped-out input.

Shapes: N tokens of all segments, D model width, I inputs and O outputs of a matrix, R rank, H heads, C channels of a
head.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from torch.nn import functional
from transformers import EsmForMaskedLM
from transformers.models.esm.modeling_esm import EsmIntermediate, EsmLayer

from dplm2.artifacts import is_intel
from dplm2.language import attention

_LANES = 4  # 16-bit random numbers in one of 64 bits
_LANE_VALUES = 1 << 16
_IN_CACHE = 1 << 17  # numbers worked on at once where several passes follow one another
# Below so many multiply-adds (a millisecond) oneDNN's preparation for a new shape would cost more than it gains.
_WORTH_PREPARING = 1 << 26
# In fp32 torch's default library (MKL) is a fifth slower than oneDNN on AMD's processors with AVX-512, and as much
# faster on those without and on Intel's, where it takes transposed weights as they are.
_ONE_DNN_IS_FASTER = (
    torch.backends.mkldnn.is_available() and torch.backends.cpu.get_cpu_capability() == "AVX512" and not is_intel()
)


def install(model: EsmForMaskedLM) -> None:
    """Give the network the leaner arithmetic, in place; names and values of weights stay."""
    model.set_attn_implementation(attention.NAME)
    for module in model.modules():
        if type(module) is EsmIntermediate:
            module.__class__ = _Intermediate
        elif type(module) is EsmLayer:
            module.__class__ = Layer


class _Intermediate(EsmIntermediate):
    """The library's layer with torch's own exact GELU, which keeps its input alone for the backward pass."""

    def forward(self, hidden_states: Tensor) -> Tensor:
        return functional.gelu(self.dense(hidden_states))


class Layer(EsmLayer):
    """The library's layer; packed samples that are trained on go the leaner way."""

    def forward(self, hidden_states: Tensor, *positional, segments: Sequence[int] | None = None, **named) -> Tensor:
        """Hidden states (1, N, D) after the layer; ``segments`` as of `dplm2.language.attention`."""
        if segments is None or not torch.is_grad_enabled() or hidden_states.device.type != "cpu":
            return super().forward(hidden_states, *positional, segments=segments, **named)
        x_ND, own = hidden_states[0], self.attention.self
        cos_N1C, sin_N1C = (table[0].unsqueeze(1) for table in named["position_embeddings"])
        split = (len(x_ND), own.num_attention_heads, own.attention_head_size)
        q_ND, k_ND, v_ND = project(x_ND, self.attention.LayerNorm, [own.query, own.key, own.value])
        # ESM-2 scales the queries before it turns them.
        scale = own.attention_head_size**-0.5
        q_NHC = _Turn.apply(q_ND.view(split), cos_N1C * scale, sin_N1C * scale)
        k_NHC = _Turn.apply(k_ND.view(split), cos_N1C, sin_N1C)
        tracks = (t.transpose(0, 1).unsqueeze(0) for t in (q_NHC, k_NHC, v_ND.view(split)))
        seen_1NHC, _ = attention.attention_within_segments(own, *tracks, None, segments, scaling=1.0)
        output = self.attention.output
        x_ND = add_projected(x_ND, seen_1NHC.reshape(x_ND.shape), output.dense, output.dropout, gelu=False)
        (inner_NI,) = project(x_ND, self.LayerNorm, [self.intermediate.dense])
        return add_projected(x_ND, inner_NI, self.output.dense, self.output.dropout, gelu=True).unsqueeze(0)


class _Matrix(NamedTuple):
    """A matrix with its bias and its low-rank update, if it has one."""

    weight_OI: Tensor
    bias_O: Tensor
    a_RI: Tensor | None
    b_OR: Tensor | None


class _Options(NamedTuple):
    """What of a layer is no tensor."""

    epsilon: float = 0.0
    scaling: float = 1.0
    low_rank_dropout: float = 0.0
    dropout: float = 0.0
    gelu: bool = False


def project(x_ND: Tensor, norm: nn.LayerNorm, matrices: Sequence[nn.Module]) -> tuple[Tensor, ...]:
    """``matrix(norm(x))`` (N, O) for each matrix: plain ones, or all with peft's low-rank update."""
    scaling, dropout = _low_rank_options(matrices[0])
    options = _Options(norm.eps, scaling, dropout)
    tensors = [tensor for matrix in matrices for tensor in _tensors(matrix, x_ND)]
    return _Project.apply(options, x_ND, norm.weight, norm.bias, *tensors)


def add_projected(x_ND: Tensor, input_NI: Tensor, matrix: nn.Module, dropout: nn.Dropout, *, gelu: bool) -> Tensor:
    """``x + dropout(matrix(input))`` (N, D), or ``matrix(gelu(input))``."""
    scaling, low_rank_dropout = _low_rank_options(matrix)
    options = _Options(0.0, scaling, low_rank_dropout, dropout.p if dropout.training else 0.0, gelu)
    return _AddProjected.apply(options, x_ND, input_NI, *_tensors(matrix, x_ND))


def _tensors(matrix: nn.Module, x: Tensor) -> _Matrix:
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
    if not isinstance(matrix, LoraLayer):
        return _Matrix(matrix.weight.to(dtype), matrix.bias.to(dtype), None, None)
    linear, (name,) = matrix.get_base_layer(), matrix.active_adapters
    low_rank = (matrix.lora_A[name].weight, matrix.lora_B[name].weight)
    return _Matrix(*(tensor.to(dtype) for tensor in (linear.weight, linear.bias, *low_rank)))


def _low_rank_options(matrix: nn.Module) -> tuple[float, float]:
    if not isinstance(matrix, LoraLayer):
        return 1.0, 0.0
    (name,) = matrix.active_adapters
    dropout = matrix.lora_dropout[name]
    return matrix.scaling[name], dropout.p if dropout.training and isinstance(dropout, nn.Dropout) else 0.0


def draw_kept(shape: torch.Size, probability: float) -> tuple[Tensor | None, float]:
    """Which numbers dropout keeps (1, else 0; None: all), and by what the kept ones are multiplied.

    One seed is taken from torch's generator, and the many numbers from a generator that is several times faster. The
    probability is rounded to a multiple of 2**-16. Small integers turn into floats five times faster than bools do.
    """
    dropped = round(probability * _LANE_VALUES)
    if not dropped:
        return None, 1.0
    seed = int(torch.randint(2**63 - 1, ()))
    lanes = np.random.SFC64(seed).random_raw(-(-shape.numel() // _LANES)).view(np.uint16)[: shape.numel()]
    return torch.from_numpy((lanes >= dropped).view(np.uint8)).view(shape), _LANE_VALUES / (_LANE_VALUES - dropped)


def _parts(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Parts of tensors of one shape, small enough to stay in the processor's cache."""
    rows = max(1, _IN_CACHE // tensors[0].shape[-1])
    return zip(*(tensor.split(rows) for tensor in tensors), strict=True)


def _zero_dropped(x: Tensor, kept: Tensor | None, out: Tensor | None = None) -> Tensor:
    """``x`` with zeros for what is not kept, not rescaled; ``out`` may be ``x`` itself."""
    if kept is None:
        return x
    out = torch.empty_like(x) if out is None else out
    for part, kept_part, out_part in _parts(x, kept, out):
        torch.mul(part, kept_part.to(x.dtype), out=out_part)
    return out


def _add_kept(x: Tensor, y: Tensor, kept: Tensor | None, rescaling: float) -> Tensor:
    """``x + rescaling * y`` where kept, ``x`` elsewhere."""
    if kept is None:
        return x + y
    out = torch.empty_like(x)
    for x_part, y_part, kept_part, out_part in _parts(x, y, kept, out):
        torch.addcmul(x_part, y_part.to(x.dtype), kept_part.to(x.dtype), value=rescaling, out=out_part)
    return out


class _Turn(torch.autograd.Function):
    """Rotary positions of (N, H, C); keeps nothing but the angles."""

    @staticmethod
    def forward(context, x_NHC: Tensor, cos_N1C: Tensor, sin_N1C: Tensor) -> Tensor:
        context.save_for_backward(cos_N1C, sin_N1C)
        return _turned(x_NHC, cos_N1C, sin_N1C, 1)

    @staticmethod
    def backward(context, gradient_NHC: Tensor) -> tuple[Tensor, None, None]:
        return _turned(gradient_NHC, *context.saved_tensors, -1), None, None


def _turned(x_NHC: Tensor, cos_N1C: Tensor, sin_N1C: Tensor, direction: int) -> Tensor:
    cos_N1C, sin_N1C = cos_N1C.to(x_NHC.dtype), sin_N1C.to(x_NHC.dtype)
    out_NHC = x_NHC * cos_N1C
    (first, second), (sin_first, sin_second) = x_NHC.chunk(2, -1), sin_N1C.chunk(2, -1)
    out_first, out_second = out_NHC.chunk(2, -1)
    out_first.addcmul_(second, sin_first, value=-direction)
    out_second.addcmul_(first, sin_second, value=direction)
    return out_NHC


class _Project(torch.autograd.Function):
    """`project`; keeps its input, which is kept anyway, and what dropout kept of it."""

    @staticmethod
    @torch.autocast("cpu", enabled=False)
    def forward(context, options: _Options, x_ND, norm_D, shift_D, *tensors) -> tuple[Tensor, ...]:
        matrices = _matrices(tensors)
        normed_ND = functional.layer_norm(x_ND, norm_D.shape, norm_D, shift_D, options.epsilon).to(tensors[0].dtype)
        outputs = [product(normed_ND, m.weight_OI, m.bias_O) for m in matrices]
        kept = narrow = None
        context.factor = options.scaling
        if matrices[0].a_RI is not None:
            kept, rescaling = draw_kept(normed_ND.shape, options.low_rank_dropout)
            context.factor *= rescaling
            dropped_ND = _zero_dropped(normed_ND, kept, normed_ND)
            narrow = product(dropped_ND, torch.cat([m.a_RI for m in matrices]))
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
        found: list[Tensor | None] = []
        to_normed_ND = None
        for number, (m, gradient) in enumerate(zip(matrices, gradients, strict=True)):
            trained = any(context.needs_input_grad[4 + 4 * number : 6 + 4 * number])
            found += _of_matrix(gradient, normed_ND) if trained else [None, None]
            found += [None, None]
            through_ND = product(gradient, m.weight_OI.T)
            to_normed_ND = through_ND if to_normed_ND is None else to_normed_ND.add_(through_ND)
        if narrow is not None:
            to_narrow = [product(g, m.b_OR.T) for m, g in zip(matrices, gradients, strict=True)]
            to_narrow = torch.cat(to_narrow, 1) * context.factor
            dropped_ND = _zero_dropped(normed_ND, kept)
            to_a = (to_narrow.T @ dropped_ND).chunk(len(matrices))
            parts = narrow.chunk(len(matrices), 1)
            for number, (gradient, part) in enumerate(zip(gradients, parts, strict=True)):
                found[4 * number + 2 : 4 * number + 4] = to_a[number], (gradient.T @ part) * context.factor
            through_ND = to_narrow @ torch.cat([m.a_RI for m in matrices])
            to_normed_ND = _add_kept(to_normed_ND, through_ND, kept, 1.0)
        wanted = [i for i in range(3) if context.needs_input_grad[1 + i]]
        passed: list[Tensor | None] = [None, None, None]
        if wanted:
            computed = torch.autograd.grad(tracked_ND, [inputs[i] for i in wanted], to_normed_ND.to(tracked_ND.dtype))
            for i, gradient in zip(wanted, computed, strict=True):
                passed[i] = gradient
        return None, *passed, *found


class _AddProjected(torch.autograd.Function):
    """`add_projected`; keeps its input and what dropout kept."""

    @staticmethod
    @torch.autocast("cpu", enabled=False)
    def forward(context, options: _Options, x_ND, input_NI, *tensors) -> Tensor:
        m = _Matrix(*tensors)
        active_NI = functional.gelu(input_NI) if options.gelu else input_NI
        output_ND = product(active_NI, m.weight_OI, m.bias_O)
        low_kept = narrow = None
        context.factor = options.scaling
        if m.a_RI is not None:
            low_kept, rescaling = draw_kept(input_NI.shape, options.low_rank_dropout)
            context.factor *= rescaling
            narrow = product(_zero_dropped(active_NI, low_kept, active_NI if options.gelu else None), m.a_RI)
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
        to_output_ND = _zero_dropped(gradient_ND, kept).to(m.weight_OI.dtype)
        if kept is not None:
            to_output_ND = to_output_ND.mul_(context.rescaling)
        tracked_NI = active_NI = input_NI
        if context.options.gelu:
            with torch.enable_grad():
                input_NI = input_NI.detach().requires_grad_()
                tracked_NI = functional.gelu(input_NI)
            active_NI = tracked_NI.detach()
        found = _of_matrix(to_output_ND, active_NI) if any(context.needs_input_grad[3:5]) else [None, None]
        to_active_NI = product(to_output_ND, m.weight_OI.T)
        if narrow is None:
            found += [None, None]
        else:
            to_narrow = product(to_output_ND, m.b_OR.T) * context.factor
            to_active_NI = _add_kept(to_active_NI, to_narrow @ m.a_RI, low_kept, 1.0)
            # Written over what GELU gave: its own backward pass reads its input alone.
            dropped_NI = _zero_dropped(active_NI, low_kept, active_NI if context.options.gelu else None)
            found += [to_narrow.T @ dropped_NI, (to_output_ND.T @ narrow) * context.factor]
        if context.options.gelu:
            (to_active_NI,) = torch.autograd.grad(tracked_NI, input_NI, to_active_NI)
        return None, gradient_ND, to_active_NI, *found


def product(x_NI: Tensor, weight_OI: Tensor, bias_O: Tensor | None = None) -> Tensor:
    """``x W^T + b``; in fp32 by oneDNN, where that is the faster library."""
    large = x_NI.numel() * len(weight_OI) >= _WORTH_PREPARING
    if large and x_NI.dtype == torch.float32 and _ONE_DNN_IS_FASTER:
        return torch.ops.mkldnn._linear_pointwise(x_NI, weight_OI, bias_O, "none", [], "")
    return functional.linear(x_NI, weight_OI, bias_O)


def _matrices(tensors: Sequence[Tensor | None]) -> list[_Matrix]:
    return [_Matrix(*tensors[first : first + 4]) for first in range(0, len(tensors), 4)]


def _of_matrix(gradient_NO: Tensor, input_NI: Tensor) -> list[Tensor]:
    """Gradients of a matrix and of its bias."""
    return [gradient_NO.T @ input_NI, gradient_NO.sum(0)]

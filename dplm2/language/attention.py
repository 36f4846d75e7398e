"""Leaner arithmetic for the library's network: the same results, less memory and time.

Attention without padding: a batch's tokens lie one after the other, and each sample (each track of a single-modality
sample) is a segment that attends to itself alone. No mask of tokens by tokens exists, and padding costs nothing.

Shapes: H heads, N tokens of all segments, S segments of a group, T tokens of each, C channels of a head.
"""

from collections.abc import Sequence
from itertools import groupby

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import EsmForMaskedLM
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.esm.modeling_esm import EsmIntermediate

_NAME = "dplm2_segments"
_LANES = 4  # 16-bit random numbers in one of 64 bits
_LANE_VALUES = 1 << 16


def install(model: EsmForMaskedLM) -> None:
    """Give the network the leaner arithmetic, in place; names and values of weights stay."""
    model.set_attn_implementation(_NAME)
    for module in model.modules():
        if type(module) is EsmIntermediate:
            module.__class__ = _Intermediate
        elif type(module) is nn.Dropout:
            module.__class__ = Dropout


def attention_within_segments(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    segments: Sequence[int] | None = None,
    scaling: float | None = None,
    **others,
) -> tuple[Tensor, None]:
    """Attention in the form that transformers calls; ``segments`` are their lengths, None for an ordinary batch.

    ``query``, ``key`` and ``value`` are (1, H, N, C); the result is (1, N, H, C).
    """
    if segments is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **others)
    groups = [(length, len(list(same))) for length, same in groupby(segments)]
    sizes = [length * count for length, count in groups]
    parts = []
    for (length, count), *tensors in zip(groups, *(t[0].split(sizes, dim=1) for t in (query, key, value)), strict=True):
        q_SHTC, k_SHTC, v_SHTC = (t.unflatten(1, (count, length)).transpose(0, 1) for t in tensors)
        out_SHTC = functional.scaled_dot_product_attention(q_SHTC, k_SHTC, v_SHTC, scale=scaling)
        parts.append(out_SHTC.transpose(1, 2).flatten(0, 1))
    return (parts[0] if len(parts) == 1 else torch.cat(parts)).unsqueeze(0), None


ALL_ATTENTION_FUNCTIONS.register(_NAME, attention_within_segments)
ALL_MASK_ATTENTION_FUNCTIONS.register(_NAME, sdpa_mask)


class _Intermediate(EsmIntermediate):
    """The library's layer with torch's own exact GELU, which keeps its input alone for the backward pass."""

    def forward(self, hidden_states: Tensor) -> Tensor:
        return functional.gelu(self.dense(hidden_states))


class Dropout(nn.Dropout):
    """Dropout that on a CPU keeps one byte per number for the backward pass, and draws 16 random bits for it.

    The probability is rounded to a multiple of 2**-16.
    """

    def forward(self, input: Tensor) -> Tensor:
        if not self.training or self.p == 0 or input.device.type != "cpu":
            return super().forward(input)
        return _ByteDropout.apply(input, self.p)


def draw_kept(like: Tensor, probability: float) -> tuple[Tensor, float]:
    """Which numbers dropout keeps (bool, of the shape of ``like``), and by what the kept ones are multiplied."""
    words = torch.empty(-(-like.numel() // _LANES), dtype=torch.int64).random_(-(2**63), None)
    dropped = round(probability * _LANE_VALUES)
    lanes = words.view(torch.int16)[: like.numel()].view(like.shape)
    return lanes >= dropped - _LANE_VALUES // 2, _LANE_VALUES / (_LANE_VALUES - dropped)


class _ByteDropout(torch.autograd.Function):
    @staticmethod
    def forward(context, input: Tensor, probability: float) -> Tensor:
        kept, context.scale = draw_kept(input, probability)
        context.save_for_backward(kept)
        return input * kept * context.scale

    @staticmethod
    def backward(context, gradient: Tensor) -> tuple[Tensor, None]:
        (kept,) = context.saved_tensors
        return gradient * kept * context.scale, None

"""Attention of packed samples, without padding.

A batch's tokens are concatenated, and each sample (each track of a single-modality sample) is a segment that attends
only to itself. There is no mask of tokens by tokens, and padding costs nothing.

Shapes: H heads, N tokens of all segments, S segments of a group, T tokens of each, C channels of a head, M segments
times heads.
"""

import inspect
from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from dplm2.cpu import switch, torch_private

NAME = "dplm2_segments"
"""Name under which it is registered with transformers (`dplm2.cpu.process`)."""

_SCORES_PER_CHUNK = 1 << 22  # limits memory to about the size of a CPU's cache

try:  # torch 2.10 and later
    from torch.nn.attention.varlen import varlen_attn
except ImportError:
    varlen_attn = None
_ACCEPTS_SCALE = varlen_attn is not None and "scale" in inspect.signature(varlen_attn).parameters


class Bounds(NamedTuple):
    """Segments whose lengths stay on the device.

    Attributes
    ----------
    starts
        (S + 1,) int32: start of each segment, and end of the last. Segments may be empty.
    longest
        Upper bound of the number of tokens per segment.
    """

    starts: Tensor
    longest: int


def takes_bounds(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether a kernel accepts segments as `Bounds`: on GPUs since Ampere, in half precision."""
    if not _ACCEPTS_SCALE or device.type != "cuda" or dtype not in (torch.bfloat16, torch.float16):
        return False
    return torch.cuda.get_device_properties(device).major >= 8


def attention_within_segments(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    segments: Sequence[int] | Bounds | None = None,
    scaling: float | None = None,
    **others,
) -> tuple[Tensor, None]:
    """Attention function for transformers; ``segments`` are lengths or `Bounds`, or None for a padded batch.

    ``query``, ``key`` and ``value`` are (1, H, N, C); the result is (1, N, H, C).
    """
    if segments is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **others)
    parts = parts_within_segments(*(t[0].transpose(0, 1) for t in (query, key, value)), segments, scaling)
    return (parts[0] if len(parts) == 1 else torch.cat(parts)).unsqueeze(0), None


def parts_within_segments(
    q_NHC: Tensor, k_NHC: Tensor, v_NHC: Tensor, segments: Sequence[int] | Bounds, scaling: float | None
) -> list[Tensor]:
    """Attention within segments, as one part (n, H, C) for each run of segments of equal length; one with bounds."""
    if isinstance(segments, Bounds):
        starts, longest = segments
        return [varlen_attn(q_NHC, k_NHC, v_NHC, starts, starts, longest, longest, scale=scaling)]
    groups = [(length, len(list(same))) for length, same in groupby(segments)]
    sizes = [length * count for length, count in groups]
    parts = []
    for (length, count), *tensors in zip(groups, *(t.split(sizes) for t in (q_NHC, k_NHC, v_NHC)), strict=True):
        q_SHTC, k_SHTC, v_SHTC = (t.unflatten(0, (count, length)).transpose(1, 2) for t in tensors)
        if q_SHTC.dtype == torch.bfloat16 and q_SHTC.device.type == "cpu" and switch.is_lean():
            scale = q_SHTC.shape[-1] ** -0.5 if scaling is None else scaling
            # Contiguous also if it is a single segment, which would otherwise keep the tensors of all.
            q_MTC, k_MTC, v_MTC = (t.flatten(0, 1).contiguous() for t in (q_SHTC * scale, k_SHTC, v_SHTC))
            out_SHTC = _HalfAttention.apply(q_MTC, k_MTC, v_MTC).unflatten(0, q_SHTC.shape[:2])
        else:
            out_SHTC = functional.scaled_dot_product_attention(q_SHTC, k_SHTC, v_SHTC, scale=scaling)
        parts.append(out_SHTC.transpose(1, 2).flatten(0, 1))
    return parts


def register() -> None:
    """Register `attention_within_segments` with transformers."""
    ALL_ATTENTION_FUNCTIONS.register(NAME, attention_within_segments)
    ALL_MASK_ATTENTION_FUNCTIONS.register(NAME, sdpa_mask)


class _HalfAttention(torch.autograd.Function):
    """``softmax(q k) v`` of (M, T, C) in bf16 on a CPU; torch's attention takes 1.2 times longer (in training 2 times).

    It uses matrix products, which have bf16 instructions, for a few heads at a time, and saves only its inputs.
    """

    @staticmethod
    def forward(context, q_MTC: Tensor, k_MTC: Tensor, v_MTC: Tensor) -> Tensor:
        context.save_for_backward(q_MTC, k_MTC, v_MTC)
        out_MTC = torch.empty_like(v_MTC)
        for part in _chunks(q_MTC):
            torch.bmm(_weights(q_MTC[part], k_MTC[part]), v_MTC[part], out=out_MTC[part])
        return out_MTC

    @staticmethod
    def backward(context, gradient_MTC: Tensor) -> tuple[Tensor, ...]:
        q_MTC, k_MTC, v_MTC = context.saved_tensors
        grad_q_MTC, grad_k_MTC, grad_v_MTC = (torch.empty_like(t) for t in context.saved_tensors)
        for part in _chunks(q_MTC):
            gradient, weights = gradient_MTC[part].contiguous(), _weights(q_MTC[part], k_MTC[part])
            torch.bmm(weights.mT, gradient, out=grad_v_MTC[part])
            grad_weights = torch.bmm(gradient, v_MTC[part].mT)
            grad_scores = torch_private.softmax_backward(grad_weights, weights)
            torch.bmm(grad_scores, k_MTC[part], out=grad_q_MTC[part])
            torch.bmm(grad_scores.mT, q_MTC[part], out=grad_k_MTC[part])
        return grad_q_MTC, grad_k_MTC, grad_v_MTC


def _weights(q_MTC: Tensor, k_MTC: Tensor) -> Tensor:
    scores_MTT = torch.bmm(q_MTC, k_MTC.mT)
    return torch.softmax(scores_MTT, -1, out=scores_MTT)


def _chunks(q_MTC: Tensor) -> list[slice]:
    size = max(1, _SCORES_PER_CHUNK // q_MTC.shape[1] ** 2)
    return [slice(first, first + size) for first in range(0, len(q_MTC), size)]

"""Attention of packed samples, without padding.

A batch's tokens lie one after the other, and each sample (each track of a single-modality sample) is a segment that
attends to itself alone. No mask of tokens by tokens exists, and padding costs nothing.

Shapes: H heads, N tokens of all segments, S segments of a group, T tokens of each, C channels of a head, M segments
and heads together.
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
"""Under which transformers knows it once it is registered (`dplm2.cpu.process`)."""

_SCORES_AT_ONCE = 1 << 22  # bounds memory; a processor's cache holds about as many

try:  # torch 2.10 and later
    from torch.nn.attention.varlen import varlen_attn
except ImportError:
    varlen_attn = None
_TAKES_SCALE = varlen_attn is not None and "scale" in inspect.signature(varlen_attn).parameters


class Bounds(NamedTuple):
    """Segments whose lengths stay on the device.

    Attributes
    ----------
    starts
        (S + 1,) int32: where each segment starts, and the end of the last. A segment may be empty.
    longest
        No segment has more tokens.
    """

    starts: Tensor
    longest: int


def takes_bounds(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether there is a kernel for segments given as `Bounds`: on a GPU from Ampere on, in half precision."""
    if not _TAKES_SCALE or device.type != "cuda" or dtype not in (torch.bfloat16, torch.float16):
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
    """Attention in the form that transformers calls; ``segments`` are their lengths, None for an ordinary batch.

    ``query``, ``key`` and ``value`` are (1, H, N, C); the result is (1, N, H, C).
    """
    if segments is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **others)
    if isinstance(segments, Bounds):
        q_NHC, k_NHC, v_NHC = (t[0].transpose(0, 1) for t in (query, key, value))
        starts, longest = segments
        return varlen_attn(q_NHC, k_NHC, v_NHC, starts, starts, longest, longest, scale=scaling).unsqueeze(0), None
    groups = [(length, len(list(same))) for length, same in groupby(segments)]
    sizes = [length * count for length, count in groups]
    parts = []
    for (length, count), *tensors in zip(groups, *(t[0].split(sizes, dim=1) for t in (query, key, value)), strict=True):
        q_SHTC, k_SHTC, v_SHTC = (t.unflatten(1, (count, length)).transpose(0, 1) for t in tensors)
        if q_SHTC.dtype == torch.bfloat16 and q_SHTC.device.type == "cpu" and switch.is_lean():
            scale = q_SHTC.shape[-1] ** -0.5 if scaling is None else scaling
            q_MTC, k_MTC, v_MTC = (t.flatten(0, 1) for t in (q_SHTC * scale, k_SHTC, v_SHTC))
            out_SHTC = _HalfAttention.apply(q_MTC, k_MTC, v_MTC).unflatten(0, q_SHTC.shape[:2])
        else:
            out_SHTC = functional.scaled_dot_product_attention(q_SHTC, k_SHTC, v_SHTC, scale=scaling)
        parts.append(out_SHTC.transpose(1, 2).flatten(0, 1))
    return (parts[0] if len(parts) == 1 else torch.cat(parts)).unsqueeze(0), None


def register() -> None:
    """Let transformers know `attention_within_segments` by its name."""
    ALL_ATTENTION_FUNCTIONS.register(NAME, attention_within_segments)
    ALL_MASK_ATTENTION_FUNCTIONS.register(NAME, sdpa_mask)


class _HalfAttention(torch.autograd.Function):
    """``softmax(q k) v`` of (M, T, C) in bf16 on a CPU, where torch's own takes 1.2 times longer (trained: 2 times).

    A few heads at a time, by plain products, which have bf16 instructions; nothing but the inputs is kept.
    """

    @staticmethod
    def forward(context, q_MTC: Tensor, k_MTC: Tensor, v_MTC: Tensor) -> Tensor:
        context.save_for_backward(q_MTC, k_MTC, v_MTC)
        out_MTC = torch.empty_like(v_MTC)
        for part in _parts(q_MTC):
            torch.bmm(_shares(q_MTC[part], k_MTC[part]), v_MTC[part], out=out_MTC[part])
        return out_MTC

    @staticmethod
    def backward(context, gradient_MTC: Tensor) -> tuple[Tensor, ...]:
        q_MTC, k_MTC, v_MTC = context.saved_tensors
        to_q_MTC, to_k_MTC, to_v_MTC = (torch.empty_like(t) for t in context.saved_tensors)
        for part in _parts(q_MTC):
            gradient, shares = gradient_MTC[part].contiguous(), _shares(q_MTC[part], k_MTC[part])
            torch.bmm(shares.mT, gradient, out=to_v_MTC[part])
            to_shares = torch.bmm(gradient, v_MTC[part].mT)
            to_scores = torch_private.softmax_backward(to_shares, shares)
            torch.bmm(to_scores, k_MTC[part], out=to_q_MTC[part])
            torch.bmm(to_scores.mT, q_MTC[part], out=to_k_MTC[part])
        return to_q_MTC, to_k_MTC, to_v_MTC


def _shares(q_MTC: Tensor, k_MTC: Tensor) -> Tensor:
    scores_MTT = torch.bmm(q_MTC, k_MTC.mT)
    return torch.softmax(scores_MTT, -1, out=scores_MTT)


def _parts(q_MTC: Tensor) -> list[slice]:
    at_once = max(1, _SCORES_AT_ONCE // q_MTC.shape[1] ** 2)
    return [slice(first, first + at_once) for first in range(0, len(q_MTC), at_once)]

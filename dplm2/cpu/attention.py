"""Attention of packed samples, without padding.

A batch's tokens are concatenated, and each sample (each track of a single-modality sample) is a segment that attends
only to itself. There is no mask of tokens by tokens, and padding costs nothing.

Shapes: H heads, N tokens of all segments, S segments of a group, T tokens of each, C channels of a head, M segments
times heads.
"""

import functools
import inspect
from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from dplm2.cpu import switch, torch_private

_SCORES_PER_CHUNK = 1 << 22  # limits memory to about the size of a CPU's cache

varlen_attn = None  # torch's kernel for segments, once `_finds_kernel` has imported it


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
    if device.type != "cuda" or dtype not in (torch.bfloat16, torch.float16):
        return False
    return torch.cuda.get_device_properties(device).major >= 8 and _finds_kernel()


@functools.cache
def _finds_kernel() -> bool:
    """Import the kernel, which also imports torch's compiler and doubles the time of importing torch."""
    global varlen_attn
    try:  # torch 2.10 and later
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return False
    return "scale" in inspect.signature(varlen_attn).parameters


def parts_within_segments(
    q_NHC: Tensor, k_NHC: Tensor, v_NHC: Tensor, segments: Sequence[int] | Bounds, scaling: float
) -> list[Tensor]:
    """Attention within segments, as one part (n, H, C) for each run of segments of equal length; one with bounds.

    Parameters
    ----------
    q_NHC, k_NHC, v_NHC
        Queries, keys and values of the tokens of all segments.
    segments
        Lengths of the segments, or `Bounds`.
    scaling
        Factor of the scores.
    """
    if isinstance(segments, Bounds):
        starts, longest = segments
        return [varlen_attn(q_NHC, k_NHC, v_NHC, starts, starts, longest, longest, scale=scaling)]
    groups = [(length, len(list(same))) for length, same in groupby(segments)]
    sizes = [length * count for length, count in groups]
    parts = []
    for (length, count), *tensors in zip(groups, *(t.split(sizes) for t in (q_NHC, k_NHC, v_NHC)), strict=True):
        q_SHTC, k_SHTC, v_SHTC = (t.unflatten(0, (count, length)).transpose(1, 2) for t in tensors)
        if q_SHTC.dtype == torch.bfloat16 and q_SHTC.device.type == "cpu" and switch.is_lean():
            # Contiguous also if it is a single segment, which would otherwise keep the tensors of all.
            q_MTC, k_MTC, v_MTC = (t.flatten(0, 1).contiguous() for t in (q_SHTC * scaling, k_SHTC, v_SHTC))
            out_SHTC = _HalfAttention.apply(q_MTC, k_MTC, v_MTC).unflatten(0, q_SHTC.shape[:2])
        else:
            out_SHTC = functional.scaled_dot_product_attention(q_SHTC, k_SHTC, v_SHTC, scale=scaling)
        parts.append(out_SHTC.transpose(1, 2).flatten(0, 1))
    return parts


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
        q_MTC, k_MTC, v_MTC = context.saved_tensors  # read once, as activation checkpointing requires
        grad_q_MTC, grad_k_MTC, grad_v_MTC = (torch.empty_like(track_MTC) for track_MTC in (q_MTC, k_MTC, v_MTC))
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

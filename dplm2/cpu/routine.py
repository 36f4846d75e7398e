"""Which library multiplies matrices on this processor: one decision for training and inference, for both models."""

import functools
from pathlib import Path
from typing import Literal

import torch

from dplm2.cpu import switch, torch_private

VARIABLE = "DPLM2_PRODUCTS"
Routine = Literal["onednn", "torch"]


def routine(dtype: torch.dtype) -> Routine:
    """The library for products of a type: oneDNN called directly, or whatever torch's own ``linear`` calls.

    ``DPLM2_PRODUCTS`` set to either overrides the choice; ``torch`` is the plain form, and the only one for types that
    oneDNN cannot multiply here.
    """
    if not switch.is_lean() or not torch_private.has_one_dnn(dtype):
        return "torch"
    chosen = switch.choice(VARIABLE, ("auto", "onednn", "torch"))
    return faster_routine(dtype) if chosen == "auto" else chosen


@functools.cache
def faster_routine(dtype: torch.dtype) -> Routine:
    """The faster library by what is known of the processor.

    In float32 torch's default library (MKL) is slower than oneDNN on AMD's processors with AVX-512, by 14 to 120 %
    depending on their generation, and faster on those without and on Intel's. In bfloat16 torch calls oneDNN itself;
    called directly, it takes weights that were laid out for it beforehand.
    """
    if dtype == torch.bfloat16:
        return "onednn"
    return "onednn" if torch.backends.cpu.get_cpu_capability() == "AVX512" and not _is_intel() else "torch"


def _is_intel() -> bool:
    """Whether this machine has an Intel processor; False if unknown."""
    try:
        return "GenuineIntel" in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False

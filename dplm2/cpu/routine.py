"""Choice of the library for matrix products on this CPU, for training and inference of both models."""

import functools
from pathlib import Path
from typing import Literal

import torch

from dplm2.cpu import switch, torch_private

VARIABLE = "DPLM2_PRODUCTS"
Routine = Literal["onednn", "torch"]


def routine(dtype: torch.dtype) -> Routine:
    """The library for products of a type: oneDNN called directly, or the one that torch's ``linear`` calls.

    The environment variable ``DPLM2_PRODUCTS`` overrides the choice; ``torch`` is the plain form, and the only one for
    types that oneDNN does not support on this CPU.
    """
    if not switch.is_lean() or not torch_private.has_one_dnn(dtype):
        return "torch"
    chosen = switch.choice(VARIABLE, ("auto", "onednn", "torch"))
    return faster_routine(dtype) if chosen == "auto" else chosen


@functools.cache
def faster_routine(dtype: torch.dtype) -> Routine:
    """The faster library on this kind of CPU, from measurements.

    In float32 torch's default library (MKL) is slower than oneDNN on AMD's CPUs with AVX-512, by 14 to 120 % depending
    on the generation, and faster on those without and on Intel's. In bfloat16 torch calls oneDNN itself; a direct call
    can use prepacked weights.
    """
    if dtype == torch.bfloat16:
        return "onednn"
    return "onednn" if torch.backends.cpu.get_cpu_capability() == "AVX512" and not _is_intel() else "torch"


def _is_intel() -> bool:
    """Whether this machine has an Intel CPU; False if unknown."""
    try:
        return "GenuineIntel" in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False

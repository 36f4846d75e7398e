"""Choice of the library for matrix products, by measurement, for training and inference of both models.

Which library is faster depends on the processor: in float32, oneDNN is up to 2.2 times faster than torch's default
library (MKL) on AMD's processors with AVX-512, and slower on Intel's. Each kind of product is therefore measured once
per processor, release of torch, type and number of threads. The result is kept in the cache of this package, so that
repeated runs on a machine, such as a resumed training, have the same rounding.
"""

import contextlib
import functools
import platform
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from dplm2.core.artifacts import fingerprint, read_json_object, write_json
from dplm2.core.errors import DPLM2Error
from dplm2.core.hub import cache_folder
from dplm2.core.locks import locked
from dplm2.cpu import switch, torch_private
from dplm2.cpu.kernels import KERNELS, Library, Product, example

VARIABLE = "DPLM2_PRODUCTS"
REPETITIONS = 9
# How many times faster oneDNN must be. Its linear layers have prepacked weights, which are not part of the measurement;
# the others are used only where they pay clearly. Processors measured so far are well above or below these values.
REQUIRED_SPEEDUP: Mapping[Product, float] = {"linear": 0.95, "weight_gradient": 1.2, "batched": 1.2}
_WAIT_SECONDS = 2.0  # for another process that measures
_PROCESSOR_FIELDS = ("vendor_id", "cpu family", "model", "model name", "stepping", "CPU implementer", "CPU part")


def routine(dtype: torch.dtype, product: Product = "linear") -> Library:
    """The library for a kind of product: oneDNN called directly, or the one that torch calls.

    The environment variable ``DPLM2_PRODUCTS`` overrides the choice; ``torch`` is the plain form, and the only one for
    types that oneDNN does not support on this CPU.
    """
    if not switch.is_lean() or not torch_private.has_one_dnn(dtype):
        return "torch"
    chosen = switch.choice(VARIABLE, ("auto", "onednn", "torch"))
    return faster_library(dtype, product, torch.get_num_threads()) if chosen == "auto" else chosen


@functools.cache
def faster_library(dtype: torch.dtype, product: Product, threads: int) -> Library:
    """The faster library for a kind of product, from the cache or measured now; see `routine`."""
    if dtype == torch.bfloat16:  # torch calls oneDNN itself, but cannot use prepacked weights
        return "onednn" if product == "linear" else "torch"
    measured = {
        "processor": processor(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "torch": str(torch.__version__),
        "threads": threads,
        "type": str(dtype).removeprefix("torch."),
        "product": product,
    }
    path = cache_folder() / "products" / f"{fingerprint(measured)}.json"
    chosen = _recorded(path)
    # A cache that cannot be written, or is locked, costs only the measurement.
    with contextlib.suppress(DPLM2Error, OSError):
        if chosen is None:
            with locked(path.with_name("lock"), _WAIT_SECONDS):
                chosen = _recorded(path)
                if chosen is None:
                    milliseconds = measure(dtype, product)
                    chosen = choose(product, milliseconds)
                    write_json(path, {**measured, "milliseconds": milliseconds, "library": chosen})
    return choose(product, measure(dtype, product)) if chosen is None else chosen


def choose(product: Product, times: Mapping[Library, float]) -> Library:
    """The library to use, given the time that each takes."""
    return "onednn" if times["torch"] >= REQUIRED_SPEEDUP[product] * times["onednn"] else "torch"


@torch.inference_mode()
@torch.autocast("cpu", enabled=False)
def measure(dtype: torch.dtype, product: Product) -> dict[Library, float]:
    """Shortest CPU time in milliseconds of a typical product by each library, alternately.

    Other work on the machine affects CPU time less than wall-clock time.
    """
    operands, best = example(product, dtype), dict.fromkeys(KERNELS[product], float("inf"))
    for _ in range(REPETITIONS + 1):  # the first sets everything up, and is never the shortest
        for library, kernel in KERNELS[product].items():
            start = time.process_time()
            kernel(*operands)
            best[library] = min(best[library], 1000 * (time.process_time() - start))
    return best


@functools.cache
def processor() -> str:
    """A description of this machine's kind of CPU."""
    try:
        first, _, _ = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").partition("\n\n")
    except OSError:
        return platform.processor() or platform.machine()
    fields = dict(re.findall(r"^(.+?)\s*:\s*(.*)$", first, re.MULTILINE))
    return ", ".join(fields[name] for name in _PROCESSOR_FIELDS if name in fields) or platform.machine()


def _recorded(path: Path) -> Library | None:
    try:
        recorded: Any = read_json_object(path).get("library")
    except DPLM2Error:
        return None
    return recorded if recorded in ("onednn", "torch") else None

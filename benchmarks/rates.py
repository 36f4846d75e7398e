"""The rate of matrix products on this machine, and the number of operations of a call, for the other benchmarks.

    python -m benchmarks.rates --threads 1 2 --out benchmarks/results/rates.json

An operation is a multiplication or an addition in a matrix product, attention included; all others are not counted. The
share of the measured rate is the time that a call's operations would take at the rate of the faster library, divided by
the time of the call.
"""

import argparse
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from dplm2.core.artifacts import library_versions, write_json
from dplm2.cpu import kernels, products, routine, switch, torch_private
from dplm2.cpu.process import prepare_process

CLOCKS = {"cpu": time.process_time, "wall": time.perf_counter}
ROWS, INPUTS, OUTPUTS = 2048, 640, 2560  # of the 150M model's largest layer


@torch.inference_mode()
def product_rates(
    device: str, dtype: torch.dtype, clock: Callable[[], float] = time.perf_counter, repetitions: int = 6
) -> dict[str, float]:
    """Operations per second of linear layers by each library, the best of alternating calls."""
    values, weight = (torch.ones(shape, device=device, dtype=dtype) for shape in ((ROWS, INPUTS), (OUTPUTS, INPUTS)))
    forms = {"torch": lambda: torch.nn.functional.linear(values, weight)}
    if device == "cpu" and torch_private.has_one_dnn(dtype):
        packed = torch_private.prepacked(weight)
        forms["onednn"] = lambda: kernels.linear_by_one_dnn(values, packed)
    best = dict.fromkeys(forms, float("inf"))
    for _ in range(repetitions + 1):
        for library, form in forms.items():
            synchronize(device)
            start = clock()
            form()
            synchronize(device)
            best[library] = min(best[library], clock() - start)
    return {library: 2 * ROWS * INPUTS * OUTPUTS / seconds for library, seconds in best.items()}


def count_operations(call: Callable[[], object]) -> int:
    """Operations of a call, which is made once, in the plain form."""
    before = os.environ.get(switch.VARIABLE)
    os.environ[switch.VARIABLE] = "plain"
    try:
        with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
            call()
    finally:
        os.environ.pop(switch.VARIABLE)
        if before is not None:
            os.environ[switch.VARIABLE] = before
    return counter.get_total_flops()


def synchronize(device: str) -> None:
    """Wait for a GPU."""
    if device == "cuda":
        torch.cuda.synchronize()


def main() -> None:
    """Measure this machine's rates and what `dplm2.cpu.routine` chooses."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument(
        "--clock", choices=["wall", "cpu"], default="wall", help="cpu: rate per second of CPU time, on a busy machine"
    )
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    prepare_process()
    rows = []
    for threads in options.threads:
        torch.set_num_threads(threads)
        for dtype in (torch.float32, torch.bfloat16):
            rates = product_rates("cpu", dtype, CLOCKS[options.clock], repetitions=30)
            rows.append(
                {
                    "threads": threads,
                    "type": str(dtype).removeprefix("torch."),
                    "gigaflop_per_second": {library: round(rate / 1e9, 1) for library, rate in rates.items()},
                    "chosen": {product: routine.routine(dtype, product) for product in products.MIN_WORK},
                }
            )
            print(json.dumps(rows[-1]), flush=True)
    if options.out:
        described = {
            "clock": options.clock,
            "processor": routine.processor(),
            "capability": torch.backends.cpu.get_cpu_capability(),
            "versions": library_versions(),
        }
        write_json(options.out, {**described, "rows": rows})


if __name__ == "__main__":
    main()

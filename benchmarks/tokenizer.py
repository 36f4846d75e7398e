"""Speed and memory of the structure tokenizer: residues per second in both directions, by length.

Random weights of the paper's size (encoder of ESM-IF1, 142 million parameters), one chain at a time, on one thread:

    python -m benchmarks.tokenizer --out benchmarks/results/tokenizer.json
    python -m benchmarks.tokenizer --device cuda --at-once 1 32 --out benchmarks/results/tokenizer-cuda.json

On a CPU the rate is per second of CPU time, which other work on the machine affects less than wall-clock time; both are
written, and the share of the rate of matrix products on this machine, measured just before and after
(`benchmarks/rates.py`). Memory is the increase of the peak resident set during the calls; the first row of a precision
also includes the prepacked weights of the encoder (about 400 MB in float32). On a GPU the rate is per second of wall-
clock time, and --at-once is the number of chains per batch; with --compile, folding trunk and structure module are
compiled. With --tokenizer and --chains, the fraction of equal tokens between the precisions is measured on real chains.
"""

import argparse
import functools
import json
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch

from benchmarks.rates import count_operations, product_rates
from dplm2.core.artifacts import library_versions, write_json
from dplm2.cpu.process import prepare_process
from dplm2.settings.tokenizer import TokenizerSettings
from dplm2.structures.store import backbones, read_chains
from dplm2.tokenizer.model import StructureTokenizer

ENCODE_LENGTHS, DECODE_LENGTHS = (100, 300, 500), (100, 300, 499)
LONG = 2000
# The authors' implementation with one thread, by direction and length; other lengths were measured with two threads.
AUTHORS = {"tokenize": {100: 27.3, 300: 26.4}, "detokenize": {100: 544.0, 300: 77.0}}


def wandering_chain(length: int) -> np.ndarray:
    """An irregular helical backbone (L, 4, 3) in angstrom, compact enough that residues have all their neighbours."""
    random = np.random.default_rng(length)
    step = np.arange(4 * length) / 4
    curve = np.stack([2.3 * np.cos(step * 1.75), 2.3 * np.sin(step * 1.75), 1.5 * step], -1)
    curve[:, :2] += np.cumsum(random.normal(size=(4 * length, 2)) * 0.3, 0)
    return curve.reshape(length, 4, 3).astype(np.float32)


class Meter:
    """Time and memory of calls on one device."""

    def __init__(self, device: str, repetitions: int) -> None:
        self.device, self.repetitions = device, repetitions

    def measure(self, call: Callable[[], object], residues: int) -> dict[str, float]:
        """Medians over the repetitions, after a warm-up call."""
        self._reset_peak()
        before = self._memory()
        call()
        wall, processor = [], []
        for _ in range(self.repetitions):
            start = time.perf_counter(), time.process_time()
            call()
            if self.device == "cuda":
                torch.cuda.synchronize()
            wall.append(time.perf_counter() - start[0])
            processor.append(time.process_time() - start[1])
        seconds = wall if self.device == "cuda" else processor
        return {
            "residues_per_second": round(residues / statistics.median(seconds), 1),
            "best_residues_per_second": round(residues / min(seconds), 1),
            "residues_per_second_on_the_clock": round(residues / statistics.median(wall), 1),
            "peak_memory_above_model_mb": round((self._peak() - before) / 2**20),
        }

    def _reset_peak(self) -> None:
        if self.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        else:
            Path("/proc/self/clear_refs").write_text("5")  # Linux: reset the peak resident set

    def _memory(self) -> int:
        return torch.cuda.memory_allocated() if self.device == "cuda" else _status("VmRSS")

    def _peak(self) -> int:
        return torch.cuda.max_memory_allocated() if self.device == "cuda" else _status("VmHWM")


def _status(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {field}")


def product_rate(device: str, dtype: torch.dtype) -> float:
    """Current rate of matrix products by the faster library, in operations per second."""
    clock = time.perf_counter if device == "cuda" else time.process_time
    return max(product_rates(device, dtype, clock).values())


def measure_all(tokenizer: StructureTokenizer, meter: Meter, options: argparse.Namespace) -> Iterator[dict]:
    """Yield a row for each direction, precision and length."""
    more = [LONG] if options.long else []

    def row_of(task: str, precision: str, length: int, chains: int, call: Callable[[], object]) -> dict:
        rate = functools.partial(product_rate, meter.device, getattr(torch, precision))
        before, measured, after = rate(), meter.measure(call, chains * length), rate()
        fastest = max(before, after)
        operations = count_operations(call) if meter.device == "cpu" else None
        seconds = chains * length / measured["residues_per_second"]
        row = {
            "task": task,
            "precision": precision,
            "length": length,
            "chains": chains,
            **measured,
            "gigaflop": operations and round(operations / 1e9, 1),
            "measured_gigaflop_per_second": round(fastest / 1e9, 1),
            "share_of_measured_rate": operations and round(operations / fastest / seconds, 3),
        }
        theirs = AUTHORS[task].get(length) if meter.device == "cpu" else None
        return {**row, "authors_residues_per_second": theirs}

    on_gpu = meter.device == "cuda"
    for precision in options.precision:
        for length in (*options.encode_lengths, *more):
            for chains in options.at_once:
                work = [wandering_chain(length)] * chains
                call = functools.partial(tokenizer.encode, work, chains * length, precision)
                yield row_of("tokenize", precision, length, chains, call)
    for precision in options.precision if on_gpu else options.precision[:1]:
        for length in (*options.decode_lengths, *more):
            for chains in options.at_once:
                tokens = np.random.default_rng(length).integers(0, tokenizer.codebook_size, (chains, length))
                call = functools.partial(tokenizer.decode, list(tokens), chains * length, precision)
                yield row_of("detokenize", precision, length, chains, call)


def agreement(tokenizer: StructureTokenizer, chains: list[Path], limit: int) -> dict[str, float]:
    """Fraction of tokens that are equal in float32 and bfloat16."""
    table = read_chains(chains, columns=["backbone"])
    found = backbones(table)[:limit]
    exact, lower = (np.concatenate(tokenizer.encode(found, precision=kind)) for kind in ("float32", "bfloat16"))
    differing = np.unpackbits((exact ^ lower).view(np.uint8)).sum() / (len(exact) * tokenizer.bits)
    return {
        "chains": len(found),
        "residues": len(exact),
        "equal_tokens": float((exact == lower).mean()),
        "equal_bits": 1 - float(differing),
    }


def main() -> None:
    """Measure, print and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", help="folder of a tokenizer (default: random weights of the paper's size)")
    parser.add_argument("--chains", nargs="+", type=Path, help="datasets on which the precisions are compared")
    parser.add_argument("--limit", type=int, default=200, help="at most this many chains of them")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--encode-lengths", type=int, nargs="*", default=ENCODE_LENGTHS)
    parser.add_argument("--decode-lengths", type=int, nargs="*", default=DECODE_LENGTHS)
    parser.add_argument("--precision", nargs="+", choices=["float32", "bfloat16"], default=["float32", "bfloat16"])
    parser.add_argument("--at-once", type=int, nargs="+", default=[1], help="chains that are worked on together")
    parser.add_argument("--compile", action="store_true", help="compile folding trunk and structure module")
    parser.add_argument("--long", action="store_true", help=f"also chains of {LONG} residues")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    prepare_process()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    if options.tokenizer:
        tokenizer = StructureTokenizer.from_pretrained(options.tokenizer, options.device)
    else:
        tokenizer = StructureTokenizer(TokenizerSettings.make()).eval().to(options.device)
    if options.compile:
        tokenizer.decoder.trunk.compile(dynamic=True)
        tokenizer.decoder.structure_module.compile(dynamic=True)
    result = {
        "machine": platform.processor() or platform.machine(),
        "device": torch.cuda.get_device_name() if options.device == "cuda" else "cpu",
        "processor_has_bfloat16": torch.cpu._is_avx512_bf16_supported() if options.device == "cpu" else None,
        "threads": options.threads,
        "compiled": options.compile,
        "versions": library_versions(),
        "weights": options.tokenizer or "random, the paper's size",
        "rows": [],
    }
    for row in measure_all(tokenizer, Meter(options.device, options.repetitions), options):
        print(json.dumps(row), flush=True)
        result["rows"].append(row)
        write_json(options.out, result)
    if options.chains:
        result["agreement"] = agreement(tokenizer, options.chains, options.limit)
        print(json.dumps(result["agreement"]))
        write_json(options.out, result)
    print(f"results: {options.out}")


if __name__ == "__main__":
    main()

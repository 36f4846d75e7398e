"""Speed and memory of sampling, and the shares of network and sampler in a step.

    python -m benchmarks.generate --size 150M --threads 2 --precision float32 --out benchmarks/generate.json
    python -m benchmarks.generate --throughput --size 650M --device cuda --precision bfloat16

The first measures steps of a batch with random weights and the network's plain forward pass, alternating in the same
run, since a machine's speed drifts, and the share of a step of the machine's rate of matrix products
(`benchmarks/rates.py`). The second measures samples per minute at several lengths and batch sizes, eager,
compiled and as a CUDA graph.
"""

import argparse
import json
import platform
import statistics
from pathlib import Path

import numpy as np
import torch

from benchmarks.rates import CLOCKS, count_operations, product_rates
from dplm2.core.artifacts import library_versions, peak_memory_bytes, write_json
from dplm2.language.conditioning import Conditioning, sample_seed
from dplm2.language.denoising import Denoiser
from dplm2.language.esm import Esm2, Esm2Config
from dplm2.language.network import MultimodalEsm
from dplm2.language.schedule import SamplerSettings
from dplm2.language.vocabulary import TRACKS, Vocabulary

SIZES = {
    "tiny": (64, 2, 4, 128),
    "150M": (640, 30, 20, 2560),
    "650M": (1280, 33, 20, 5120),
    "3B": (2560, 36, 40, 10240),
}


def random_network(size: str, precision: str, device: str) -> MultimodalEsm:
    """A network with random weights."""
    torch.manual_seed(0)
    vocabulary = Vocabulary()
    hidden, layers, heads, intermediate = SIZES[size]
    model = Esm2(Esm2Config(len(vocabulary), hidden, layers, heads, intermediate))
    return MultimodalEsm(model, vocabulary).eval().to(device=device, dtype=getattr(torch, precision))


def unknown(sample_id: str, length: int, steps: int, vocabulary: Vocabulary) -> Conditioning:
    """A sample given only by its length."""
    tokens = {track: np.full(length, vocabulary.mask(track)) for track in TRACKS}
    return Conditioning(sample_id, tokens, {track: np.zeros(length, bool) for track in TRACKS}, steps)


def seconds(action, options: argparse.Namespace) -> float:
    """Time of one call."""
    clock = CLOCKS[options.clock]
    if options.device == "cuda":
        torch.cuda.synchronize()
    start = clock()
    action()
    if options.device == "cuda":
        torch.cuda.synchronize()
    return clock() - start


def denoiser_of(network: MultimodalEsm, batch: int, length: int, steps: int, settings: SamplerSettings) -> Denoiser:
    """A batch before its first step."""
    samples = [unknown(str(number), length, steps, network.vocabulary) for number in range(batch)]
    return Denoiser(network, samples, [sample_seed(0, sample.sample_id) for sample in samples], settings)


@torch.inference_mode()
def measure_steps(options: argparse.Namespace) -> dict:
    """Median times of the plain forward pass with all logits, the part that sampling uses, and a complete step."""
    network = random_network(options.size, options.precision, options.device)
    settings = SamplerSettings.of(options.strategy, options.unmasking)
    before = peak_memory_bytes()
    denoiser = denoiser_of(network, options.batch, options.length, 500, settings)
    times: dict[str, list[float]] = {"hidden": [], "step": [], "plain_forward": []}
    clock, dtype, rates = CLOCKS[options.clock], getattr(torch, options.precision), []
    inside = {"hidden": 0.0, "head": 0.0}

    def timed(name: str, method):
        def call(*arguments):
            result = None

            def action():
                nonlocal result
                result = method(*arguments)

            inside[name] += seconds(action, options)
            return result

        return call

    denoiser.advance()
    plain_hidden, plain_head = network.hidden, network.track_logits
    for repetition in range(options.repetitions + 1):
        network.hidden, network.track_logits = timed("hidden", plain_hidden), timed("head", plain_head)
        inside.update(hidden=0.0, head=0.0)
        rates.append(max(product_rates(options.device, dtype, clock).values()))
        step = seconds(denoiser.advance, options)
        network.hidden, network.track_logits = plain_hidden, plain_head
        if repetition == 0:  # before the plain forward pass, which allocates all logits
            after = peak_memory_bytes()
        plain = seconds(lambda: network(denoiser.ids_BT), options)
        if repetition:  # the first is a warm-up
            times["step"].append(step)
            times["hidden"].append(inside["hidden"] + inside["head"])
            times["plain_forward"].append(plain)
    medians = {name: statistics.median(values) for name, values in times.items()}
    operations = count_operations(denoiser.advance)
    own = [step - used for step, used in zip(times["step"], times["hidden"], strict=True)]
    return {
        "seconds_per_step": medians["step"],
        "seconds_of_network_in_step": medians["hidden"],
        "seconds_of_sampler_in_step": statistics.median(own),
        "seconds_of_plain_forward": medians["plain_forward"],
        "sampler_share_of_plain_forward": statistics.median(own) / medians["plain_forward"],
        "step_over_plain_forward": medians["step"] / medians["plain_forward"],
        "gigaflop_per_step": round(operations / 1e9, 1),
        "measured_gigaflop_per_second": round(max(rates) / 1e9, 1),
        "share_of_measured_rate": round(operations / max(rates) / medians["step"], 3),
        "peak_memory_bytes": after,
        "memory_of_steps_bytes": after - before,
    }


def measure_throughput(options: argparse.Namespace) -> list[dict]:
    """Samples per minute by length and execution mode, at the best batch size found."""
    rows = []
    network = random_network(options.size, options.precision, options.device)
    plain_hidden = network.hidden
    for way in options.ways:
        network.hidden = plain_hidden
        if way != "eager":
            network.hidden = torch.compile(plain_hidden, mode="reduce-overhead" if way == "graphed" else "default")
        for length in options.lengths:
            best, batch = None, options.smallest_batch
            while batch <= options.largest_batch:
                try:
                    rate = _rate(options, network, length, batch)
                except torch.OutOfMemoryError:
                    torch.cuda.empty_cache()
                    break
                if best is not None and rate < best["samples_per_minute"] * 1.02:
                    break
                best = {"length": length, "way": way, "batch": batch, "samples_per_minute": rate}
                batch *= 2
            if best is not None:
                rows.append(best)
                print(json.dumps(best), flush=True)
    return rows


@torch.inference_mode()
def _rate(options: argparse.Namespace, network: MultimodalEsm, length: int, batch: int) -> float:
    settings = SamplerSettings.of(options.strategy, options.unmasking)
    denoiser = denoiser_of(network, batch, length, 500, settings)
    for _ in range(3):
        denoiser.advance()
    taken = [seconds(denoiser.advance, options) for _ in range(options.repetitions)]
    return 60 * batch / (statistics.median(taken) * 500)


def main() -> None:
    """Measure, print and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="150M")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument(
        "--clock", choices=["wall", "cpu"], default="wall", help="cpu: processor time, for ratios on a busy machine"
    )
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--length", type=int, default=200)
    parser.add_argument("--strategy", default="annealing@2.2:1.0")
    parser.add_argument("--unmasking", default="stochastic@1.0")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--throughput", action="store_true", help="samples per minute instead of seconds per step")
    parser.add_argument("--lengths", type=int, nargs="+", default=[100, 200, 300, 400, 500])
    parser.add_argument(
        "--ways", nargs="+", choices=["eager", "compiled", "graphed"], default=["eager", "compiled", "graphed"]
    )
    parser.add_argument("--smallest-batch", type=int, default=1)
    parser.add_argument("--largest-batch", type=int, default=512)
    parser.add_argument("--out", type=Path, help="JSON file for the results")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    results = measure_throughput(options) if options.throughput else measure_steps(options)
    described = {name: value for name, value in vars(options).items() if name not in ("out", "throughput")}
    if options.device == "cuda":
        described["device"] = torch.cuda.get_device_name()
    report = {"settings": described, "results": results, "machine": platform.processor() or platform.machine()}
    print(json.dumps(report, indent=2))
    if options.out is not None:
        write_json(options.out, {**report, "versions": library_versions()})


if __name__ == "__main__":
    main()

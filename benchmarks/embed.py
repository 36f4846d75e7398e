"""Cost of `dplm2.representations.embedding.embed`, as a ratio to the network's forward passes over the same batches.

    python -m benchmarks.embed --size 150M --threads 2 --clock cpu --out benchmarks/results/embed.json
    python -m benchmarks.embed --size 650M --device cuda --precision bfloat16 --proteins 512

Random weights and proteins of 50 to 500 residues with both tracks. Passes and embedding are measured in turns in the
same run, since a machine's speed drifts; the values are medians over the repeats.
"""

import argparse
import platform
import statistics
import time

import numpy as np
import torch

from benchmarks.generate import SIZES, random_network
from dplm2.core.artifacts import library_versions, write_json
from dplm2.generation.model import DPLM2
from dplm2.generation.proteins import ids_of
from dplm2.generation.task import Target
from dplm2.language.layout import join
from dplm2.language.vocabulary import AMINO_ACIDS, TRACKS
from dplm2.representations.embedding import Embedding, _batches, embed

VARIANTS = {
    "mean": Embedding(),
    "mean, 3 layers, float16": Embedding(layers=(1, 2, -1), numbers="float16"),
    "per residue": Embedding("none"),
    "per residue, float16": Embedding("none", numbers="float16"),
}


def proteins(count: int, seed: int = 0) -> list[Target]:
    """Random proteins of 50 to 500 residues."""
    random = np.random.default_rng(seed)
    lengths = random.integers(50, 501, count)
    return [
        Target(str(n), "".join(random.choice(list(AMINO_ACIDS), length)), random.integers(0, 8192, length))
        for n, length in enumerate(lengths)
    ]


@torch.inference_mode()
def forward(model: DPLM2, targets: list[Target], embedding: Embedding) -> None:
    """The forward passes alone, over the batches of `embed`."""
    ids = [ids_of(target, model.vocabulary) for target in targets]
    for batch in _batches(ids, embedding.token_budget):
        ids_BT = join(model.vocabulary, *([ids[index][track] for index in batch] for track in TRACKS))
        with torch.autocast(model.network.device.type, torch.bfloat16, enabled=embedding.bfloat16):
            model.network.hidden(ids_BT.to(model.network.device))


def seconds(action, options: argparse.Namespace) -> float:  # noqa: ANN001
    """Time of one call, the device's work included."""
    clock = time.process_time if options.clock == "cpu" else time.perf_counter
    start = clock()
    action()
    if options.device == "cuda":
        torch.cuda.synchronize()
    return clock() - start


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="150M")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--proteins", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall", help="cpu: on a machine with other work")
    parser.add_argument("--out")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    model = DPLM2(random_network(options.size, "float32", options.device))
    targets = proteins(options.proteins)
    seconds(lambda: forward(model, targets, Embedding()), options)
    rows = {}
    for name, plain in VARIANTS.items():
        embedding = Embedding(plain.pool, plain.layers, plain.numbers, bfloat16=options.precision == "bfloat16")
        times: dict[str, list[float]] = {"forward": [], "embed": []}
        for _ in range(options.repeats):
            times["forward"].append(seconds(lambda: forward(model, targets, embedding), options))  # noqa: B023
            times["embed"].append(seconds(lambda: embed(model, targets, embedding), options))  # noqa: B023
        medians = {key: statistics.median(values) for key, values in times.items()}
        rows[name] = {**medians, "ratio": medians["embed"] / medians["forward"]}
        print(f"{name}: forward {medians['forward']:.2f} s, embed {medians['embed']:.2f} s, {rows[name]['ratio']:.3f}")
    if options.out:
        described = {"options": vars(options), "machine": platform.machine(), "versions": library_versions()}
        device = torch.cuda.get_device_name() if options.device == "cuda" else "cpu"
        write_json(options.out, {**described, "device": device, "results": rows})


if __name__ == "__main__":
    main()

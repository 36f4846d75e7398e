"""Agreement of tokens between devices and precisions, with the small model and real chains.

    python -m benchmarks.agreement --device cuda --out agreement.json

Compared with the processor in float32: structure tokens of the tokenizer; amino acids and structure tokens predicted by
argmax (inverse folding, folding); co-generated samples, which draw the same random numbers on every device, so that
they differ only where rounding decides. The share of equal tokens, and of equal samples.
"""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from dplm2.core.artifacts import library_versions, write_json
from dplm2.generation.inputs import read_proteins
from dplm2.generation.model import DPLM2

ROOT = Path(__file__).resolve().parents[1]
LONGEST = 250
PRECISIONS = ("float32", "bfloat16")


def chains(count: int) -> dict[str, tuple[str, np.ndarray]]:
    """Sequence and backbone of the demo's chains."""
    proteins = read_proteins([ROOT / "data/demo/test", ROOT / "data/demo/train"])
    whole = [each for each in proteins if len(each.sequence) <= LONGEST and "X" not in each.sequence]
    return {name: (sequence, backbone) for name, sequence, backbone in whole[:count]}


def results(model: DPLM2, given: dict[str, tuple], precision: str, steps: int) -> Iterator[tuple[str, list]]:
    """Name and tokens of each protein of everything that is compared."""
    sequences = {name: sequence for name, (sequence, _) in given.items()}
    backbones = {name: backbone for name, (_, backbone) in given.items()}
    tokens = model.tokenizer.encode(list(backbones.values()), precision=precision)
    yield "tokenizer", tokens
    designed = model.generate("inverse-folding", backbones=backbones, precision=precision, steps=steps)
    yield "inverse folding", [list(sample.sequence) for sample in designed]
    folded = model.generate("folding", sequences=sequences, precision=precision, steps=steps)
    yield "folding", [sample.structure_tokens for sample in folded]
    free = {"lengths": [60, 100], "samples": max(1, len(backbones) // 4), "steps": steps, "precision": precision}
    sampled = model.generate("co-generation", seed=0, **free)
    yield "co-generation, structure", [sample.structure_tokens for sample in sampled]
    yield "co-generation, sequence", [list(sample.sequence) for sample in sampled]


def agreement(ours: Sequence[Sequence], others: Sequence[Sequence]) -> dict[str, float]:
    """Shares of equal tokens and of equal proteins."""
    pairs = [np.asarray(one) == np.asarray(other) for one, other in zip(ours, others, strict=True)]
    return {"tokens": float(np.concatenate(pairs).mean()), "proteins": float(np.mean([pair.all() for pair in pairs]))}


def main() -> None:
    """Measure, print and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda")
    parser.add_argument("--chains", type=int, default=16)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    given = chains(options.chains)
    expected = dict(results(DPLM2.from_pretrained("small"), given, "float32", options.steps))
    model, rows = DPLM2.from_pretrained("small", device=options.device), []
    for precision in PRECISIONS:
        for what, found in results(model, given, precision, options.steps):
            rows.append({"what": what, "precision": precision, **agreement(expected[what], found)})
            print(rows[-1], flush=True)
    name = torch.cuda.get_device_name() if options.device == "cuda" else "cpu"
    if options.out:
        write_json(options.out, {"device": name, "chains": len(given), "steps": options.steps, "results": rows,
                                 "versions": library_versions()})  # fmt: skip


if __name__ == "__main__":
    main()

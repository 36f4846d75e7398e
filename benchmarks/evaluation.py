"""Speed of the evaluation metrics; results as JSON.

    python -m benchmarks.evaluation [--out benchmarks/results/evaluation.json] [--threads 2]

1. TM-scores per second of CPU time with known correspondence, against TM-align of tmtools, with one thread each.
2. All metrics except folding for 500 samples of 300 residues: self-consistency, secondary structure, geometry,
   diversity (125,000 pairs, nearly all of the work), in wall-clock and CPU time.
"""

import argparse
import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from dplm2.core.artifacts import library_versions, write_json
from dplm2.evaluation.backends.folding import Folded
from dplm2.evaluation.benchmarks.diversity import diversity_rows
from dplm2.evaluation.benchmarks.self_consistency import self_consistency
from dplm2.evaluation.benchmarks.unconditional import own_metrics
from dplm2.evaluation.results import Source, summarize
from dplm2.evaluation.samples import EvaluatedSample
from dplm2.geometry.tm_score import tm_scores
from dplm2.settings.evaluation import EvaluationSettings

BOND, REPEATS = 3.8, 3


def made_up_backbone(length: int, random: np.random.Generator) -> np.ndarray:
    """A compact synthetic chain (L, 4, 3) of helices and loops, in angstrom."""
    direction, steps = random.normal(size=3), []
    for residue in range(length):
        if residue % 12 == 0:
            direction = random.normal(size=3)
        angle = np.radians(100) * residue
        steps.append(1.5 * direction / np.linalg.norm(direction) + 2.3 * np.array([np.cos(angle), np.sin(angle), 0]))
    trace = np.cumsum(steps, axis=0)
    trace *= BOND / np.linalg.norm(np.diff(trace, axis=0), axis=1).mean()
    offsets = np.array([[-1.2, 0.6, 0.4], [0, 0, 0], [1.2, 0.7, 0.4], [1.5, 1.8, 0.3]])
    return (trace[:, None] + offsets).astype(np.float32)


def pairs_of(count: int, length: int, seed: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Backbones, and copies of them with noise of 0.3 to 6 angstrom."""
    random = np.random.default_rng(seed)
    natives = [made_up_backbone(length, random) for _ in range(count)]
    noise = np.linspace(0.3, 6, count)
    models = [x + random.normal(scale=s, size=x.shape).astype(np.float32) for x, s in zip(natives, noise, strict=True)]
    return models, natives


def cpu_seconds(action) -> float:
    """Minimum CPU time of several runs, which other work on the machine hardly affects."""
    times = []
    for _ in range(REPEATS):
        start = time.process_time()
        action()
        times.append(time.process_time() - start)
    return min(times)


def tm_score_speed(pairs: int = 80, length: int = 200) -> dict[str, float]:
    """Pairs per second of this package and of tmtools' TM-align, and their ratio."""
    import tmtools

    models, natives = pairs_of(pairs, length, seed=0)
    models, natives = [x[:, 1] for x in models], [x[:, 1] for x in natives]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    ours = cpu_seconds(lambda: tm_scores(models, natives))
    torch.set_num_threads(threads)
    few = min(pairs, 20)
    letters = "A" * length

    def align() -> None:
        for model, native in zip(models[:: pairs // few], natives[:: pairs // few], strict=True):
            tmtools.tm_align(model.astype(np.float64), native.astype(np.float64), letters, letters)

    theirs = cpu_seconds(align) / len(models[:: pairs // few])
    return {
        "length": length,
        "ours_pairs_per_second": pairs / ours,
        "tmtools_pairs_per_second": 1 / theirs,
        "ratio": theirs * pairs / ours,
    }


def benchmark_cost(count: int = 500, length: int = 300) -> dict[str, object]:
    """Wall-clock and CPU seconds for all metrics of a co-generation benchmark except folding."""
    predictions, designs = pairs_of(count, length, seed=1)
    letters = np.random.default_rng(2).choice(list("ACDEFGHIKLMNPQRSTVWY"), size=(count, length))
    samples = [
        EvaluatedSample(f"sample_{i:04d}", "model", "co-generation", "".join(row), backbone=design)
        for i, (row, design) in enumerate(zip(letters, designs, strict=True))
    ]
    folded = [Folded(backbone, np.full(length, 80.0, dtype=np.float32)) for backbone in predictions]
    settings = EvaluationSettings.make(diversity="tm_score")
    seconds, cpu_seconds = {}, {}

    @contextlib.contextmanager
    def timed(name: str) -> Iterator[None]:
        start, cpu_start = time.perf_counter(), time.process_time()
        yield
        seconds[name], cpu_seconds[name] = time.perf_counter() - start, time.process_time() - cpu_start

    with timed("self_consistency"):
        rows = self_consistency(designs, folded, settings)
    with timed("own_metrics"):
        rows = [row | own_metrics(sample, sample.sequence) for row, sample in zip(rows, samples, strict=True)]
    metrics = pd.DataFrame(rows)
    source = Source("model", "co-generation", "unconditional", "none")
    with timed("diversity"):
        diversity_rows(metrics, designs, samples, settings, source)
    with timed("summary"):
        summarize(metrics, list(metrics.columns), source, 1000)
    return {
        "samples": count,
        "length": length,
        "threads": torch.get_num_threads(),
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        "total_seconds": sum(seconds.values()),
        "total_cpu_seconds": sum(cpu_seconds.values()),
    }


def main() -> None:
    """Measure, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "evaluation.json")
    parser.add_argument("--samples", type=int, default=500)
    parser.add_argument("--threads", type=int, default=2, help="of the second part (default: 2)")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    result = {
        "tm_score": tm_score_speed(),
        "metrics_but_folding": benchmark_cost(options.samples),
        "versions": library_versions(),
    }
    write_json(options.out, result)
    print({name: result[name] for name in ("tm_score", "metrics_but_folding")})


if __name__ == "__main__":
    main()

"""Overhead of the training loop per step, compared with a plain torch loop over the same network and batches.

CPU times are measured, which other work on the machine hardly affects.

``python -m benchmarks.training_loop [--steps 300] [--out benchmarks/results/training_loop.json]``
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import torch
from torch import nn

from dplm2.core.artifacts import library_versions
from dplm2.cpu.process import prepare_process
from dplm2.settings.training import TrainingSettings
from dplm2.training.loop import fit


class Network(nn.Module):
    """A few blocks, such that forward and backward pass take about a millisecond."""

    def __init__(self, width: int, blocks: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(33, width)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.GELU(), nn.Dropout(0.1))
            for _ in range(blocks)
        )
        self.head = nn.Linear(width, 33)

    def forward(self, batch):
        hidden = self.embedding(batch["tokens"])
        for block in self.blocks:
            hidden = hidden + block(hidden)
        loss = nn.functional.cross_entropy(self.head(hidden).flatten(0, 1), batch["tokens"].flatten())
        return loss, {"cross_entropy_sequence": loss, "cross_entropy_structure": loss}


class Task:
    """Batches of one shape; records the start of each step."""

    clusters = None

    def __init__(self, network: nn.Module) -> None:
        self.module, self.costs, self.times = network, [64] * 256, []
        self.ids = [str(i) for i in range(256)]

    def begin_step(self, step):
        self.times.append(time.process_time())

    def collate(self, indices, generator):
        return {"tokens": torch.randint(0, 33, (len(indices), 64), generator=generator)}

    def validate(self, module):
        return {}


def plain(network: nn.Module, task: Task, steps: int) -> list[float]:
    """Seconds of each step of a minimal training loop."""
    optimizer = torch.optim.AdamW(network.parameters(), fused=True)
    generator, times = torch.Generator(), []
    for _ in range(steps):
        times.append(time.process_time())
        loss, _ = network(task.collate(range(4), generator))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 0.5)
        optimizer.step()
        optimizer.zero_grad()
    return [after - before for before, after in zip(times[:-1], times[1:], strict=True)]


def looped(network: nn.Module, task: Task, steps: int) -> list[float]:
    """Seconds of each step of the training loop."""
    settings = TrainingSettings.make(steps=steps, token_budget=256, log_every=50, validate_every=None)
    with tempfile.TemporaryDirectory() as folder:
        metrics = Path(folder) / "metrics.csv"
        fit(
            task, settings, seed=0, state=Path(folder), fingerprint="0", metrics=metrics, device="cpu", label="overhead"
        )
    times = task.times[1:]
    return [after - before for before, after in zip(times[:-1], times[1:], strict=True)]


def main() -> None:
    """Measure both alternately, and print the medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    prepare_process()
    torch.set_num_threads(1)
    medians = {"plain": [], "loop": []}
    for _ in range(options.rounds):
        for name, measure in (("plain", plain), ("loop", looped)):
            network = Network(32, 4)
            medians[name].append(statistics.median(measure(network, Task(network), options.steps)))
    best = {name: min(values) for name, values in medians.items()}
    result = {
        "milliseconds_per_step": {name: round(1e3 * value, 3) for name, value in best.items()},
        "overhead_milliseconds": round(1e3 * (best["loop"] - best["plain"]), 3),
        "steps": options.steps,
        "versions": library_versions(),
    }
    print(json.dumps(result, indent=2))
    if options.out:
        options.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

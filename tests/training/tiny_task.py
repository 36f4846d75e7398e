"""A task that is trained in a tenth of a second; as a script, in a separate process.

``python tiny_task.py '{"runs": [{"out": "folder", "settings": {...}, ...}]}'`` runs `train` once for each.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from dplm2.core.errors import DPLM2Error, Preempted
from dplm2.settings.training import TrainingSettings
from dplm2.training.loop import fit

LETTERS = 20


class Network(nn.Module):
    """Blocks with dropout over an embedding; its buffer counts forward passes, as a running statistic would."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.embedding = nn.Embedding(LETTERS, width)
        self.layers = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.GELU(), nn.Dropout(0.2)) for _ in range(2)
        )
        self.head = nn.Linear(width, LETTERS)
        self.register_buffer("passes", torch.zeros(()))

    def forward(self, batch):
        x = self.embedding(batch["noised"])
        for layer in self.layers:
            x = x + layer(x)
        if self.training:
            self.passes += 1
        loss = nn.functional.cross_entropy(self.head(x).flatten(0, 1), batch["clean"].flatten(), ignore_index=-1)
        return loss, {"perplexity": loss.exp()}


class TinyTask:
    """Denoising of short random sequences."""

    def __init__(self, chains: int = 37, clusters: int | None = None, **trouble) -> None:
        torch.manual_seed(7)
        self.module = Network()
        if os.environ.get("RANK") == "1":
            # Processes may have different initial weights; those of the main process must be used.
            self.module.head.weight.data.zero_()
        self.costs = [5 + (11 * chain) % 17 for chain in range(chains)]
        self.ids = [f"chain-{chain}" for chain in range(chains)]
        self.clusters = None if clusters is None else [f"cluster-{chain % clusters}" for chain in range(chains)]
        self.sequences = [torch.randint(0, LETTERS, (cost,)) for cost in self.costs]
        self.trouble = trouble
        self.collated = []

    def begin_step(self, step):
        here = self.trouble.get("rank") in (None, os.environ.get("RANK"))
        if here and step == self.trouble.get("kill_at"):
            os.kill(os.getpid(), getattr(signal, self.trouble.get("signal", "SIGKILL")))
        time.sleep(self.trouble.get("pause", 0.0))

    def collate(self, indices, generator):
        self.collated.append(indices)
        longest = max(self.costs[i] for i in indices)
        clean = torch.full((len(indices), longest), -1)
        for row, i in enumerate(indices):
            clean[row, : self.costs[i]] = self.sequences[i]
        noise = torch.rand(clean.shape, generator=generator) < 0.3
        return {"clean": clean, "noised": torch.where(noise | (clean < 0), 0, clean)}

    def validate(self, module):
        sequence = torch.arange(LETTERS)[None]
        return {"loss": float(module({"clean": sequence, "noised": sequence})[0])}


class SpoiltTask(TinyTask):
    """One chain makes the loss NaN."""

    def collate(self, indices, generator):
        batch = super().collate(indices, generator)
        return {**batch, "spoil": torch.tensor(float("nan") if self.trouble["chain"] in indices else 1.0)}

    def __init__(self, **trouble) -> None:
        super().__init__(**trouble)
        forward = self.module.forward
        self.module.forward = lambda batch: (forward(batch)[0] * batch.get("spoil", 1.0), {})


def train(out, settings, *, task=None, trouble=None, state=None, seed=3, fingerprint="f00d", freeze=()):
    """Train into ``out``: weights.safetensors, metrics.csv; the state lies in ``out/state``."""
    task = task or TinyTask(**(trouble or {}))
    for name, parameter in task.module.named_parameters():
        parameter.requires_grad_(not name.startswith(tuple(freeze)))
    out = Path(out)
    result = fit(
        task,
        TrainingSettings.make(**{"token_budget": 60, "learning_rate": 0.01, **settings}),
        seed=seed,
        state=Path(state or out / "state"),
        fingerprint=fingerprint,
        metrics=out / "metrics.csv",
        device="cpu",
        label="tiny",
    )
    if result.main:
        save_file(task.module.state_dict(), out / "weights.safetensors")
    return result


def weights(out):
    """The weights that `train` wrote."""
    return load_file(Path(out) / "weights.safetensors")


def same(one, other):
    """Whether two sets of weights are equal bit for bit."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


if __name__ == "__main__":
    torch.set_num_threads(1)
    try:
        for run in json.loads(sys.argv[1])["runs"]:
            train(**run)
    except Preempted as error:
        print(error, file=sys.stderr)
        sys.exit(Preempted.EXIT_STATUS)
    except DPLM2Error as error:
        print(error, file=sys.stderr)
        sys.exit(1)

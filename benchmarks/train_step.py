"""Speed and memory of one training step of the language model, compared with the minimum for its multiply-adds.

    python -m benchmarks.train_step --size 150M --mode full lora --precision fp32 bf16 --threads 2
    python -m benchmarks.train_step --size 150M --mode full lora --implementation ours libraries --threads 2
    python -m benchmarks.train_step --size 150M --mode full --activation-checkpointing
    python -m benchmarks.train_step --size 650M --device cuda --precision bf16 --chains 32 --compile

A step (forward, backward, clipping, AdamW) on a batch of chains of equal length with random tokens and equal numbers of
the four tasks is repeated, and the median time reported. The floor is the time of the multiply-adds of weight matrices
and attention at the rate of matrix products on this machine by the faster library (`benchmarks/rates.py`), measured
between the steps, since a machine's speed drifts; on a GPU, model FLOP utilization is relative to the rate in its data
sheet. ``--clock cpu`` measures CPU time instead of wall-clock time, for machines with other users. Each combination
runs in a separate process, for its peak memory.
"""

import argparse
import itertools
import json
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from transformers import EsmConfig, EsmForMaskedLM

from benchmarks.rates import product_rates, synchronize
from dplm2.core.artifacts import library_versions, peak_memory_bytes, write_json
from dplm2.language import diffusion, layout, lora
from dplm2.language.esm import Esm2, Esm2Config
from dplm2.language.network import MultimodalEsm
from dplm2.language.stages import freeze_unread
from dplm2.language.vocabulary import TRACKS, Vocabulary
from dplm2.settings.model import DiffusionSettings, LoraSettings
from dplm2.training import checkpointing
from dplm2.training.devices import blocks, compiled
from dplm2.training.optimizer import allocate_moments

SIZES = {
    "tiny": (64, 2, 4, 256),
    "150M": (640, 30, 20, 2560),
    "650M": (1280, 33, 20, 5120),
    "3B": (2560, 36, 40, 10240),
}
# The authors' implementation: 150M, 4 x 256 residues, fp32, 2 threads of a Zen 5 server CPU.
AUTHORS = {"lora": {"seconds": 12.7, "gigabytes": 11.8}, "full": {"seconds": 13.2, "gigabytes": 8.65}}
AUTHORS_RATE = 190e9  # FLOP/s of that machine's matrix products in fp32
# FLOP/s of dense bf16 products in the manufacturers' data sheets, by a part of the device's name.
PEAKS = {"H100": 989e12, "H200": 989e12, "A100": 312e12}

WARM_UP = 2  # steps that set everything up


def make_batch(vocabulary: Vocabulary, chains: int, residues: int) -> dict[str, torch.Tensor]:
    """Random chains of equal length, a quarter of them with each task."""
    rng, generator = np.random.default_rng(0), torch.Generator().manual_seed(0)
    structures = [rng.integers(vocabulary.first_code, vocabulary.mask_structure, residues) for _ in range(chains)]
    sequences = [rng.integers(4, 24, residues) for _ in range(chains)]
    target_ids_BT = layout.join(vocabulary, structures, sequences)
    settings = DiffusionSettings.make()
    order = [diffusion.TASKS.index(task) for task in ("single_modality", "folding", "inverse_folding", "joint")]
    tasks_B = torch.tensor([order[chain % len(order)] for chain in range(chains)])
    times = diffusion.draw_times(tasks_B, settings.steps, generator)
    return diffusion.add_noise(vocabulary, target_ids_BT, tasks_B, times, settings, generator).batch()


def multiply_adds(config: Esm2Config, vocabulary: Vocabulary, batch: dict[str, torch.Tensor]) -> float:
    """Multiply-adds of one forward pass: weight matrices, attention, and the head on noised positions."""
    width, layers = config.hidden_size, config.num_hidden_layers
    tokens = int((batch["input_ids"] != vocabulary.pad).sum())
    per_token = 4 * width**2 + 2 * width * config.intermediate_size
    lengths = (batch["input_ids"] != vocabulary.pad).sum(1).double()
    seen = torch.where(batch["single_modality"], lengths / 2, lengths)
    attention = 2 * width * float((lengths * seen).sum())
    structure_BT = ~vocabulary.is_sequence(batch["target_ids"])
    head = 0.0
    for track in TRACKS:
        noised = int((batch["noised"] & (structure_BT == (track == "structure"))).sum())
        head += noised * (width**2 + width * len(vocabulary.classes(track)))
    return layers * (tokens * per_token + attention) + head


def ours(size: str, vocabulary: Vocabulary, mode: str) -> diffusion.DiffusionObjective:
    """The training objective."""
    model = Esm2(Esm2Config(len(vocabulary), *SIZES[size]))
    network = MultimodalEsm(model, vocabulary)
    freeze_unread(network)
    if mode == "lora":
        lora.add(model, LoraSettings.make(enabled=True), seed=0)
    return diffusion.DiffusionObjective(network, DiffusionSettings.make())


class LibrariesObjective(nn.Module):
    """The network by the libraries' functions, with a loss over all classes and consecutive positions."""

    def __init__(self, size: str, vocabulary: Vocabulary, mode: str) -> None:
        super().__init__()
        self.model = EsmForMaskedLM(EsmConfig.from_dict(Esm2Config(len(vocabulary), *SIZES[size]).to_dict()))
        self.model.esm.contact_head.requires_grad_(False)
        if mode == "lora":
            lora.add(self.model, LoraSettings.make(enabled=True), seed=0)
        self.mask_of = MultimodalEsm(Esm2(Esm2Config(len(vocabulary), *SIZES["tiny"])), vocabulary)
        self.mask_of.requires_grad_(False)

    def forward(self, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, dict]:
        """The loss."""
        ids_BT = batch["input_ids"]
        heads = self.model.config.num_attention_heads
        mask_BHTT = self.mask_of.attention_mask(ids_BT, batch["single_modality"]).repeat(1, heads, 1, 1)
        embeddings_BTD = self.model.esm.embeddings.word_embeddings(ids_BT)
        logits_BTV = self.model(inputs_embeds=embeddings_BTD, attention_mask=mask_BHTT).logits
        nll_BT = functional.cross_entropy(logits_BTV.float().mT, batch["target_ids"], reduction="none")
        sequence_BT = self.mask_of.vocabulary.is_sequence(batch["target_ids"])
        losses = []
        for track_BT in (~sequence_BT, sequence_BT):
            of_track_BT = batch["noised"] & track_BT
            losses.append((nll_BT * batch["weight"] * of_track_BT).sum() / of_track_BT.sum().clamp(min=1))
        return torch.stack(losses).mean(), {}


OBJECTIVES = {"ours": ours, "libraries": LibrariesObjective}


def measure(options: argparse.Namespace, mode: str, precision: str) -> dict:
    """Measure one combination in this process."""
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    clock = time.process_time if options.clock == "cpu" else time.perf_counter
    device, vocabulary = options.device, Vocabulary()
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    objective = OBJECTIVES[options.implementation[0]](options.size, vocabulary, mode).to(device).train()
    batch = {k: v.to(device) for k, v in make_batch(vocabulary, options.chains, options.residues).items()}
    trained = [parameter for parameter in objective.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4, betas=(0.9, 0.98), weight_decay=0.01, fused=True)
    allocate_moments(optimizer)
    step = compiled(objective, torch.device(device)) if options.compile else objective
    seconds, forward, rates, losses = [], [], [], []
    recomputed = blocks(objective) if options.activation_checkpointing else []
    for _ in range(options.repetitions + WARM_UP):
        rates.append(product_rates(device, dtype, clock))
        start = clock()
        with (
            checkpointing.enabled(recomputed),
            torch.autocast(device, dtype=torch.bfloat16, enabled=precision == "bf16"),
        ):
            loss, _ = step(batch)
        if device == "cpu":  # no synchronisation of a GPU within a step
            forward.append(clock() - start)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 0.5)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        synchronize(device)
        seconds.append(clock() - start)
        losses.append(float(loss))
    kept = slice(WARM_UP, None)
    config = Esm2Config(len(vocabulary), *SIZES[options.size])
    macs = multiply_adds(config, vocabulary, {k: v.cpu() for k, v in batch.items()})
    passes = 2 if mode == "lora" else 3
    rate_of = {library: max(row[library] for row in rates[kept]) for library in rates[0]}
    rate = max(rate_of.values())
    median = statistics.median(seconds[kept])
    positions = int((batch["input_ids"] != vocabulary.pad).sum())
    memory = torch.cuda.max_memory_allocated() if device == "cuda" else peak_memory_bytes()
    name = torch.cuda.get_device_name() if device == "cuda" else "cpu"
    peak = next((value for part, value in PEAKS.items() if part in name), None)
    utilization = None if peak is None or precision != "bf16" else 2 * passes * macs / median / peak
    return {
        "implementation": options.implementation[0],
        "device": name,
        "compiled": options.compile,
        "activation_checkpointing": options.activation_checkpointing,
        "size": options.size,
        "mode": mode,
        "precision": precision,
        "positions": positions,
        "seconds_per_step": round(median, 3),
        "seconds_forward_and_loss": round(statistics.median(forward[kept]), 3) if forward else None,
        "positions_per_second": round(positions / median, 1),
        "peak_gigabytes": round(memory / 1e9, 2),
        "teraflop_per_step": round(2 * passes * macs / 1e12, 3),
        "measured_gigaflop_per_second": {library: round(each / 1e9, 1) for library, each in rate_of.items()},
        "floor_seconds": round(2 * passes * macs / rate, 3),
        "model_flop_utilization": None if utilization is None else round(utilization, 3),
        "share_of_measured_rate": round(2 * passes * macs / rate / median, 3),
        "first_loss": losses[0],
    }


def main() -> None:
    """Measure all combinations, and write or print the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="150M")
    parser.add_argument("--mode", nargs="+", choices=["full", "lora"], default=["full", "lora"])
    parser.add_argument("--implementation", nargs="+", choices=OBJECTIVES, default=["ours"])
    parser.add_argument("--precision", nargs="+", choices=["fp32", "bf16"], default=["fp32"])
    parser.add_argument("--chains", type=int, default=4)
    parser.add_argument("--residues", type=int, default=256)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--activation-checkpointing", action="store_true")
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.alone:
        print(json.dumps(measure(options, options.mode[0], options.precision[0])))
        return
    results = []
    for mode, precision, implementation in itertools.product(options.mode, options.precision, options.implementation):
        chosen = ["--mode", mode, "--precision", precision, "--implementation", implementation]
        finished = subprocess.run(
            [sys.executable, "-m", "benchmarks.train_step", *sys.argv[1:], "--alone", *chosen],
            capture_output=True,
            text=True,
            check=True,
        )
        results.append(json.loads(finished.stdout.splitlines()[-1]))
        print(json.dumps(results[-1], indent=2), flush=True)
    if options.out:
        machine = {"machine": platform.processor() or platform.machine(), "threads": options.threads}
        write_json(options.out, {**machine, "clock": options.clock, "versions": library_versions(), "results": results,
                                 "authors_150M_fp32": AUTHORS, "authors_matrix_rate": AUTHORS_RATE})  # fmt: skip


if __name__ == "__main__":
    main()

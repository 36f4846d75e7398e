"""What a job needs: memory, time, GPUs and nodes, estimated from the configuration."""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dplm2.settings import Configuration
from dplm2.settings.model import ModelSettings
from dplm2.settings.tokenizer import TokenizerSettings
from dplm2.settings.training import TrainingSettings

BASE_MB = 1500  # Python, torch and their libraries
CODES = 8192
BYTES = 4  # of a weight in fp32
GPUS_OF_A_NODE = 8  # at most, commonly
# Memory and time stop growing with this attempt: later ones follow preemptions rather than too small estimates, and
# nodes and time limits of partitions are finite.
LARGEST_GROWTH = 4
# Hidden size, layers and feed-forward width of ESM-2, by millions of weights.
ESM2 = {8: (320, 6, 1280), 35: (480, 12, 1920), 150: (640, 30, 2560), 650: (1280, 33, 5120), 3000: (2560, 36, 10240)}
# What `requested` says.
REQUESTED = (
    *("mem_mb", "runtime", "nodes", "gpu", "cpus_per_gpu", "cpus_per_task"),
    *("mpi", "tasks", "tasks_per_node", "tasks_per_gpu", "gres", "gpu_model", "slurm_partition"),
)
HOURS = 60
MINUTES: Mapping[str, int] = {
    "fetch_structures": 24 * HOURS,
    "clean_structures": HOURS // 2,
    "select_structures": HOURS,
    "train_tokenizer": 48 * HOURS,
    "encode_tokens": 2 * HOURS,
    "warm_up_model": 24 * HOURS,
    "train_model": 72 * HOURS,
    "generate": 24 * HOURS,
    "evaluate_tokenizer": 4 * HOURS,
    "evaluate_likelihood": 4 * HOURS,
    "evaluate_samples": 24 * HOURS,
    "rank_designs": HOURS // 2,
    "probe_representations": 24 * HOURS,
    "compare_representations": HOURS // 2,
    "score_proteingym": 24 * HOURS,
    "report": HOURS // 2,
}
ON_MODELS = (
    "generate", "evaluate_likelihood", "evaluate_samples", "probe_representations", "score_proteingym",
)  # fmt: skip
ON_NETWORKS = frozenset(MINUTES) - {
    "fetch_structures", "clean_structures", "select_structures", "rank_designs", "compare_representations",
    "report",
}  # fmt: skip


@dataclass(frozen=True)
class Need:
    """What one job needs at its first attempt.

    Attributes
    ----------
    memory_mb
        Main memory of a machine.
    gpus
        GPUs of a machine; 0 on a processor.
    processes
        Of a machine.
    nodes
        Machines.
    """

    memory_mb: int
    gpus: int
    processes: int = 1
    nodes: int = 1


def needs(settings: Configuration, rule: str, name: str | None = None) -> Need:
    """Memory, GPUs and processes of a rule's job.

    Parameters
    ----------
    settings
        The configuration.
    rule
        The rule's name.
    name
        The dataset, tokenizer, model or task that the job is about.
    """
    on_gpu = rule in ON_NETWORKS and settings.device in ("auto", "cuda")
    training = _training(settings, rule, name)
    processes = 1 if training is None else _processes(training, on_gpu)
    return Need(
        memory_mb=math.ceil(processes * (BASE_MB + _megabytes(settings, rule, name))),
        gpus=processes if on_gpu else 0,
        processes=processes,
        nodes=1 if training is None else training.nodes,
    )


def profile_resources(default: Any) -> dict[str, str]:
    """The profile's ``default-resources``, as they are written there; ``default`` is what Snakemake makes of them."""
    pairs = (entry.split("=", 1) for entry in getattr(default, "args", ()))
    return {name: value.strip("'\"") for name, value in pairs}


def requested(
    need: Need, minutes: int, attempt: int, threads: int, profile: Mapping[str, str]
) -> dict[str, int | str | None]:
    """A job's resources in the words of Snakemake and its executor for Slurm; None: not asked for.

    Parameters
    ----------
    need
        At the first attempt.
    minutes
        Its time at the first attempt.
    attempt
        Memory and time grow with it, up to `LARGEST_GROWTH` times.
    threads
        Processor threads of each process.
    profile
        ``slurm_partition``, and, for jobs with a GPU, ``gpu_partition`` and perhaps ``gpu_model``.
    """
    growth = min(attempt, LARGEST_GROWTH)
    asked: dict[str, int | str | None] = {
        **dict.fromkeys(REQUESTED),
        "mem_mb": growth * need.memory_mb,
        "runtime": growth * minutes,
        "nodes": need.nodes,
        "gpu": need.gpus or None,
        "slurm_partition": profile.get("gpu_partition" if need.gpus else "slurm_partition"),
    }
    model = profile.get("gpu_model") or None
    if need.nodes > 1:
        asked |= _one_task_a_process(need, model)
    elif need.gpus:
        asked |= {"cpus_per_gpu": threads, "gpu_model": model}
    elif need.processes > 1:
        asked["cpus_per_task"] = threads * need.processes
    return asked


def _one_task_a_process(need: Need, model: str | None) -> dict[str, int | str | None]:
    """What makes the job call srun itself (``mpi``), and gives each process a task, and each node its GPUs."""
    # The executor refuses one task a node by that name.
    tasks = {"tasks_per_node": need.processes} if need.processes > 1 else {"tasks": need.nodes}
    # `gpu` is a number for all nodes, which Slurm may share out as it likes; `tasks` alone would be taken for each GPU.
    gres = f"gpu:{model}:{need.gpus}" if model else f"gpu:{need.gpus}"
    return {"mpi": "srun", **tasks, **({"gpu": None, "gres": gres, "tasks_per_gpu": 0} if need.gpus else {})}


def launcher(need: Need, threads: int) -> list[str]:
    """What starts a training's processes on several machines, instead of ``python -m dplm2``."""
    if need.nodes == 1:
        # Processes of one machine are started by the first, from its own command line.
        alone = [] if need.processes == 1 else ["env", "-u", "DPLM2_SHARED_START"]
        return [*alone, "python", "-m", "dplm2"]
    options = [f"--nodes={need.nodes}", f"--ntasks-per-node={need.processes}", f"--cpus-per-task={threads}"]
    return ["srun", *options, "--kill-on-bad-exit=1", "python", "-m", "dplm2.training.srun"]


def _training(settings: Configuration, rule: str, name: str | None) -> TrainingSettings | None:
    """The training that a rule's job does, if any."""
    if rule == "train_tokenizer":
        return settings.tokenizers[name].training
    if rule == "train_model":
        return settings.models[name].training
    if rule == "warm_up_model" and settings.models[name].warmup.trains_on_sequences:
        return settings.models[name].warmup.sequence_training
    return None


def _processes(training: TrainingSettings, on_gpu: bool) -> int:
    """The processes of a training on each machine, each with its own network."""
    if isinstance(training.devices, int):
        return training.devices
    if not on_gpu:
        return 1
    # `auto` takes every GPU that the job has: as many are asked for as share its batches evenly.
    counts = range(1, GPUS_OF_A_NODE + 1)
    return max(count for count in counts if training.accumulate % (count * training.nodes) == 0)


def _megabytes(settings: Configuration, rule: str, name: str | None) -> float:
    if rule in ("train_model", "warm_up_model"):
        model = settings.models[name]
        training = model.training if rule == "train_model" else model.warmup.sequence_training
        return _training_megabytes(model, training, settings)
    if rule in ON_MODELS:
        model = settings.models.get(name) if name else None
        return _weights_megabytes(model, settings) * 1.5 + _tokenizer_megabytes(None) + 1000
    if rule in ("train_tokenizer", "encode_tokens", "evaluate_tokenizer"):
        return _tokenizer_megabytes(settings.tokenizers.get(name) if name else None, training=rule == "train_tokenizer")
    return 500


def _training_megabytes(model: ModelSettings, training: TrainingSettings, settings: Configuration) -> float:
    hidden, layers, wide = shape_of(model, settings)
    weights = _weights_megabytes(model, settings)
    trained = weights * (0.25 if model.lora.enabled else 1.0)
    # Weights once; gradients and two moments of what is trained.
    fixed = weights + 3 * trained
    positions = training.token_budget
    kept = layers * (8 * hidden + 2 * wide) if not training.activation_checkpointing else layers * hidden
    activations = positions * (kept + 2 * CODES) * (BYTES if training.precision == "fp32" else BYTES // 2) / 2**20
    return fixed + activations


def _weights_megabytes(model: ModelSettings | None, settings: Configuration) -> float:
    hidden, layers, wide = shape_of(model, settings)
    return BYTES * (layers * (4 * hidden**2 + 2 * hidden * wide) + 2 * CODES * hidden) / 2**20


def shape_of(model: ModelSettings | None, settings: Configuration) -> tuple[int, int, int]:
    """Hidden size, layers and feed-forward width of a model.

    A folder says so in its ``config.json``; where only a name is known, those of ESM-2 of that size count.
    """
    seen = set()
    while model is not None and model.network is None and model.warmup.model is not None:
        if model.warmup.model in seen:
            break
        seen.add(model.warmup.model)
        model = settings.models.get(model.warmup.model)
    if model is None:
        return ESM2[150]
    if model.network is not None:
        return model.network.hidden_size, model.network.layers, model.network.intermediate_size
    source = model.pretrained or model.warmup.source
    described = _described(Path(source) / "config.json")
    if described is not None:
        return described
    named = re.search(r"(\d+)([mMbB])(?![A-Za-z])", source)
    millions = int(named[1]) * (1000 if named[2] in "bB" else 1) if named else 650
    return ESM2[min(ESM2, key=lambda size: abs(math.log(size / millions)))]


def _described(config: Path) -> tuple[int, int, int] | None:
    """The shape in a model's ``config.json``; None if there is none."""
    try:
        values = json.loads(config.read_text(encoding="utf-8"))
        shape = tuple(values[key] for key in ("hidden_size", "num_hidden_layers", "intermediate_size"))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return shape if all(isinstance(size, int) and size > 0 for size in shape) else None


def _tokenizer_megabytes(tokenizer: TokenizerSettings | None, training: bool = False) -> float:
    if tokenizer is None or tokenizer.pretrained is not None:
        return 2500.0  # the paper's: 180 million weights and a batch
    encoder, decoder = tokenizer.encoder, tokenizer.decoder
    weights = encoder.layers * (4 * encoder.width**2 + 2 * encoder.width * encoder.feedforward_width)
    weights += encoder.gvp_layers * 8 * encoder.node_scalars**2 + 30 * decoder.sequence_dim**2 * (decoder.blocks + 2)
    residues, crop = tokenizer.training.token_budget, tokenizer.loss.crop or 512
    pairs = residues * crop * decoder.pair_dim * (6 * decoder.blocks + 2)
    kept = pairs + residues * encoder.neighbours * encoder.node_scalars * (2 * encoder.gvp_layers + 2)
    factor = 4 if training else 1
    return 500 + BYTES * (weights * factor + kept * (1 if training else 0.5)) / 2**20

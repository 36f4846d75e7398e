"""Settings of one language model: the section ``models.<name>`` of the configuration.

Defaults live in ``dplm2/schema/model.json`` alone. Lengths of chains are counts of residues.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from dplm2 import config
from dplm2.errors import ConfigError

SCRATCH = "scratch"


@dataclass(frozen=True)
class NetworkSettings:
    """Size of an ESM-2 network that starts from random weights."""

    hidden_size: int
    layers: int
    heads: int
    intermediate_size: int
    attention: str


@dataclass(frozen=True)
class WarmupSettings:
    """Where the weights come from before multimodal training (paper section 3.1)."""

    source: str
    embedding_scaling: str
    structure_tokens: str
    dropout: float
    sequence_stage: str
    sequence_files: tuple[str, ...]
    sequence_max_length: int
    sequence_steps: int
    sequence_weighting: str
    sequence_training: Mapping[str, Any]
    model: str | None = None

    @property
    def trains_on_sequences(self) -> bool:
        """Whether the sequence stage runs."""
        return self.sequence_stage == "always" or (self.sequence_stage == "auto" and self.source == SCRATCH)


@dataclass(frozen=True)
class LoraSettings:
    """Low-rank adaptation (paper section 3.1)."""

    enabled: bool
    rank: int
    alpha: float
    dropout: float


@dataclass(frozen=True)
class TaskRatios:
    """Shares of the training tasks.

    Raises
    ------
    ConfigError
        If they do not sum to 1.
    """

    single_modality: float
    folding: float
    inverse_folding: float
    independent: float
    joint: float

    def __post_init__(self) -> None:
        total = sum(getattr(self, field.name) for field in fields(self))
        if not math.isclose(total, 1.0, abs_tol=1e-6):
            raise ConfigError(f"diffusion.task_ratios: they sum to {total:g}; they must sum to 1")


@dataclass(frozen=True)
class DiffusionSettings:
    """The objective (paper section 3.1, A.1 for self-mixup)."""

    steps: int
    schedule: str
    weighting: str
    task_ratios: TaskRatios
    task_assignment: str
    classes: str
    self_mixup: str
    unobserved_structure: str
    unknown_residues: str
    max_length: int
    crop_probability: float
    crop_min_length: int
    validation_chains: int


@dataclass(frozen=True)
class ModelSettings:
    """The whole section; the training parts are completed sections of ``training.json``, built by the training loop."""

    warmup: WarmupSettings
    lora: LoraSettings
    diffusion: DiffusionSettings
    training: Mapping[str, Any]
    tokenizer: str | None = None
    datasets: tuple[str, ...] = ()
    pretrained: str | None = None
    network: NetworkSettings | None = None
    structure_head: str | None = None


def diffusion_settings(**replaced: Any) -> DiffusionSettings:
    """The paper's objective with some keys replaced."""
    completed = config.complete({"tokenizer": "", "diffusion": replaced}, "model")
    return config.build(DiffusionSettings, completed["diffusion"])


def lora_settings(**replaced: Any) -> LoraSettings:
    """The paper's low-rank adaptation with some keys replaced."""
    completed = config.complete({"tokenizer": "", "lora": {"enabled": True, **replaced}}, "model")
    return config.build(LoraSettings, completed["lora"])


def warmup_settings(**replaced: Any) -> WarmupSettings:
    """The default warm-up with some keys replaced."""
    completed = config.complete({"tokenizer": "", "warmup": replaced}, "model")
    return config.build(WarmupSettings, completed["warmup"])


def sequence_diffusion(warmup: WarmupSettings) -> DiffusionSettings:
    """The objective of the sequence stage: one track, no tasks, windows only of what is too long."""
    return diffusion_settings(
        steps=warmup.sequence_steps,
        weighting=warmup.sequence_weighting,
        max_length=warmup.sequence_max_length,
        crop_probability=0.0,
    )

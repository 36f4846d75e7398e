"""Settings of evaluation: the section ``evaluation`` of the configuration. Defaults live in its schema alone."""

from dataclasses import dataclass

from dplm2 import config


@dataclass(frozen=True)
class SelfSettings:
    """The model folds its own sequences."""

    steps: int
    batch_size: int


@dataclass(frozen=True)
class EsmfoldSettings:
    """ESMFold through transformers."""

    model: str
    precision: str
    chunk_size: int | None
    recycles: int
    residues_per_batch: int


@dataclass(frozen=True)
class CommandSettings:
    """An external folding program."""

    template: str
    input: str
    header: str
    structures: str
    plddt: str
    sequences_per_run: int
    timeout: int | None


@dataclass(frozen=True)
class ProteinMpnnSettings:
    """ProteinMPNN by command."""

    template: str
    sequences: int
    temperature: float
    seed: int


@dataclass(frozen=True)
class FoldseekSettings:
    """Foldseek, found on PATH."""

    program: str
    database: str | None
    threads: int


@dataclass(frozen=True)
class EvaluationSettings:
    """The whole section; a backend's own section is None where it was not given."""

    reconstruction: tuple[str, ...]
    likelihood: tuple[str, ...]
    folding_backend: str
    folding_baseline: bool
    inverse_folding_backend: str
    diversity: str
    cluster_tm_score: float
    novelty: str
    designable_sc_tm: tuple[float, ...]
    designable_sc_rmsd: tuple[float, ...]
    match_tm_score: float
    motif_rmsd: float
    motif_sc_tm: float
    motif_plddt: float
    released_tm_score: bool
    min_length: int
    max_length: int | None
    excluded: tuple[str, ...]
    bootstrap_samples: int
    batch_size: int
    self: SelfSettings | None = None
    esmfold: EsmfoldSettings | None = None
    command: CommandSettings | None = None
    proteinmpnn: ProteinMpnnSettings | None = None
    foldseek: FoldseekSettings | None = None


BACKENDS = {
    "self": SelfSettings,
    "esmfold": EsmfoldSettings,
    "command": CommandSettings,
    "proteinmpnn": ProteinMpnnSettings,
    "foldseek": FoldseekSettings,
}


def backend_settings(settings: EvaluationSettings, name: str):
    """The section of a backend: as given, or its defaults."""
    given = getattr(settings, name)
    return given if given is not None else config.build(BACKENDS[name], config.complete({name: {}}, "evaluation")[name])


def evaluation_settings(**replaced) -> EvaluationSettings:
    """The default settings with some keys replaced.

    Raises
    ------
    ConfigError
        If a key is unknown, has the wrong type or would have no effect.
    """
    completed = config.load({"evaluation": replaced})["evaluation"]
    return config.build(EvaluationSettings, completed)

"""Reading generated samples, and the natives to which some tasks compare them."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from dplm2.core import parquet
from dplm2.core.errors import DPLM2Error
from dplm2.settings.evaluation import EvaluationSettings

NEEDED = ("sample_id", "model", "task", "sequence")


@dataclass(frozen=True)
class EvaluatedSample:
    """One generated sample.

    Attributes
    ----------
    sample_id, model, task, problem, sequence
        As in ``samples.parquet``; ``problem`` is the target or motif, or None.
    backbone
        (L, 4, 3) in angstrom, or None where the task gives no structure.
    plddt
        The tokenizer's confidence (L,), 0 to 100, or None.
    motif_positions, motif_backbone
        Scaffolding: residue numbers of the motif in the sample (from 0), and the motif of the reference (M, 4, 3).
    log_likelihood
        Mean log-probability of the generated tokens under the model, or None if it was not computed.
    settings
        Of the sampling.
    """

    sample_id: str
    model: str
    task: str
    sequence: str
    problem: str | None = None
    backbone: np.ndarray | None = None
    plddt: np.ndarray | None = None
    motif_positions: np.ndarray | None = None
    motif_backbone: np.ndarray | None = None
    log_likelihood: float | None = None
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def length(self) -> int:
        """Number of residues."""
        return len(self.sequence) if self.backbone is None else len(self.backbone)


@dataclass(frozen=True)
class Native:
    """A known structure: its sequence and backbone (L, 4, 3), NaN where missing."""

    sequence: str
    backbone: np.ndarray


def read_samples(source: Path) -> list[EvaluatedSample]:
    """The samples of a folder (its ``samples.parquet``) or file.

    Raises
    ------
    DPLM2Error
        If there is none, or columns are missing.
    """
    path = source / "samples.parquet" if source.is_dir() else source
    table = parquet.read_table(path)
    missing = [name for name in NEEDED if name not in table.column_names]
    if missing:
        raise DPLM2Error(f"{path}: not a file of samples (it has no column {', '.join(missing)})")
    if not len(table):
        raise DPLM2Error(f"{path}: contains no sample")
    return [_sample(row) for row in table.to_pylist()]


def _sample(row: dict) -> EvaluatedSample:
    return EvaluatedSample(
        sample_id=row["sample_id"],
        model=row["model"],
        task=row["task"],
        sequence=row["sequence"] or "",
        problem=row.get("problem"),
        backbone=_array(row.get("backbone"), (-1, 4, 3)),
        plddt=_array(row.get("tokenizer_plddt"), (-1,)),
        motif_positions=None
        if row.get("motif_positions") is None
        else np.array(row["motif_positions"], dtype=np.int64),
        motif_backbone=_array(row.get("motif_backbone"), (-1, 4, 3)),
        log_likelihood=row.get("log_likelihood"),
        settings=json.loads(row.get("settings") or "{}"),
    )


def _array(values: list | None, shape: tuple[int, ...]) -> np.ndarray | None:
    return np.array(values, dtype=np.float32).reshape(shape) if values else None


def read_natives(chains: Sequence[Path]) -> dict[str, Native]:
    """The given chains by name: of dataset folders, structure files, archives, or folders of them.

    Names are those that generation gives the same inputs.
    """
    from dplm2.core.names import numbered
    from dplm2.generation.inputs import read_proteins

    proteins = read_proteins([str(given) for given in chains])
    names = numbered([protein.name for protein in proteins])
    return {
        name: Native(protein.sequence, np.asarray(protein.backbone, dtype=np.float32))
        for name, protein in zip(names, proteins, strict=True)
        if protein.backbone is not None
    }


def kept(
    samples: Sequence[EvaluatedSample], settings: EvaluationSettings
) -> tuple[list[EvaluatedSample], dict[str, str]]:
    """The samples that pass the settings, and the reason for each of the others."""
    left_out = {}
    for sample in samples:
        length = sample.length
        if sample.problem in settings.excluded or sample.sample_id in settings.excluded:
            left_out[sample.sample_id] = "excluded by name"
        elif length < settings.min_length or settings.max_length is not None and length > settings.max_length:
            left_out[sample.sample_id] = f"{length} residues"
    remaining = [sample for sample in samples if sample.sample_id not in left_out]
    if not remaining:
        raise DPLM2Error("no sample is left after min_length, max_length and excluded of the section evaluation")
    return remaining, left_out

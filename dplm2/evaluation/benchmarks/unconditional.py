"""Benchmark of unconditional samples: co-generation, backbone only, sequence only (DPLM-2, section 4.1, table 2).

- co-generation: the generated sequence is folded and compared with the generated backbone.
- backbone: sequences are designed for the backbone (``inverse_folding_backend``), folded, compared with it.
- sequence: the generated sequence is folded; its confidence is evaluated.
"""

from collections.abc import Sequence

import pandas as pd

from dplm2.core.errors import ConfigError
from dplm2.evaluation.backends.folding import Failure, Folded
from dplm2.evaluation.benchmarks.diversity import diversity_rows, novelty_columns
from dplm2.evaluation.benchmarks.job import Job, finish, identity, mean_or_none, source_of, write_folded
from dplm2.evaluation.benchmarks.self_consistency import designable_columns, self_consistency
from dplm2.evaluation.metrics import design, diversity, structure
from dplm2.evaluation.recovery import sequence_entropy
from dplm2.evaluation.results import misses_filled
from dplm2.evaluation.samples import EvaluatedSample
from dplm2.geometry.chemistry import backbone_geometry
from dplm2.geometry.secondary_structure import fractions

DATASET = "unconditional"
# Summarised before and after the columns with thresholds.
FOLDED = (
    design.SC_TM, design.SC_TM_RELEASED, design.SC_RMSD, design.SC_CA_RMSD, design.SC_LDDT_CA, structure.PLDDT,
    structure.TOKENIZER_PLDDT,
)  # fmt: skip
OWN = (*structure.COMPOSITION, *structure.GEOMETRY, design.SEQUENCE_ENTROPY, diversity.PDB_TM)


def run(job: Job) -> int:
    """Evaluate one set of samples; returns the exit status."""
    samples, left_out = job.read()
    record = job.record()
    sequences, folded, backend = _folded(job, samples)
    consistency = self_consistency([sample.backbone for sample in samples], folded, job.settings, job.device)
    rows = [
        identity(sample, backend) | row | own_metrics(sample, sequence)
        for sample, sequence, row in zip(samples, sequences, consistency, strict=True)
    ]
    metrics = misses_filled(pd.DataFrame(rows), designable_columns(job.settings))
    structures = [
        sample.backbone if sample.backbone is not None else result.backbone if isinstance(result, Folded) else None
        for sample, result in zip(samples, folded, strict=True)
    ]
    source = source_of(job, samples, DATASET, backend)
    metrics = novelty_columns(metrics, structures, samples, job.settings)
    extra = diversity_rows(metrics, structures, samples, job.settings, source)
    write_folded(job.out, samples, sequences, folded)
    before, after = ([metric.name for metric in group] for group in (FOLDED, OWN))
    columns = [*before, *designable_columns(job.settings), *after]
    return finish(job, record, metrics, columns, source, left_out, extra_rows=extra)


def _folded(job: Job, samples: Sequence[EvaluatedSample]) -> tuple[list[str], list[Folded | Failure], str]:
    """The evaluated sequence of each sample, its prediction, and the backends' names."""
    if job.task != "backbone" or job.settings.inverse_folding_backend == "none":
        if not any(sample.sequence for sample in samples):
            raise ConfigError(
                "evaluation.inverse_folding_backend: these backbones have no sequence; choose self or proteinmpnn"
            )
        sequences = [sample.sequence for sample in samples]
        folded, name = job.fold(sequences)
        return sequences, folded, name
    from dplm2.evaluation.backends.sequence_design import best_designs

    return best_designs(job, samples)


def own_metrics(sample: EvaluatedSample, sequence: str) -> dict[str, object]:
    """Metrics of a sample without folding; ``sequence`` is empty if none could be designed."""
    values: dict[str, object] = {"sequence_entropy": sequence_entropy(sequence) if sequence else None}
    if sample.backbone is not None:
        values |= fractions(sample.backbone[:, 1]) | backbone_geometry(sample.backbone)
        values["tokenizer_plddt"] = mean_or_none(sample.plddt)
    return values

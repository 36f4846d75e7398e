"""Benchmark of motif scaffolding: does the folded design contain the motif? (DPLM-2, section 4.4, C.1, table 9.)

The sequence of each design is folded. Its motif RMSD is that of the motif's C-alpha atoms in the folded structure,
superimposed on the reference's motif alone. A design succeeds if that is below ``motif_rmsd`` and scTM, between the
folded and the generated structure, is above ``motif_sc_tm``; for designs by sequence alone, if mean pLDDT is above
``motif_plddt``. ``passes_...`` counts a problem's designs that succeed, ``success_...`` is their share; a problem is
solved if one of its designs succeeds.

Of table 9's tracks, co-generation is regenerated and compared with the published results. The sequence-based track
(designs by sequence alone are evaluated by its criterion, but no preset generates them), the structure-based one
(generated backbone, sequence by ProteinMPNN, best of eight), and co-generation's best of eight are not regenerated.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from dplm2.core.errors import DPLM2Error
from dplm2.evaluation.backends.folding import Folded
from dplm2.evaluation.benchmarks.job import Job, finish, identity, source_of, write_folded
from dplm2.evaluation.benchmarks.self_consistency import designable_columns, self_consistency
from dplm2.evaluation.metrics import design, structure
from dplm2.evaluation.results import COUNTED, Source, misses_filled, summary_row
from dplm2.evaluation.samples import EvaluatedSample
from dplm2.geometry.superposition import rmsds
from dplm2.settings.evaluation import EvaluationSettings

DATASET = "motif problems"
METRICS = (
    design.MOTIF_RMSD, design.MOTIF_RMSD_GENERATED, design.SC_TM, design.SC_TM_RELEASED, design.SC_RMSD,
    structure.PLDDT,
)  # fmt: skip
CA = 1


def run(job: Job) -> int:
    """Evaluate one set of designs; returns the exit status."""
    samples, left_out = job.read()
    record = job.record()
    for sample in samples:
        _check_motif(sample)
    sequences = [sample.sequence for sample in samples]
    folded, backend = job.fold(sequences)
    consistency = self_consistency([sample.backbone for sample in samples], folded, job.settings, job.device)
    in_folded = motif_rmsds(samples, [result.backbone if isinstance(result, Folded) else None for result in folded])
    in_generated = motif_rmsds(samples, [sample.backbone for sample in samples])
    metrics = pd.DataFrame(
        identity(sample, backend) | row | {"motif_rmsd": one, "motif_rmsd_generated": other}
        for sample, row, one, other in zip(samples, consistency, in_folded, in_generated, strict=True)
    )
    metrics["motif_residues"] = [len(sample.motif_positions) for sample in samples]
    success = success_column(job.settings)
    metrics[success] = successes(metrics, job.settings)
    designable = designable_columns(job.settings)
    metrics = misses_filled(metrics, designable)
    write_folded(job.out, samples, sequences, folded)
    columns = [*(metric.name for metric in METRICS), success, *designable]
    source = source_of(job, samples, DATASET, backend)
    counts = [solved_row(metrics, success, source), *passes_rows(metrics, success, source)]
    return finish(job, record, metrics, columns, source, left_out, by="problem", extra_rows=counts)


def success_column(settings: EvaluationSettings) -> str:
    """The name of the column for the success of a design, with the RMSD's threshold."""
    return design.SUCCESS.column(threshold=settings.motif_rmsd)


def _check_motif(sample: EvaluatedSample) -> None:
    if sample.motif_positions is None or sample.motif_backbone is None:
        raise DPLM2Error(
            f"sample {sample.sample_id}: no motif_positions and motif_backbone; is it of task scaffolding?"
        )
    if len(sample.motif_positions) != len(sample.motif_backbone) or sample.motif_positions.max() >= len(
        sample.sequence
    ):
        raise DPLM2Error(f"sample {sample.sample_id}: its motif positions do not match its motif or its length")


def motif_rmsds(samples: Sequence[EvaluatedSample], structures: Sequence[np.ndarray | None]) -> np.ndarray:
    """C-alpha RMSD of the motif in each structure (L, 4, 3) against the reference's; NaN without a structure."""
    values = np.full(len(samples), np.nan)
    folded = [i for i, structure in enumerate(structures) if structure is not None]
    if folded:
        placed = [structures[i][samples[i].motif_positions, CA] for i in folded]
        values[folded] = rmsds(placed, [samples[i].motif_backbone[:, CA] for i in folded])
    return values


def successes(metrics: pd.DataFrame, settings: EvaluationSettings) -> pd.Series:
    """Whether each design contains its motif and is plausible, both strictly beyond thresholds; False if it failed.

    Raises
    ------
    DPLM2Error
        If neither scTM nor pLDDT is available.
    """
    holds_motif = metrics["motif_rmsd"] < settings.motif_rmsd
    if "sc_tm" in metrics:
        believable = metrics["sc_tm"] > settings.motif_sc_tm
    elif "plddt" in metrics:
        believable = metrics["plddt"] > settings.motif_plddt
    else:
        raise DPLM2Error(
            "scaffolding by sequence alone needs the folding program's pLDDT, which this one does not give; "
            "choose another evaluation.folding_backend"
        )
    return (holds_motif & believable & ~metrics["failed"]).astype(bool)


def solved_row(metrics: pd.DataFrame, success: str, source: Source) -> dict:
    """The summary row ``problems_solved``: how many problems have a successful design, of ``n``."""
    solved = metrics.groupby("problem")[success].any()
    failed = int(metrics["failed"].sum())
    return summary_row(source, design.PROBLEMS_SOLVED.name, solved.sum(), len(solved), failed, failed_rule=COUNTED)


def passes_rows(metrics: pd.DataFrame, success: str, source: Source) -> list[dict]:
    """How many of ``n`` designs succeed: of all, and of each problem (``group``) where there are several."""
    name = design.PASSES.column(**design.SUCCESS.match(success).parameters)

    def row(part: pd.DataFrame) -> dict:
        return summary_row(source, name, part[success].sum(), len(part), int(part["failed"].sum()), failed_rule=COUNTED)

    problems = list(metrics.groupby("problem"))
    groups = [{"group": f"problem={problem}"} | row(part) for problem, part in problems]
    return [row(metrics), *(groups if len(problems) > 1 else [])]

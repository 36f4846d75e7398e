"""Benchmark of folding: the model's structure for a native sequence against the native (DPLM-2, section 4.2, table 4).

No folding program is used, unless ``folding_baseline`` is set: then it folds the same sequences, with the results in
the columns ``baseline_...``. A prediction "matches" if its TM-score reaches ``match_tm_score``.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from dplm2.evaluation.backends.folding import Failure
from dplm2.evaluation.benchmarks.job import (
    Job,
    dataset_name,
    finish,
    identity,
    mean_or_none,
    native_of,
    source_of,
    write_folded,
)
from dplm2.evaluation.comparison import compare
from dplm2.evaluation.metrics import structure
from dplm2.evaluation.results import summarize
from dplm2.evaluation.samples import EvaluatedSample, Native
from dplm2.geometry.secondary_structure import fractions

COLUMNS = [
    metric.name
    for metric in (
        structure.CA_RMSD, structure.BB_RMSD, structure.TM_SCORE, structure.TM_SCORE_RELEASED, structure.LDDT_CA,
        structure.SECONDARY_STRUCTURE, structure.ALL_COIL, structure.TOKENIZER_PLDDT,
    )
]  # fmt: skip
BASELINE = "baseline_"


def run(job: Job) -> int:
    """Evaluate one set of samples; returns the exit status."""
    samples, left_out = job.read()
    record = job.record()
    all_natives = job.natives()
    natives = [native_of(sample, all_natives) for sample in samples]
    match = structure.MATCH.column(threshold=job.settings.match_tm_score)
    failures = [_failure(sample.backbone, native.backbone) for sample, native in zip(samples, natives, strict=True)]
    values = _compared(job, [sample.backbone for sample in samples], natives, failures)
    rows = []
    for sample, native, failure, row in zip(samples, natives, failures, values, strict=True):
        matches = failure is None and row["tm_score"] >= job.settings.match_tm_score
        row |= {"failed": failure is not None, "failure": failure, match: bool(matches)}
        row |= {"secondary_structure_all_coil": fractions(native.backbone[:, 1])["coil"]}
        rows.append(identity(sample, "none") | row | {"tokenizer_plddt": mean_or_none(sample.plddt)})
    dataset, extra = dataset_name(job.chains), []
    metrics = pd.DataFrame(rows)
    if job.settings.folding_baseline:
        baseline, name = _baseline(job, samples, natives)
        metrics = pd.concat([metrics, baseline.drop(columns="failed")], axis=1)
        columns = [column for column in baseline if column.startswith(BASELINE)]
        extra = summarize(baseline, columns, source_of(job, samples, dataset, name), job.settings.bootstrap_samples)
    source = source_of(job, samples, dataset, "none")
    return finish(job, record, metrics, [*COLUMNS, match], source, left_out, by="task", extra_rows=extra)


def _compared(
    job: Job,
    predictions: Sequence[np.ndarray | None],
    natives: Sequence[Native],
    failures: Sequence[str | None],
) -> list[dict[str, float]]:
    """Structure metrics of each prediction; none for a failed one."""
    good = [i for i, failure in enumerate(failures) if failure is None]
    values = compare(
        [predictions[i] for i in good],
        [natives[i].backbone for i in good],
        job.settings.released_tm_score,
        job.device,
    )
    rows: list[dict[str, float]] = [{} for _ in predictions]
    for place, index in enumerate(good):
        rows[index] = {name: float(column[place]) for name, column in values.items()}
    return rows


def _baseline(job: Job, samples: Sequence[EvaluatedSample], natives: Sequence[Native]) -> tuple[pd.DataFrame, str]:
    """Columns ``baseline_...`` for the folding program's predictions of the same sequences, and its name."""
    sequences = [native.sequence for native in natives]
    folded, name = job.fold(sequences)
    failures = [result.reason if isinstance(result, Failure) else None for result in folded]
    predictions = [None if isinstance(result, Failure) else result.backbone for result in folded]
    rows = _compared(job, predictions, natives, failures)
    for row, result in zip(rows, folded, strict=True):
        row["plddt"] = None if isinstance(result, Failure) else mean_or_none(result.plddt)
    write_folded(job.out, samples, sequences, folded)
    baseline = pd.DataFrame(rows).add_prefix(BASELINE)
    return baseline.assign(failed=[failure is not None for failure in failures]), name


def _failure(prediction: np.ndarray | None, native: np.ndarray) -> str | None:
    if prediction is None:
        return "the sample has no structure"
    if not np.isfinite(prediction[:, 1]).all():
        return "the predicted structure has coordinates that are not finite"
    if np.isfinite(native[:, 1]).all(-1).sum() < 3:
        return "the native has fewer than three observed residues"
    return None

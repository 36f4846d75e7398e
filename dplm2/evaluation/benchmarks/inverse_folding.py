"""Benchmark of inverse folding: recovery of the native sequence, self-consistency against the native backbone.

DPLM-2, section 4.3, table 5: amino-acid recovery (AAR), and scTM between the native backbone and the folding program's
model of the designed sequence.
"""

import numpy as np
import pandas as pd

from dplm2.evaluation.benchmarks.job import Job, dataset_name, finish, identity, native_of, source_of, write_folded
from dplm2.evaluation.benchmarks.self_consistency import designable_columns, self_consistency
from dplm2.evaluation.metrics import design, structure
from dplm2.evaluation.recovery import recovery, recovery_released, sequence_entropy
from dplm2.evaluation.results import misses_filled

COLUMNS = [
    metric.name
    for metric in (
        design.RECOVERY, design.RECOVERY_ALL_LEUCINE, design.RECOVERY_RELEASED, design.SC_TM, design.SC_TM_RELEASED,
        design.SC_RMSD, design.SC_CA_RMSD, design.SC_LDDT_CA, structure.PLDDT, design.SEQUENCE_ENTROPY,
    )
]  # fmt: skip


def run(job: Job) -> int:
    """Evaluate one set of samples; returns the exit status."""
    samples, left_out = job.read()
    record = job.record()
    all_natives = job.natives()
    natives = [native_of(sample, all_natives) for sample in samples]
    sequences = [sample.sequence for sample in samples]
    folded, backend = job.fold(sequences)
    consistency = self_consistency([native.backbone for native in natives], folded, job.settings, job.device)
    rows = []
    for sample, native, row in zip(samples, natives, consistency, strict=True):
        observed = np.isfinite(native.backbone[:, 1]).all(-1)
        rows.append(
            identity(sample, backend)
            | row
            | {
                "recovery": recovery(sample.sequence, native.sequence, observed),
                "recovery_all_leucine": recovery("L" * len(native.sequence), native.sequence, observed),
                "recovery_released": recovery_released(sample.sequence, native.sequence),
                "sequence_entropy": sequence_entropy(sample.sequence),
            }
        )
    designable = designable_columns(job.settings)
    metrics = misses_filled(pd.DataFrame(rows), designable)
    write_folded(job.out, samples, sequences, folded)
    source = source_of(job, samples, dataset_name(job.chains), backend)
    return finish(job, record, metrics, [*COLUMNS, *designable], source, left_out, by="task")

"""Benchmark of folding: the model's structure for a native sequence against the native (DPLM-2, section 4.2, table 4).

No folding program takes part. A prediction "matches" if its TM-score reaches ``match_tm_score``.
"""

import pandas as pd

from dplm2.evaluation.benchmark import Job, dataset_name, finish, identity, mean_or_none, native_of, source_of
from dplm2.evaluation.comparison import compare

COLUMNS = ["ca_rmsd", "bb_rmsd", "tm_score", "tm_score_released", "lddt_ca", "tokenizer_plddt"]


def run(job: Job) -> int:
    """Evaluate one set of samples; returns the exit status."""
    samples, left_out = job.read()
    record = job.record()
    all_natives = job.natives()
    natives = [native_of(sample, all_natives).backbone for sample in samples]
    failures = [_failure(sample.backbone, native) for sample, native in zip(samples, natives, strict=True)]
    good = [i for i, failure in enumerate(failures) if failure is None]
    values = compare(
        [samples[i].backbone for i in good], [natives[i] for i in good], job.settings.released_tm_score, job.device
    )
    match = f"match_tm_score_{job.settings.match_tm_score:g}"
    rows = [
        identity(sample, "none") | {"failed": failure is not None, "failure": failure, match: False}
        for sample, failure in zip(samples, failures, strict=True)
    ]
    for place, index in enumerate(good):
        rows[index].update({name: float(column[place]) for name, column in values.items()})
        rows[index][match] = bool(rows[index]["tm_score"] >= job.settings.match_tm_score)
        rows[index]["tokenizer_plddt"] = mean_or_none(samples[index].plddt)
    source = source_of(job, samples, dataset_name(job.chains), "none")
    return finish(job, record, pd.DataFrame(rows), [*COLUMNS, match], source, left_out, by="task")


def _failure(prediction, native) -> str | None:
    import numpy as np

    if prediction is None:
        return "the sample has no structure"
    if not np.isfinite(prediction[:, 1]).all():
        return "the predicted structure has coordinates that are not finite"
    if np.isfinite(native[:, 1]).all(-1).sum() < 3:
        return "the native has fewer than three observed residues"
    return None

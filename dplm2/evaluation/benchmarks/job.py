"""Common steps of the benchmarks of samples: reading, folding, and writing results."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from dplm2.core import parquet
from dplm2.core.artifacts import RunRecord, sha256_of_file
from dplm2.core.errors import ConfigError, DPLM2Error
from dplm2.evaluation.backends.folding import Failure, Folded, FoldingBackend, predict
from dplm2.evaluation.filters import counts, filtered
from dplm2.evaluation.results import Source, describe, summarize, write_results
from dplm2.evaluation.samples import EvaluatedSample, Native, kept, read_natives, read_samples
from dplm2.generation.inputs import content_of
from dplm2.settings.evaluation import RANKING, EvaluationSettings
from dplm2.settings.roles import plain

FOLDED_FILE = "folded.parquet"
WRITTEN = ("metrics.parquet", "summary.csv")


@dataclass(frozen=True)
class Job:
    """One evaluation of a set of samples.

    Attributes
    ----------
    task
        Name in the tables.
    samples
        Folder (or file) of the samples.
    out
        Folder to write to.
    settings
        Thresholds and backends.
    chains
        Datasets that contain the natives.
    model
        Folder of the model, for backends ``self``.
    tokenizer
        Of that model, if it is not its own.
    state
        Folder below which designed and folded sequences are stored.
    seed, device
        Of networks.
    """

    task: str
    samples: Path
    out: Path
    settings: EvaluationSettings
    chains: tuple[Path, ...] = ()
    model: str | None = None
    tokenizer: str | None = None
    state: Path = Path("state")
    seed: int = 0
    device: str = "cpu"

    @property
    def cache(self) -> Path:
        """Folder for the results of external programs, with one subfolder for each backend and its settings."""
        return self.state / "folding"

    def read(self) -> tuple[list[EvaluatedSample], dict[str, str]]:
        """The samples to evaluate, and those that are excluded or fail a filter with the reason.

        Raises
        ------
        DPLM2Error
            If no sample is left.
        """
        samples = read_samples(self.samples)
        remaining, left_out = kept(samples, self.settings)
        left_out |= filtered(remaining, self.settings.filters)
        remaining = [sample for sample in remaining if sample.sample_id not in left_out]
        if left_out:
            print(f"left out: {len(left_out)} of {len(samples)} samples ({counts(left_out)}); see run.json")
        if not remaining:
            raise DPLM2Error("no sample passes the filters of the section evaluation; relax them (evaluation.filters)")
        return remaining, left_out

    def natives(self) -> dict[str, Native]:
        """The known structures with which samples are compared.

        Raises
        ------
        ConfigError
            If no dataset was given.
        """
        if not self.chains:
            raise ConfigError(f"evaluate {self.task}: give the natives' dataset with --chains DIR")
        return read_natives(self.chains)

    def folding_backend(self) -> FoldingBackend:
        """The folding program selected by the settings."""
        name = self.settings.folding_backend
        chosen = getattr(self.settings, name)
        if name == "esmfold":
            from dplm2.evaluation.backends.esmfold import Esmfold

            return Esmfold(chosen, self.device)
        if name == "esmfold2":
            from dplm2.evaluation.backends.esmfold2 import Esmfold2

            return Esmfold2(chosen, self.device)
        if name == "command":
            from dplm2.evaluation.backends.command import CommandBackend

            return CommandBackend(chosen)
        from dplm2.evaluation.backends.self_folding import SelfFolding

        return SelfFolding(self.model_folder(), chosen, self.seed, self.device, self.tokenizer)

    def model_folder(self) -> str:
        """The folder of the model.

        Raises
        ------
        ConfigError
            If it was not given.
        """
        if self.model is None:
            raise ConfigError(f"evaluate {self.task}: backend self needs the model's folder: --model DIR")
        return self.model

    def fold(self, sequences: Sequence[str]) -> tuple[list[Folded | Failure], str]:
        """Fold sequences with the chosen backend; also its name."""
        backend = self.folding_backend()
        return predict(backend, sequences, self.cache), backend.name

    def record(self) -> RunRecord:
        """The run record; created before the work, since it measures the time.

        Files of an evaluation with other settings or samples that this one may not rewrite are removed.
        """
        record = self._record()
        record.supersede(self.out, "groups.csv", FOLDED_FILE)
        return record

    def is_finished(self) -> bool:
        """Whether ``out`` holds the results of this job."""
        return self._record().is_of(self.out) and all((self.out / file).is_file() for file in WRITTEN)

    def _record(self) -> RunRecord:
        path = self.samples / "samples.parquet" if self.samples.is_dir() else self.samples
        inputs = {"samples": sha256_of_file(path)} | {str(given): content_of(given) for given in self.chains}
        settings = {key: value for key, value in plain(self.settings).items() if key != RANKING}
        return RunRecord(f"evaluate {self.task}", settings, inputs, str(self.device))


def identity(sample: EvaluatedSample, backend: str) -> dict[str, object]:
    """The first columns of every row of ``metrics.parquet``."""
    return {
        "sample_id": sample.sample_id,
        "model": sample.model,
        "task": sample.task,
        "problem": sample.problem,
        "length": sample.length,
        "backend": backend,
    }


def native_of(sample: EvaluatedSample, natives: dict[str, Native]) -> Native:
    """The native of a sample's target.

    Raises
    ------
    DPLM2Error
        If the dataset does not contain it, or its length differs.
    """
    native = natives.get(sample.problem)
    if native is None:
        raise DPLM2Error(
            f"sample {sample.sample_id}: its target {sample.problem!r} is not among the chains given with --chains"
        )
    if len(native.sequence) != len(sample.sequence):
        raise DPLM2Error(
            f"sample {sample.sample_id} has {len(sample.sequence)} residues, its target {sample.problem} has "
            f"{len(native.sequence)}: were the chains cleaned again after the samples were made?"
        )
    return native


def source_of(job: Job, samples: Sequence[EvaluatedSample], dataset: str, backend: str) -> Source:
    """The names in the summary."""
    return Source(samples[0].model, job.task, dataset, backend)


def dataset_name(chains: Iterable[Path]) -> str:
    """A dataset's name in the tables: its folder's."""
    return "+".join(path.name if path.suffix != ".parquet" else path.parent.name for path in chains)


def set_name(dataset: str, split: str | None, splits_matter: bool) -> str:
    """A dataset's name with that of its split, if it has several or one was requested."""
    return f"{dataset}/{split}" if split is not None and splits_matter else dataset


def group_rows(metrics: pd.DataFrame, by: str, summed_up: Callable[[pd.DataFrame], list[dict]]) -> list[dict]:
    """Summary rows for each value of a column, if there are several."""
    groups = metrics.groupby(by, sort=True)
    if len(groups) < 2:
        return []
    return [{"group": f"{by}={value}"} | row for value, part in groups for row in summed_up(part)]


def finish(
    job: Job,
    record: RunRecord,
    metrics: pd.DataFrame,
    columns: Sequence[str],
    source: Source,
    left_out: dict[str, str],
    by: str = "length",
    extra_rows: Sequence[dict] = (),
) -> int:
    """Summarise, write everything, and print the path; returns the exit status."""

    def summed_up(part: pd.DataFrame) -> list[dict]:
        return summarize(part, columns, source, job.settings.bootstrap_samples)

    summary = [*summed_up(metrics), *extra_rows]
    write_results(job.out, metrics, summary, record, group_rows(metrics, by, summed_up), left_out=left_out)
    print(describe(summary))
    print(f"wrote {job.out}")
    return 0


def write_folded(
    out: Path, samples: Sequence[EvaluatedSample], sequences: Sequence[str], folded: Sequence[Folded | Failure]
) -> None:
    """Write the folding program's prediction for each sample, for the viewer: ``folded.parquet``."""
    rows = [
        {
            "sample_id": sample.sample_id,
            "sequence": sequence,
            "backbone": result.backbone.ravel().tolist(),
            "plddt": None if result.plddt is None else result.plddt.tolist(),
        }
        for sample, sequence, result in zip(samples, sequences, folded, strict=True)
        if isinstance(result, Folded)
    ]
    schema = pa.schema(
        [
            ("sample_id", pa.string()),
            ("sequence", pa.string()),
            ("backbone", pa.list_(pa.float32())),
            ("plddt", pa.list_(pa.float32())),
        ]
    )
    parquet.write_table(out / FOLDED_FILE, pa.Table.from_pylist(rows, schema=schema))


def mean_or_none(values: np.ndarray | None) -> float | None:
    """Mean of an array that may be missing."""
    return None if values is None else float(np.mean(values))

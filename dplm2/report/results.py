"""The contents of a results folder, found by their paths.

Everything is optional: an unfinished run, or one that only evaluates an imported checkpoint, has a report too.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from dplm2.core import parquet
from dplm2.core.artifacts import RUN_FILE, read_json, read_json_object
from dplm2.core.errors import DPLM2Error
from dplm2.evaluation.metrics.registry import declared
from dplm2.generation.designs import ENDINGS, FASTA_FILE, TABLE_FILE
from dplm2.report.labels import task_kind, task_order
from dplm2.structures.store import SELECTION_FILE, part_files, shards_selected

REQUIRED_COLUMNS = ("model", "task", "dataset", "metric", "value", "n", "backend")
PARTS = "part-*.parquet"


@dataclass(frozen=True)
class Evaluation:
    """One folder below ``evaluation/``.

    Attributes
    ----------
    place
        The folder relative to ``evaluation/``, with slashes.
    model, task, dataset, backend
        As given in ``summary.csv``; if it gives several, or is missing, as given by the path.
    kind
        The known task, None if it cannot be determined.
    variant
        ``trained`` or ``untrained`` if both are evaluated, else empty.
    summary, groups
        ``summary.csv`` and ``groups.csv`` as text; empty frames where absent.
    metrics
        ``metrics.parquet``, columns under their declared names without the variant; an empty frame where absent.
    folder
        Its path.
    """

    place: str
    model: str
    task: str
    dataset: str
    backend: str
    kind: str | None
    variant: str
    summary: pd.DataFrame
    groups: pd.DataFrame
    metrics: pd.DataFrame
    folder: Path

    @property
    def label(self) -> str:
        """Label that distinguishes this evaluation from others."""
        return " \u00b7 ".join(dict.fromkeys(part for part in (self.model, self.task, self.dataset) if part))

    def values(self, column: str) -> np.ndarray:
        """The finite values of a metric over the samples that did not fail."""
        if column not in self.metrics:
            return np.empty(0)
        values = pd.to_numeric(self.succeeded()[column], errors="coerce").to_numpy(dtype=float)
        return values[np.isfinite(values)]

    def succeeded(self) -> pd.DataFrame:
        """The rows of the samples that did not fail."""
        if "failed" not in self.metrics:
            return self.metrics
        return self.metrics[~self.metrics["failed"].fillna(False).astype(bool)]


@dataclass(frozen=True)
class Curve:
    """The rows of one ``metrics.csv``; ``place`` is the folder of what was trained, for example ``models/demo``."""

    place: str
    rows: pd.DataFrame


@dataclass(frozen=True)
class TokenUsage:
    """How often each structure token occurs in one tokenized dataset (residues that were observed)."""

    tokenizer: str
    dataset: str
    counts: np.ndarray
    codebook_size: int

    @property
    def used(self) -> int:
        """Number of different tokens that occur."""
        return int((self.counts > 0).sum())

    @property
    def perplexity(self) -> float:
        """Exponential of the entropy of the tokens' frequencies: the codebook's effective size."""
        share = self.counts[self.counts > 0] / max(self.counts.sum(), 1)
        return float(np.exp(-(share * np.log(share)).sum())) if len(share) else 0.0


@dataclass(frozen=True)
class Dataset:
    """One cleaned dataset: number of chains, and rejects."""

    name: str
    chains: int
    rejected: pd.DataFrame


@dataclass(frozen=True)
class Designs:
    """One ``designs.csv`` of ranked designs as text, with the folder that its paths are relative to."""

    model: str
    task: str
    table: pd.DataFrame
    folder: Path


@dataclass(frozen=True)
class RunDetails:
    """One ``run.json``: ``place`` is its folder, relative to the results."""

    place: str
    record: dict


@dataclass(frozen=True)
class Results:
    """Everything found below ``folder``."""

    folder: Path
    evaluations: list[Evaluation] = field(default_factory=list)
    curves: list[Curve] = field(default_factory=list)
    token_usage: list[TokenUsage] = field(default_factory=list)
    datasets: list[Dataset] = field(default_factory=list)
    runs: list[RunDetails] = field(default_factory=list)
    designs: list[Designs] = field(default_factory=list)

    def of_kind(self, *kinds: str | None) -> list[Evaluation]:
        """The evaluations of these tasks."""
        return [evaluation for evaluation in self.evaluations if evaluation.kind in kinds]


def read_results(folder: Path, only: Mapping[str, Sequence[str]] | None = None) -> Results:
    """Read a results folder.

    Parameters
    ----------
    folder
        The results of a run.
    only
        Names by kind (``datasets``, ``tokenizers``, ``models``, ``generation``); everything else is omitted.

    Raises
    ------
    DPLM2Error
        If the folder is missing, contains no results, or a file in it cannot be read.
    """
    if not folder.is_dir():
        raise DPLM2Error(f"{folder}: no such folder; --results is the results folder of a run")

    def belongs(*parts: str) -> bool:
        return only is None or _belongs(parts, only)

    evaluations = [
        each for each in _evaluations(folder / "evaluation") if belongs("evaluation", *each.place.split("/"))
    ]
    results = Results(
        folder,
        sorted(evaluations, key=lambda found: (task_order(found.kind), found.place)),
        [curve for curve in _curves(folder) if belongs(*curve.place.split("/"))],
        [usage for usage in _token_usage(folder / "tokens") if belongs("tokens", usage.tokenizer, usage.dataset)],
        [dataset for dataset in _datasets(folder / "structures") if belongs("structures", dataset.name)],
        [run for run in _runs(folder) if belongs(*run.place.split("/"))],
        [each for each in _designs(folder / "designs") if belongs("designs", each.model, each.task)],
    )
    if not any((results.evaluations, results.curves, results.token_usage, results.datasets, results.runs)):
        raise DPLM2Error(
            f"{folder}: contains no results of a run (no evaluation/, models/, tokenizers/, tokens/, structures/)"
        )
    return results


def _belongs(parts: tuple[str, ...], only: Mapping[str, Sequence[str]]) -> bool:
    """Whether a path in a results folder is selected by ``only``."""
    stage, *names = parts
    kinds = {
        "structures": ("datasets",),
        "tokenizers": ("tokenizers",),
        "tokens": ("tokenizers", "datasets"),
        "models": ("models",),
        "samples": ("models", "generation"),
        "evaluation": ("models", "generation"),
        "designs": ("models", "generation"),
    }[stage]
    if stage == "evaluation" and names[:1] == ["tokenizers"]:
        kinds, names = ("tokenizers", "datasets"), names[1:]
    elif stage == "evaluation" and names[1:2] == ["likelihood"]:
        kinds, names = ("models", "datasets"), [names[0], *names[2:]]
    return all(name in only.get(kind, ()) for kind, name in zip(kinds, names, strict=False))


def input_files(folder: Path) -> Iterator[Path]:
    """All files on which a report of this results folder depends."""
    patterns = {
        "evaluation": ("summary.csv", "groups.csv", "*.parquet", RUN_FILE),
        "tokenizers": ("metrics.csv", RUN_FILE),
        "models": ("metrics.csv", RUN_FILE),
        "tokens": (PARTS, RUN_FILE),
        "structures": ("rejected.parquet", "selection.parquet", RUN_FILE),
        "samples": ("samples.parquet", RUN_FILE),
        "designs": (TABLE_FILE, FASTA_FILE, *(f"*.{ending}" for ending in ENDINGS.values()), RUN_FILE),
    }
    for stage, names in patterns.items():
        for name in names:
            yield from sorted((folder / stage).rglob(name))


def read_table(path: Path, columns: list[str] | None = None) -> pa.Table:
    """A Parquet file; of ``columns``, the existing ones."""
    try:
        return parquet.read_table(path, columns)
    except DPLM2Error as error:
        raise DPLM2Error(f"not a readable Parquet file: {error}") from error


def _read_csv(path: Path, required: tuple[str, ...]) -> pd.DataFrame:
    """A CSV file as text, so that digits and names are unchanged."""
    try:
        frame = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise DPLM2Error(f"{path}: not a readable CSV file ({' '.join(str(error).split())})") from error
    missing = [name for name in required if name not in frame]
    if missing:
        raise DPLM2Error(f"{path}: has no column {', '.join(missing)}")
    return frame


def _evaluations(root: Path) -> Iterator[Evaluation]:
    folders = {path.parent for name in ("summary.csv", "metrics.parquet") for path in root.rglob(name)}
    for folder in sorted(folders):
        summary = groups = pd.DataFrame(columns=list(REQUIRED_COLUMNS), dtype=str)
        if (folder / "summary.csv").is_file():
            summary = _read_csv(folder / "summary.csv", REQUIRED_COLUMNS)
        if (folder / "groups.csv").is_file():
            groups = _read_csv(folder / "groups.csv", ("group", *REQUIRED_COLUMNS))
        metrics = pd.DataFrame()
        if (folder / "metrics.parquet").is_file():
            metrics = read_table(folder / "metrics.parquet").to_pandas()
        yield _evaluation(folder, folder.relative_to(root).parts, summary, groups, metrics)


def _evaluation(
    folder: Path, place: tuple[str, ...], summary: pd.DataFrame, groups: pd.DataFrame, metrics: pd.DataFrame
) -> Evaluation:
    metrics, variant = _plain_columns(metrics)
    variant = variant or next((part for part in place if part in ("trained", "untrained")), "")
    rest = [part for part in place if part != variant]
    if rest[0] == "tokenizers":  # tokenizers/<tokenizer>/<dataset>, as opposed to <model>/<task>
        rest = [*rest[1:2], "reconstruction", *rest[2:]]
    model, task, *rest = rest if len(rest) > 1 else [*rest, ""]
    names = {"model": model, "task": task, "dataset": "/".join(rest), "backend": ""}
    for column in names:
        for frame in (metrics, summary):
            # A backend may differ by metric ("none" without folding): the one that folded is used.
            given = {str(name) for name in frame.get(column, ())} - {
                "",
                "None",
                *(["none"] if column == "backend" else []),
            }
            if len(given) == 1:
                names[column] = given.pop()
    command = read_json_object(folder / RUN_FILE).get("command", "") if (folder / RUN_FILE).is_file() else ""
    kind = task_kind(names["task"], *place[1:], str(command))
    return Evaluation(
        "/".join(place),
        **names,
        kind=kind,
        variant=variant,
        summary=summary,
        groups=groups,
        metrics=metrics,
        folder=folder,
    )


def _plain_columns(metrics: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """The frame with columns under their declared names, without the variant that all may carry, and that variant."""
    known = {name: metric for name in metrics if (metric := declared(name)) is not None}
    variants = {metric.parameters["weights"] for metric in known.values() if "weights" in metric.parameters}
    variant = variants.pop() if len(variants) == 1 else ""
    renamed = {
        name: metric.base.name if metric.parameters.get("weights") == variant else metric.name
        for name, metric in known.items()
    }
    taken = set(metrics)
    renamed = {old: new for old, new in renamed.items() if new != old and new not in taken}
    return metrics.rename(columns=renamed), variant


def _curves(folder: Path) -> Iterator[Curve]:
    for stage in ("tokenizers", "models"):
        # "initial" precedes the model trained from it.
        found = sorted(
            (folder / stage).rglob("metrics.csv"),
            key=lambda path: (path.parts[: len(folder.parts) + 2], -len(path.parts)),
        )
        for path in found:
            rows = _read_csv(path, ("step",)).apply(pd.to_numeric, errors="coerce").dropna(subset="step")
            if len(rows):
                yield Curve(path.parent.relative_to(folder).as_posix(), rows.reset_index(drop=True))


def _token_usage(root: Path) -> Iterator[TokenUsage]:
    for folder in sorted({path.parent for path in root.rglob(PARTS)}):
        counts, codebook_size = np.zeros(0, dtype=np.int64), 0
        selection = root.parent / "structures" / folder.name / SELECTION_FILE
        for part in part_files(folder, shards_selected(selection)):
            table = read_table(part, ["structure_tokens", "observed"])
            if "structure_tokens" not in table.column_names:
                raise DPLM2Error(f"{part}: not a file of tokens (it has no column structure_tokens)")
            metadata = table.schema.metadata or {}
            codebook_size = max(codebook_size, int(metadata.get(b"codebook_size", b"0")))
            part_counts = _count_tokens(table)
            longest = max(len(counts), len(part_counts), codebook_size)
            counts = np.pad(counts, (0, longest - len(counts))) + np.pad(part_counts, (0, longest - len(part_counts)))
        place = folder.relative_to(root).parts
        yield TokenUsage(place[0], "/".join(place[1:]), counts, max(codebook_size, len(counts)))


def _count_tokens(table: pa.Table) -> np.ndarray:
    tokens = pc.list_flatten(table["structure_tokens"]).to_numpy()
    if "observed" in table.column_names:
        observed = pc.list_flatten(table["observed"]).to_numpy()
        tokens = tokens[observed.astype(bool)] if len(observed) == len(tokens) else tokens
    return np.bincount(tokens.astype(np.int64))


def _datasets(root: Path) -> Iterator[Dataset]:
    for folder in sorted(path for path in root.glob("*") if path.is_dir()):
        selection, rejected = folder / "selection.parquet", folder / "rejected.parquet"
        parts = [selection] if selection.is_file() else sorted(folder.glob(PARTS))
        if not parts and not rejected.is_file():
            continue
        chains = sum(len(read_table(part, [])) for part in parts)
        frame = read_table(rejected).to_pandas() if rejected.is_file() else pd.DataFrame(columns=["code", "reason"])
        yield Dataset(folder.name, chains, frame)


def _designs(root: Path) -> Iterator[Designs]:
    for path in sorted(
        root.glob(f"*/*/{TABLE_FILE}"), key=lambda path: (task_order(task_kind(path.parent.name)), path)
    ):
        table = _read_csv(path, ("rank", "id", "score", "passes", "file", "prediction"))
        yield Designs(path.parent.parent.name, path.parent.name, table, path.parent)


def _runs(folder: Path) -> Iterator[RunDetails]:
    for stage in ("structures", "tokenizers", "tokens", "models", "samples", "evaluation", "designs"):
        for path in sorted((folder / stage).rglob(RUN_FILE)):
            record = read_json(path)
            if not isinstance(record, dict):
                raise DPLM2Error(f"{path}: not a record of a run (a JSON object)")
            yield RunDetails(path.parent.relative_to(folder).as_posix(), record)

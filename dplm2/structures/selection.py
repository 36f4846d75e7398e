"""Selection over the whole dataset: duplicates, outliers in size, clusters, splits.

Writes ``selection.parquet`` (the selected chains with cluster and split) and ``rejected.parquet`` (the rejects of all
shards); the shards themselves do not change, so a new file never rewrites all of them.
"""

import functools
import logging
import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dplm2.core.artifacts import RunRecord, sha256_of_file
from dplm2.core.errors import ConfigError, DPLM2Error
from dplm2.settings.dataset import DatasetSettings
from dplm2.structures.clusters import find_clusters
from dplm2.structures.rejects import Reject
from dplm2.structures.splits import Members, assign_splits, count_splits
from dplm2.structures.store import (
    CHAINS,
    REJECTED,
    REJECTED_FILE,
    SELECTION,
    SELECTION_FILE,
    SHARDS_KEY,
    part_files,
    read_columns,
    write_table,
)
from dplm2.structures.tokenized import note_origins

COLUMNS = [
    "chain_id",
    "source_file",
    "source_sha256",
    "source_id",
    "author_chain",
    "sequence",
    "length",
    "observed",
    "resolution",
    "release_date",
    "radius_of_gyration",
    "cluster",
    "split",
]
# Below this number of chains a quantile for each length is meaningless.
FEWEST_FOR_QUANTILE = 20
_log = logging.getLogger(__name__)


def select_chains(
    folder: str | os.PathLike,
    settings: DatasetSettings,
    seed: int,
    record: RunRecord,
    threads: int = 1,
    shards: int | None = None,
) -> dict[str, int]:
    """Select the chains of a dataset folder and save the selection.

    Parameters
    ----------
    folder
        Contains ``part-*.parquet`` and ``shards/rejected-*.parquet``.
    settings
        The dataset's settings.
    seed
        Decides random splits.
    record
        Written as ``run.json`` with the counts.
    threads
        Cores for MMseqs2.
    shards
        Number of parts of the dataset; None: all existing ones.

    Returns
    -------
    dict
        Number of chains, by split, and of rejects.

    Raises
    ------
    DPLM2Error
        If no chain is left, or two shards contain chains of the same name.
    """
    folder = Path(folder)
    shards = len(list(folder.glob("part-*.parquet"))) if shards is None else shards
    parts = part_files(folder, shards or None)
    table = pa.concat_tables([_read(part, COLUMNS) for part in parts])
    _refuse_equal_names(table)
    rejected = _rejects_of_shards(folder, parts)
    unjudged = _warn_of_unjudged(parts, settings)
    work = _Selection(table, settings, seed, threads)
    work.run()
    rejected = pa.concat_tables([rejected, work.rejected()])
    if not len(work.kept):
        raise DPLM2Error(f"{folder}: no usable chain; {describe(rejected)}")
    record.inputs.update({part.name: sha256_of_file(part) for part in parts})
    record.supersede(folder)
    write_table(folder / REJECTED_FILE, rejected)
    selection = work.selection().replace_schema_metadata({SHARDS_KEY: str(len(parts))})
    write_table(folder / SELECTION_FILE, selection)
    counts = count_splits(work.splits)
    codes = dict(sorted(Counter(rejected["code"].to_pylist()).items()))
    note_origins(table["source_file"].to_pylist())
    record.write(
        folder, chains=len(work.kept), splits=counts, rejected=codes, unmatched=work.unmatched, unjudged=unjudged
    )
    return {"chains": len(work.kept), **counts, "rejected": len(rejected)}


def _read(part: Path, columns: Iterable[str]) -> pa.Table:
    return read_columns(part, [CHAINS.field(name) for name in columns], "a store of chains")


def describe(rejected: pa.Table) -> str:
    """One line about a table of rejects: counts by code, and the first in full."""
    if not len(rejected):
        return "there was no input"
    codes = Counter(rejected["code"].to_pylist()).most_common()
    first = {name: rejected[name][0].as_py() for name in rejected.column_names}
    chain = f" chain {first['chain']}" if first["chain"] else ""
    return f"{', '.join(f'{n} {code}' for code, n in codes)} (first: {first['source_file']}{chain}: {first['reason']})"


def _warn_of_unjudged(parts: Iterable[Path], settings: DatasetSettings) -> int:
    """Count chains that the pLDDT filters skip because the meaning of their B factors is unknown, and warn once."""
    filters = settings.filters
    wanted = (filters.min_plddt, filters.max_plddt_deviation, filters.trim_plddt)
    if settings.reading.plddt != "auto" or all(value is None for value in wanted):
        return 0
    count, dataset = 0, ""
    for part in parts:
        table = _read(part, ["dataset", "plddt", "method", "resolution"])
        unknown = (pc.is_null(table[name]) for name in ("plddt", "method", "resolution"))
        table = table.filter(functools.reduce(pc.and_, unknown))
        if len(table):
            count, dataset = count + len(table), table["dataset"][0].as_py()
    if count:
        _log.warning(
            "warning: dataset %s: the pLDDT filters skipped %d chains whose files indicate neither a "
            "prediction nor an experiment; set datasets.%s.reading.plddt to b_factor if their B "
            "factors are pLDDT, or to none if they are experimental",
            dataset, count, dataset,
        )  # fmt: skip
    return count


def _refuse_equal_names(table: pa.Table) -> None:
    counts = table["chain_id"].value_counts()
    twice = [str(row["values"]) for row in counts.filter(pc.greater(pc.struct_field(counts, 1), 1))]
    if twice:
        files = table.filter(pc.equal(table["chain_id"], twice[0]))["source_file"].to_pylist()
        raise DPLM2Error(f"two chains are named {twice[0]} ({' and '.join(files)}): rename one file, or use one shard")


def _rejects_of_shards(folder: Path, parts: Iterable[Path]) -> pa.Table:
    tables = [REJECTED.empty_table()]
    for part in parts:
        path = folder / "shards" / f"rejected-{part.stem.removeprefix('part-')}.parquet"
        if not path.is_file():
            raise DPLM2Error(f"{path}: no such file; clean this shard again")
        tables.append(read_columns(path, list(REJECTED), "a list of what was left out"))
    return pa.concat_tables(tables)


class _Selection:
    """The chains of a dataset during the selection; ``kept`` are the remaining rows."""

    def __init__(self, table: pa.Table, settings: DatasetSettings, seed: int, threads: int) -> None:
        self.table, self.settings, self.seed, self.threads = table, settings, seed, threads
        self.kept = np.arange(len(table))
        self.ids = table["chain_id"].to_pylist()
        self.sequences = table["sequence"].to_pylist()
        self.clusters: list[str | None] = []
        self.splits: list[str] = []
        self.unmatched: dict[str, int] = {}
        self._rejects: list[Reject] = []

    def run(self) -> None:
        filters = self.settings.filters
        if filters.one_per_cluster and self.settings.clusters.source == "none":
            raise ConfigError("filters.one_per_cluster needs clusters: set clusters.source to file or mmseqs2")
        if filters.deduplicate:
            self._keep_best(self.sequences, "duplicate", "same sequence as {}")
        if filters.radius_of_gyration_quantile is not None:
            self._drop_outliers(filters.radius_of_gyration_quantile)
        self._cluster()
        if filters.one_per_cluster:
            self._keep_best(self.clusters, "same_cluster", "{} represents its cluster")
        self._split()

    def _reject(self, row: int, code: str, reason: str) -> None:
        origin = (str(self.table[name][row]) for name in ("source_file", "source_sha256", "author_chain"))
        self._rejects.append(Reject(*origin, code, reason))

    def _keep_best(self, groups: list[str | None], code: str, reason: str) -> None:
        """In each group, keep the most completely observed chain, then the best resolved, then the first by name."""
        observed = self.table["observed"].to_numpy()
        resolution = np.nan_to_num(self.table["resolution"].to_numpy(), nan=np.inf)
        ranked = sorted(self.kept.tolist(), key=lambda row: (-observed[row], resolution[row], self.ids[row]))
        best: dict[str, int] = {}
        for row in ranked:
            if groups[row] is not None:
                best.setdefault(groups[row], row)
        for row in self.kept.tolist():
            if groups[row] is not None and best[groups[row]] != row:
                self._reject(row, code, reason.format(self.ids[best[groups[row]]]))
        self.kept = np.array([r for r in self.kept.tolist() if groups[r] is None or best[groups[r]] == r], dtype=int)

    def _drop_outliers(self, quantile: float) -> None:
        """Filter by the residuals of a linear fit of log radius of gyration on log length."""
        if len(self.kept) < FEWEST_FOR_QUANTILE:
            return
        length = self.table["length"].to_numpy()[self.kept]
        radius = self.table["radius_of_gyration"].to_numpy()[self.kept]
        x, y = np.log(length), np.log(np.maximum(radius, 1e-3))
        slope = ((x - x.mean()) * (y - y.mean())).sum() / max(((x - x.mean()) ** 2).sum(), 1e-9)
        residual = y - y.mean() - slope * (x - x.mean())
        limit = np.quantile(residual, quantile)
        expected = np.exp(y - residual + limit)
        for row, own, most, out in zip(self.kept.tolist(), radius, expected, residual > limit, strict=True):
            if out:
                text = f"{own:.1f} angstrom, above {most:.1f} (quantile {quantile:g} for its length)"
                self._reject(row, "radius_of_gyration", text)
        self.kept = self.kept[residual <= limit]

    def _cluster(self) -> None:
        self.clusters = self.table["cluster"].to_pylist()
        if self.settings.clusters.source != "none" and len(self.kept):
            rows = self.kept.tolist()
            chosen = ([values[row] for row in rows] for values in (self.ids, self._entries(), self.sequences))
            for row, cluster in zip(rows, find_clusters(*chosen, self.settings.clusters, self.threads), strict=True):
                self.clusters[row] = cluster

    def _entries(self) -> list[str]:
        return [name.rsplit(":", 1)[0] for name in self.table["source_id"].to_pylist()]

    def _split(self) -> None:
        rows = self.kept.tolist()
        dates, entries = self.table["release_date"].to_pylist(), self._entries()
        columns = (self.ids, entries, self.sequences, dates, self.clusters)
        members = Members(*([column[row] for row in rows] for column in columns))
        assignment = assign_splits(members, self.settings.split, self.seed)
        for place, other in assignment.leaks.items():
            held = f"{members.ids[other]}, which is held out ({assignment.splits[other]})"
            self._reject(rows[place], "leak", f"related to {held}")
        stay = [place for place in range(len(rows)) if place not in assignment.leaks]
        self.kept = self.kept[stay]
        self.splits = [assignment.splits[place] for place in stay]
        self.unmatched = assignment.unmatched

    def selection(self) -> pa.Table:
        rows = self.kept.tolist()
        columns = [[self.ids[row] for row in rows], [self.clusters[row] for row in rows], self.splits]
        return pa.table(dict(zip(SELECTION.names, columns, strict=True)), schema=SELECTION)

    def rejected(self) -> pa.Table:
        columns = list(zip(*self._rejects, strict=True)) or [[] for _ in REJECTED.names]
        return pa.table(dict(zip(REJECTED.names, columns, strict=True)), schema=REJECTED)

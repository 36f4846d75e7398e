"""Foldseek (van Kempen et al., Nat. Biotechnol. 42 (2024) 243): clusters and searches, by command.

The commands are the paper's: ``easy-cluster`` with TM-align alignments, and an exhaustive ``easy-search``.
"""

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from dplm2.core.errors import DPLM2Error
from dplm2.evaluation.backends.command import run_command
from dplm2.settings.evaluation import FoldseekSettings
from dplm2.structures.writing import write_structure

SEARCH_COLUMNS = ("query", "target", "alntmscore", "qtmscore", "ttmscore", "rmsd", "lddt", "evalue", "bits")
CLUSTER = (
    "{program} easy-cluster {structures} {out}/cluster {temporary} --alignment-type 1 --cov-mode 0 --min-seq-id 0 "
    "--tmscore-threshold {threshold} --threads {threads} -v 1"
)
SEARCH = (
    "{program} easy-search {structures} {database} {out}/search.tsv {temporary} --exhaustive-search "
    "--alignment-type 1 --tmscore-threshold 0 -e inf --format-output " + ",".join(SEARCH_COLUMNS) + " "
    "--threads {threads} -v 1"
)
HOW_TO_GET = "install it (envs/foldseek.yaml), or choose another evaluation.diversity"


def read_clusters(path: Path) -> dict[str, str]:
    """Foldseek's ``*_cluster.tsv``: for each member the name of its cluster's representative.

    Raises
    ------
    DPLM2Error
        If a line is not ``representative <tab> member``.
    """
    clusters = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        fields = line.split("\t")
        if len(fields) != 2:
            raise DPLM2Error(f"{path}: line {number} is not 'representative<tab>member': {line[:80]!r}")
        clusters[_name(fields[1])] = _name(fields[0])
    return clusters


def read_search(path: Path) -> pd.DataFrame:
    """Foldseek's search results in the columns of `SEARCH_COLUMNS`.

    Raises
    ------
    DPLM2Error
        If the columns are not these.
    """
    table = pd.read_csv(path, sep="\t", header=None)
    if table.shape[1] != len(SEARCH_COLUMNS):
        raise DPLM2Error(
            f"{path}: {table.shape[1]} columns; expected {len(SEARCH_COLUMNS)}: {', '.join(SEARCH_COLUMNS)}"
        )
    table.columns = list(SEARCH_COLUMNS)
    return table


def _name(field: str) -> str:
    return field.removesuffix(".pdb")


def cluster(structures: Mapping[str, np.ndarray], settings: FoldseekSettings, threshold: float) -> dict[str, str]:
    """Cluster backbones (L, 4, 3) by name; gives each one's representative.

    Raises
    ------
    DPLM2Error
        If Foldseek is missing or fails.
    """
    _program(settings)
    with tempfile.TemporaryDirectory(prefix="dplm2-foldseek-") as folder:
        places = _places(Path(folder), structures, settings)
        run_command("evaluation.foldseek", CLUSTER, places | {"threshold": threshold})
        found = read_clusters(Path(folder) / "cluster_cluster.tsv")
    missing = set(structures) - set(found)
    if missing:
        raise DPLM2Error(f"foldseek easy-cluster left out {len(missing)} structures, for example {min(missing)}")
    return found


def novelty(structures: Mapping[str, np.ndarray], settings: FoldseekSettings) -> dict[str, float]:
    """Highest TM-score (normalized by the query's length) of each backbone to any structure of the database (pdb-TM).

    Raises
    ------
    DPLM2Error
        If Foldseek is missing or fails.
    """
    best = highest_tm_scores(_search(structures, settings, settings.database))
    # Without any hit, a structure is entirely novel.
    return {name: best.get(name, 0.0) for name in structures}


def pair_scores(structures: Mapping[str, np.ndarray], settings: FoldseekSettings) -> np.ndarray:
    """TM-scores (n, n) of an exhaustive search of backbones (L, 4, 3) among themselves; a row is one query's.

    A pair that Foldseek does not list has a score of 0, as in `novelty`.

    Raises
    ------
    DPLM2Error
        If Foldseek is missing or fails.
    """
    search = _search(structures, settings)
    named = {column: search[column].astype(str).map(_name) for column in ("query", "target")}
    scores = search.assign(**named).pivot_table(index="query", columns="target", values="qtmscore", aggfunc="max")
    return scores.reindex(index=list(structures), columns=list(structures)).fillna(0.0).to_numpy()


def _search(
    structures: Mapping[str, np.ndarray], settings: FoldseekSettings, database: str | None = None
) -> pd.DataFrame:
    """Exhaustive search of structures in a database, or in themselves."""
    _program(settings)
    with tempfile.TemporaryDirectory(prefix="dplm2-foldseek-") as folder:
        places = _places(Path(folder), structures, settings)
        run_command("evaluation.foldseek", SEARCH, places | {"database": database or places["structures"]})
        return read_search(Path(folder) / "search.tsv")


def highest_tm_scores(search: pd.DataFrame) -> dict[str, float]:
    """For each query the highest ``qtmscore``, at most 1."""
    highest = search.groupby("query")["qtmscore"].max().clip(upper=1.0)
    return {_name(str(query)): float(value) for query, value in highest.items()}


def _program(settings: FoldseekSettings) -> None:
    if shutil.which(settings.program) is None:
        raise DPLM2Error(f"evaluation.foldseek.program: {settings.program!r} is not on PATH; {HOW_TO_GET}")


def _places(folder: Path, structures: Mapping[str, np.ndarray], settings: FoldseekSettings) -> dict[str, object]:
    for name, backbone in structures.items():
        write_structure(folder / "structures" / f"{name}.pdb", "A" * len(backbone), backbone)
    return {
        "program": settings.program,
        "structures": folder / "structures",
        "out": folder,
        "temporary": folder / "temporary",
        "threads": settings.threads,
    }


def count_clusters(clusters: Mapping[str, str], names: Sequence[str]) -> int:
    """Number of clusters among ``names``."""
    return len({clusters[name] for name in names})

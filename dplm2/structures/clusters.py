"""Clusters of related chains, from MMseqs2 or from a table given by the user."""

import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from dplm2.core.errors import DPLM2Error
from dplm2.core.text import read_table
from dplm2.settings.dataset import Clusters

MMSEQS = "mmseqs"


def find_clusters(
    ids: Sequence[str], entries: Sequence[str], sequences: Sequence[str], settings: Clusters, threads: int = 1
) -> list[str | None]:
    """The cluster of each chain, named after its representative (or as in the user's table).

    Parameters
    ----------
    ids, entries, sequences
        Chain ids, the names of their entries, their sequences.
    settings
        Source of the clusters.
    threads
        Cores for MMseqs2.

    Raises
    ------
    DPLM2Error
        If the table lacks columns or contains none of the chains; if MMseqs2 is not found or fails.
    """
    if settings.source == "file":
        return _from_table(ids, entries, settings.file)
    if settings.source == "mmseqs2":
        named = run_mmseqs2(dict(zip(ids, sequences, strict=True)), settings, threads)
        return [named[name] for name in ids]
    return [None] * len(ids)


def _from_table(ids: Sequence[str], entries: Sequence[str], path: str | None) -> list[str | None]:
    if path is None:
        raise DPLM2Error("clusters.file: give a table of clusters, or choose a clusters.source other than 'file'")
    rows = list(read_table(path))
    if not rows or not {"chain_id", "cluster"} <= set(rows[0]):
        raise DPLM2Error(f"{path}: a table of clusters needs a header with the columns chain_id and cluster")
    named = {row["chain_id"]: row["cluster"] for row in rows if row["cluster"]}
    # A chain that is not in the table forms a cluster of its own.
    found = [named.get(chain) or named.get(entry) for chain, entry in zip(ids, entries, strict=True)]
    if not any(found):
        raise DPLM2Error(f"{path}: contains none of the {len(ids)} chains; the first of them is {ids[0]!r}")
    return [cluster or chain for cluster, chain in zip(found, ids, strict=True)]


def run_mmseqs2(sequences: Mapping[str, str], settings: Clusters, threads: int) -> dict[str, str]:
    """Cluster sequences by name with ``mmseqs easy-cluster``; returns the representative of each.

    Raises
    ------
    DPLM2Error
        If MMseqs2 is not on PATH, fails, or does not assign every sequence.
    """
    program = shutil.which(MMSEQS)
    if program is None:
        raise DPLM2Error(
            "clusters.source is mmseqs2, but the program 'mmseqs' is not on PATH; install it (envs/mmseqs2.yaml),"
            " give a table of clusters (clusters.source: file), or disable clusters (none)"
        )
    names = list(sequences)
    with tempfile.TemporaryDirectory(prefix="dplm2-mmseqs-") as folder:
        fasta = Path(folder) / "chains.fasta"
        # Plain numbers as names: MMseqs2 splits names at spaces and bars.
        fasta.write_text("".join(f">{i}\n{sequences[name]}\n" for i, name in enumerate(names)), encoding="ascii")
        call = [program, "easy-cluster", str(fasta), f"{folder}/out", f"{folder}/work"]
        call += ["--min-seq-id", str(settings.identity), "-c", str(settings.coverage), "--cov-mode", "0"]
        call += ["-s", str(settings.sensitivity), "--threads", str(threads), "-v", "1"]
        done = subprocess.run(call, capture_output=True, text=True, check=False)
        table = Path(folder) / "out_cluster.tsv"
        if done.returncode or not table.is_file():
            last = (done.stderr or done.stdout).strip().splitlines()[-1:] or ["no message"]
            raise DPLM2Error(f"mmseqs easy-cluster failed with exit status {done.returncode}: {last[0]}")
        return parse_clusters(table.read_text(encoding="ascii"), names)


def parse_clusters(text: str, names: Sequence[str]) -> dict[str, str]:
    """Read MMseqs2's table (representative, member) of numbered sequences; returns the representative of each name.

    Raises
    ------
    DPLM2Error
        If a line is not a pair of known numbers, or a sequence is missing.
    """
    found = {}
    for line in text.splitlines():
        try:
            representative, member = (names[int(number)] for number in line.split("\t"))
        except (ValueError, IndexError) as error:
            raise DPLM2Error(f"mmseqs wrote a line that is not a pair of its sequences: {line[:80]!r}") from error
        found[member] = representative
    missing = [name for name in names if name not in found]
    if missing:
        raise DPLM2Error(f"mmseqs left {len(missing)} of {len(names)} sequences without a cluster, e.g. {missing[0]}")
    return found

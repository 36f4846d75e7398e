"""Samples for other programs: a CSV table, FASTA, and a structure file each."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dplm2.core.artifacts import atomic_path
from dplm2.core.fasta import write_fasta
from dplm2.generation.samples import STRUCTURES_FOLDER
from dplm2.structures.writing import write_structure

if TYPE_CHECKING:
    import pandas as pd

TABLE_FILE, FASTA_FILE = "designs.csv", "designs.fasta"
# Extension of each format of the settings.
ENDINGS: Mapping[str, str] = {"pdb": "pdb", "mmcif": "cif", "bcif": "bcif"}
DIGITS = "%.6g"


def write_designs(out: Path, rows: Sequence[Mapping[str, Any]], structure_format: str) -> None:
    """Write ``designs.csv``, ``designs.fasta`` and ``structures/`` of samples.

    Structure files of other samples or in other formats, of an earlier run, are removed; files that this package does
    not write are kept.

    Parameters
    ----------
    out
        Folder of the samples.
    rows
        As in ``samples.parquet``.
    structure_format
        ``pdb``, ``mmcif``, ``bcif``, or ``none`` for no structure files.
    """
    import pandas as pd  # not above: a tenth of what generate imports, before its first step

    folder, ending = out / STRUCTURES_FOLDER, ENDINGS.get(structure_format)
    files = {row["sample_id"]: f"{row['sample_id']}.{ending}" for row in rows if ending and row["backbone"] is not None}
    remove_others(folder, files.values())
    for row in rows:
        if row["sample_id"] in files:
            write_backbone(folder / files[row["sample_id"]], row)
    write_table(out / TABLE_FILE, pd.DataFrame([_described(row, files.get(row["sample_id"])) for row in rows]))
    write_fasta(out / FASTA_FILE, ((_header(row), row["sequence"]) for row in rows if row["sequence"]))


def write_backbone(path: Path, row: Mapping[str, Any]) -> None:
    """Write a sample's backbone, with the tokenizer's pLDDT as B factors."""
    backbone = np.array(row["backbone"], dtype=np.float32).reshape(-1, 4, 3)
    plddt = None if row["tokenizer_plddt"] is None else np.array(row["tokenizer_plddt"], dtype=np.float32)
    # Without a sequence the residues are alanines, as in the tokenizer's decoder.
    write_structure(path, row["sequence"] or "A" * row["length"], backbone, plddt)


def remove_others(folder: Path, kept: Sequence[str]) -> None:
    """Remove the structure files of a folder that are not among ``kept``."""
    kept = set(kept)
    for path in folder.iterdir() if folder.is_dir() else ():
        if path.suffix.removeprefix(".") in ENDINGS.values() and path.name not in kept:
            path.unlink()


def write_table(path: Path, table: "pd.DataFrame") -> None:
    """Write a CSV table, atomically."""
    with atomic_path(path) as temporary:
        table.to_csv(temporary, index=False, float_format=DIGITS)


def _described(row: Mapping[str, Any], file: str | None) -> dict[str, Any]:
    plddt = row["tokenizer_plddt"]
    return {
        "id": row["sample_id"],
        "problem": row["problem"],
        "length": row["length"],
        "tokenizer_plddt": None if plddt is None else float(np.mean(plddt)),
        "log_likelihood": row["log_likelihood"],
        "sequence": row["sequence"],
        "file": None if file is None else f"{STRUCTURES_FOLDER}/{file}",
    }


def _header(row: Mapping[str, Any]) -> str:
    return f"{row['sample_id']} problem={row['problem']} length={row['length']}"

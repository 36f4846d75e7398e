"""ProteinGym's substitution assays (Notin et al. 2023), read as they are published, and their Spearman correlations.

Their layout: a reference table ``DMS_substitutions.csv`` (columns ``DMS_id``, ``DMS_filename``, ``target_seq``, and
optionally ``UniProt_ID``, ``coarse_selection_type``, ``pdb_file``, ``pdb_range``), and a folder with a table per assay
(columns ``mutant``, ``DMS_score``, and optionally ``mutated_sequence``, ``DMS_score_bin``).
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from dplm2.core.errors import DPLM2Error
from dplm2.core.fasta import clean_sequence
from dplm2.core.text import read_table, shown, some
from dplm2.generation.model import DPLM2
from dplm2.generation.proteins import read_proteins
from dplm2.generation.task import Target
from dplm2.scoring.mutations import Mutant, Numbered, mutated

NEEDED = ("DMS_id", "DMS_filename", "target_seq")
_SEVERAL = "|"  # between files, and between their ranges, of a protein modelled in pieces


@dataclass(frozen=True)
class Assay:
    """An entry of the reference table.

    Attributes
    ----------
    name, file, target
        Its ``DMS_id``, table, and wild-type sequence.
    protein, selection
        ``UniProt_ID`` and ``coarse_selection_type``; empty if the table has none.
    structures
        Structure files and the residues that each covers (first and last, from 1).
    """

    name: str
    file: str
    target: str
    protein: str = ""
    selection: str = ""
    structures: tuple[tuple[str, int, int], ...] = field(default=())


@dataclass(frozen=True)
class Measured:
    """The mutants of an assay with their measured scores; ``fit`` is None if the table has no ``DMS_score_bin``."""

    texts: list[str]
    mutants: list[Mutant]
    scores: np.ndarray
    fit: np.ndarray | None


def read_reference(path: str | os.PathLike, chosen: Sequence[str] = ()) -> list[Assay]:
    """The assays of a reference table, or those ``chosen`` by ``DMS_id``.

    Raises
    ------
    DPLM2Error
        If the table lacks a column or a chosen assay; the message names it.
    """
    rows = list(read_table(path))
    if not rows:
        raise DPLM2Error(f"{path}: no rows")
    if missing := [name for name in NEEDED if name not in rows[0]]:
        raise DPLM2Error(f"{path}: no column {', '.join(missing)}; it must be ProteinGym's DMS_substitutions.csv")
    assays = {row["DMS_id"]: _assay(row, f"{path}, row {number}") for number, row in enumerate(rows, start=1)}
    if unknown := [name for name in chosen if name not in assays]:
        raise DPLM2Error(f"{path}: no assay {shown(unknown[0])}; there: {some(list(assays))}")
    return [assays[name] for name in (chosen or assays)]


def _assay(row: Mapping[str, str | None], place: str) -> Assay:
    if empty := [name for name in NEEDED if not row[name]]:
        raise DPLM2Error(f"{place}: no {empty[0]}")
    files = [name for name in (row.get("pdb_file") or "").split(_SEVERAL) if name]
    ranges = [text for text in (row.get("pdb_range") or "").split(_SEVERAL) if text]
    if files and len(files) != len(ranges):
        raise DPLM2Error(f"{place}: {len(files)} files in pdb_file but {len(ranges)} ranges in pdb_range")
    structures = tuple((name, *_range(text, place)) for name, text in zip(files, ranges, strict=False))
    target = clean_sequence(row["target_seq"], f"{place}, target_seq")
    own = (row.get("UniProt_ID") or "", row.get("coarse_selection_type") or "")
    return Assay(row["DMS_id"], row["DMS_filename"], target, *own, structures)


def _range(text: str, place: str) -> tuple[int, int]:
    try:
        first, last = map(int, text.split("-"))
    except ValueError:
        raise DPLM2Error(f"{place}: pdb_range {shown(text)} is no range such as 1-263") from None
    return first, last


def read_assay(assay: Assay, folder: str | os.PathLike) -> Measured:
    """The mutants of an assay.

    Raises
    ------
    DPLM2Error
        If the table cannot be read or used, a mutation does not fit ``target_seq``, or a ``mutated_sequence`` is not
        the target with the mutations; the message names file, row and mutation.
    """
    path = Path(folder) / assay.file
    rows = list(read_table(path))
    if not rows:
        raise DPLM2Error(f"{path}: no rows")
    if missing := [name for name in ("mutant", "DMS_score") if name not in rows[0]]:
        raise DPLM2Error(f"{path}: no column {', '.join(missing)}")
    protein = Numbered.from_first(assay.name, assay.target)
    texts, mutants = [], []
    for number, row in enumerate(rows, start=1):
        place, text = f"{path}, row {number}", row["mutant"] or ""
        mutant = protein.mutant(text, place)
        sequence = row.get("mutated_sequence")
        if sequence and sequence != mutated(assay.target, mutant):
            raise DPLM2Error(f"{place}: {text}: mutated_sequence is not target_seq with these mutations")
        texts.append(text)
        mutants.append(mutant)
    fit = _numbers(rows, "DMS_score_bin", path) if "DMS_score_bin" in rows[0] else None
    return Measured(texts, mutants, _numbers(rows, "DMS_score", path), fit)


def _numbers(rows: Sequence[Mapping[str, str | None]], column: str, path: Path) -> np.ndarray:
    values = np.empty(len(rows))
    for number, row in enumerate(rows, start=1):
        try:
            values[number - 1] = float(row[column] or "")
        except ValueError:
            values[number - 1] = np.nan
        if not np.isfinite(values[number - 1]):
            raise DPLM2Error(f"{path}, row {number}: {column} is {shown(row[column] or '')}, not a number")
    return values


def target_of(model: DPLM2, assay: Assay, structures: str | os.PathLike | None) -> Target:
    """The wild type of an assay, with the structure tokens of its files if a folder of ``structures`` is given.

    Residues that no file covers have no structure token.

    Raises
    ------
    DPLM2Error
        If the reference names no file, or a file's sequence is not that of its range.
    """
    if structures is None:
        return Target(assay.name, assay.target, None)
    if not assay.structures:
        raise DPLM2Error(f"{assay.name}: the reference table names no structure (pdb_file)")
    tokens = np.full(len(assay.target), -1, dtype=np.int64)
    for name, first, last in assay.structures:
        path = Path(structures) / name
        found = read_proteins(model, [path])
        if len(found) != 1:
            raise DPLM2Error(f"{path}: {len(found)} chains; a structure of ProteinGym has one")
        covered = assay.target[first - 1 : last]
        if first < 1 or found[0].sequence != covered:
            raise DPLM2Error(
                f"{path}: its sequence ({found[0].length} residues) is not target_seq of {assay.name} from {first} to "
                f"{last}"
            )
        tokens[first - 1 : last] = found[0].structure_tokens
    return Target(assay.name, assay.target, tokens)


def average(summary: pd.DataFrame, column: str) -> float:
    """ProteinGym's average: over the assays of a protein and selection type, then over proteins, then over types.

    Assays without a value are left out; without the columns ``UniProt_ID`` and ``coarse_selection_type`` filled in,
    it is the mean over assays.
    """
    rows = summary[summary[column].notna()]
    if (rows[["UniProt_ID", "coarse_selection_type"]] == "").any(axis=None):
        return float(rows[column].mean())
    proteins = rows.groupby(["coarse_selection_type", "UniProt_ID"])[column].mean()
    return float(proteins.groupby("coarse_selection_type").mean().mean())

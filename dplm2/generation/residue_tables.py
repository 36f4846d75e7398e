"""Residue tables: a protein as a table with one row per residue; empty cells are generated."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from dplm2.core import parquet
from dplm2.core.errors import DPLM2Error
from dplm2.core.fasta import LETTERS, TO_GENERATE
from dplm2.core.text import shown
from dplm2.generation.task import Target

TABLE_ENDINGS = (".csv", ".parquet")
_TABLE_COLUMNS = ("position", "residue", "structure_token")


def tables(sources: Sequence[str | os.PathLike]) -> list[Path]:
    """Paths of the residue tables in files and folders.

    Raises
    ------
    DPLM2Error
        If a source contains none.
    """
    paths: list[Path] = []
    for source in map(Path, sources):
        found = sorted(p for p in source.iterdir() if p.suffix in TABLE_ENDINGS) if source.is_dir() else [source]
        if not found or not found[0].is_file() or found[0].suffix not in TABLE_ENDINGS:
            raise DPLM2Error(f"{source}: contains no residue table ({', '.join(TABLE_ENDINGS)})")
        paths += found
    return paths


def read_residue_table(path: str | os.PathLike) -> Target:
    """Read a residue table: ``position`` (1, 2, ...), ``residue`` (a letter) and ``structure_token`` (a number).

    Empty cells are generated.

    Raises
    ------
    DPLM2Error
        If columns are missing, positions are not 1 to L, or a cell is not a residue or token; the message names it.
    """
    path = Path(path)
    try:
        table = (
            parquet.read_frame(path)
            if path.suffix == ".parquet"
            else pd.read_csv(path, dtype=str, keep_default_na=False)
        )
    except (OSError, ValueError) as error:
        raise DPLM2Error(f"{path}: cannot be read as a table ({' '.join(str(error).split())})") from error
    if missing := [name for name in _TABLE_COLUMNS if name not in table.columns]:
        raise DPLM2Error(
            f"{path}: a residue table has the columns {', '.join(_TABLE_COLUMNS)}; {missing[0]} is missing"
        )
    positions = pd.to_numeric(table["position"], errors="coerce")
    if sorted(positions) != list(range(1, len(table) + 1)):
        raise DPLM2Error(f"{path}: positions must be 1 to {len(table)}, each once")
    table = table.assign(position=positions).sort_values("position")
    letters = [
        "?" if pd.isna(cell) or not str(cell).strip() else str(cell).strip().upper() for cell in table["residue"]
    ]
    if wrong := [place for place, letter in enumerate(letters, 1) if letter not in set(LETTERS + TO_GENERATE)]:
        raise DPLM2Error(f"{path}: {shown(letters[wrong[0] - 1])} is not the letter of a residue (position {wrong[0]})")
    tokens = pd.to_numeric(table["structure_token"].replace("", np.nan), errors="coerce")
    given = table["structure_token"].notna() & (table["structure_token"].astype(str).str.strip() != "")
    if (given & (tokens.isna() | (tokens < 0) | (tokens % 1 != 0))).any():
        raise DPLM2Error(
            f"{path}: {table['structure_token'][given & tokens.isna()].tolist() or 'a value'} is not a structure token"
        )
    return Target(path.stem, "".join(letters), tokens.fillna(-1).to_numpy(dtype=np.int64))

"""Task tables: proteins or pairs of them, with labels and splits.

Columns: ``id`` (or ``chain_id``), ``label``, ``split`` (train, validation, test); for pairs also ``id_2``. Proteins
that are to be embedded have ``sequence``, ``structure`` (a file, relative to the table; ``complex.pdb:A``) or
``structure_tokens``; those of the second of a pair end in ``_2``.
"""

import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from dplm2.core import parquet
from dplm2.core.errors import DPLM2Error
from dplm2.core.text import read_text, shown
from dplm2.representations.saprot import BENCHMARKS, read_benchmark

Kind = Literal["regression", "classification", "multi-label", "residue-regression", "residue-classification"]
KINDS: tuple[Kind, ...] = (
    "regression", "classification", "multi-label", "residue-regression", "residue-classification",
)  # fmt: skip
SPLITS = ("train", "validation", "test")
_OTHER_NAMES = {"valid": "validation", "val": "validation"}
LABELS_END = ";"  # between the labels of a multi-label cell
UNLABELLED = "?-."


@dataclass(frozen=True)
class Task:
    """A table of labels.

    Attributes
    ----------
    kind
        What the labels are.
    rows
        The table, with ``id`` and perhaps ``id_2`` as text.
    splits
        The split of each row.
    labels
        One per row: a number, a name, a tuple of names, or an array (L,) of numbers or letters; NaN, or an empty
        letter, where a residue has no label.
    """

    kind: Kind
    rows: pd.DataFrame
    splits: np.ndarray
    labels: list[Any]

    @property
    def is_of_pairs(self) -> bool:
        """Whether a row is a pair of proteins."""
        return "id_2" in self.rows

    @property
    def is_of_residues(self) -> bool:
        """Whether residues have labels."""
        return self.kind.startswith("residue-")

    @property
    def name_columns(self) -> list[str]:
        """Columns that name the proteins of a row."""
        return ["id", "id_2"] if self.is_of_pairs else ["id"]


def read_task(path: str | os.PathLike, name: str) -> Task:
    """Read a task table, CSV or Parquet, or a folder of SaProt's data.

    Parameters
    ----------
    path
        The table or folder.
    name
        What the labels are (`KINDS`), or one of the nine tasks (`dplm2.representations.saprot`).

    Raises
    ------
    DPLM2Error
        If it cannot be read, lacks a column or a split, has an unusable label, or a protein (or pair) twice; the
        message names the row.
    """
    path, benchmark = Path(path), BENCHMARKS.get(name)
    kind: Kind = name if benchmark is None else benchmark.kind
    if path.is_dir() and benchmark is None:
        raise DPLM2Error(f"{path}: a folder holds data of SaProt; choose its task: {', '.join(BENCHMARKS)}")
    rows = read_benchmark(path, benchmark) if path.is_dir() else _read(path)
    if benchmark is not None and benchmark.of_pairs and "id_2" not in rows:
        raise DPLM2Error(f"{path}: no column id_2, which {name} needs")
    if "id" not in rows and "chain_id" in rows:
        rows = rows.rename(columns={"chain_id": "id"})
    if missing := [name for name in ("id", "label", "split") if name not in rows]:
        raise DPLM2Error(f"{path}: no column {', '.join(missing)}")
    for column in ("id", "id_2", "split"):
        if column in rows:
            rows[column] = [_text(value, column, f"{path}, row {n}") for n, value in enumerate(rows[column], start=1)]
    splits = rows["split"].replace(_OTHER_NAMES).to_numpy(dtype=object)
    if wrong := sorted(set(splits) - set(SPLITS)):
        raise DPLM2Error(f"{path}: the split {shown(wrong[0])} is none of {', '.join(SPLITS)}")
    if empty := [split for split in SPLITS if split not in splits]:
        raise DPLM2Error(f"{path}: no row of the split {empty[0]}: a probe needs {', '.join(SPLITS)}")
    names = rows[["id", "id_2"]] if "id_2" in rows else rows[["id"]]
    if names.duplicated().any():
        twice = names[names.duplicated()].iloc[0].tolist()
        raise DPLM2Error(f"{path}: {' with '.join(map(shown, twice))} occurs twice")
    if "id_2" in rows and kind.startswith("residue-"):
        raise DPLM2Error(f"{path}: residues of pairs (column id_2) cannot have labels")
    labels = [_label(value, kind, f"{path}, row {n}") for n, value in enumerate(rows["label"], start=1)]
    return Task(kind, rows, splits, labels)


def _read(path: Path) -> pd.DataFrame:
    if path.suffix == ".parquet":
        rows = parquet.read_frame(path)
    else:
        try:
            rows = pd.read_csv(io.StringIO(read_text(path)), dtype=str, keep_default_na=False)
        except ValueError as error:
            raise DPLM2Error(f"{path}: cannot be read as a table ({' '.join(str(error).split())[:200]})") from error
    if rows.empty:
        raise DPLM2Error(f"{path}: no rows")
    return rows.reset_index(drop=True)


def _text(value: Any, column: str, place: str) -> str:
    if value is None or value == "" or isinstance(value, float) and np.isnan(value):
        raise DPLM2Error(f"{place}: an empty cell in column {column}")
    return str(value)


def _label(value: Any, kind: Kind, place: str) -> Any:
    if kind == "regression":
        return _number(value, place)
    if kind == "classification":
        return _text(value, "label", place)
    if kind == "multi-label":
        names = value.split(LABELS_END) if isinstance(value, str) else ([] if value is None else list(value))
        return tuple(dict.fromkeys(str(name).strip() for name in names if str(name).strip()))
    if kind == "residue-regression":
        numbers = value.split() if isinstance(value, str) else list(value)
        return np.array([np.nan if text in (*UNLABELLED, None) else _number(text, place, True) for text in numbers])
    letters = list(value)
    return np.array(["" if letter is None or letter in UNLABELLED else str(letter) for letter in letters], dtype=object)


def _number(value: Any, place: str, missing: bool = False) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = np.nan if value is None else np.inf
    if np.isinf(number) or np.isnan(number) and not missing:
        raise DPLM2Error(f"{place}: the label {shown(value)} is not a number")
    return number


def label_names(labels: Sequence[tuple[str, ...]]) -> list[str]:
    """All names of multi-label cells, sorted."""
    return sorted({name for own in labels for name in own})

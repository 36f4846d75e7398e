"""The nine tasks of the paper's table of representations (DPLM-2, table 6), in the files of SaProt (Su et al. 2024).

A task is a folder with the LMDB databases ``train``, ``valid`` and ``test``. In each, the keys ``0``, ``1``, ... have a
JSON object as value, and ``length`` their number. An object has ``seq`` (of pairs ``seq_1`` and ``seq_2``), and
``label`` or, for thermostability, ``fitness``. A sequence is plain, or has two letters per residue: the amino acid and
Foldseek's structure letter in lower case (``#``: unknown). The latter is left out: DPLM-2 has its own structure tokens.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from dplm2.core.errors import DPLM2Error
from dplm2.core.text import shown

FOLDERS = {"train": "train", "valid": "validation", "test": "test"}
INNER_FOLDERS = ("", "foldseek", "normal")  # of SaProt's download, structure-aware or plain sequences
DATABASE_FILE = "data.mdb"


@dataclass(frozen=True)
class Benchmark:
    """A task.

    Attributes
    ----------
    kind
        ``regression``, ``classification`` or ``multi-label``.
    published
        Name of its metric in ``published.csv``.
    metric, unit
        Ours of the same quantity, and how much of it the published unit is.
    title
        For tables.
    label
        Key of the label.
    of_pairs
        Whether pairs of proteins have labels.
    """

    kind: str
    published: str
    metric: str
    title: str
    unit: float = 1.0
    label: str = "label"
    of_pairs: bool = False


BENCHMARKS: Mapping[str, Benchmark] = {
    "thermostability": Benchmark(
        "regression", "Thermostability_spearman", "spearman", "thermostability", label="fitness"
    ),
    "human-ppi": Benchmark("classification", "HumanPPI_acc", "accuracy", "HumanPPI", 0.01, of_pairs=True),
    "metal-ion-binding": Benchmark("classification", "MetalIonBinding_acc", "accuracy", "metal ion binding", 0.01),
    "ec": Benchmark("multi-label", "EC_Fmax", "fmax", "EC"),
    "go-mf": Benchmark("multi-label", "GO-MF_Fmax", "fmax", "GO-MF"),
    "go-bp": Benchmark("multi-label", "GO-BP_Fmax", "fmax", "GO-BP"),
    "go-cc": Benchmark("multi-label", "GO-CC_Fmax", "fmax", "GO-CC"),
    "deeploc-subcellular": Benchmark(
        "classification", "DeepLoc-Subcellular_acc", "accuracy", "DeepLoc, subcellular", 0.01
    ),
    "deeploc-binary": Benchmark("classification", "DeepLoc-Binary_acc", "accuracy", "DeepLoc, binary", 0.01),
}


def read_benchmark(path: Path, benchmark: Benchmark) -> pd.DataFrame:
    """The rows of a task, in the columns of a task table (`dplm2.representations.tasks`).

    Proteins are named by the key ``name`` (``name_1``, ``name_2``) if there is one, else by split and number.

    Raises
    ------
    DPLM2Error
        If the folder lacks a database, or an entry cannot be used; the message names it.
    """
    inner = [path / name for name in INNER_FOLDERS if (path / name / "train" / DATABASE_FILE).is_file()]
    if not inner:
        raise DPLM2Error(f"{path}: no train/{DATABASE_FILE}; SaProt's data has the folders train, valid and test")
    rows: list[dict[str, Any]] = []
    for folder, split in FOLDERS.items():
        for number, entry in enumerate(_entries(inner[0] / folder)):
            place = f"{inner[0] / folder}, entry {number}"
            rows.append(_row(entry, benchmark, f"{split}-{number}", place) | {"split": split})
    if not benchmark.of_pairs:
        _distinguish(rows)
    return pd.DataFrame(rows)


def _entries(folder: Path) -> Iterator[dict[str, Any]]:
    """The objects of a database, in order."""
    try:
        import lmdb
    except ImportError as error:
        raise DPLM2Error("SaProt's databases need the package lmdb: pip install 'dplm2[saprot]'") from error
    if not (folder / DATABASE_FILE).is_file():
        raise DPLM2Error(f"{folder}: no {DATABASE_FILE}")
    try:
        with lmdb.open(str(folder), readonly=True, lock=False, create=False) as database, database.begin() as reading:
            count = int(_value(reading, "length", folder))
            for number in range(count):
                entry = json.loads(_value(reading, str(number), folder))
                if not isinstance(entry, dict):
                    raise DPLM2Error(f"{folder}, entry {number}: not an object with seq and label")
                yield entry
    except (lmdb.Error, ValueError) as error:
        raise DPLM2Error(f"{folder}: cannot be read as SaProt's data ({' '.join(str(error).split())[:200]})") from error


def _value(reading, key: str, folder: Path) -> str:  # noqa: ANN001
    value = reading.get(key.encode())
    if value is None:
        raise DPLM2Error(f"{folder}: no entry {shown(key)}")
    return value.decode("utf-8")


def _row(entry: Mapping[str, Any], benchmark: Benchmark, number: str, place: str) -> dict[str, Any]:
    row: dict[str, Any] = {"label": _label(_found(entry, benchmark.label, place), benchmark, place)}
    for ending, key in (("", "_1"), ("_2", "_2")) if benchmark.of_pairs else (("", ""),):
        sequence = _found(entry, f"seq{key}", place)
        if not isinstance(sequence, str) or not sequence:
            raise DPLM2Error(f"{place}: seq{key} is no text")
        row |= {
            f"id{ending}": str(entry.get(f"name{key}") or f"{number}{key.replace('_', '-')}"),
            f"sequence{ending}": amino_acids(sequence, place),
        }
    return row


def _found(entry: Mapping[str, Any], key: str, place: str) -> Any:
    if key not in entry:
        raise DPLM2Error(f"{place}: no {key}; there: {', '.join(map(str, entry))}")
    return entry[key]


def amino_acids(sequence: str, place: str) -> str:
    """The amino acids of a plain or structure-aware sequence; X where one is masked.

    Raises
    ------
    DPLM2Error
        If it is neither.
    """
    if sequence.isupper() and "#" not in sequence:
        return sequence
    letters, states = sequence[::2], sequence[1::2]
    if len(letters) != len(states) or any(not (state == "#" or state.islower()) for state in states):
        raise DPLM2Error(
            f"{place}: a sequence is neither plain nor of two letters per residue ({shown(sequence[:20])})"
        )
    return letters.replace("#", "X").upper()


def _label(value: Any, benchmark: Benchmark, place: str) -> Any:
    if benchmark.kind == "regression":
        return value
    if benchmark.kind == "classification":
        if isinstance(value, bool) or not isinstance(value, int):
            raise DPLM2Error(f"{place}: the label {shown(str(value)[:40])} is no number of a class")
        return str(value)
    flags = json.loads(value) if isinstance(value, str) else value
    if not isinstance(flags, list) or not set(flags) <= {0, 1}:
        raise DPLM2Error(f"{place}: the label is no list of 0 and 1")
    return tuple(str(number) for number, flag in enumerate(flags) if flag)


def _distinguish(rows: list[dict[str, Any]]) -> None:
    """Give proteins of the same name different ids; structures are found by the name before ``~``."""
    seen: dict[str, int] = {}
    for row in rows:
        name = row["id"]
        seen[name] = seen.get(name, 0) + 1
        if seen[name] > 1:
            row["id"] = f"{name}~{seen[name]}"

"""Features of the rows of a task: representations from files of ``dplm2 embed``, or made here.

Shapes: N rows, L residues, F features.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from dplm2.core.errors import DPLM2Error
from dplm2.core.fasta import clean_sequence
from dplm2.core.text import shown
from dplm2.generation.inputs import read_targets
from dplm2.generation.model import DPLM2
from dplm2.generation.proteins import TrackChoice, read_proteins
from dplm2.generation.task import Target
from dplm2.representations.tasks import Task

_TRACKS = {"both": ("sequence", "structure"), "sequence": ("sequence",), "structure": ("structure",)}


def proteins_of(task: Task, path: Path, model: DPLM2 | None, tracks: TrackChoice = "both") -> list[Target]:
    """The proteins that a task table describes, each once; without a model, their sequences alone.

    Raises
    ------
    DPLM2Error
        If a row has neither sequence nor structure, they contradict each other, or a protein differs between rows; the
        message names the row.
    """
    found: dict[str, tuple[tuple, Target]] = {}
    for number, row in enumerate(task.rows.to_dict("records"), start=1):
        for name_column in task.name_columns:
            ending, place = name_column.removeprefix("id"), f"{path}, row {number}"
            cells = [row.get(f"{column}{ending}") for column in ("sequence", "structure", "structure_tokens")]
            described = tuple(None if _is_empty(cell) else str(cell) for cell in cells)
            name = row[name_column]
            if name not in found:
                found[name] = described, _target(name, cells, path, place, model, tracks)
            elif found[name][0] != described:
                raise DPLM2Error(f"{place}: {shown(name)} is another protein than in an earlier row")
    return [target for _, target in found.values()]


def _is_empty(cell) -> bool:  # noqa: ANN001
    return cell is None or isinstance(cell, str) and not cell.strip() or isinstance(cell, float) and np.isnan(cell)


def _target(name: str, cells: Sequence, path: Path, place: str, model: DPLM2 | None, tracks: TrackChoice) -> Target:
    sequence, file, tokens = (None if _is_empty(cell) else cell for cell in cells)
    if sequence is not None:
        sequence = clean_sequence(sequence, place, to_generate=True)
    if tokens is not None:
        tokens = _tokens(tokens, place)
    if file is not None and tokens is None:
        source = [path.parent / file]
        given = read_targets(source) if model is None else read_proteins(model, source)
        if len(given) != 1:
            raise DPLM2Error(f"{place}: {file} has {len(given)} chains; choose one, as in complex.pdb:A")
        if sequence is not None and sequence != given[0].sequence:
            raise DPLM2Error(f"{place}: the sequence of {shown(name)} is not that of {file}")
        sequence, tokens = given[0].sequence, given[0].structure_tokens
    if sequence is not None and tokens is not None and len(sequence) != len(tokens):
        raise DPLM2Error(f"{place}: {len(sequence)} residues but {len(tokens)} structure tokens")
    target = Target(name, None if tracks == "structure" else sequence, None if tracks == "sequence" else tokens)
    for track in _TRACKS[tracks] if tracks != "both" else ():
        if (target.sequence if track == "sequence" else target.structure_tokens) is None:
            raise DPLM2Error(f"{place}: no {track} of {shown(name)}")
    if target.sequence is None and target.structure_tokens is None:
        raise DPLM2Error(f"{place}: neither sequence, structure nor structure_tokens of {shown(name)}")
    return target


def _tokens(cell, place: str) -> np.ndarray:  # noqa: ANN001
    try:
        return np.array(cell.split() if isinstance(cell, str) else cell, dtype=np.int64)
    except ValueError as error:
        raise DPLM2Error(f"{place}: structure_tokens are numbers separated by spaces") from error


def features_of(task: Task, embeddings: pa.Table, tracks: TrackChoice = "both") -> list[np.ndarray]:
    """Features of each row: (F,), or (L, F) where residues have labels.

    The tracks are side by side: with ``both``, those that all proteins have. Of a pair of proteins a and b, the
    features are a + b, |a - b| and a * b, which do not depend on their order.

    Raises
    ------
    DPLM2Error
        If a protein has no representation, or representations are not pooled as the task needs them; the message names
        the protein.
    """
    frame = embeddings.to_pandas()
    if missing := [name for name in ("chain_id", "length", "width") if name not in frame]:
        raise DPLM2Error(f"the representations have no column {missing[0]}; create them with 'dplm2 embed'")
    frame = frame.set_index("chain_id")
    if frame.index.has_duplicates:
        raise DPLM2Error(f"two representations of {shown(frame.index[frame.index.duplicated()][0])}")
    wanted = task.rows[task.name_columns].to_numpy().ravel()
    if unknown := [name for name in wanted if name not in frame.index]:
        raise DPLM2Error(f"no representation of {shown(unknown[0])} ({len(unknown)} missing)")
    frame = frame.loc[list(dict.fromkeys(wanted))]
    columns = _columns(frame, tracks)
    vectors = {name: _vector(name, row, columns, task.is_of_residues) for name, row in frame.iterrows()}
    if not task.is_of_pairs:
        return [vectors[name] for name in task.rows["id"]]
    pairs = zip(task.rows["id"], task.rows["id_2"], strict=True)
    return [np.concatenate([x + y, abs(x - y), x * y]) for x, y in ((vectors[a], vectors[b]) for a, b in pairs)]


def _columns(frame: pd.DataFrame, tracks: TrackChoice) -> list[str]:
    """The columns of vectors to use."""
    candidates = [name for name in frame if any(str(name).startswith(f"{t}_embedding") for t in _TRACKS[tracks])]
    columns = [name for name in candidates if frame[name].notna().all()]
    for track in _TRACKS[tracks] if tracks != "both" else ():
        if not any(name.startswith(track) for name in columns):
            raise DPLM2Error(f"not all proteins have a representation of the {track} track")
    if not columns:
        raise DPLM2Error("no track is represented for all proteins; choose others or embed the same tracks of all")
    return columns


def _vector(name: str, row: pd.Series, columns: Sequence[str], of_residues: bool) -> np.ndarray:
    parts = []
    for column in columns:
        values = np.asarray(row[column], dtype=np.float32)
        wanted = row["width"] * (row["length"] if of_residues else 1)
        if len(values) != wanted or of_residues and row["length"] == 0:
            need = "one vector per residue (--pool none)" if of_residues else "one vector per protein (--pool mean)"
            raise DPLM2Error(f"{name}: its representation is not {need}")
        parts.append(values.reshape(row["length"], row["width"]) if of_residues else values)
    return np.concatenate(parts, axis=-1)

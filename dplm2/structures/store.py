"""The Parquet store of chains: columns, writing, reading.

A dataset folder contains ``part-00000.parquet`` ... (clean chains), ``rejected.parquet`` (rejects with reasons) and
``selection.parquet`` (the chains that pass the rules for the whole dataset). Arrays of coordinates are named after
their axes: L residues, A atoms (N, CA, C, O), X Cartesian coordinates.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dplm2.core import parquet
from dplm2.core.errors import DPLM2Error

BACKBONE_ATOMS = ("N", "CA", "C", "O")
SPLITS = ("train", "validation", "test")
SELECTION_FILE = "selection.parquet"
REJECTED_FILE = "rejected.parquet"
ROWS_PER_GROUP = 512
SHARDS_KEY = b"dplm2_shards"  # in the metadata of a selection

CHAINS = pa.schema(
    [
        pa.field("chain_id", pa.string(), nullable=False),
        pa.field("dataset", pa.string()),
        pa.field("source_file", pa.string(), nullable=False),
        pa.field("source_sha256", pa.string(), nullable=False),
        pa.field("source_id", pa.string(), nullable=False),
        pa.field("author_chain", pa.string(), nullable=False),
        pa.field("label_chain", pa.string()),
        pa.field("sequence", pa.string(), nullable=False),
        pa.field("length", pa.int32(), nullable=False),
        pa.field("observed", pa.int32(), nullable=False),
        pa.field("residue_index", pa.list_(pa.int32()), nullable=False),
        pa.field("insertion_codes", pa.string()),
        pa.field("backbone", pa.list_(pa.float32()), nullable=False),
        pa.field("plddt", pa.list_(pa.float32())),
        pa.field("method", pa.string()),
        pa.field("resolution", pa.float32()),
        pa.field("release_date", pa.string()),
        pa.field("helix", pa.float32()),
        pa.field("strand", pa.float32()),
        pa.field("coil", pa.float32()),
        pa.field("radius_of_gyration", pa.float32()),
        pa.field("cluster", pa.string()),
        pa.field("split", pa.string()),
    ],
    metadata={"dplm2_chains": "1"},
)
# Chains that came as structure tokens have no coordinates (empty `backbone`).
TOKENIZED = CHAINS.append(pa.field("structure_tokens", pa.list_(pa.uint16()), nullable=False))
REJECTED = pa.schema(
    [(name, pa.string()) for name in ("source_file", "source_sha256", "chain", "code", "reason")],
)
SELECTION = pa.schema([("chain_id", pa.string()), ("cluster", pa.string()), ("split", pa.string())])


def write_table(path: str | os.PathLike, table: pa.Table) -> None:
    """Write a table as Parquet (zstd), atomically."""
    parquet.write_table(path, table, rows_per_group=ROWS_PER_GROUP)


def write_chains(path: str | os.PathLike, batches: Iterable[pa.RecordBatch], schema: pa.Schema = CHAINS) -> int:
    """Write record batches of chains to one Parquet file, atomically; returns the number of rows.

    Batches are gathered into row groups of ``ROWS_PER_GROUP``, so memory does not grow with the number of chains.
    """
    count = 0

    def groups() -> Iterator[pa.Table]:
        nonlocal count
        rows, waiting = 0, []
        for batch in batches:
            waiting.append(batch)
            rows, count = rows + batch.num_rows, count + batch.num_rows
            if rows >= ROWS_PER_GROUP:
                yield pa.Table.from_batches(waiting, schema)
                rows, waiting = 0, []
        yield pa.Table.from_batches(waiting, schema)

    parquet.write_groups(path, schema, groups())
    return count


def part_files(source: str | os.PathLike, shards: int | None = None) -> list[Path]:
    """The Parquet files of a dataset folder in order of shards, or the one file given.

    Parameters
    ----------
    source
        Folder or file.
    shards
        Number of parts of the dataset; None: as recorded in ``selection.parquet``, or all without it. Further parts, of
        an earlier run, are ignored.

    Raises
    ------
    DPLM2Error
        If the file or folder does not exist, contains no part, or one of the dataset's parts is missing.
    """
    source = Path(source)
    if source.is_file():
        return [source]
    if not source.is_dir():
        raise DPLM2Error(f"{source}: no such file or folder of chains; create it with 'dplm2 structures clean'")
    shards = shards_selected(source / SELECTION_FILE) if shards is None else shards
    if shards is not None:
        parts = [source / f"part-{shard:05d}.parquet" for shard in range(shards)]
        for part in parts:
            if not part.is_file():
                raise DPLM2Error(f"{part}: missing; the dataset has {shards} parts. Clean or encode this part again")
        return parts
    parts = parts_found(source)
    if not parts:
        raise DPLM2Error(f"{source}: no part-*.parquet in this folder; create them with 'dplm2 structures clean'")
    return parts


def parts_found(folder: Path) -> list[Path]:
    """The parts in a folder without a recorded number of parts, in order.

    Raises
    ------
    DPLM2Error
        If one before the last is missing.
    """
    parts = sorted(folder.glob("part-*.parquet"))
    names = {part.name for part in parts}
    for number in range(len(parts)):
        if f"part-{number:05d}.parquet" not in names and _are_numbered(parts):
            missing = folder / f"part-{number:05d}.parquet"
            raise DPLM2Error(f"{missing}: missing, but later parts exist. Generate it again")
    return parts


def _are_numbered(parts: Sequence[Path]) -> bool:
    return all(part.stem.removeprefix("part-").isdecimal() for part in parts)


def shards_selected(selection: str | os.PathLike) -> int | None:
    """Number of parts of a dataset when ``selection.parquet`` was written; None if unknown."""
    if not Path(selection).is_file():
        return None
    noted = (parquet.read_schema(selection).metadata or {}).get(SHARDS_KEY)
    if noted is not None and not noted.isdigit():
        raise DPLM2Error(f"{selection}: damaged, its number of parts is {noted[:20]!r}; {parquet.REMEDY}")
    return None if noted is None else int(noted)


def read_chains(
    sources: str | os.PathLike | Sequence[str | os.PathLike],
    columns: Sequence[str] | None = None,
    split: str | None = None,
) -> pa.Table:
    """Read chains of datasets.

    Parameters
    ----------
    sources
        Dataset folders or single ``part-*.parquet`` files (or one of either). If the folder contains
        ``selection.parquet``, chains that are not in it are dropped, and its ``cluster`` and ``split`` are used.
    columns
        Columns to read, in this order (all by default).
    split
        Only chains of this split: ``train``, ``validation`` or ``test``.

    Returns
    -------
    pyarrow.Table
        One row per chain, in the order of sources, shards and rows; see ``CHAINS`` for the columns.

    Raises
    ------
    DPLM2Error
        If a source is missing or is not a store of chains.
    """
    if split is not None and split not in SPLITS:
        raise DPLM2Error(f"unknown split {split!r}; available: {', '.join(SPLITS)}")
    wanted = list(columns) if columns is not None else CHAINS.names
    unknown = [name for name in wanted if name not in CHAINS.names]
    if unknown:
        raise DPLM2Error(f"chains have no column {', '.join(unknown)}; available: {', '.join(CHAINS.names)}")
    sources = [sources] if isinstance(sources, str | os.PathLike) else sources
    parts = [_read_part(part, wanted, split) for source in sources for part in part_files(source)]
    schema = pa.schema([CHAINS.field(name) for name in wanted])
    return pa.concat_tables(parts) if parts else schema.empty_table()


def _read_part(path: Path, wanted: list[str], split: str | None) -> pa.Table:
    needed = list(dict.fromkeys([*wanted, "chain_id", "split"]))
    table = read_columns(path, [CHAINS.field(name) for name in needed], "a store of chains")
    selection = path.parent / SELECTION_FILE
    if selection.is_file():
        table = _select(table, read_selection(selection))
    if split is not None:
        table = table.filter(pc.equal(table["split"], split))
    return table.select(wanted)


def read_columns(path: str | os.PathLike, fields: Sequence[pa.Field], what: str) -> pa.Table:
    """Read columns of a Parquet file with the required types; nulls are rejected where a field does not allow them.

    Raises
    ------
    DPLM2Error
        If it cannot be read, or is not ``what`` is expected.
    """
    names = [field.name for field in fields]
    table = parquet.read_table(path, names)
    if missing := [name for name in names if name not in table.column_names]:
        raise DPLM2Error(f"{path}: not {what}, it has no column {', '.join(missing)}")
    if empty := [field.name for field in fields if not field.nullable and table[field.name].null_count]:
        raise DPLM2Error(f"{path}: not {what}, its column {empty[0]} has empty cells")
    try:
        return table.select(names).cast(pa.schema(fields))
    except (pa.ArrowException, ValueError) as error:
        raise DPLM2Error(f"{path}: not {what} ({' '.join(str(error).split())[:200]})") from error


def read_selection(path: str | os.PathLike) -> pa.Table:
    """Read ``selection.parquet``: the selected chains of a dataset with cluster and split."""
    return read_columns(path, list(SELECTION), "a selection of chains")


def _select(table: pa.Table, selection: pa.Table) -> pa.Table:
    position = pc.index_in(table["chain_id"], value_set=selection["chain_id"].combine_chunks())
    kept = pc.is_valid(position)
    table, position = table.filter(kept), position.filter(kept)
    for name in ("cluster", "split"):
        if name in table.column_names:
            column = selection[name].take(position)
            table = table.set_column(table.column_names.index(name), CHAINS.field(name), column)
    return table


def backbones(table: pa.Table) -> list[np.ndarray]:
    """The backbones of a table of chains.

    Returns
    -------
    list of numpy.ndarray
        One (L, 4, 3) float32 array per row: N, CA, C, O in angstrom, NaN where an atom was not observed. The arrays are
        read-only views of the table's memory.

    Raises
    ------
    DPLM2Error
        If a chain came as structure tokens, without coordinates.
    """
    column = table["backbone"]
    if pc.any(pc.equal(pc.list_value_length(column), 0)).as_py():
        raise DPLM2Error("these chains have no coordinates; they came as structure tokens (datasets.<name>.hub)")
    found = []
    for chunk in column.chunks:
        values = chunk.values.to_numpy(zero_copy_only=False)
        offsets = chunk.offsets.to_numpy()
        found += [values[a:b].reshape(-1, 4, 3) for a, b in zip(offsets[:-1], offsets[1:], strict=True)]
    return found


def read_rejected(folder: str | os.PathLike) -> pa.Table:
    """All rejected files and chains of a dataset, each with a code and a reason."""
    path = Path(folder) / REJECTED_FILE
    if not path.is_file():
        raise DPLM2Error(f"{path}: no such file; create it with 'dplm2 structures select'")
    return read_columns(path, list(REJECTED), "a list of what was left out")

"""Chains that come as structure tokens: rows of tables, such as those of the authors' training set on the hub."""

import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from dplm2.core import hub, origins, parquet
from dplm2.core.errors import DPLM2Error
from dplm2.core.fasta import clean_sequence
from dplm2.core.text import read_lines, read_table, shown, some
from dplm2.settings.dataset import DatasetSettings
from dplm2.settings.hub import Columns, SequenceHub
from dplm2.structures.cleaning import Chain, Refusal, refuse_without_coordinates
from dplm2.structures.manifest import SourceFile, sha256_of_source
from dplm2.structures.rejects import Reject
from dplm2.structures.shards import UNSAFE, Counts, Names, write_rejects
from dplm2.structures.store import TOKENIZED, write_chains

_ROWS = 1024
_LARGEST_TOKEN = np.iinfo(np.uint16).max
_ENTRY_AND_CHAIN = re.compile(r"([0-9][A-Za-z0-9]{3})[_.:-]?([A-Za-z0-9]{0,4})")
_IN_CACHE = re.compile(r"/datasets--([^/]+)/snapshots/([0-9a-f]{40})/(.+)$")
_ON_HUB = re.compile(r"([^/]+/[^/@]+)@([0-9a-f]{40})/")
_SEPARATORS = re.compile(r"[\s,;]+")

Row = Mapping[str, Any]


def download_tables(source: SequenceHub) -> list[Path]:
    """The tables of a dataset repository on the hub, in order of their names; missing ones are downloaded.

    Raises
    ------
    DPLM2Error
        If there is no such repository or table, or a download fails.
    """
    repository = hub.look_up(*hub.split_id(source.repository), "dataset")
    origins.note(repository.name, repository.commit)
    patterns = [source.files] if isinstance(source.files, str) else source.files
    repository = hub.tables_of(repository, patterns)
    folder = hub.download(repository)
    return [folder / file for file in repository.files]


def source_files(paths: list[Path]) -> list[SourceFile]:
    """What a manifest says of tables."""
    return [SourceFile(str(path), path.stat().st_size, sha256_of_source(str(path))) for path in paths]


def place_on_hub(path: str) -> str:
    """``owner/name@commit/file`` of a table in the hub's cache, wherever that lies; other paths as they are."""
    match = _IN_CACHE.search(Path(path).as_posix())
    return f"{match[1].replace('--', '/', 1)}@{match[2]}/{match[3]}" if match else path


def note_origins(source_files: Iterable[str]) -> None:
    """Note the repositories of chains by their ``source_file``, for run.json."""
    for name, commit in {match.groups() for match in map(_ON_HUB.match, source_files) if match}:
        origins.note(name, commit)


def read_rows(path: str | os.PathLike, columns: list[str]) -> Iterator[Row]:
    """Yield the rows of a table: Parquet, Arrow, CSV, TSV or JSON lines.

    Raises
    ------
    DPLM2Error
        If it cannot be read, or lacks a column; the message lists those that it has.
    """
    kind = Path(path).name.lower().removesuffix(".gz").rsplit(".", 1)[-1]
    read: Callable[[Path, list[str]], Iterator[Row]] = {
        "parquet": _of_parquet, "arrow": _of_arrow, "csv": _of_text, "tsv": _of_text
    }.get(kind, _of_json)  # fmt: skip
    yield from read(Path(path), columns)


def _of_parquet(path: Path, columns: list[str]) -> Iterator[Row]:
    _refuse_missing(path, columns, parquet.read_schema(path).names)
    for batch in parquet.read_batches(path, columns, _ROWS):
        yield from batch.to_pylist()


def _of_arrow(path: Path, columns: list[str]) -> Iterator[Row]:
    try:
        with pa.memory_map(str(path)) as file:
            stream = pa.ipc.open_stream(file)
            _refuse_missing(path, columns, stream.schema.names)
            for batch in stream:
                for start in range(0, len(batch), _ROWS):
                    yield from batch.select(columns).slice(start, _ROWS).to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise DPLM2Error(f"{path}: cannot be read as Arrow ({' '.join(str(error).split())[:200]})") from error


def _of_text(path: Path, columns: list[str]) -> Iterator[Row]:
    for number, row in enumerate(read_table(path)):
        if number == 0:
            _refuse_missing(path, columns, [name for name in row if name is not None])
        yield row


def _of_json(path: Path, columns: list[str]) -> Iterator[Row]:
    for number, line in enumerate(read_lines(path), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, dict):
            raise DPLM2Error(f"{path}, line {number}: not JSON lines (an object in each line)")
        if number == 1:
            _refuse_missing(path, columns, list(row))
        yield row


def _refuse_missing(path: Path, columns: list[str], present: list[str]) -> None:
    if missing := [name for name in columns if name not in present]:
        raise DPLM2Error(
            f"{path}: has no column {', '.join(missing)}; it has {some(present, 20)}. Name the columns in hub.columns"
        )


def clean_tables(
    files: list[SourceFile],
    settings: DatasetSettings,
    dataset: str,
    chains_path: str | os.PathLike,
    rejected_path: str | os.PathLike,
) -> Counts:
    """Clean the tables of one shard into a Parquet file of chains (`TOKENIZED`) and one of rejects.

    Parameters
    ----------
    files
        The lines of the shard's manifest.
    settings
        The dataset's settings, with ``hub``.
    dataset
        Its name, for the column ``dataset``.
    chains_path, rejected_path
        Output files.
    """
    counts, rejects, names = Counts(files=len(files)), [], Names()

    def batches() -> Iterator[pa.RecordBatch]:
        for file in files:
            if file.problem:
                rejects.append(Reject(file.path, file.sha256, "", "not_fetched", file.problem))
                continue
            for batch in _cleaned(file, settings, rejects):
                yield names.apply(batch, dataset)

    counts.chains = write_chains(chains_path, batches(), TOKENIZED)
    counts.hashes = {file.path: file.sha256 for file in files}
    write_rejects(rejected_path, rejects, counts)
    return counts


def _cleaned(file: SourceFile, settings: DatasetSettings, rejects: list[Reject]) -> Iterator[pa.RecordBatch]:
    columns, stem, kept = settings.hub.columns, Path(file.path).name.split(".")[0], []
    place = place_on_hub(file.path)
    named = [name for name in dict(columns).values() if name is not None]
    for number, row in enumerate(read_rows(file.path, named), 1):
        name = str(row[columns.chain_id] or "") if columns.chain_id else f"{stem}-{number}"
        outcome = _clean_row(row, columns, name, settings)
        if isinstance(outcome, Refusal):
            rejects.append(Reject(f"{place}:{number}", file.sha256, *outcome.__dict__.values()))
            continue
        kept.append({**outcome, "source_file": f"{place}:{number}", "source_sha256": file.sha256})
        if len(kept) == _ROWS:
            yield pa.RecordBatch.from_pylist(kept, TOKENIZED)
            kept = []
    if kept:
        yield pa.RecordBatch.from_pylist(kept, TOKENIZED)


def _clean_row(row: Row, columns: Columns, name: str, settings: DatasetSettings) -> dict[str, Any] | Refusal:
    """The columns of `TOKENIZED` of a row, or why it is rejected."""
    try:
        tokens = _tokens(row[columns.structure_tokens])
        chain = _chain(row, columns, name, len(tokens))
    except (DPLM2Error, ValueError) as error:
        return Refusal(name, "invalid_row", str(error))
    if refusal := refuse_without_coordinates(chain, settings.filters):
        return refusal
    entry = _ENTRY_AND_CHAIN.fullmatch(name)
    cluster = row[columns.cluster] if columns.cluster else None
    return {
        "chain_id": UNSAFE.sub("_", name).strip("._-") or "chain",
        "source_id": f"{entry[1]}:{entry[2]}" if entry else f"{name}:",
        "author_chain": entry[2] if entry else "",
        "sequence": chain.sequence,
        "length": len(chain),
        "observed": len(chain),
        "residue_index": chain.residue_index,
        "backbone": [],
        "plddt": chain.plddt,
        "resolution": chain.resolution,
        "cluster": None if cluster is None else str(cluster),
        "structure_tokens": tokens[chain.residue_index - 1],
    }


def _chain(row: Row, columns: Columns, name: str, length: int) -> Chain:
    """A row as a chain; each residue counts as observed, and its number is its place in the row."""
    sequence = clean_sequence(str(row[columns.sequence] or ""), "the sequence")
    if not sequence:
        raise ValueError("no sequence")
    if len(sequence) != length:
        raise ValueError(f"{length} structure tokens, but {len(sequence)} residues")
    plddt = _numbers(row[columns.plddt], "pLDDT") if columns.plddt else None
    if plddt is not None and len(plddt) not in (1, length):
        raise ValueError(f"{len(plddt)} values of pLDDT, but {length} residues")
    resolution = _numbers(row[columns.resolution], "resolution") if columns.resolution else None
    return Chain(
        author_chain=name,
        label_chain=None,
        sequence=re.sub("[^ACDEFGHIKLMNPQRSTVWY]", "X", sequence),
        residue_index=np.arange(1, length + 1, dtype=np.int32),
        insertion_codes=None,
        backbone_LAX=np.zeros((length, 4, 3), np.float32),
        plddt=None if plddt is None else np.broadcast_to(plddt, length).astype(np.float32),
        method=None,
        resolution=None if resolution is None else float(resolution[0]),
        release_date=None,
        predicted=plddt is not None,
    )


def _tokens(cell: Any) -> np.ndarray:
    """Structure tokens (L,) of a cell."""
    values = _numbers(cell, "structure tokens")
    if values is None:
        raise ValueError("no structure tokens")
    wrong = values[(values < 0) | (values > _LARGEST_TOKEN) | (values != np.floor(values))]
    if len(wrong):
        raise ValueError(f"{wrong[0]:g} is not a structure token")
    return values.astype(np.uint16)


def _numbers(cell: Any, what: str) -> np.ndarray | None:
    """The numbers of a cell: a list, a number, or text that lists them; None if it is empty."""
    if isinstance(cell, str):
        cell = [part for part in _SEPARATORS.split(cell.strip(" []")) if part]
    values = cell if isinstance(cell, list) else [] if cell is None else [cell]
    if not values:
        return None
    try:
        numbers = np.array(values, np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{what}: {shown(str(cell))} is not a list of numbers") from error
    if numbers.ndim != 1 or not np.isfinite(numbers).all():
        raise ValueError(f"{what}: {shown(str(cell))} is not a list of numbers")
    return numbers

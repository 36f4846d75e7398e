"""Sequences of the sequence stage: streamed from FASTA or Parquet, stored on disk as memory-mapped ids.

Memory does not grow with the number of sequences (UniRef50 has 42 million).
"""

import logging
import os
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from dplm2.core import artifacts, parquet
from dplm2.core.errors import DPLM2Error
from dplm2.core.fasta import clean_sequence, has_gaps, read_records, say_gaps
from dplm2.core.inputs import hash_of
from dplm2.core.locks import locked
from dplm2.core.text import some
from dplm2.language.vocabulary import Vocabulary
from dplm2.structures.tokenized import read_rows

_COLUMN = "sequence"
_ROWS_PER_BATCH = 8192
_META, _IDS, _ENDS, _LENGTHS = "sequences.json", "ids.bin", "ends.bin", "lengths.bin"
_FORMAT = 3
_log = logging.getLogger(__name__)


def digests_of(paths: Sequence[str | os.PathLike], state: str | os.PathLike) -> dict[str, str]:
    """SHA-256 of each sequence file, cached in the state folder.

    Raises
    ------
    DPLM2Error
        If a file cannot be read.
    """
    try:
        return {str(path): hash_of(path, state) for path in paths}
    except OSError as error:
        raise DPLM2Error(f"{error.filename}: cannot be read as a sequence file ({error.strerror})") from error


def read_sequences(path: str | os.PathLike, column: str | None = None) -> Iterator[str]:
    """Yield the sequences of a FASTA or Parquet file (column ``sequence``), cleaned as in `dplm2.core.fasta`.

    With ``column``, the file is a table of any format of `dplm2.structures.tokenized`, and the column is read.

    Raises
    ------
    DPLM2Error
        If the file is missing or of neither format, or a sequence is invalid; the message names file and record.
    """
    path = Path(path)
    if not path.is_file():
        raise DPLM2Error(f"{path}: no such sequence file")
    if column is not None:
        yield from _cleaned((row[column] for row in read_rows(path, [column])), path)
    elif path.suffix == ".parquet":
        yield from _cleaned(_column(path), path)
    else:
        yield from (record.sequence for record in read_records(path))


def _cleaned(texts: Iterable[str | None], path: Path) -> Iterator[str]:
    row, empty, gapped, first_gapped = 0, 0, 0, 0
    for text in texts:
        row += 1
        sequence = clean_sequence(text or "", f"{path}, row {row}")
        if not sequence:
            empty += 1
            continue
        if has_gaps(text):
            gapped, first_gapped = gapped + 1, first_gapped or row
        yield sequence
    if empty:
        _log.warning("%s: skipped %d rows without a sequence", path, empty)
    if gapped:
        say_gaps(path, some([f"row {first_gapped}"], count=gapped))


def _column(path: Path) -> Iterator[str | None]:
    names = parquet.read_schema(path).names
    if _COLUMN not in names:
        raise DPLM2Error(f"{path}: no column {_COLUMN!r}; it has {some(names)}")
    for batch in parquet.read_batches(path, [_COLUMN], _ROWS_PER_BATCH):
        yield from batch.column(0).to_pylist()


class SequenceStore:
    """Sequences as one byte per residue, with the end of each; memory-mapped from disk, or in memory.

    Attributes
    ----------
    lengths
        Number of residues of each sequence (int32).
    names
        Name of each sequence, for messages.
    """

    def __init__(self, ids: np.ndarray, ends: np.ndarray, lengths: np.ndarray, names: Sequence[str]) -> None:
        self._ids, self._ends, self.lengths, self.names = ids, ends, lengths, names

    @classmethod
    def of(cls, sequences: Sequence[str], names: Sequence[str] | None = None) -> "SequenceStore":
        """A store in memory."""
        if not sequences:
            raise DPLM2Error("there are no sequences to train on")
        lengths = np.array([len(sequence) for sequence in sequences], dtype=np.int32)
        ids = Vocabulary().encode_sequence("".join(sequences)).astype(np.uint8)
        names = SequenceNames([("", len(sequences))]) if names is None else names
        return cls(ids, np.cumsum(lengths, dtype=np.int64), lengths, names)

    @classmethod
    def open(cls, folder: str | os.PathLike) -> "SequenceStore":
        """The store in a folder that `build` wrote."""
        kinds = {_IDS: np.uint8, _ENDS: np.int64, _LENGTHS: np.int32}
        arrays = (np.memmap(Path(folder) / name, dtype=kind, mode="r") for name, kind in kinds.items())
        return cls(*arrays, SequenceNames(artifacts.read_json(Path(folder) / _META)["counts"]))

    @classmethod
    def build(
        cls, sources: Sequence[str | os.PathLike], folder: str | os.PathLike, columns: Mapping[str, str] | None = None
    ) -> "SequenceStore":
        """Open the store of these files in ``folder``, building it if it is missing or of other files.

        If several processes do so, one builds it and the others wait. ``columns`` names the column of each source that
        is a table from elsewhere (see `read_sequences`).

        Raises
        ------
        DPLM2Error
            If a file cannot be read, a letter is not in the vocabulary, or there are no sequences.
        """
        folder = Path(folder)
        stats = [(str(Path(p).resolve()), Path(p).stat()) for p in sources if Path(p).is_file()]
        contents = {"format": _FORMAT, "files": [[name, stat.st_size, stat.st_mtime_ns] for name, stat in stats]}
        artifacts.make_folder(folder)
        meta = folder / _META
        with locked(folder / "lock"):
            if not (meta.is_file() and artifacts.read_json(meta).items() >= contents.items()):
                meta.unlink(missing_ok=True)
                artifacts.write_json(meta, {**contents, "counts": cls._write(sources, folder, columns or {})})
        return cls.open(folder)

    @staticmethod
    def _write(sources: Sequence[str | os.PathLike], folder: Path, columns: Mapping[str, str]) -> list[tuple[str, int]]:
        """Write the arrays; returns the number of sequences of each file."""
        vocabulary, end, counts = Vocabulary(), 0, []
        with ExitStack() as stack:
            paths = [stack.enter_context(artifacts.atomic_path(folder / name)) for name in (_IDS, _ENDS, _LENGTHS)]
            ids, ends, lengths = (stack.enter_context(path.open("wb")) for path in paths)
            for source in sources:
                number = 0
                for sequence in read_sequences(source, columns.get(str(source))):
                    number += 1
                    encoded = vocabulary.encode_sequence(sequence)
                    end += len(encoded)
                    ids.write(encoded.astype(np.uint8).tobytes())
                    ends.write(np.int64(end).tobytes())
                    lengths.write(np.int32(len(encoded)).tobytes())
                counts.append((str(source), number))
            if not end:
                raise DPLM2Error(f"no sequence in {', '.join(map(str, sources))}")
        return counts

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: int) -> np.ndarray:
        """Ids (L,) of a sequence."""
        start = int(self._ends[index - 1]) if index else 0
        return np.asarray(self._ids[start : int(self._ends[index])]).astype(np.int64)


class SequenceNames(Sequence):
    """Names of sequences by file and number, generated on demand, since there may be millions.

    Parameters
    ----------
    counts
        The files in order, with their numbers of sequences.
    """

    def __init__(self, counts: Sequence[tuple[str, int]]) -> None:
        self._files = [file for file, _ in counts]
        self._starts = np.cumsum([0, *(count for _, count in counts)]).tolist()

    def __len__(self) -> int:
        return self._starts[-1]

    def __getitem__(self, index: int) -> str:
        if not 0 <= index < len(self):
            raise IndexError(index)
        file = bisect_right(self._starts, index) - 1
        number = f"sequence {index - self._starts[file] + 1}"
        return f"{number} of {self._files[file]}" if self._files[file] else number

"""The FASTA reader of all commands and of the Python API, and a writer.

The rules, the same for all inputs:

- Letters are the 20 amino acids, X (unknown) and B, Z, U, O, in upper or lower case. Where residues may be left open
  (``generate``, ``embed``), ``?`` denotes one.
- Gaps (``-`` and ``.``) are removed, with one warning per file.
- ``*`` at the end of a sequence is removed. Within a sequence it is an error, as are J (leucine or isoleucine, for
  which the models have no token), digits and everything else; the message gives file, record and position (counted
  without white space).
- A record without residues is skipped with a warning. (In Python, an empty sequence is an error instead, since results
  are in the order of the inputs.)
- A record is named by the first word of its header. Records with the same first word are named by their whole headers;
  if these are equal too, ``-2``, ``-3``, ... is appended. A header without a name gives ``record-<number>``. Each case
  is reported by a warning.
- Tables contain full names; `dplm2.core.names.file_names` derives file names from them.
- Lines that begin with ``;`` or ``#`` are comments. Encodings, line ends and gzip: `dplm2.core.text`.
- A record of more than `LONGEST_RECORD` residues is an error: it is not a protein.
"""

import logging
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from dplm2.core.artifacts import write_text
from dplm2.core.errors import DPLM2Error
from dplm2.core.names import numbered
from dplm2.core.text import read_lines, shortened, shown, some

ENDINGS = (".fasta", ".fas", ".fa", ".faa", ".fna")
LETTERS = "ACDEFGHIKLMNPQRSTVWYXBZUO"
TO_GENERATE = "?"
COMMENTS = ";#"
LONGEST_RECORD = 1_000_000  # residues; the longest known protein has 45,000
_GAPS = "-."
_WITHOUT_GAPS = str.maketrans("", "", _GAPS)
_WRONG = {extra: re.compile(f"[^{LETTERS}{LETTERS.lower()}{re.escape(_GAPS + extra)}]") for extra in ("", TO_GENERATE)}
_REASONS = {
    "J": ("is leucine or isoleucine, for which the models have no token", "write L, I or X"),
    "*": ("is a stop codon, but residues follow", "cut the sequence there, or write X"),
}
_STRANGER = "is not an amino acid", "write X for an unknown residue"
_log = logging.getLogger(__name__)


class Record(NamedTuple):
    """A record of a FASTA file: its number from 1, its header without ``>``, and its letters."""

    number: int
    header: str
    sequence: str

    @property
    def word(self) -> str:
        """The first word of the header, empty if there is none."""
        return (self.header.split(maxsplit=1) or [""])[0]


def is_fasta(path: str | os.PathLike) -> bool:
    """Whether a file is FASTA, by its extension (also before ``.gz``) or by a first line with ``>``."""
    path = Path(path)
    if not path.is_file():
        return False
    if path.name.lower().removesuffix(".gz").endswith(ENDINGS):
        return True
    try:
        return next((line for line in read_lines(path) if line.strip()), "").lstrip().startswith(">")
    except DPLM2Error:
        return False


def read_fasta(path: str | os.PathLike, to_generate: bool = False) -> dict[str, str]:
    """Sequences of a FASTA file by name.

    Parameters
    ----------
    path
        The file, plain or gzipped.
    to_generate
        Whether ``?`` is allowed in place of a residue.

    Raises
    ------
    DPLM2Error
        If the file cannot be read, contains no sequence, or a sequence is invalid; the message names file and record.
    """
    records = list(read_records(path, to_generate))
    if not records:
        raise DPLM2Error(f"{path}: no sequences")
    return dict(zip(_names(records, path), (record.sequence for record in records), strict=True))


def read_records(path: str | os.PathLike, to_generate: bool = False) -> Iterator[Record]:
    """Yield the records of a FASTA file that have residues, cleaned; parameters and errors as of `read_fasta`.

    One record at a time is in memory. What was removed or skipped is reported when all have been read.
    """
    gapped, empty = _Tally(), _Tally()
    for record in split_records(read_lines(path), path):
        sequence = _plain(record.sequence)
        if not sequence:
            sequence = clean_sequence(record.sequence, _place(path, record), to_generate)
            if not sequence:
                empty.add(_called(record))
                continue
            if has_gaps(record.sequence):
                gapped.add(_called(record))
        yield Record(record.number, record.header, sequence)
    if empty.count:
        _log.warning("%s: skipped records without a sequence: %s", path, empty)
    if gapped.count:
        say_gaps(path, str(gapped))


def write_fasta(path: str | os.PathLike, records: Iterable[tuple[str, str]]) -> None:
    """Write headers (without ``>``) and sequences, one line each, atomically."""
    write_text(path, fasta_text(records))


def fasta_text(records: Iterable[tuple[str, str]]) -> str:
    """Headers (without ``>``) and sequences as the text of a FASTA file, one line each."""
    return "".join(f">{header}\n{sequence}\n" for header, sequence in records)


def split_records(lines: Iterable[str], source: str | os.PathLike) -> Iterator[Record]:
    """Yield the records of the lines of a FASTA file, letters unchanged.

    Raises
    ------
    DPLM2Error
        If a sequence precedes the first header, or a record is too long; the message begins with ``source``.
    """
    number, header, pieces, length = 0, None, [], 0
    for line in map(str.strip, lines):
        first = line[:1]
        if first == ">":
            if header is not None:
                yield Record(number, header, "".join(pieces))
            number, header, pieces, length = number + 1, line[1:].strip(), [], 0
        elif first and first not in COMMENTS:
            if header is None:
                raise DPLM2Error(f"{source}: not FASTA, its first line does not begin with '>' but {shown(line[:20])}")
            pieces.append(line)
            length += len(line)
            if length > LONGEST_RECORD:
                place = _place(source, Record(number, header, ""))
                raise DPLM2Error(f"{place}: more than {LONGEST_RECORD} letters; not a protein")
    if header is not None:
        yield Record(number, header, "".join(pieces))


def clean_sequence(text: str, place: str, to_generate: bool = False) -> str:
    """A sequence in upper case, without gaps, white space and ``*`` at its end.

    Parameters
    ----------
    text
        The letters as given.
    place
        Beginning of error messages: file and record.
    to_generate
        Whether ``?`` is allowed in place of a residue.

    Raises
    ------
    DPLM2Error
        If a letter is not a residue; the message says which and where.
    """
    if not isinstance(text, str):
        raise DPLM2Error(f"{place}: a sequence is text, not {shown(text)}")
    text = "".join(text.split()).rstrip(f"*{_GAPS}")
    if wrong := _WRONG[TO_GENERATE if to_generate else ""].search(text):
        reason, remedy = _REASONS.get(wrong[0].upper(), _STRANGER)
        raise DPLM2Error(f"{place}: {wrong[0]!r} {reason} (position {wrong.start() + 1}); {remedy}")
    return text.translate(_WITHOUT_GAPS).upper()


def _plain(text: str) -> str:
    """The sequence in upper case if there is nothing to clean, else None: a fast path for nearly all sequences."""
    sequence = text.upper()
    return sequence if text.isascii() and text.isalpha() and "J" not in sequence else ""


def clean_sequences(sequences: Mapping[str, str], to_generate: bool = False) -> dict[str, str]:
    """Sequences from memory, by name, cleaned like those of files; see `clean_sequence`.

    Raises
    ------
    DPLM2Error
        If a letter is not a residue, or a sequence is empty.
    """
    cleaned, gapped = {}, _Tally()
    for name, text in sequences.items():
        cleaned[name] = clean_sequence(text, name, to_generate)
        if not cleaned[name]:
            raise DPLM2Error(f"{name}: no residues")
        if has_gaps(text):
            gapped.add(name)
    if gapped.count:
        say_gaps("sequences", str(gapped))
    return cleaned


def has_gaps(text: str) -> bool:
    """Whether there are gaps among letters."""
    return "-" in text or "." in text


def say_gaps(source: str | os.PathLike, names: str) -> None:
    """Warn about gaps that were removed from the sequences ``names``."""
    _log.warning("%s: removed gaps ('-' and '.') from: %s", source, names)


class _Tally:
    """Counts affected records and keeps the names of the first; there may be many millions."""

    def __init__(self, most: int = 5) -> None:
        self.count, self._first, self._most = 0, [], most

    def add(self, name: str) -> None:
        self.count += 1
        if len(self._first) < self._most:
            self._first.append(name)

    def __str__(self) -> str:
        return some(self._first, self._most, self.count)


def _called(record: Record) -> str:
    return record.word or f"record-{record.number}"


def _place(path: str | os.PathLike, record: Record) -> str:
    return f"{path}, record {record.number}" + (f" ({shortened(record.word)})" if record.word else "")


def _names(records: list[Record], path: str | os.PathLike) -> list[str]:
    """A name for each record; see the rules above."""
    words = [_called(record) for record in records]
    times = Counter(words)
    names = [record.header if times[word] > 1 else word for record, word in zip(records, words, strict=True)]
    names = [name or word for name, word in zip(names, words, strict=True)]
    if unnamed := [name for record, name in zip(records, names, strict=True) if not record.word]:
        _log.warning("%s: headers without a name: %s", path, some(unnamed))
    if whole := [name for name, word in zip(names, words, strict=True) if name != word]:
        _log.warning("%s: records with the same first word are named by their whole headers: %s", path, some(whole))
    unique = numbered(names)
    if changed := [new for name, new in zip(names, unique, strict=True) if name != new]:
        _log.warning("%s: numbered records with the same name: %s", path, some(changed))
    return unique

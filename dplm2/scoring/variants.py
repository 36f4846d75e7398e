"""Proteins whose mutations are scored, and tables of mutations."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from dplm2.core.errors import DPLM2Error
from dplm2.core.fasta import is_fasta
from dplm2.core.text import read_table, shown, some
from dplm2.generation.inputs import chains_of, source_of
from dplm2.generation.model import DPLM2
from dplm2.generation.proteins import TrackChoice, read_proteins
from dplm2.generation.task import Target
from dplm2.scoring.mutations import Mutant, Numbered

Numbering = Literal["sequence", "author"]
NUMBERINGS: tuple[Numbering, ...] = ("sequence", "author")
PROTEIN_COLUMN, MUTANT_COLUMN = "protein", "mutant"


@dataclass(frozen=True)
class Variants:
    """Mutants of one protein.

    Attributes
    ----------
    target
        The wild type.
    protein
        Its sequence with the numbers that mutations refer to.
    rows
        Places in the given list of mutations.
    texts, mutants
        The mutations as given, and parsed.
    """

    target: Target
    protein: Numbered
    rows: list[int]
    texts: list[str]
    mutants: list[Mutant]


def read_wild_types(
    model: DPLM2,
    sources: Sequence[str | os.PathLike],
    tracks: TrackChoice = "both",
    numbering: Numbering = "sequence",
    first: int = 1,
) -> list[tuple[Target, Numbered]]:
    """Proteins and the numbers of their residues.

    Parameters
    ----------
    model, sources, tracks
        As of `dplm2.generation.proteins.read_proteins`.
    numbering
        ``sequence``: from ``first`` on. ``author``: the numbers and insertion codes of structure files.
    first
        Number of the first residue.

    Raises
    ------
    DPLM2Error
        As `read_proteins`, and if a source has no numbers, or a residue number occurs twice.
    """
    if tracks == "structure":
        raise DPLM2Error("mutations need a sequence: --tracks both or sequence")
    targets = read_proteins(model, sources, tracks)
    if numbering == "sequence":
        return [(target, Numbered.from_first(target.name, target.sequence, first)) for target in targets]
    numbers = [numbers for source in sources for numbers in _author_numbers(source)]
    return [(t, _numbered(t, own)) for t, own in zip(targets, numbers, strict=True)]


def _author_numbers(source: str | os.PathLike) -> list[list[str]]:
    path, chosen = source_of(source)
    if not path.is_file() or is_fasta(path) or path.suffix == ".parquet":
        raise DPLM2Error(f"{path}: --numbering author needs structure files, given one by one")
    chains = [chain for chain in chains_of(path) if chosen is None or chain.author_chain in chosen]
    return [
        [f"{number}{code.strip()}" for number, code in zip(chain.number.tolist(), chain.insertion, strict=True)]
        for chain in chains
    ]


def _numbered(target: Target, numbers: list[str]) -> Numbered:
    if twice := sorted({number for number in numbers if numbers.count(number) > 1}):
        raise DPLM2Error(f"{target.name}: residue numbers occur twice ({some(twice)}); use --numbering sequence")
    return Numbered(target.name, target.sequence, numbers)


def read_mutations(path: str | os.PathLike) -> list[tuple[str, str, str]]:
    """Place, protein and mutant of each row of a table with a column ``mutant`` and, for several proteins, ``protein``.

    Raises
    ------
    DPLM2Error
        If the table cannot be read, has no rows or no column ``mutant``.
    """
    rows = list(read_table(path))
    if not rows:
        raise DPLM2Error(f"{path}: no rows")
    if MUTANT_COLUMN not in rows[0]:
        raise DPLM2Error(f"{path}: no column {MUTANT_COLUMN}")
    return [
        (f"{path}, row {number}", (row.get(PROTEIN_COLUMN) or "").strip(), row[MUTANT_COLUMN] or "")
        for number, row in enumerate(rows, start=1)
    ]


def assigned(
    wild_types: Sequence[tuple[Target, Numbered]], mutations: Sequence[tuple[str, str, str]]
) -> Iterator[Variants]:
    """Mutants of each protein that has any.

    Raises
    ------
    DPLM2Error
        If a row names no protein although there are several, or one that is not there; or as `Numbered.mutant`.
    """
    by_name = {target.name: index for index, (target, _) in enumerate(wild_types)}
    own: list[list[int]] = [[] for _ in wild_types]
    for row, (place, name, text) in enumerate(mutations):
        if not name and len(wild_types) > 1:
            raise DPLM2Error(f"{place}: {text}: names no protein (column {PROTEIN_COLUMN}), and there are several")
        if name and name not in by_name:
            raise DPLM2Error(f"{place}: {text}: no protein {shown(name)}; there: {some(list(by_name))}")
        own[by_name[name] if name else 0].append(row)
    for (target, protein), rows in zip(wild_types, own, strict=True):
        if rows:
            texts = [mutations[row][2].strip() for row in rows]
            places = [mutations[row][0] for row in rows]
            mutants = [protein.mutant(text, place) for text, place in zip(texts, places, strict=True)]
            yield Variants(target, protein, rows, texts, mutants)

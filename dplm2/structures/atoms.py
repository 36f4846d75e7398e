"""The content of a structure file of any format: atoms of its first model, polymer sequences, header."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np


class UnreadableError(Exception):
    """A file or an archive member cannot be read; the message gives the reason in one sentence."""


@dataclass(frozen=True)
class Atoms:
    """The atoms of one model as columns of equal length, in the order of the file.

    Coordinates are in angstrom. ``number`` and ``insertion`` are the author's residue number and insertion code;
    ``position`` is the residue's position in the polymer sequence of its entity, counted from 1, or 0 if the file has
    none. ``segment`` is the file's own identifier of a molecule within an author's chain: the segment id of PDB, the
    ``label_asym_id`` of mmCIF, or empty. ``section`` counts the TER and END records before the atom.
    """

    author_chain: np.ndarray
    label_chain: np.ndarray
    entity: np.ndarray
    number: np.ndarray
    insertion: np.ndarray
    position: np.ndarray
    residue: np.ndarray
    name: np.ndarray
    altloc: np.ndarray
    occupancy: np.ndarray
    b_factor: np.ndarray
    coords: np.ndarray
    hetero: np.ndarray
    segment: np.ndarray
    section: np.ndarray

    def __len__(self) -> int:
        return len(self.number)

    def take(self, chosen: np.ndarray) -> "Atoms":
        """The atoms selected by an index or mask."""
        return Atoms(**{name: column[chosen] for name, column in vars(self).items()})


@dataclass(frozen=True)
class Entry:
    """One structure file.

    ``polymers`` contains the residue names of full polymer sequences: by entity for mmCIF (residues have a ``position``
    in it), by author's chain for PDB. ``peptides`` are the entities that are polypeptides, or None if the file does not
    give them.
    """

    atoms: Atoms
    format: str
    polymers: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    peptides: frozenset[str] | None = None
    method: str | None = None
    resolution: float | None = None
    release_date: str | None = None
    predicted: bool = False
    monomeric: bool | None = None

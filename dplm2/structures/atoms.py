"""What a structure file says, whatever its format: the atoms of its first model, its polymer sequences, its header."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np


class UnreadableError(Exception):
    """A file or an archive member cannot be read soundly; the message says why, in one sentence."""


@dataclass(frozen=True)
class Atoms:
    """The atoms of one model as columns of equal length, in the order of the file.

    Coordinates are in angstrom. ``number`` and ``insertion`` are the author's residue number and insertion code;
    ``position`` is the residue's place in the polymer sequence of its entity, counted from 1, 0 where the file has
    none. ``segment`` is what the file itself calls one molecule within an author's chain: the segment id of PDB, the
    ``label_asym_id`` of mmCIF, empty where there is none. ``section`` counts the TER and END records before the atom.
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
        """The atoms that an index or mask chooses."""
        return Atoms(**{name: column[chosen] for name, column in vars(self).items()})


@dataclass(frozen=True)
class Entry:
    """One structure file.

    ``polymers`` holds residue names of whole polymer sequences: by entity for mmCIF (residues know their ``position``
    in it), by author's chain for PDB. ``peptides`` are the entities that are polypeptides, None where the file does
    not say.
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

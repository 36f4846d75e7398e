"""Mutations as text (``A23V:G45D``), checked against the protein that they change."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from dplm2.core.errors import DPLM2Error
from dplm2.core.text import shown

AMINO_ACIDS = "ACDEFGHIKLMNPQRSTVWY"
SEPARATOR = ":"
UNCHANGED = "WT"
_SUBSTITUTION = re.compile(r"([A-Z])(-?\d{1,9}[A-Za-z]?)([A-Z])")


@dataclass(frozen=True)
class Substitution:
    """One amino acid for another, at a position from 0."""

    position: int
    wild_type: str
    mutant: str


Mutant = tuple[Substitution, ...]
"""Substitutions at different positions; none for the wild type."""


@dataclass(frozen=True)
class Numbered:
    """A sequence whose residues have numbers.

    Attributes
    ----------
    name, sequence
        The protein.
    numbers
        The number of each residue as text, with its insertion code if it has one.
    """

    name: str
    sequence: str
    numbers: Sequence[str]

    @classmethod
    def from_first(cls, name: str, sequence: str, first: int = 1) -> "Numbered":
        """Consecutive numbers from ``first``."""
        return cls(name, sequence, [str(number) for number in range(first, first + len(sequence))])

    @cached_property
    def positions(self) -> dict[str, int]:
        """Position from 0 of each number; the first residue of equal ones."""
        return {number: position for position, number in reversed(list(enumerate(self.numbers)))}

    def mutant(self, text: str, place: str) -> Mutant:
        """The substitutions of ``A23V:G45D``; none of ``WT`` or nothing.

        Parameters
        ----------
        text
            Substitutions joined by colons.
        place
            Where it is from, for messages.

        Raises
        ------
        DPLM2Error
            If a substitution is malformed, its number is not one of the protein's, its first letter is not the
            protein's residue there, or a residue is changed twice. The message names place and substitution.
        """
        if text.strip() in ("", UNCHANGED):
            return ()
        found: dict[int, Substitution] = {}
        for part in text.strip().split(SEPARATOR):
            one = self._substitution(part.strip(), place)
            if one.position in found:
                raise DPLM2Error(f"{place}: {shown(text)} changes residue {self.numbers[one.position]} twice")
            found[one.position] = one
        return tuple(found[position] for position in sorted(found))

    def _substitution(self, text: str, place: str) -> Substitution:
        match = _SUBSTITUTION.fullmatch(text)
        if match is None:
            raise DPLM2Error(f"{place}: {shown(text)} is no substitution such as A23V (several: A23V:G45D)")
        wild_type, number, mutant = match.groups()
        if mutant not in AMINO_ACIDS or wild_type not in AMINO_ACIDS:
            wrong = mutant if mutant not in AMINO_ACIDS else wild_type
            raise DPLM2Error(f"{place}: {text}: {wrong} is not one of the 20 amino acids")
        position = self.positions.get(number)
        if position is None:
            there = f"{self.numbers[0]} to {self.numbers[-1]}"
            raise DPLM2Error(f"{place}: {text}: {self.name} has no residue {number}; its residues are {there}")
        if self.sequence[position] != wild_type:
            raise DPLM2Error(
                f"{place}: {text}: residue {number} of {self.name} is {self.sequence[position]}, not {wild_type}"
            )
        return Substitution(position, wild_type, mutant)


def mutated(sequence: str, mutant: Mutant) -> str:
    """The sequence with its substitutions."""
    letters = list(sequence)
    for one in mutant:
        letters[one.position] = one.mutant
    return "".join(letters)


def all_single(protein: Numbered) -> list[tuple[str, Mutant]]:
    """All substitutions by each of the 20 amino acids, and their texts; none where the residue is unknown."""
    return [
        (f"{letter}{protein.numbers[position]}{other}", (Substitution(position, letter, other),))
        for position, letter in enumerate(protein.sequence)
        if letter in AMINO_ACIDS
        for other in AMINO_ACIDS
        if other != letter
    ]

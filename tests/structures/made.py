"""Synthetic chains for cases that real files do not isolate: a straight backbone with valid bonds, as PDB text."""

import numpy as np

from dplm2.settings.dataset import DatasetSettings
from dplm2.structures.atoms import Entry
from dplm2.structures.cleaning import Chain, Refusal, clean_entry
from dplm2.structures.components import THREE_LETTERS
from dplm2.structures.reading import parse

STEP, START = 3.8, 5.0
# Along x: N 0, CA 1.46, C 2.47, so that C to the next N is 1.33 angstrom; O beside C.
ATOMS = {"N": (0.0, 0.0, 0.0), "CA": (1.46, 0.0, 0.0), "C": (2.47, 0.0, 0.0), "O": (2.47, 1.23, 0.0)}


def settings(**sections) -> DatasetSettings:
    """Settings of a dataset; filters that a test does not set are off, so that one rule is tested at a time."""
    off = dict.fromkeys(("min_length", "max_length", "min_observed_fraction", "max_unknown_fraction"))
    return DatasetSettings.make(**{"files": "-", **sections, "filters": {**off, **sections.get("filters", {})}})


def atom(
    name="CA", residue="ALA", chain="A", number=1, at=(0.0, 0.0, 0.0), *,
    altloc="", insertion="", occupancy=1.0, b_factor=20.0, record="ATOM",
) -> str:  # fmt: skip
    """One line of PDB text, columns as in the format's description of version 3.3."""
    x, y, z = at
    return (
        f"{record:<6}{1:>5} {' ' + name if len(name) < 4 else name:<4}{altloc or ' '}{residue:>3} {chain}{number:>4}"
        f"{insertion or ' '}   {x:8.3f}{y:8.3f}{z:8.3f}{occupancy:6.2f}{b_factor:6.2f}          {name[0]:>2}"
    )


def residue(place: int, name="ALA", number=None, offset=(0.0, 0.0, 0.0), skip=(), **columns) -> list[str]:
    """The four backbone atoms of the residue at index ``place``; its number is one more unless given."""
    number = place + 1 if number is None else number
    base = np.array([START + STEP * place, 0.0, 0.0]) + offset
    return [
        atom(atom_name, name, number=number, at=base + position, **columns)
        for atom_name, position in ATOMS.items()
        if atom_name not in skip
    ]


def chain(sequence: str, **columns) -> list[str]:
    """A complete chain."""
    return [line for place, letter in enumerate(sequence) for line in residue(place, THREE_LETTERS[letter], **columns)]


def seqres(sequence: str, chain_id="A") -> list[str]:
    """SEQRES records of a chain."""
    names = [THREE_LETTERS[letter] for letter in sequence]
    rows = [names[i : i + 13] for i in range(0, len(names), 13)]
    return [f"SEQRES {i:>3} {chain_id} {len(names):>4}  {' '.join(row)}" for i, row in enumerate(rows, 1)]


def read(lines: list[str], **sections) -> Entry:
    """Read lines of PDB text."""
    return parse("\n".join([*lines, "END", ""]).encode(), settings(**sections).reading)


def clean(lines: list[str], **sections) -> tuple[list[Chain], list[Refusal]]:
    """Read and clean lines of PDB text."""
    return clean_entry(read(lines, **sections), settings(**sections))


def only(lines: list[str], **sections) -> Chain:
    """The only clean chain of lines of PDB text."""
    chains, refusals = clean(lines, **sections)
    assert len(chains) == 1, (chains, refusals)
    assert not refusals
    return chains[0]


def refusal(lines: list[str], **sections) -> Refusal:
    """The only refusal from lines of PDB text."""
    chains, refusals = clean(lines, **sections)
    assert not chains
    assert len(refusals) == 1
    return refusals[0]

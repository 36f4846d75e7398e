"""Residue names: which are amino acids, and the letter of the corresponding standard amino acid.

From the Chemical Component Dictionary in biotite: a modified residue has the letter of its parent (MSE is M, SEP is S),
or X if the dictionary gives no single parent. D-residues are X: a letter denotes the L-residue, and a backbone frame of
the opposite handedness would teach the wrong geometry.
"""

from collections.abc import Iterable
from functools import cache
from typing import NamedTuple

import numpy as np

LETTERS = frozenset("ACDEFGHIKLMNPQRSTVWY")
THREE_LETTERS = {
    "A": "ALA", "C": "CYS", "D": "ASP", "E": "GLU", "F": "PHE", "G": "GLY", "H": "HIS", "I": "ILE", "K": "LYS",
    "L": "LEU", "M": "MET", "N": "ASN", "P": "PRO", "Q": "GLN", "R": "ARG", "S": "SER", "T": "THR", "V": "VAL",
    "W": "TRP", "Y": "TYR", "X": "UNK",
}  # fmt: skip
# One-letter codes beyond the twenty, with the amino acid they derive from: selenocysteine, pyrrolysine.
RARE_LETTERS = {"U": "C", "O": "K"}
# Names of protonation states and disulfides in force fields and their tools: Amber, CHARMM, GROMACS (with OPLS
# and GROMOS), PDB2PQR, Schroedinger's tools.
PROTONATION_NAMES = {
    "HID": "H", "HIE": "H", "HIP": "H", "HSD": "H", "HSE": "H", "HSP": "H", "HISA": "H", "HISB": "H", "HISH": "H",
    "HISD": "H", "HISE": "H", "HISP": "H", "HIS1": "H", "HIS2": "H", "CYX": "C", "CYM": "C", "CYN": "C", "CYZ": "C",
    "CYS1": "C", "CYS2": "C", "CYSH": "C", "ASH": "D", "ASPH": "D", "ASPP": "D", "GLH": "E", "GLUH": "E", "GLUP": "E",
    "LYN": "K", "LYP": "K", "LSN": "K", "LYSH": "K", "LYSN": "K", "ARN": "R", "AR0": "R", "ARGN": "R", "TYM": "Y",
}  # fmt: skip
# Also names of small molecules (cyanide, cyclothiazide ...): amino acids only if they have a backbone.
SMALL_MOLECULES = frozenset(("AR0", "ARN", "CYN", "CYZ", "LSN", "LYP", "TYM"))
# Amber and GROMACS name the ends of a chain NMET, CGLU, NHIE ...
TERMINAL_LETTERS = ("N", "C")
STANDARD_LETTERS = {name: letter for letter, name in THREE_LETTERS.items() if letter in LETTERS}
TERMINAL_NAMES = {
    f"{end}{name}": letter
    for end in TERMINAL_LETTERS
    for name, letter in (STANDARD_LETTERS | PROTONATION_NAMES | {"HYP": "P"}).items()
    if len(name) == 3
}
FORCE_FIELD_NAMES = PROTONATION_NAMES | TERMINAL_NAMES
D_TYPES = ("D-PEPTIDE", "D-BETA", "D-GAMMA")


class Component(NamedTuple):
    """Meaning of a residue name for a protein chain."""

    amino_acid: bool
    letter: str
    d_residue: bool


STRANGER = Component(amino_acid=False, letter="X", d_residue=False)
# Reading the dictionary takes longer than cleaning fifty chains; predicted models do not need it.
STANDARD = {
    name: Component(amino_acid=True, letter=letter, d_residue=False)
    for letter, name in THREE_LETTERS.items()
    if letter in LETTERS
}


@cache
def component(name: str) -> Component:
    """Meaning of a residue name; unknown names are not amino acids.

    Usually three letters; four for chain ends in force fields. Case is ignored, except in names of sugars that differ
    only in case (``0YB`` and ``0Yb``).
    """
    if name.islower() or name.istitle():
        name = name.upper()
    if name in FORCE_FIELD_NAMES:
        return Component(name not in SMALL_MOLECULES, FORCE_FIELD_NAMES[name], d_residue=False)
    return STANDARD.get(name) or _dictionary().get(name, STRANGER)


@cache
def _dictionary() -> dict[str, Component]:
    from biotite.structure.info.ccd import get_ccd

    table = get_ccd()["chem_comp"]
    kinds = np.char.upper(table["type"].as_array())
    chosen = np.char.find(kinds, "PEPTIDE") >= 0
    chosen &= kinds != "PEPTIDE-LIKE"
    columns = (table[name].as_array()[chosen] for name in ("id", "one_letter_code", "mon_nstd_parent_comp_id"))
    rows = list(zip(*(column.tolist() for column in columns), kinds[chosen].tolist(), strict=True))
    own = {name: code for name, code, _, _ in rows}
    found = {}
    for name, code, parent, kind in rows:
        d_residue = kind.startswith(D_TYPES)
        letter = code if code in LETTERS or code in RARE_LETTERS else own.get(parent, "X")
        letter = RARE_LETTERS.get(letter, letter)
        found[name] = Component(True, "X" if d_residue or letter not in LETTERS else letter, d_residue)
    return found


def letters(names: Iterable[str]) -> str:
    """One letter for each residue name."""
    return "".join(component(name).letter for name in names)

"""Files of several molecules as written by programs: the molecule of every atom is known from its coordinates.

Molecule k is at z = 50 k angstrom, so that mixed chains are detected.
"""

from collections.abc import Sequence

import numpy as np

from dplm2.structures.cleaning import Chain
from dplm2.structures.components import THREE_LETTERS
from tests.structures.made import START, STEP, atom, residue

FIRST, SECOND = "MQIFVKTLTGKTITLEVEPSDTIENVKAKIQDKE", "MFQQEVTITAPNGLHTRPAAQFVKEAKGFTSEITVTSNGK"
APART = 50.0
TER = "TER"


def molecule(
    sequence: str, place: int = 0, *, chain="A", start=1, segment="", missing=(), oxygen=True, ter=True, **columns
) -> list[str]:
    """One molecule at its position; ``missing`` are residue numbers from 1, ``columns`` fields of its atoms."""
    lines = []
    for i, letter in enumerate(sequence):
        if i + 1 not in missing:
            offset = (0.0, 0.0, APART * place)
            lines += residue(i, THREE_LETTERS[letter], start + i, offset, chain=chain or " ", **columns)
    if oxygen:
        at = np.array([START + STEP * (len(sequence) - 1) + 2.47, -1.23, APART * place])
        name = THREE_LETTERS[sequence[-1]]
        lines.append(atom("OXT", name, chain or " ", start + len(sequence) - 1, at, **columns))
    return in_segment(lines, segment) + ([TER] if ter else [])


def in_segment(lines: Sequence[str], segment: str) -> list[str]:
    """The lines with a segment id in columns 73-76."""
    return [f"{line[:72]:<72}{segment:<4}{line[76:]}" for line in lines] if segment else list(lines)


def water(number: str = "   1", chain="A", segment="", name="HOH", coordinates="  90.000  90.000  90.000") -> str:
    """A water as an ATOM record with arbitrary number and coordinates."""
    return in_segment(
        [f"ATOM  99999  OH2 {name:<4}{chain:1}{number:>4}    {coordinates}  1.00  0.00           O"], segment
    )[0]


def places(chain: Chain) -> set[int]:
    """The molecules from which the atoms of a chain come; must be one."""
    z = chain.backbone_LAX[..., 2]
    return set(np.round(z[np.isfinite(z)] / APART).astype(int).tolist())


def observed(chain: Chain) -> str:
    """The sequence without the residues of gaps."""
    return "".join(letter for letter, there in zip(chain.sequence, chain.observed_L.tolist(), strict=True) if there)

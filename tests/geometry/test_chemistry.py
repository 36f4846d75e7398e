"""Clashes and peptide bonds of synthetic backbones with known distances."""

import numpy as np
import pytest

from dplm2.geometry.chemistry import backbone_geometry

# Van der Waals radii of Bondi (1964) in angstrom; AlphaFold's violation loss lets atoms overlap by 1.5.
RADII = {"N": 1.55, "CA": 1.7, "C": 1.7, "O": 1.52}
ATOMS = list(RADII)


def apart(length: int, first: tuple[int, str], second: tuple[int, str], distance: float) -> np.ndarray:
    """A backbone of two atoms, each given by residue and name, at a distance; all others are missing."""
    backbone = np.full((length, 4, 3), np.nan, dtype=np.float32)
    for (residue, atom), x in ((first, 0.0), (second, distance)):
        backbone[residue, ATOMS.index(atom)] = (x, 1.0, -2.0)
    return backbone


@pytest.mark.parametrize("one", ATOMS)
@pytest.mark.parametrize("other", ATOMS)
def test_atoms_clash_if_their_overlap_exceeds_the_tolerance(one, other):
    limit = RADII[one] + RADII[other] - 1.5
    for distance, clashes in ((limit - 0.01, 1), (limit + 0.01, 0), (0.5, 1)):
        found = backbone_geometry(apart(40, (3, one), (30, other), distance))
        assert found["clashes_per_100_residues"] == pytest.approx(100 * clashes / 40)


def test_neighbours_along_the_chain_do_not_clash():
    assert backbone_geometry(apart(10, (3, "CA"), (3, "O"), 1.0))["clashes_per_100_residues"] == 0
    assert backbone_geometry(apart(10, (3, "CA"), (4, "O"), 1.0))["clashes_per_100_residues"] == 0
    assert backbone_geometry(apart(10, (3, "CA"), (5, "O"), 1.0))["clashes_per_100_residues"] == 10


def test_peptide_bonds_are_measured_where_both_atoms_exist():
    """Bonds of 1.329 angstrom, broken from 12 standard deviations of 0.014 on; one of six cannot be measured."""
    lengths = [1.329, 1.329 + 0.17, 1.329 + 0.16, 1.329 - 0.17, np.nan, 1.329]
    backbone = np.full((7, 4, 3), np.nan, dtype=np.float32)
    backbone[:, 2] = [(10.0 * place, 0, 0) for place in range(7)]
    backbone[1:, 0] = [(10.0 * place + length, 0, 0) for place, length in enumerate(lengths)]
    found = backbone_geometry(backbone)
    assert found["broken_bonds"] == pytest.approx(2 / 5)
    assert found["bond_deviation"] == pytest.approx((0.17 + 0.16 + 0.17) / 5, abs=1e-5)
    alone = backbone_geometry(backbone[:1])
    assert np.isnan(alone["broken_bonds"]) and np.isnan(alone["bond_deviation"])
    assert alone["clashes_per_100_residues"] == 0

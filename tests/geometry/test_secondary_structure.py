"""Secondary structure against biotite, radius of gyration against its closed form."""

import gzip

import numpy as np
import pytest
from biotite.structure import AtomArray, annotate_sse
from biotite.structure.io.pdbx import BinaryCIFFile, get_structure

from dplm2.geometry.backbone import radius_of_gyration
from dplm2.geometry.secondary_structure import fractions, secondary_structure
from dplm2.structures.residues import clashing


def by_biotite(alpha: np.ndarray) -> np.ndarray:
    """biotite's result; residues without C-alpha are removed, so that it finds a jump in the numbering."""
    there = np.flatnonzero(np.isfinite(alpha).all(-1))
    atoms = AtomArray(len(there))
    atoms.coord, atoms.res_id = alpha[there], there + 1
    atoms.res_name[:], atoms.atom_name[:] = "ALA", "CA"
    found = np.full(len(alpha), "", "U1")
    found[there] = annotate_sse(atoms)
    return found


@pytest.fixture(scope="module")
def traces(real_chains):
    found = []
    for file in real_chains:
        with gzip.open(file) as stream:
            atoms = get_structure(BinaryCIFFile.read(stream), model=1)
        found.append(atoms[atoms.atom_name == "CA"].coord)
    return found


def test_secondary_structure_equals_biotites(traces):
    for alpha in traces:
        np.testing.assert_array_equal(secondary_structure(alpha), by_biotite(alpha))


def test_secondary_structure_across_gaps_equals_biotites(traces):
    for alpha in traces[:8]:
        gapped = alpha.copy()
        gapped[20:26] = np.nan
        own, theirs = secondary_structure(gapped), by_biotite(gapped)
        assert (own == theirs).mean() > 0.98
        assert (own[20:26] == "").all()


def made(rng: np.random.Generator) -> np.ndarray:
    """A chain of helices, strands and loops, with noise such that many residues are near the method's bounds."""
    steps = []
    for _ in range(rng.integers(1, 5)):
        kind, length = rng.integers(3), rng.integers(3, 9)
        turn, angle = ((50, 91), (190, 124), (rng.uniform(-180, 180), 110))[kind]
        steps += [np.radians((turn, angle)) + rng.normal(scale=np.radians(9), size=2) for _ in range(length)]
    chain = [np.zeros(3), np.array([3.8, 0, 0]), np.array([5.0, 3.6, 0])]
    for turn, angle in steps[: rng.integers(2, len(steps) + 1)]:
        first, second, third = chain[-3:]
        along = (third - second) / np.linalg.norm(third - second)
        normal = np.cross(second - first, along)
        normal /= np.linalg.norm(normal)
        side = np.cross(normal, along)
        outward = -np.cos(angle) * along + np.sin(angle) * (np.cos(turn) * side + np.sin(turn) * normal)
        chain.append(third + 3.8 * outward)
    return np.array(chain)


def test_secondary_structure_of_synthetic_chains_equals_biotites():
    """Three to thirty residues; few real chains are as short, and few of their residues are near a bound."""
    rng = np.random.default_rng(0)
    chains = [made(rng) for _ in range(300)]
    found = [secondary_structure(alpha) for alpha in chains]
    assert {letter for each in found for letter in each} == {"a", "b", "c"}
    assert min(map(len, chains)) <= 5
    for alpha, own in zip(chains, found, strict=True):
        if len(alpha) > 5:
            np.testing.assert_array_equal(own, by_biotite(alpha))
        else:
            assert (own == "c").all()


def test_fractions_sum_to_one_and_are_rotation_invariant(traces):
    rng = np.random.default_rng(0)
    rotation = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    rotation *= np.linalg.det(rotation)
    for alpha in traces[:5]:
        assert sum(fractions(alpha).values()) == pytest.approx(1)
        assert fractions(alpha @ rotation.T + 7) == pytest.approx(fractions(alpha))


def test_radius_of_gyration_of_a_line():
    """n points a step apart: step * sqrt((n * n - 1) / 12); missing points do not count."""
    line = np.array([[3.8 * i, 1, 2] for i in range(50)] + [[np.nan] * 3])
    assert radius_of_gyration(line) == pytest.approx(3.8 * np.sqrt((50**2 - 1) / 12))


def test_clash_search_finds_the_same_as_all_pairs():
    rng = np.random.default_rng(1)
    backbone = rng.normal(scale=6, size=(200, 4, 3)).astype(np.float32)
    backbone[5] = np.nan
    alpha = backbone[:, 1]
    distance = np.linalg.norm(alpha[:, None] - alpha[None], axis=-1)
    close = (distance < 1.0) & (np.arange(200)[:, None] > np.arange(200)[None])
    np.testing.assert_array_equal(clashing(backbone), close.any(1))

"""Input features against biotite's torsion angles and closed forms."""

import biotite.structure as structure
import numpy as np
import torch

from dplm2.tokenizer import features
from dplm2.tokenizer.model import pad_backbones


def centred(chains):
    coords, observed, residues = pad_backbones(chains)
    return features.centre(coords, observed), observed, residues


def test_dihedrals_equal_biotites_and_are_zero_across_ends(chains):
    whole = [chain for chain in chains if np.isfinite(chain).all()]
    coords, _, residues = centred(whole)
    ours = features.dihedrals(coords, residues).numpy()
    for row, chain in enumerate(whole):
        nitrogen, alpha, carbon = (chain[:, atom].astype(np.float64) for atom in range(3))
        angles = np.zeros((len(chain), 3))
        angles[1:, 0] = structure.dihedral(carbon[:-1], nitrogen[1:], alpha[1:], carbon[1:])
        angles[:-1, 1] = structure.dihedral(nitrogen[:-1], alpha[:-1], carbon[:-1], nitrogen[1:])
        angles[:-1, 2] = structure.dihedral(alpha[:-1], carbon[:-1], nitrogen[1:], alpha[1:])
        expected = np.concatenate([np.cos(angles), np.sin(angles)], -1)
        np.testing.assert_allclose(ours[row, : len(chain)], expected, atol=2e-3)


def test_both_ways_to_normalise_agree_away_from_zero(chains):
    coords, _, residues = centred(chains[:1])
    torch.testing.assert_close(
        features.dihedrals(coords, residues), features.dihedrals(coords, residues, exact_norm=True), rtol=0, atol=1e-3
    )


def test_centre_is_the_mean_of_observed_alpha_carbons(chains):
    coords, observed, _ = centred(chains)
    for row, chain in enumerate(chains):
        known = np.isfinite(chain[:, :3]).all((1, 2))
        mean = chain[known, 1].sum(0) / (known.sum() + 1e-5)
        np.testing.assert_allclose(coords[row][observed[row]].numpy(), chain[known, :3] - mean, atol=1e-5)
    assert (coords[~observed] == 0).all()


def test_a_residue_without_one_atom_is_not_observed():
    backbone = np.random.default_rng(0).normal(size=(5, 4, 3)).astype(np.float32)
    backbone[1, 0] = np.nan  # N
    backbone[3, 3] = np.nan  # O does not count
    assert features.observed_residues(torch.from_numpy(backbone)).tolist() == [True, False, True, True, True]


def test_frames_are_right_handed_and_hold_the_backbone_plane(chains):
    coords, observed, _ = centred(chains)
    frames = features.local_frames(coords)[observed]
    torch.testing.assert_close(frames @ frames.transpose(-1, -2), torch.eye(3).expand_as(frames), rtol=0, atol=1e-4)
    torch.testing.assert_close(torch.linalg.det(frames), torch.ones(len(frames)), rtol=0, atol=1e-4)
    nitrogen, alpha, carbon = coords[observed].unbind(-2)
    in_frame = torch.einsum("nax,njx->naj", torch.stack([carbon - alpha, nitrogen - alpha], 1), frames)
    torch.testing.assert_close(in_frame[:, 0, 1:], torch.zeros(len(frames), 2), rtol=0, atol=1e-4)
    torch.testing.assert_close(in_frame[:, 1, 2], torch.zeros(len(frames)), rtol=0, atol=1e-4)


def test_neighbours_are_the_nearest(chains):
    coords, observed, residues = centred(chains)
    edges = features.edges_of(coords, observed, residues, 9)
    start = 0
    for row, chain in enumerate(chains):
        alpha = chain[:, 1].astype(np.float64)
        for residue in np.flatnonzero(np.isfinite(chain[:, :3]).all((1, 2))):
            distance = np.linalg.norm(alpha - alpha[residue], axis=-1)
            nearest = set(np.argsort(distance)[:9].tolist())  # NaN sorts last
            found = edges.destination_E[edges.source_E == start + residue] - start
            assert set(found.tolist()) == nearest, (row, residue)
        start += len(chain)
    assert (edges.scalars_EF[:, -2:] == 0).all()
    lengths = edges.vectors_E3V.norm(dim=1)
    own = edges.source_E == edges.destination_E
    torch.testing.assert_close(lengths[~own], torch.ones(int((~own).sum()), 1), rtol=0, atol=1e-5)

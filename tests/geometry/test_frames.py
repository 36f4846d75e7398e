"""Rigid frames against scipy, and the ideal residue against geometry."""

import math

import pytest
import torch
from scipy.spatial.transform import Rotation

from dplm2.geometry import frames
from dplm2.tokenizer.structure_module import compose_along, trace


def random_quaternions(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(*shape, 4, generator=generator, dtype=torch.float64), dim=-1)


def scipy_rotation(quaternions):
    return Rotation.from_quat(quaternions[..., [1, 2, 3, 0]].reshape(-1, 4).numpy())


def test_rotations_and_products_equal_scipys():
    first, second = random_quaternions(50), random_quaternions(50, seed=1)
    matrices = torch.from_numpy(scipy_rotation(first).as_matrix())
    assert torch.allclose(frames.rotations_of(first), matrices, atol=1e-12)
    product = (scipy_rotation(first) * scipy_rotation(second)).as_matrix()
    ours = frames.rotations_of(frames.quaternion_product(first, second))
    assert torch.allclose(ours, torch.from_numpy(product), atol=1e-12)
    vectors = torch.randn(50, 3, dtype=torch.float64)
    assert torch.allclose(frames.turned(first, vectors), torch.from_numpy(scipy_rotation(first).apply(vectors.numpy())))


def test_update_rotates_about_its_vector():
    """By twice the angle whose tangent is the vector's length, after the existing rotation."""
    quaternions, vectors = random_quaternions(20), torch.randn(20, 3, dtype=torch.float64)
    length = vectors.norm(dim=-1, keepdim=True)
    turn = Rotation.from_rotvec((2 * length.atan() * vectors / length).numpy())
    expected = (scipy_rotation(quaternions) * turn).as_matrix()
    updated = frames.update_quaternions(quaternions, vectors)
    assert torch.allclose(frames.rotations_of(updated), torch.from_numpy(expected), atol=1e-12)
    assert torch.allclose(updated.norm(dim=-1), torch.ones(20, dtype=torch.float64))


def test_the_ideal_residue_has_the_bonds_and_angles_of_proteins():
    """Engh and Huber (1991) for alanine: N-CA 1.458, CA-C 1.525, CA-CB 1.521 angstrom; angles within two degrees."""
    nitrogen, alpha, carbon, oxygen, beta = frames.ideal_atoms(torch.eye(3), torch.zeros(3))
    assert not alpha.any()
    for atom, length in ((nitrogen, 1.458), (carbon, 1.525), (beta, 1.521)):
        assert atom.norm().item() == pytest.approx(length, abs=0.01)
    for one, other, degrees in ((nitrogen, carbon, 111.2), (nitrogen, beta, 110.4), (carbon, beta, 110.5)):
        cosine = (one * other).sum() / (one.norm() * other.norm())
        assert math.degrees(math.acos(cosine)) == pytest.approx(degrees, abs=2)
    # L-amino acids: seen from H, the letters CO, R, N read clockwise.
    assert (torch.linalg.cross(carbon, beta) * nitrogen).sum() > 0
    # Without psi, O is where psi = 180 degrees puts it: in the plane of N, CA and C, beside N.
    assert oxygen[2] == 0 and dihedral(nitrogen, alpha, carbon, oxygen).abs() < 1e-4


def test_frames_of_ideal_residues_are_recovered():
    quaternions = random_quaternions(2, 7)
    origins = torch.randn(2, 7, 3, dtype=torch.float64) * 20
    atoms = frames.ideal_atoms(frames.rotations_of(quaternions), origins)
    rotations, centres = frames.frames_from_backbone(atoms)
    assert torch.allclose(rotations, frames.rotations_of(quaternions), atol=1e-6)
    assert torch.allclose(centres, origins)
    assert torch.allclose(frames.pseudo_beta(atoms), atoms[..., 4, :], atol=1e-6)


def test_oxygen_rotates_with_psi_at_fixed_bond_length_and_angle():
    psi = torch.linspace(-math.pi, math.pi, 13)
    rotation = torch.eye(3).expand(13, 3, 3)
    atoms = frames.ideal_atoms(rotation, torch.zeros(13, 3), torch.stack((psi.sin(), psi.cos()), -1))
    bond = atoms[:, 3] - atoms[:, 2]
    assert torch.allclose(bond.norm(dim=-1), torch.tensor(1.233), atol=1e-3)
    # O is opposite to the next N, which psi is measured to: the dihedral N, CA, C, O is psi + 180 degrees
    expected = torch.atan2((psi + math.pi).sin(), (psi + math.pi).cos())
    difference = dihedral(*atoms[:, [0, 1, 2, 3]].unbind(1)) - expected
    assert torch.allclose(torch.atan2(difference.sin(), difference.cos()), torch.zeros(13), atol=1e-4)


def dihedral(a, b, c, d):
    axis = torch.nn.functional.normalize(c - b, dim=-1)
    first = (a - b) - ((a - b) * axis).sum(-1, keepdim=True) * axis
    second = (d - c) - ((d - c) * axis).sum(-1, keepdim=True) * axis
    return torch.atan2((torch.linalg.cross(axis, first) * second).sum(-1), (first * second).sum(-1))


def test_placed_oxygens_agree_with_real_structures(recorded_tensors):
    theirs = recorded_tensors("structok_tiny/single_full")
    backbone = theirs["all_atom_positions"][..., [0, 1, 2, 4], :]
    placed = frames.place_oxygens(backbone)
    distance = (placed - backbone)[..., 3, :].norm(dim=-1)[0]
    assert distance[:-1].median() < 0.15
    assert torch.equal(placed[:, -1], backbone[:, -1])
    assert torch.equal(placed[..., :3, :], backbone[..., :3, :])


@pytest.mark.parametrize("length", [1, 2, 3, 8, 13])
def test_scan_equals_sequential_composition(length):
    turns = random_quaternions(2, length)
    shifts = torch.randn(2, length, 3, dtype=torch.float64)
    ours_turns, ours_shifts = compose_along(turns, shifts)
    rotation, origin = torch.eye(3, dtype=torch.float64).expand(2, 3, 3), torch.zeros(2, 3, dtype=torch.float64)
    for place in range(length):
        origin = origin + (rotation @ shifts[:, place].unsqueeze(-1)).squeeze(-1)
        rotation = rotation @ frames.rotations_of(turns[:, place])
        assert torch.allclose(ours_shifts[:, place], origin)
        assert torch.allclose(frames.rotations_of(ours_turns[:, place]), rotation)


def test_trace_of_true_steps_recovers_the_chain(recorded_tensors):
    theirs = recorded_tensors("structok_tiny/single_full")
    rotations, origins = frames.frames_from_backbone(theirs["all_atom_positions"][..., [0, 1, 2], :].double())
    inverse = rotations[:, :-1].transpose(-1, -2)
    turns = scipy_quaternions(inverse @ rotations[:, 1:])
    shifts = (inverse @ (origins[:, 1:] - origins[:, :-1]).unsqueeze(-1)).squeeze(-1)
    last = torch.zeros(1, 1, 4, dtype=torch.float64)
    last[..., 0] = 1
    _, traced = trace(torch.cat((turns, last), 1), torch.cat((shifts, shifts[:, :1]), 1), None)
    assert torch.allclose(torch.cdist(traced, traced), torch.cdist(origins, origins), atol=1e-6)
    assert traced.mean(1).abs().max() < 1e-9


def scipy_quaternions(rotations):
    quaternions = Rotation.from_matrix(rotations.reshape(-1, 3, 3).numpy()).as_quat()
    return torch.from_numpy(quaternions[:, [3, 0, 1, 2]]).reshape(*rotations.shape[:2], 4)

"""Rigid frames of residues: rotations, quaternions, and the ideal backbone that hangs on each frame.

Shapes: B batch, L residues, A atoms, X space, Q the four numbers of a quaternion; ``...`` is any number of dimensions.
"""

import torch
from torch import Tensor

# Ideal residue of AlphaFold 2 (Jumper et al. 2021, supplement 1.8.4) in its own frame, angstrom: C-alpha in the origin,
# C on the x axis, N in the xy plane. Every residue is built as alanine, so that C-beta is the same for all of them.
IDEAL_N = (-0.525, 1.363, 0.0)
IDEAL_CA = (0.0, 0.0, 0.0)
IDEAL_C = (1.526, 0.0, 0.0)
IDEAL_CB = (-0.529, -0.774, -1.205)
# Oxygen turns about the axis CA-C with the torsion angle psi, at this distance along the axis and from it.
OXYGEN_ALONG, OXYGEN_FROM_AXIS = 1.526 + 0.627, 1.062
CARBONYL_LENGTH = 1.23  # angstrom, C=O


# Products of quaternions and rotation matrices are linear in the outer product of two quaternions: one product with a
# constant matrix is a tenth of the operations that the formulas written out need; small networks wait for just that.
# Rows: (a0 b0, a0 b1, ..., a3 b3). Columns: the real part and the three imaginary ones of a b.
_PRODUCT = (
    *((1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1)),
    *((0, 1, 0, 0), (-1, 0, 0, 0), (0, 0, 0, 1), (0, 0, -1, 0)),
    *((0, 0, 1, 0), (0, 0, 0, -1), (-1, 0, 0, 0), (0, 1, 0, 0)),
    *((0, 0, 0, 1), (0, 0, 1, 0), (0, -1, 0, 0), (-1, 0, 0, 0)),
)
# Columns: the nine entries, row by row, of the rotation of a unit quaternion a (with b = a).
# Each product of two different parts stands above the diagonal alone.
_NOTHING = (0,) * 9
_ROTATION = (
    (1, 0, 0, 0, 1, 0, 0, 0, 1),  # a0 a0
    (0, 0, 0, 0, 0, -2, 0, 2, 0),
    (0, 0, 2, 0, 0, 0, -2, 0, 0),
    (0, -2, 0, 2, 0, 0, 0, 0, 0),
    _NOTHING,
    (1, 0, 0, 0, -1, 0, 0, 0, -1),  # a1 a1
    (0, 2, 0, 2, 0, 0, 0, 0, 0),
    (0, 0, 2, 0, 0, 0, 2, 0, 0),
    *(_NOTHING, _NOTHING),
    (-1, 0, 0, 0, 1, 0, 0, 0, -1),  # a2 a2
    (0, 0, 0, 0, 0, 2, 0, 2, 0),
    *(_NOTHING, _NOTHING, _NOTHING),
    (-1, 0, 0, 0, -1, 0, 0, 0, 1),  # a3 a3
)


def _outer(a: Tensor, b: Tensor) -> Tensor:
    return (a.unsqueeze(-1) * b.unsqueeze(-2)).flatten(-2)


def quaternion_product(a: Tensor, b: Tensor) -> Tensor:
    """Hamilton product of quaternions ``(..., 4)``, real part first."""
    return _outer(a, b) @ a.new_tensor(_PRODUCT)


def rotations_of(quaternions: Tensor) -> Tensor:
    """Rotation matrices ``(..., 3, 3)`` of unit quaternions ``(..., 4)``."""
    entries = _outer(quaternions, quaternions) @ quaternions.new_tensor(_ROTATION)
    return entries.unflatten(-1, (3, 3))


def turned(quaternions: Tensor, vectors: Tensor) -> Tensor:
    """Vectors ``(..., 3)`` turned by unit quaternions ``(..., 4)``."""
    real, axis = quaternions[..., :1], quaternions[..., 1:]
    twice = 2 * torch.linalg.cross(axis, vectors)
    return vectors + real * twice + torch.linalg.cross(axis, twice)


def update_quaternions(quaternions: Tensor, vector: Tensor) -> Tensor:
    """Turn by the quaternion ``(1, vector)``, normalized (Jumper et al. 2021, supplement, algorithm 23)."""
    turn = torch.cat((torch.ones_like(vector[..., :1]), vector), -1)
    product = quaternion_product(quaternions, turn)
    return product / product.norm(dim=-1, keepdim=True)


def frames_from_backbone(backbone: Tensor) -> tuple[Tensor, Tensor]:
    """Frames of residues from N, CA, C: origin CA, x axis to C, N in the xy plane.

    Parameters
    ----------
    backbone
        ``(..., A, 3)`` angstrom, the first three atoms N, CA and C.

    Returns
    -------
    rotations, origins
        ``(..., 3, 3)`` whose columns are the axes, and ``(..., 3)``.
    """
    nitrogen, alpha, carbon = backbone[..., 0, :], backbone[..., 1, :], backbone[..., 2, :]
    x_axis = torch.nn.functional.normalize(carbon - alpha, dim=-1, eps=1e-8)
    towards = nitrogen - alpha
    y_axis = towards - (towards * x_axis).sum(-1, keepdim=True) * x_axis
    y_axis = torch.nn.functional.normalize(y_axis, dim=-1, eps=1e-8)
    z_axis = torch.linalg.cross(x_axis, y_axis)
    return torch.stack((x_axis, y_axis, z_axis), -1), alpha


def ideal_atoms(rotations: Tensor, origins: Tensor, psi: Tensor | None = None) -> Tensor:
    """Atoms N, CA, C, O, CB of ideal alanines hung on frames.

    Parameters
    ----------
    rotations, origins
        ``(..., 3, 3)`` and ``(..., 3)`` angstrom.
    psi
        ``(..., 2)``: sine and cosine of the torsion angle that places O; None leaves it at psi = 180 degrees.

    Returns
    -------
    Tensor
        ``(..., 5, 3)`` angstrom.
    """
    fixed = rotations.new_tensor([IDEAL_N, IDEAL_CA, IDEAL_C, IDEAL_CB])
    nitrogen, alpha, carbon, beta = (fixed @ rotations.transpose(-1, -2) + origins.unsqueeze(-2)).unbind(-2)
    sine, cosine = (0.0, -1.0) if psi is None else (psi[..., :1], psi[..., 1:])
    x_axis, y_axis, z_axis = rotations.unbind(-1)
    oxygen = origins + OXYGEN_ALONG * x_axis - OXYGEN_FROM_AXIS * (cosine * y_axis + sine * z_axis)
    return torch.stack((nitrogen, alpha, carbon, oxygen, beta), -2)


def pseudo_beta(backbone: Tensor) -> Tensor:
    """Ideal C-beta ``(..., 3)`` of residues given by N, CA, C ``(..., A, 3)`` (distances between residues use it)."""
    rotations, origins = frames_from_backbone(backbone)
    return origins + (rotations @ rotations.new_tensor(IDEAL_CB).unsqueeze(-1)).squeeze(-1)


def place_oxygens(positions: Tensor) -> Tensor:
    """Put the carbonyl oxygens where the peptide planes want them.

    O is in the plane of CA, C and the next residue's N, on the far side of both; the torsion head that could place it
    gets hardly any gradient from the paper's losses. The last residue keeps its O.

    Parameters
    ----------
    positions
        ``(..., L, A, 3)`` angstrom, atoms N, CA, C, O first.

    Returns
    -------
    Tensor
        The same with O replaced.
    """
    alpha, carbon, next_nitrogen = positions[..., :-1, 1, :], positions[..., :-1, 2, :], positions[..., 1:, 0, :]
    normalize = torch.nn.functional.normalize
    outward = normalize(carbon - alpha, dim=-1) + normalize(carbon - next_nitrogen, dim=-1)
    oxygen = carbon + CARBONYL_LENGTH * normalize(outward, dim=-1)
    placed = positions.clone()
    placed[..., :-1, 3, :] = oxygen
    return placed

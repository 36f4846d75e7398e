"""Bridges over gaps in a chain: coordinates of missing residues, with ideal bonds, from one side to the other.

A decoder that builds a chain residue by residue (``start: chain``) needs the position of the chain after a gap. The
tokens of missing residues can encode it if these residues have coordinates: here with ideal bonds and torsion angles
that close the gap. These coordinates have no other meaning and are not training targets.

Shapes: G gaps, N residues from one end of a gap to the other, both counted (padded), A atoms N, CA, C, X space.
"""

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from dplm2.geometry import frames
from dplm2.geometry.backbone import observed_residues
from dplm2.tokenizer.structure_module import compose_along

# Peptide geometry (Engh and Huber 1991): bonds C-N and N-CA in angstrom, angles CA-C-N and C-N-CA in degrees.
PEPTIDE_BOND, NITROGEN_BOND = 1.329, 1.458
ANGLE_AT_CARBON, ANGLE_AT_NITROGEN = 116.2, 121.7
# Initial torsion angles phi and psi of bridges, in degrees: a strand, a helix, and an alternation of two.
STARTS = (((-120.0, 130.0),), ((-60.0, -45.0),), ((-75.0, 150.0), (-60.0, -30.0)))
MAX_ITERATIONS = 30
TOLERANCE = 1e-3  # sum of squared deviations of the last residue's atoms, in square angstrom
MAX_ROTATION = 0.5  # radians, of a torsion angle per iteration
DAMPING = 0.05  # square angstrom
PHI_AXIS = -torch.tensor(frames.IDEAL_N) / math.dist(frames.IDEAL_N, (0.0, 0.0, 0.0))  # N to CA in the residue's frame


def bridge_gaps(backbone: np.ndarray) -> np.ndarray:
    """Bridge the gaps of a backbone.

    Parameters
    ----------
    backbone
        (L, A, 3) angstrom, N, CA, C first; NaN where missing. Residues that lack one of the three count as missing.

    Returns
    -------
    ndarray
        A copy in which missing residues between observed ones have N, CA and C; those at the ends of the chain remain
        missing. If a gap is too wide for its residues, the bridge is as close as possible.
    """
    observed = observed_residues(backbone)
    known = np.flatnonzero(observed)
    before = known[:-1][np.diff(known) > 1]
    if len(before) == 0:
        return backbone
    after = known[1:][np.diff(known) > 1]
    ends = torch.from_numpy(np.stack([backbone[before, :3], backbone[after, :3]], 1).astype(np.float64))
    bridges = close_gaps(ends, torch.from_numpy(after - before))
    bridged = backbone.copy()
    for first, last, atoms in zip(before, after, bridges.numpy(), strict=True):
        bridged[first + 1 : last, :3] = atoms[1 : last - first]
    return bridged


def close_gaps(ends_G2AX: Tensor, steps_G: Tensor) -> Tensor:
    """Backbones (G, N, 3, 3) of bridges between two residues, both included; undefined after the second.

    From each of ``STARTS`` the torsion angles are optimised until the second residue is in its place (damped
    Gauss-Newton steps of least norm); the best result of all starts is returned.

    Parameters
    ----------
    ends_G2AX
        N, CA, C in angstrom of the residues before and after each gap.
    steps_G
        Number of residues from the first to the second.
    """
    count = len(steps_G)
    ends_G2AX, steps_G = ends_G2AX.repeat(len(STARTS), 1, 1, 1), steps_G.repeat(len(STARTS))
    rotation_G2XX, origin_G2X = frames.frames_from_backbone(ends_G2AX)
    target_GAX = _atoms(rotation_G2XX[:, 1], origin_G2X[:, 1])
    psi_GS, phi_GS = _start(steps_G.view(len(STARTS), count))
    for number in range(MAX_ITERATIONS + 1):
        rotation_GNXX, origin_GNX = _bridge_frames(rotation_G2XX[:, 0], origin_G2X[:, 0], psi_GS, phi_GS, steps_G)
        found_GAX = _atoms(rotation_GNXX[:, -1], origin_GNX[:, -1])
        error_SG = (found_GAX - target_GAX).square().sum((-2, -1)).view(len(STARTS), count)
        if number == MAX_ITERATIONS or error_SG.amin(0).max() < TOLERANCE:
            break
        change_psi_GS, change_phi_GS = _torsion_changes(rotation_GNXX, origin_GNX, found_GAX, target_GAX, steps_G)
        psi_GS, phi_GS = psi_GS + change_psi_GS, phi_GS + change_phi_GS
    atoms_SGNAX = _atoms(rotation_GNXX, origin_GNX).unflatten(0, (len(STARTS), count))
    return atoms_SGNAX[error_SG.argmin(0), torch.arange(count)]


def _start(steps_SG: Tensor) -> tuple[Tensor, Tensor]:
    """Psi before and phi after each peptide, (G, S) radians, for each of ``STARTS``."""
    steps, gaps = int(steps_SG.max()), steps_SG.shape[1]
    all_psi, all_phi = [], []
    for torsions in STARTS:
        phi_psi_S2 = torch.tensor(torsions, dtype=torch.float64).repeat(steps // len(torsions) + 1, 1)[:steps]
        phi_S, psi_S = torch.deg2rad(phi_psi_S2).unbind(-1)
        all_psi.append(psi_S.expand(gaps, -1))
        all_phi.append(phi_S.expand(gaps, -1))
    return torch.cat(all_psi), torch.cat(all_phi)


def _bridge_frames(
    rotation_GXX: Tensor, origin_GX: Tensor, psi_GS: Tensor, phi_GS: Tensor, steps_G: Tensor
) -> tuple[Tensor, Tensor]:
    """Frames (G, N) of the residues of bridges from their first frame; repeated after the last residue."""
    peptide_Q, shift_X = _peptide()
    turn_psi_GSQ = torch.cat(
        [(psi_GS / 2).cos()[..., None], (psi_GS / 2).sin()[..., None] * psi_GS.new_tensor([1.0, 0, 0])], -1
    )
    turn_phi_GSQ = torch.cat([(phi_GS / 2).cos()[..., None], (phi_GS / 2).sin()[..., None] * PHI_AXIS.to(phi_GS)], -1)
    turns_GSQ = frames.quaternion_product(
        frames.quaternion_product(turn_psi_GSQ, peptide_Q.expand_as(turn_psi_GSQ)), turn_phi_GSQ
    )
    shifts_GSX = frames.turned(turn_psi_GSQ, shift_X.expand(*psi_GS.shape, 3))
    within_GS1 = (torch.arange(psi_GS.shape[1]) < steps_G[:, None])[..., None]
    turns_GSQ = torch.where(within_GS1, turns_GSQ, turns_GSQ.new_tensor([1.0, 0, 0, 0]))
    shifts_GSX = torch.where(within_GS1, shifts_GSX, 0.0)
    turns_GSQ, shifts_GSX = compose_along(turns_GSQ, shifts_GSX)
    first_GXX = rotation_GXX[:, None]
    rotations = torch.cat([first_GXX, first_GXX @ frames.rotations_of(turns_GSQ)], 1)
    moved_GSX = (first_GXX @ shifts_GSX[..., None])[..., 0]
    return rotations, torch.cat([origin_GX[:, None], origin_GX[:, None] + moved_GSX], 1)


def _torsion_changes(
    rotation_GNXX: Tensor, origin_GNX: Tensor, found_GAX: Tensor, target_GAX: Tensor, steps_G: Tensor
) -> tuple[Tensor, Tensor]:
    """Changes (G, S) of psi and phi that move the last residue towards its target.

    An infinitesimal rotation about an axis u through a point o moves a point x by u x (x - o).
    """
    axis_psi_GSX, from_psi_GSX = rotation_GNXX[:, :-1, :, 0], origin_GNX[:, :-1]
    axis_phi_GSX, from_phi_GSX = rotation_GNXX[:, 1:] @ PHI_AXIS.to(origin_GNX), origin_GNX[:, 1:]
    axes, points = torch.cat([axis_psi_GSX, axis_phi_GSX], 1), torch.cat([from_psi_GSX, from_phi_GSX], 1)
    arms = found_GAX[:, None] - points[:, :, None]
    moves_GTE = torch.linalg.cross(axes[:, :, None].expand_as(arms), arms).flatten(2)
    steps = axis_psi_GSX.shape[1]
    within_GS = torch.arange(steps) < steps_G[:, None]
    moves_GTE = moves_GTE * torch.cat([within_GS, within_GS], 1)[..., None]
    missed_GE1 = (target_GAX - found_GAX).flatten(1)[..., None]
    square_GEE = moves_GTE.mT @ moves_GTE + DAMPING * torch.eye(9, dtype=moves_GTE.dtype)
    changes_GT = (moves_GTE @ torch.linalg.solve(square_GEE, missed_GE1))[..., 0]
    largest_G1 = changes_GT.abs().amax(1, keepdim=True).clamp(min=MAX_ROTATION)
    return tuple((changes_GT * (MAX_ROTATION / largest_G1)).split(steps, 1))


def _atoms(rotation: Tensor, origin: Tensor) -> Tensor:
    return frames.ideal_atoms(rotation, origin)[..., :3, :]


def _peptide() -> tuple[Tensor, Tensor]:
    """Unit quaternion and shift of CA from a residue (psi = 0) to the next (phi = 0) over a trans peptide."""
    alpha, carbon = (torch.tensor(atom, dtype=torch.float64) for atom in (frames.IDEAL_CA, frames.IDEAL_C))
    nitrogen = torch.tensor(frames.IDEAL_N, dtype=torch.float64)
    atoms = [nitrogen, alpha, carbon]
    tau = math.degrees(math.acos(float(F.cosine_similarity(nitrogen, carbon, 0))))
    length = float(carbon.norm())
    for bond, angle, torsion in (
        (PEPTIDE_BOND, ANGLE_AT_CARBON, 0.0),
        (NITROGEN_BOND, ANGLE_AT_NITROGEN, 180.0),
        (length, tau, 0.0),
    ):
        atoms.append(_next_atom(atoms[-3:], bond, math.radians(angle), math.radians(torsion)))
    rotation_XX, origin_X = frames.frames_from_backbone(torch.stack(atoms[3:]))
    return _quaternion(rotation_XX), origin_X


def _next_atom(atoms: list[Tensor], bond: float, angle: float, torsion: float) -> Tensor:
    """The atom after three others, from its bond length, bond angle and torsion angle."""
    first, second, third = atoms
    along = F.normalize(third - second, dim=0)
    normal = F.normalize(torch.linalg.cross(second - first, along), dim=0)
    perpendicular = torch.linalg.cross(normal, along)
    radial = math.sin(angle) * (math.cos(torsion) * perpendicular + math.sin(torsion) * normal)
    return third + bond * (radial - math.cos(angle) * along)


def _quaternion(rotation_XX: Tensor) -> Tensor:
    """Unit quaternion of a rotation: eigenvector of the largest eigenvalue of a symmetric matrix (Bar-Itzhack 2000)."""
    (xx, xy, xz), (yx, yy, yz), (zx, zy, zz) = rotation_XX.tolist()
    matrix = torch.tensor(
        [
            [xx + yy + zz, zy - yz, xz - zx, yx - xy],
            [zy - yz, xx - yy - zz, xy + yx, xz + zx],
            [xz - zx, xy + yx, yy - xx - zz, yz + zy],
            [yx - xy, xz + zx, yz + zy, zz - xx - yy],
        ],
        dtype=torch.float64,
    )
    return torch.linalg.eigh(matrix).eigenvectors[:, -1]

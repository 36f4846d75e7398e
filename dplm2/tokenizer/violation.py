"""Violations of peptide bonds, and clashes, in decoded backbones (Jumper et al. 2021, supplement 1.9.11).

The decoder builds five atoms per residue (N, CA, C, O, CB). The original's term within residues would be zero and is
omitted: N, CA, C and CB are rigid, and O rotates at a distance from them that exceeds all bounds.

Shapes: B batch, L residues, A atoms (N, CA, C, O, CB), X space.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

# Length of the bond C-N, cosines of the adjacent angles, and their standard deviations (Engh and Huber 1999, as in
# AlphaFold 2). As in AlphaFold's code, the first angle has the deviation of the bond length, not its own (0.0311).
BOND, BOND_BEFORE_PROLINE = 1.329, 1.341
BOND_SPREAD, BOND_SPREAD_BEFORE_PROLINE = 0.014, 0.016
COSINE_CA_C_N, COSINE_C_N_CA = -0.4473, -0.5203
SPREAD_CA_C_N, SPREAD_C_N_CA = BOND_SPREAD, 0.0353
TOLERANCE = 12.0  # standard deviations
CLASH_TOLERANCE = 1.5  # angstrom that two atoms may overlap
RADII = (1.55, 1.7, 1.7, 1.52, 1.7)  # van der Waals, angstrom: N, CA, C, O, CB
EPSILON = 1e-6
N, CA, C, O, CB = range(5)


class Violations(NamedTuple):
    """Violations in angstrom or cosines: ``(B,)``, except for ``clash``, a scalar."""

    bond: Tensor
    angle_ca_c_n: Tensor
    angle_c_n_ca: Tensor
    clash: Tensor

    @property
    def total(self) -> Tensor:
        """``(B,)``: the sum of the terms."""
        return self.bond + self.angle_ca_c_n + self.angle_c_n_ca + self.clash


def violations(
    positions_BLAX: Tensor, counted_BL: Tensor, bonded_BL: Tensor, is_proline_BL: Tensor, is_glycine_BL: Tensor
) -> Violations:
    """Violations of bond lengths and angles, and clashes.

    Parameters
    ----------
    positions_BLAX
        N, CA, C, O, CB in angstrom.
    counted_BL
        True for residues to consider.
    bonded_BL
        Whether a residue is bonded to the next one (no gap in the numbering); ignored for the last of each chain.
    is_proline_BL, is_glycine_BL
        True for prolines, whose bond to the previous residue differs, and for glycines, which have no CB.
    """
    pair_BL = (counted_BL[:, :-1] & counted_BL[:, 1:] & bonded_BL[:, :-1]).to(positions_BLAX.dtype)
    bond, first, second = _peptide_bonds(positions_BLAX, pair_BL, is_proline_BL[:, 1:].to(positions_BLAX.dtype))
    atoms_BLA = counted_BL.unsqueeze(-1).expand(*counted_BL.shape, len(RADII)).clone()
    atoms_BLA[..., CB] &= ~is_glycine_BL
    return Violations(bond, first, second, _clashes(positions_BLAX, atoms_BLA, bonded_BL))


def _peptide_bonds(positions: Tensor, pair_BL: Tensor, before_proline: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    alpha, carbon = positions[:, :-1, CA], positions[:, :-1, C]
    nitrogen, next_alpha = positions[:, 1:, N], positions[:, 1:, CA]

    def length(vector: Tensor) -> Tensor:
        return (vector.square().sum(-1) + EPSILON).sqrt()

    def excess(value: Tensor, expected: Tensor | float, spread: Tensor | float) -> Tensor:
        over = functional.relu(((value - expected).square() + EPSILON).sqrt() - TOLERANCE * spread)
        return (over * pair_BL).sum(-1) / (pair_BL.sum(-1) + EPSILON)

    bond_length = length(carbon - nitrogen)
    to_alpha = (alpha - carbon) / length(alpha - carbon).unsqueeze(-1)
    to_nitrogen = (nitrogen - carbon) / bond_length.unsqueeze(-1)
    to_next_alpha = (next_alpha - nitrogen) / length(next_alpha - nitrogen).unsqueeze(-1)
    expected = BOND + (BOND_BEFORE_PROLINE - BOND) * before_proline
    spread = BOND_SPREAD + (BOND_SPREAD_BEFORE_PROLINE - BOND_SPREAD) * before_proline
    return (
        excess(bond_length, expected, spread),
        excess((to_alpha * to_nitrogen).sum(-1), COSINE_CA_C_N, SPREAD_CA_C_N),
        excess((-to_nitrogen * to_next_alpha).sum(-1), COSINE_C_N_CA, SPREAD_C_N_CA),
    )


def _clashes(positions_BLAX: Tensor, atoms_BLA: Tensor, bonded_BL: Tensor) -> Tensor:
    """Mean overlap per atom of the batch; the overlap of a pair from different residues counts for both atoms."""
    length, kinds = atoms_BLA.shape[1:]
    residue = torch.arange(length, device=positions_BLAX.device).repeat_interleave(kinds)
    kind = torch.arange(kinds, device=positions_BLAX.device).repeat(length)
    flat_BNX, counted_BN = positions_BLAX.flatten(1, 2), atoms_BLA.flatten(1)
    # Not from the Gram matrix, in which small distances, which matter here, would be lost to cancellation.
    distance_BNN = torch.cdist(flat_BNX, flat_BNX, compute_mode="donot_use_mm_for_euclid_dist")
    radius = positions_BLAX.new_tensor(RADII)[kind]
    overlap_BNN = functional.relu(radius[:, None] + radius[None, :] - CLASH_TOLERANCE - distance_BNN)
    peptide_NN = (kind[:, None] == C) & (kind[None, :] == N) & (residue[:, None] + 1 == residue[None, :])
    bonded_BNN = peptide_NN & bonded_BL.repeat_interleave(kinds, 1)[:, :, None]
    counted_BNN = (residue[:, None] < residue[None, :]) & ~bonded_BNN & counted_BN[:, :, None] & counted_BN[:, None, :]
    return 2 * (overlap_BNN * counted_BNN).sum() / (atoms_BLA.sum() + EPSILON)

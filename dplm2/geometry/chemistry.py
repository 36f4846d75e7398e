"""Is a backbone chemically possible? Clashes, broken peptide bonds, bond lengths.

Bounds are those of AlphaFold's violation loss (Jumper et al., Nature 596 (2021) 583, supplement 1.9.11): atoms clash
if they are closer than the sum of their van der Waals radii less 1.5 angstrom; a bond is broken if its length differs
from the ideal by more than 12 standard deviations.
"""

import numpy as np
import torch

RADII = torch.tensor([1.55, 1.7, 1.7, 1.52])  # N, CA, C, O
OVERLAP_TOLERANCE = 1.5
PEPTIDE_BOND, PEPTIDE_BOND_DEVIATION = 1.329, 0.014
BROKEN_DEVIATIONS = 12.0
BONDED_NEIGHBOURS = 1  # residues this far apart along the chain share bonds and angles: they do not clash


def backbone_geometry(backbone: np.ndarray) -> dict[str, float]:
    """Clashing atom pairs per 100 residues, share of broken peptide bonds, mean deviation of peptide bonds (angstrom).

    Parameters
    ----------
    backbone
        (L, 4, 3) N, CA, C, O in angstrom, NaN where missing; what is missing is not counted.
    """
    atoms_L43 = torch.as_tensor(np.asarray(backbone), dtype=torch.float32)
    length = len(atoms_L43)
    bond_lengths = (atoms_L43[:-1, 2] - atoms_L43[1:, 0]).norm(dim=-1)
    deviations = (bond_lengths[bond_lengths.isfinite()] - PEPTIDE_BOND).abs()
    broken = (deviations > BROKEN_DEVIATIONS * PEPTIDE_BOND_DEVIATION).float()
    return {
        "clashes_per_100_residues": 100 * _clashes(atoms_L43) / max(length, 1),
        "broken_bonds": broken.mean().item() if len(broken) else float("nan"),
        "bond_deviation": deviations.mean().item() if len(deviations) else float("nan"),
    }


def _clashes(atoms_L43: torch.Tensor) -> int:
    length = len(atoms_L43)
    residue = torch.arange(length).repeat_interleave(4)
    atoms_A3, radius_A = atoms_L43.reshape(-1, 3), RADII.repeat(length)
    there_A = atoms_A3.isfinite().all(-1)
    atoms_A3, radius_A, residue = atoms_A3[there_A], radius_A[there_A], residue[there_A]
    # Only few atoms are this close, so radii and residues are looked up for those alone.
    first, second = torch.nonzero(torch.cdist(atoms_A3, atoms_A3) < 2 * RADII.max() - OVERLAP_TOLERANCE, as_tuple=True)
    far_along = residue[second] - residue[first] > BONDED_NEIGHBOURS
    first, second = first[far_along], second[far_along]
    distance = (atoms_A3[first] - atoms_A3[second]).norm(dim=-1)
    return int((distance < radius_A[first] + radius_A[second] - OVERLAP_TOLERANCE).sum())

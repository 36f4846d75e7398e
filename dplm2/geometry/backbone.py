"""Backbones as arrays (L, A, X): L residues, A atoms (N, CA, C and perhaps O), X Cartesian coordinates in angstrom."""

import numpy as np


def observed_residues(backbone_LAX: np.ndarray) -> np.ndarray:
    """Which residues (L,) have finite N, CA and C: those whose place is known and whose token means something."""
    return np.isfinite(np.asarray(backbone_LAX)[:, :3]).all((1, 2))

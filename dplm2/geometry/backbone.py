"""Backbones as arrays (L, A, X): L residues, A atoms (N, CA, C and perhaps O), X Cartesian coordinates in angstrom."""

import numpy as np


def observed_residues(backbone_LAX: np.ndarray) -> np.ndarray:
    """Which residues (L,) have finite N, CA and C: those whose place is known and whose token means something."""
    return np.isfinite(np.asarray(backbone_LAX)[:, :3]).all((1, 2))


def lengths(vectors: np.ndarray) -> np.ndarray:
    """Lengths of vectors (..., X); several times quicker than ``numpy.linalg.norm`` where X is 3."""
    return np.sqrt(np.einsum("...x,...x->...", vectors, vectors))


def radius_of_gyration(alpha_LX: np.ndarray) -> float:
    """Root mean square distance of the C-alpha atoms from their centre, in angstrom; missing ones are left out."""
    alpha = np.asarray(alpha_LX, dtype=np.float64)
    alpha = alpha[np.isfinite(alpha).all(-1)]
    return float(np.sqrt(((alpha - alpha.mean(0)) ** 2).sum(-1).mean())) if len(alpha) else 0.0

"""Shares of helix, strand and coil by P-SEA, from C-alpha positions alone (Labesse et al., CABIOS 13 (1997) 291)."""

import numpy as np
from biotite.structure import AtomArray, annotate_sse

FRACTIONS = ("helix", "strand", "coil")
_LETTERS = {"a": "helix", "b": "strand", "c": "coil"}


def secondary_structure_fractions(backbone: np.ndarray) -> dict[str, float]:
    """Fractions of helix, strand and coil among the residues that have a C-alpha; they sum to 1.

    Parameters
    ----------
    backbone
        (L, 4, 3) N, CA, C, O in angstrom, NaN where missing. Missing residues are left out, and a piece between two
        gaps counts as a chain of its own.
    """
    positions = np.asarray(backbone)[:, 1]
    there = np.isfinite(positions).all(-1)
    if not there.any():
        return dict.fromkeys(FRACTIONS, float("nan"))
    trace = AtomArray(int(there.sum()))
    trace.coord = positions[there]
    trace.atom_name[:] = "CA"
    trace.res_name[:] = "ALA"
    trace.element[:] = "C"
    trace.res_id = np.flatnonzero(there) + 1
    # Residues that lie on one another, as an untrained network may put them, have no angles and become coil.
    with np.errstate(invalid="ignore", divide="ignore"):
        letters = annotate_sse(trace)
    return {name: float(np.mean(letters == letter)) for letter, name in _LETTERS.items()}

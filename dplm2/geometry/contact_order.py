"""Relative contact order of a chain (Plaxco, Simons and Baker 1998), from its C-alpha atoms.

Shapes: L residues, X Cartesian coordinates in angstrom.
"""

import numpy as np

CONTACT_DISTANCE = 8.0
"""Distance in angstrom below which two C-alpha atoms are in contact."""
SMALLEST_SEPARATION = 4
"""Residues between partners of a contact; closer ones touch in every chain, whatever its fold."""


def contact_order(alpha_LX: np.ndarray) -> float:
    """Mean separation along the sequence of the residues in contact, as a fraction of the length.

    The definition has contacts of heavy atoms within 6 angstrom; a backbone alone has C-alpha atoms, for which 8
    angstrom are usual.

    Parameters
    ----------
    alpha_LX
        (L, 3) C-alpha positions, NaN where missing; those have no contacts but count for separation and length.

    Returns
    -------
    float
        Between 0 and 1; NaN of a chain without contacts.
    """
    alpha = np.asarray(alpha_LX, dtype=np.float64)
    first, second = np.triu_indices(len(alpha), k=SMALLEST_SEPARATION)
    with np.errstate(invalid="ignore"):
        square = sum((alpha[first, axis] - alpha[second, axis]) ** 2 for axis in range(alpha.shape[1]))
        in_contact = square < CONTACT_DISTANCE**2
    separation = (second - first)[in_contact]
    return float(separation.mean() / len(alpha)) if len(separation) else float("nan")

"""Secondary structure of a chain by P-SEA, from its C-alpha atoms alone.

Shapes: L residues, X Cartesian coordinates. Distances in angstrom, angles in radians.
"""

import numpy as np

from dplm2.geometry.backbone import lengths

# Ranges of P-SEA (Labesse et al. 1997, CABIOS 13:291): distances between C-alpha i and i + 2, 3, 4, the angle of
# three and the dihedral of four consecutive ones (degrees there).
HELIX_D3, HELIX_D4 = (4.8, 5.8), (5.8, 7.0)
HELIX_ANGLE, HELIX_DIHEDRAL = np.radians((77, 101)), np.radians((30, 70))
STRAND_D2, STRAND_D3, STRAND_D4 = (6.1, 7.3), (9.0, 10.8), (11.3, 13.5)
STRAND_ANGLE, STRAND_DIHEDRAL = np.radians((110, 138)), np.radians((145, 235))
HELIX_RUN, STRAND_RUN, SHORT_STRAND_RUN = 5, 4, 3
CONTACT, FEWEST_CONTACTS = (4.2, 5.2), 5
SHORTEST_CHAIN = 6
ROWS_AT_A_TIME = 512
NAMES = {"a": "helix", "b": "strand", "c": "coil"}


def secondary_structure(alpha_LX: np.ndarray) -> np.ndarray:
    """Helix (``a``), strand (``b``) or coil (``c``) of each residue by P-SEA, as biotite's ``annotate_sse`` gives it.

    Parameters
    ----------
    alpha_LX
        (L, 3) C-alpha positions, NaN where missing (an empty string is returned for these).

    Returns
    -------
    numpy.ndarray
        (L,) strings of one character.
    """
    alpha = np.asarray(alpha_LX, dtype=np.float64)
    length = len(alpha)
    missing = np.isnan(alpha).any(-1)
    found = np.where(missing, "", "c")
    if length < SHORTEST_CHAIN:
        return found
    d2, d3, d4 = (_padded(lengths(alpha[k:] - alpha[:-k]), length) for k in (2, 3, 4))
    step = np.diff(alpha, axis=0)
    angle = _padded(_angles(-step[:-1], step[1:]), length)
    dihedral = _padded(_dihedrals(step), length)
    in_strand_turn = _within(np.mod(dihedral, 2 * np.pi), STRAND_DIHEDRAL)
    helix = (_within(d3, HELIX_D3) & _within(d4, HELIX_D4)) | (
        _within(angle, HELIX_ANGLE) & _within(dihedral, HELIX_DIHEDRAL)
    )
    strand = (_within(d2, STRAND_D2) & _within(d3, STRAND_D3) & _within(d4, STRAND_D4)) | (
        _within(angle, STRAND_ANGLE) & in_strand_turn
    )
    helix = _extended(_runs_of(helix, HELIX_RUN), _within(d3, HELIX_D3) | _within(angle, HELIX_ANGLE))
    short = _with_contacts(alpha, _runs_of(strand, SHORT_STRAND_RUN))
    strand = _extended(_runs_of(strand, STRAND_RUN) | short, _within(d3, STRAND_D3))
    found[helix & ~missing] = "a"
    found[strand & ~missing] = "b"
    return found


def _padded(values: np.ndarray, length: int) -> np.ndarray:
    """Measures that begin at residue i belong to i + 1; NaN where there is none."""
    return np.concatenate(([np.nan], values, np.full(length - 1 - len(values), np.nan)))


def _within(values: np.ndarray, bounds: tuple[float, float]) -> np.ndarray:
    with np.errstate(invalid="ignore"):
        return (values >= bounds[0]) & (values <= bounds[1])


def _angles(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore", divide="ignore"):
        cosine = np.einsum("lx,lx->l", first, second) / (lengths(first) * lengths(second))
        return np.arccos(np.clip(cosine, -1, 1))


def _dihedrals(step: np.ndarray) -> np.ndarray:
    normal = np.cross(step[:-1], step[1:])
    x = np.einsum("lx,lx->l", normal[:-1], normal[1:])
    y = lengths(step[1:-1]) * np.einsum("lx,lx->l", step[:-2], normal[1:])
    return np.arctan2(y, x)


def _runs_of(mask: np.ndarray, number: int) -> np.ndarray:
    """The runs of at least ``number`` True values."""
    bounds = np.flatnonzero(np.diff(np.concatenate(([False], mask, [False])).astype(np.int8)))
    starts, stops = bounds[::2], bounds[1::2]
    long = stops - starts >= number
    change = np.zeros(len(mask) + 1, np.int8)
    change[starts[long]] = 1
    change[stops[long]] -= 1
    return np.cumsum(change[:-1]).astype(bool)


def _extended(region: np.ndarray, allowed: np.ndarray) -> np.ndarray:
    """Regions grown by one residue at either end where ``allowed``."""
    before = np.append(region[1:], False) & ~region
    after = np.append(False, region[:-1]) & ~region
    return region | ((before | after) & allowed)


def _with_contacts(alpha: np.ndarray, region: np.ndarray) -> np.ndarray:
    """Runs of ``region`` with enough C-alpha atoms at the distance of a neighbouring strand."""
    residues = np.flatnonzero(region)
    if len(residues) == 0:
        return region
    contacts = np.empty(len(residues))
    for rows in np.array_split(np.arange(len(residues)), 1 + len(residues) // ROWS_AT_A_TIME):
        with np.errstate(invalid="ignore"):
            square = sum((alpha[residues[rows], axis, None] - alpha[:, axis]) ** 2 for axis in range(3))
            contacts[rows] = ((square > CONTACT[0] ** 2) & (square <= CONTACT[1] ** 2)).sum(-1)
    run = np.cumsum(np.append(True, np.diff(residues) > 1)) - 1
    enough = np.bincount(run, weights=contacts) >= FEWEST_CONTACTS
    kept = region.copy()
    kept[residues] = enough[run]
    return kept


def fractions(alpha_LX: np.ndarray) -> dict[str, float]:
    """Fractions of helix, strand and coil among the residues with a C-alpha, which sum to 1; NaN without any."""
    alpha = np.asarray(alpha_LX, dtype=np.float64)
    found = secondary_structure(np.where(np.isfinite(alpha).all(-1, keepdims=True), alpha, np.nan))
    count = int((found != "").sum())
    return {name: float((found == letter).sum() / count) if count else float("nan") for letter, name in NAMES.items()}

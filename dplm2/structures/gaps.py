"""Gaps in a chain: which residues of the full sequence were not observed.

They follow from the polymer sequence if the file has one (mmCIF gives the position of each residue in it; SEQRES of PDB
is aligned with the observed stretches), otherwise from a jump in the author's numbers across a broken C-N bond.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from dplm2.structures.components import letters
from dplm2.structures.residues import ChainResidues

# SEQRES is used if at least this fraction of the observed residues agrees with it.
LEAST_AGREEMENT = 0.9
MISMATCH_COST = 10.0
# Above this number of comparisons, the alignment would take too long, and the numbering is used.
MOST_COMPARISONS = 20_000_000
ROWS_AT_A_TIME = 256
INTEGERS = (np.iinfo(np.int32).min, np.iinfo(np.int32).max)


@dataclass(frozen=True)
class GappedChain:
    """A chain with its gaps: ``source`` is the observed residue of each row, -1 in a gap."""

    sequence: str
    source: np.ndarray
    number: np.ndarray
    insertion: str | None


def with_gaps(residues: ChainResidues, polymer: tuple[str, ...], max_numbering_gap: int) -> GappedChain:
    """Place the observed residues of a chain in the rows of its sequence.

    Parameters
    ----------
    residues
        The residues that have atoms.
    polymer
        Residue names of the full sequence, empty if the file does not give it.
    max_numbering_gap
        Maximum number of unobserved residues inferred from a jump in numbers alone.
    """
    observed = letters(residues.names)
    full = letters(polymer)
    rows = _rows_by_position(residues, observed, full) if full else None
    if rows is None and full and not residues.position.any():
        rows = _rows_by_alignment(residues, observed, full)
    if rows is None:
        rows, full = _rows_by_numbers(residues, max_numbering_gap), ""
    rows = rows - rows[0] if not full else rows
    first, count = int(rows[0]), int(rows[-1]) - int(rows[0]) + 1
    source = np.full(count, -1)
    source[rows - first] = np.arange(len(rows))
    sequence = list(full[first : first + count]) if full else ["X"] * count
    for row, letter in zip((rows - first).tolist(), observed, strict=True):
        sequence[row] = letter
    return GappedChain("".join(sequence), source, _numbers(residues, source), _insertions(residues, source))


def in_polymer(residues: ChainResidues, polymer: tuple[str, ...]) -> bool:
    """Whether a polymer sequence contains the residues in this order."""
    return _rows_by_alignment(residues, letters(residues.names), letters(polymer)) is not None


def _rows_by_position(residues: ChainResidues, observed: str, full: str) -> np.ndarray | None:
    rows = residues.position.astype(np.int64) - 1
    if (rows < 0).any() or rows[-1] >= len(full) or (np.diff(rows) <= 0).any():
        return None
    agreement = np.mean([full[row] == letter for row, letter in zip(rows.tolist(), observed, strict=True)])
    return rows if agreement >= LEAST_AGREEMENT else None


def _rows_by_numbers(residues: ChainResidues, max_numbering_gap: int) -> np.ndarray:
    missing = np.diff(residues.number.astype(np.int64)) - 1
    missing[residues.bonded | (missing < 0) | (missing > max_numbering_gap)] = 0
    return np.append(0, np.cumsum(missing + 1))


def _rows_by_alignment(residues: ChainResidues, observed: str, full: str) -> np.ndarray | None:
    """Align the unbroken stretches of a chain with SEQRES: fewest mismatches, gap lengths as in the numbering."""
    at = full.find(observed)
    if at >= 0 and residues.bonded.all():
        return np.arange(at, at + len(observed))
    bounds = [0, *(np.flatnonzero(~residues.bonded) + 1).tolist(), len(observed)]
    places = len(full) + 1
    if len(observed) > len(full) or len(observed) * places + (len(bounds) - 1) * places**2 > MOST_COMPARISONS:
        return None
    text, target = _bytes(observed), _bytes(full)
    costs, links = [], []
    for k, (start, stop) in enumerate(pairwise(bounds)):
        own = _mismatches(text[start:stop], target, places)
        if k == 0:
            total, link = own, np.zeros(places, int)
        else:
            jump = int(residues.number[start]) - int(residues.number[start - 1]) - 1
            total, link = _best_before(costs[-1], start - bounds[k - 1], jump)
            total = total + own
        costs.append(total)
        links.append(link)
    place = int(np.argmin(costs[-1]))
    if not np.isfinite(costs[-1][place]):
        return None
    rows = np.empty(len(observed), np.int64)
    for k in range(len(links) - 1, -1, -1):
        start, stop = bounds[k], bounds[k + 1]
        rows[start:stop] = np.arange(place, place + stop - start)
        place = int(links[k][place])
    return rows if (target[rows] == text).mean() >= LEAST_AGREEMENT else None


def _bytes(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("ascii"), np.uint8)


def _mismatches(stretch: np.ndarray, target: np.ndarray, places: int) -> np.ndarray:
    cost = np.full(places, np.inf)
    last = len(target) - len(stretch)
    if last >= 0:
        windows = np.lib.stride_tricks.sliding_window_view(target, len(stretch))
        cost[: last + 1] = MISMATCH_COST * (windows != stretch).sum(-1)
    return cost


def _best_before(before: np.ndarray, length: int, jump: int) -> tuple[np.ndarray, np.ndarray]:
    """For each position of a stretch, the minimum cost of the stretches before it and the position of the last one."""
    places = np.arange(len(before))
    total, link = np.empty(len(places)), np.empty(len(places), int)
    for rows in np.array_split(places, 1 + len(places) // ROWS_AT_A_TIME):
        gap = rows[:, None] - places[None, :] - length
        cost = before[None, :] + np.where(gap >= 0, np.abs(gap - max(jump, 0)), np.inf)
        link[rows] = cost.argmin(1)
        total[rows] = cost.min(1)
    return total, link


def _numbers(residues: ChainResidues, source: np.ndarray) -> np.ndarray:
    """The author's number of each row; in a gap, numbers continue from the residue before it."""
    known = np.maximum.accumulate(np.where(source >= 0, np.arange(len(source)), 0))
    numbers = residues.number[source[known]].astype(np.int64) + (np.arange(len(source)) - known)
    return np.clip(numbers, *INTEGERS).astype(np.int32)


def _insertions(residues: ChainResidues, source: np.ndarray) -> str | None:
    if not any(residues.insertion):
        return None
    return "".join((residues.insertion[i][:1] or " ") if i >= 0 else " " for i in source.tolist())

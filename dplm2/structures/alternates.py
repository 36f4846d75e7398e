"""Distinguishing alternate locations of a residue from residues of another molecule with the same number.

A repeated residue number under one chain id can mean either. Alternate locations have different labels, or overlap in
space, which two molecules cannot. Models written one after another into one chain count as alternate locations too.
"""

from typing import Protocol

import numpy as np

from dplm2.geometry.backbone import lengths
from dplm2.structures.atoms import Atoms

# Non-bonded atoms of different molecules are never closer; some atoms of alternate locations are.
SAME_PLACE = 2.0
# Alternate locations of a backbone atom are closer than this.
FARTHEST_ALTERNATE = 8.0
# Labels indicate alternate locations within one residue, but not for copies of a whole molecule.
FARTHEST_LABELLED = 20.0
# Fraction of consecutive repeated residues that must overlap with their first copy: the rest are disordered.
LEAST_IN_PLACE = 0.5
NEW, PART, LABELLED, IN_PLACE, ELSEWHERE = range(5)


class Stretches(Protocol):
    """The required properties of runs of atoms of one residue; see ``residues.Runs``."""

    start: np.ndarray
    run_of_atom: np.ndarray
    key: list[tuple]


def combine(atoms: Atoms, runs: Stretches, members: list[int], code: np.ndarray) -> list[list[int]]:
    """Group runs of atoms into residues.

    Parameters
    ----------
    atoms
        All atoms of the file.
    runs
        Their runs.
    members
        Runs of one chain, in file order.
    code
        Which backbone atom (N, CA, C, O) an atom is, -1 for none.

    Returns
    -------
    list of list of int
        One list of runs per residue. Residues of two molecules remain separate although their numbers are equal.
    """
    backbone = _backbones(atoms, runs, members, code)
    labels = _labels(atoms, runs, members)
    latest: dict[tuple, list[int]] = {}
    kinds, origins = [], []
    for i, run in enumerate(members):
        known = latest.get(runs.key[run])
        kind = NEW if known is None else _compare(i, known, backbone, labels)
        origins.append(i if known is None else known[0])
        kinds.append(kind)
        if kind in (NEW, ELSEWHERE):
            latest[runs.key[run]] = [i]
        else:
            known.append(i)
    return _grouped(members, np.array(kinds), origins)


def _backbones(atoms: Atoms, runs: Stretches, members: list[int], code: np.ndarray) -> np.ndarray:
    """The first N, CA, C and O of each run (runs, 4, 3), NaN where missing."""
    place = np.full(len(runs.start), -1)
    place[members] = np.arange(len(members))
    own = place[runs.run_of_atom]
    # Backwards, so that the first of equal names is kept.
    at = np.flatnonzero((code >= 0) & (own >= 0))[::-1]
    found = np.full((len(members), 4, 3), np.nan, np.float32)
    found[own[at], code[at]] = atoms.coords[at]
    return found


def _labels(atoms: Atoms, runs: Stretches, members: list[int]) -> list[set[str]]:
    stops = np.append(runs.start[1:], len(atoms))
    return [set(atoms.altloc[runs.start[run] : stops[run]].tolist()) - {""} for run in members]


def _compare(i: int, known: list[int], backbone: np.ndarray, labels: list[set[str]]) -> int:
    """Relation of run ``i`` to the runs of the last residue with the same number."""
    apart = lengths(backbone[known] - backbone[i])
    if np.isnan(apart).all():
        return PART
    closest = np.nanmin(apart)
    if labels[i] and all(labels[j] and not labels[i] & labels[j] for j in known) and closest < FARTHEST_ALTERNATE:
        return LABELLED
    return IN_PLACE if closest < SAME_PLACE else ELSEWHERE


def _grouped(members: list[int], kinds: np.ndarray, origins: list[int]) -> list[list[int]]:
    """Residues from the kinds of their runs; consecutive repeats are classified together."""
    repeats = np.isin(kinds, (LABELLED, IN_PLACE, ELSEWHERE))
    row = np.cumsum(np.append(True, repeats[1:] != repeats[:-1]))
    share = np.bincount(row, weights=kinds != ELSEWHERE) / np.maximum(np.bincount(row), 1)
    residue_of: list[int] = []
    groups: dict[int, list[int]] = {}
    for i, kind in enumerate(kinds.tolist()):
        alone = kind == NEW or (kind in (IN_PLACE, ELSEWHERE) and share[row[i]] < LEAST_IN_PLACE)
        residue_of.append(i if alone else residue_of[origins[i]])
        groups.setdefault(residue_of[i], []).append(members[i])
    return list(groups.values())

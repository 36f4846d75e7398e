"""What a viewer shows: one structure, or several superposed on the first.

Array axes: L residues, A atoms (N, CA, C, O), X Cartesian coordinates in angstrom.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dplm2.geometry.secondary_structure import secondary_structure
from dplm2.geometry.superposition import superposed

CA, O = 1, 3
UNITS = 100  # coordinates are whole hundredths of an angstrom: half the text of decimal numbers
COLORS = ("plddt", "deviation", "marked")  # what residues can be coloured by beside position and secondary structure


@dataclass(frozen=True)
class Structure:
    """A chain's backbone.

    Attributes
    ----------
    name
        In the legend.
    backbone
        (L, 4, 3): N, CA, C, O in angstrom, NaN where missing.
    sequence
        (L) letters, for labels of residues; may be empty.
    plddt
        (L,) 0 to 100, to colour by; None where it means nothing.
    marked
        (L,) True for residues to stand out, such as a motif; None for none.
    """

    name: str
    backbone: np.ndarray
    sequence: str = ""
    plddt: Sequence[float | None] | np.ndarray | None = None
    marked: Sequence[bool] | np.ndarray | None = None


@dataclass(frozen=True)
class Scene:
    """One choice of a viewer.

    Attributes
    ----------
    label
        In the list of choices.
    structures
        Those of the length of the first are superposed on it; the last one is coloured.
    facts
        Pairs of text beside the picture.
    key
        A button with this value as its attribute ``data-shows`` chooses the scene.
    colored_by
        What to colour by at first: ``position``, ``structure`` (secondary structure), ``plddt``, ``deviation`` (from
        the first structure) or ``marked``. None: the marks, else pLDDT, else the position in the chain.
    group
        Scenes of one group that follow one another stand together in the list of choices.
    """

    label: str
    structures: Sequence[Structure]
    facts: Sequence[tuple[str, str]] = field(default=())
    key: str = ""
    colored_by: str | None = None
    group: str = ""

    def values(self) -> dict[str, Any]:
        """Everything that is drawn, as plain values for JSON."""
        backbones = aligned([np.asarray(each.backbone, dtype=np.float64) for each in self.structures])
        drawn = [_drawn(*pair) for pair in zip(self.structures, backbones, strict=True)]
        if len(backbones) > 1 and len(backbones[0]) == len(backbones[-1]):
            drawn[-1]["deviation"] = _rounded(deviation(backbones[0], backbones[-1]), 1)
        known = [name for name in ("marked", "plddt") if name in drawn[-1]]
        return {
            "label": self.label,
            "group": self.group,
            "key": self.key,
            "facts": [list(pair) for pair in self.facts],
            "colored_by": self.colored_by or next(iter(known), "position"),
            "structures": drawn,
        }


def aligned(backbones: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Backbones superposed on the first, its longest extent across the view and its shortest along it."""
    fixed = backbones[0]
    center, axes = _longest_first(fixed[:, CA])
    moved = [each if each is fixed or len(each) != len(fixed) else superposed(each, fixed) for each in backbones]
    return [(each - center) @ axes for each in moved]


def deviation(one_LAX: np.ndarray, other_LAX: np.ndarray) -> np.ndarray:
    """Distances (L,) of the C-alpha atoms of two superposed backbones, NaN where one lacks it."""
    return np.linalg.norm(one_LAX[:, CA] - other_LAX[:, CA], axis=-1)


def _drawn(structure: Structure, backbone: np.ndarray) -> dict[str, Any]:
    alpha = backbone[:, CA]
    whole = np.concatenate([alpha, _orientation(backbone)], axis=-1)
    rows = [None if not np.isfinite(row).all() else (row * UNITS).round().astype(int).tolist() for row in whole]
    states = secondary_structure(np.where(np.isfinite(alpha).all(-1, keepdims=True), alpha, np.nan))
    drawn: dict[str, Any] = {
        "name": structure.name,
        "sequence": structure.sequence,
        "atoms": rows,
        "structure": "".join(state or "c" for state in states),
    }
    if structure.plddt is not None:
        plddt = _rounded([np.nan if value is None else value for value in structure.plddt], 0)
        if any(value is not None for value in plddt):
            drawn["plddt"] = plddt
    if structure.marked is not None and np.any(structure.marked):
        drawn["marked"] = [int(mark) for mark in structure.marked]
    return drawn


def _orientation(backbone: np.ndarray) -> np.ndarray:
    """The oxygen (L, 3), by which a ribbon is turned; where it is missing, a point across the chain's direction."""
    alpha, oxygen = backbone[:, CA], backbone[:, O]
    padded = np.concatenate([alpha[:1], alpha, alpha[-1:]])
    across = np.cross(padded[1:-1] - padded[:-2], padded[2:] - padded[1:-1])
    length = np.linalg.norm(across, axis=-1, keepdims=True)
    across = np.where(length > 1e-6, across / np.maximum(length, 1e-6), [0.0, 0.0, 1.0])
    return np.where(np.isfinite(oxygen).all(-1, keepdims=True), oxygen, alpha + across)


def _rounded(values: Sequence[float] | np.ndarray, digits: int) -> list[float | int | None]:
    rounded = np.round(np.asarray(values, dtype=float), digits)
    return [None if not np.isfinite(value) else float(value) if digits else int(value) for value in rounded]


def _longest_first(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    observed = points[np.isfinite(points).all(1)]
    center = observed.mean(0) if len(observed) else np.zeros(3)
    axes = np.linalg.svd(observed - center, full_matrices=True)[2].T if len(observed) else np.eye(3)
    if np.linalg.det(axes) < 0:  # never a mirror image
        axes[:, 2] *= -1
    return center, axes

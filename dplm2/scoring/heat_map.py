"""Heat maps of all single mutations of a protein."""

from collections.abc import Sequence

import numpy as np
from matplotlib.colors import TwoSlopeNorm

from dplm2.report.drawing import INK, axes
from dplm2.scoring.mutations import AMINO_ACIDS, Numbered

ORDER = "GAVLIMFWYPCSTNQHKRDE"
"""Amino acids by side chain: aliphatic, aromatic, polar, positive, negative."""
_INCHES_PER_RESIDUE, _MARGIN, _WIDEST = 0.1, 1.6, 80.0
_HEIGHT = 2.9
_TICKS = 10  # residues between labels


def heat_map(protein: Numbered, effects_LA: np.ndarray) -> str:
    """An SVG document: a row per amino acid, a column per residue, the wild type marked by dots.

    Parameters
    ----------
    protein
        Its numbers label the columns.
    effects_LA
        Scores (L, A) in nats, columns in the order of `AMINO_ACIDS`; NaN where unknown.
    """
    rows = [AMINO_ACIDS.index(letter) for letter in ORDER]
    values_AL = np.asarray(effects_LA)[:, rows].T
    finite = values_AL[np.isfinite(values_AL)]
    reach = max(float(np.abs(finite).max()) if finite.size else 0.0, 1e-6)
    length = values_AL.shape[1]
    with axes(min(_MARGIN + _INCHES_PER_RESIDUE * length, _WIDEST), _HEIGHT) as (ax, out):
        image = ax.imshow(
            values_AL, aspect="auto", interpolation="nearest", cmap="RdBu", norm=TwoSlopeNorm(0.0, -reach, reach)
        )
        own = [(place, ORDER.index(letter)) for place, letter in enumerate(protein.sequence) if letter in ORDER]
        if own:
            ax.plot(*zip(*own, strict=True), ".", color=INK, markersize=2)
        places = _ticks(protein.numbers)
        ax.set_xticks(places, [protein.numbers[place] for place in places])
        ax.set_yticks(range(len(ORDER)), list(ORDER), fontsize=6)
        ax.grid(False)
        ax.set(xlabel="residue", title=f"{protein.name}: single mutations")
        ax.figure.colorbar(image, ax=ax, label="score (nats)", fraction=min(0.15, 6 / (length + 40)), pad=0.01)
    return out[0]


def _ticks(numbers: Sequence[str]) -> list[int]:
    """Places of the round numbers; the ends where there are none."""
    step = _TICKS * (1 + len(numbers) // 800)
    round_numbers = [place for place, text in enumerate(numbers) if text.isdecimal() and int(text) % step == 0]
    return round_numbers or [0, len(numbers) - 1]

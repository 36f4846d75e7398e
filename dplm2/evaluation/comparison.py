"""Structure metrics of predicted backbones against their references, residue by residue.

Rule for missing atoms: a residue whose C-alpha is missing in either structure is left out of every metric; for
``bb_rmsd`` a residue is left out if any of N, CA, C is missing. TM-scores are normalized by the number of residues that
the reference has, so missing residues of a prediction lower the score.
"""

from collections.abc import Sequence

import numpy as np
import torch

from dplm2.evaluation.backends import tm_align
from dplm2.geometry.backbone import observed_residues
from dplm2.geometry.lddt import lddt_ca_scores
from dplm2.geometry.secondary_structure import secondary_structure
from dplm2.geometry.superposition import rmsds
from dplm2.geometry.tm_score import tm_scores

N, CA, C = 0, 1, 2


def compare(
    predictions: Sequence[np.ndarray],
    references: Sequence[np.ndarray],
    released: bool = False,
    device: torch.device | str = "cpu",
) -> dict[str, np.ndarray]:
    """Compare backbones (L, 4, 3), in angstrom, NaN where missing; the two of a pair have the same L.

    Returns
    -------
    dict
        ``ca_rmsd``, ``bb_rmsd`` (N, CA, C), ``tm_score`` (C-alpha), ``lddt_ca``, ``secondary_structure``, one value per
        pair; with ``released`` also ``tm_score_released``.
    """
    for index, (prediction, reference) in enumerate(zip(predictions, references, strict=True)):
        if len(prediction) != len(reference):
            raise ValueError(f"pair {index}: {len(prediction)} residues predicted, {len(reference)} in the reference")
    traces = [[np.asarray(backbone)[:, CA] for backbone in backbones] for backbones in (predictions, references)]
    atoms = [[_whole_residues(backbone) for backbone in backbones] for backbones in (predictions, references)]
    result = {
        "ca_rmsd": rmsds(*traces, device=device),
        "bb_rmsd": rmsds(*atoms, device=device),
        "tm_score": tm_scores(*traces, device=device),
        "lddt_ca": lddt_ca_scores(*traces, device=device),
        "secondary_structure": np.array([secondary_structure_agreement(*pair) for pair in zip(*traces, strict=True)]),
    }
    if released:
        result["tm_score_released"] = released_tm_scores(predictions, references)
    return result


def secondary_structure_agreement(predicted_LX: np.ndarray, reference_LX: np.ndarray) -> float:
    """Share of the reference's residues in the same state (helix, strand or coil by P-SEA) in the prediction.

    Residues without C-alpha in the reference are left out; those missing in the prediction alone count as wrong.
    """
    states = secondary_structure(reference_LX)
    there = states != ""
    return float((secondary_structure(predicted_LX) == states)[there].mean()) if there.any() else float("nan")


def _whole_residues(backbone: np.ndarray) -> np.ndarray:
    """N, CA and C as (3 L, 3), all three NaN where one is missing."""
    atoms = np.array(np.asarray(backbone)[:, : C + 1], dtype=np.float32)
    atoms[~np.isfinite(atoms).all((1, 2))] = np.nan
    return atoms.reshape(-1, 3)


def released_tm_scores(predictions: Sequence[np.ndarray], references: Sequence[np.ndarray]) -> np.ndarray:
    """The released evaluator's TM-score (`tm_align.tm_score_released`) of each pair, over residues observed in both."""
    scores = np.full(len(predictions), np.nan)
    for row, (prediction, reference) in enumerate(zip(predictions, references, strict=True)):
        observed = observed_residues(reference)
        observed &= observed_residues(prediction)
        if observed.sum() >= 3:
            scores[row] = tm_align.tm_score_released(prediction[observed], reference[observed])
    return scores

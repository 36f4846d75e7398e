"""lDDT on C-alpha atoms: the share of native distances that a model keeps, without any superposition.

Mariani et al., Bioinformatics 29 (2013) 2722. A distance counts if it is at most 15 angstrom in the native; it is kept
if the model's differs by less than 0.5, 1, 2, 4 angstrom; the score is the mean of the four shares.

Shapes: B pairs, N or L residues, 3 or X coordinates in angstrom.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from dplm2.geometry.superposition import pad

INCLUSION_RADIUS = 15.0
TOLERANCES = (0.5, 1.0, 2.0, 4.0)
EPSILON = 1e-10


def lddt_ca(model_BN3: Tensor, native_BN3: Tensor, there_BN: Tensor | None = None) -> Tensor:
    """lDDT of each pair of C-alpha traces, between 0 and 1, over all distances (NaN if there is none to compare).

    Residues with ``there`` False (padding, or missing in either structure) are left out.
    """
    if there_BN is None:
        there_BN = torch.ones(native_BN3.shape[:-1], dtype=torch.bool, device=native_BN3.device)
    native_BNN = torch.cdist(native_BN3, native_BN3, compute_mode="donot_use_mm_for_euclid_dist")
    model_BNN = torch.cdist(model_BN3, model_BN3, compute_mode="donot_use_mm_for_euclid_dist")
    others_NN = ~torch.eye(native_BN3.shape[1], dtype=torch.bool, device=native_BN3.device)
    counted_BNN = (native_BNN <= INCLUSION_RADIUS) & others_NN & there_BN[:, :, None] & there_BN[:, None, :]
    error_BNN = torch.where(counted_BNN, (model_BNN - native_BNN).abs(), torch.inf)
    kept_B = sum((error_BNN < tolerance).sum((-2, -1)) for tolerance in TOLERANCES)
    return kept_B.double() / (len(TOLERANCES) * counted_BNN.sum((-2, -1)))


def lddt_per_residue(predicted_BLX: Tensor, true_BLX: Tensor, mask_BL: Tensor) -> Tensor:
    """lDDT of each residue's C-alpha, 0 to 1, ``(B, L)`` (Jumper et al. 2021, supplement 1.9.6).

    It is 1 for a residue without any distance to compare.
    """
    true_BLL, predicted_BLL = (torch.cdist(points, points) for points in (true_BLX, predicted_BLX))
    apart_LL = ~torch.eye(true_BLX.shape[1], dtype=torch.bool, device=true_BLX.device)
    counted = (true_BLL < INCLUSION_RADIUS) & mask_BL[:, :, None] & mask_BL[:, None, :] & apart_LL
    error_BLL = (true_BLL - predicted_BLL).abs()
    kept = sum((error_BLL < limit).float() for limit in TOLERANCES) / len(TOLERANCES)
    return ((kept * counted).sum(-1) + EPSILON) / (counted.sum(-1) + EPSILON)


def lddt_of_residues(model_LX: np.ndarray, native_LX: np.ndarray) -> np.ndarray:
    """lDDT (L,) of the residues of one C-alpha trace, NaN where the native, or the model, lacks the residue."""
    pair = [pad([trace]) for trace in (model_LX, native_LX)]
    (model_BN3, in_model_BN), (native_BN3, in_native_BN) = pair
    there_BN = in_model_BN & in_native_BN
    scores_BN = lddt_per_residue(model_BN3, native_BN3, there_BN)
    return torch.where(there_BN, scores_BN, torch.nan)[0].numpy()


def lddt_ca_scores(
    models: Sequence[np.ndarray], natives: Sequence[np.ndarray], device: torch.device | str = "cpu"
) -> np.ndarray:
    """lDDT of pairs of C-alpha traces (L, 3) of different lengths, NaN where missing."""
    scores = np.full(len(models), np.nan)
    for row, (model, native) in enumerate(zip(models, natives, strict=True)):
        model_BN3, in_model_BN = pad([model], device)
        native_BN3, in_native_BN = pad([native], device)
        scores[row] = lddt_ca(model_BN3, native_BN3, in_model_BN & in_native_BN).item()
    return scores

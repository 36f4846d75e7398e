"""TM-score of structures whose residues correspond one to one, searched as TM-score does, batched over pairs.

Zhang & Skolnick, Proteins 57 (2004) 702. The score of a superposition is ``1/L sum_i 1 / (1 + d_i^2 / d0^2)``; the
TM-score is its maximum over all superpositions. As in the TM-score program, the search starts from superpositions of
fragments of length L, L/2, L/4, ... along the chain. From there it differs: each start climbs by re-weighted
superposition, residue i with weight ``1 / (1 + d_i^2 / d0^2)^2``. These weights are the score's own derivative, so no
step lowers it, and the climb ends in an optimum of the score itself and not of a count of close residues.

Both the weighted sums that a superposition needs and the squared distances after it are linear in 17 products of the
coordinates, so that a step for all starts of a pair is two small matrix products.

Shapes: P pairs, S starts, N residues, F = 17 products, 3 coordinates in angstrom.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dplm2.core.batching import by_length
from dplm2.geometry.quaternion import best_rotation
from dplm2.geometry.superposition import move, pad, superpose

SHORTEST_FRAGMENT = 4
SMALLEST_D0 = 0.5
SEARCH_DISTANCES = (4.5, 8.0)  # the program keeps its search distance between these, in angstrom


@dataclass(frozen=True)
class Search:
    """How hard the best superposition is looked for.

    Attributes
    ----------
    starts_per_length
        Fragments of each length, spread evenly along the chain.
    first_steps
        Climbing steps that every start takes.
    kept
        Starts that are refined after that.
    last_steps
        Steps of the ones that are kept.
    """

    starts_per_length: int = 20
    first_steps: int = 4
    kept: int = 6
    last_steps: int = 20


FULL_SEARCH = Search()
# For all pairs of a set, a third of the time: on pairs of unrelated chains of 200 residues 0.0017 below the full search
# on average and 0.026 at most, on pairs of models and natives as recorded with the TM-score program 0.001 from it.
QUICK_SEARCH = Search(starts_per_length=6, first_steps=2, kept=3, last_steps=8)


def d0_of(length: Tensor | int) -> Tensor:
    """The distance scale of TM-score in angstrom for a protein of ``length`` residues, at least 0.5."""
    length = torch.as_tensor(length, dtype=torch.float64)
    scale = 1.24 * (length - 15).clamp(min=0) ** (1 / 3) - 1.8
    return scale.clamp(min=SMALLEST_D0)


def tm_score(
    model_PN3: Tensor,
    native_PN3: Tensor,
    there_PN: Tensor | None = None,
    length_P: Tensor | None = None,
    search: Search = FULL_SEARCH,
) -> Tensor:
    """TM-score of each pair of C-alpha traces, residue i of one corresponding to residue i of the other.

    Parameters
    ----------
    model_PN3, native_PN3
        C-alpha positions, padded to one length.
    there_PN
        False where a residue is padding or missing in either structure: it is left out.
    length_P
        Length by which the score is normalized, and which sets d0; the number of compared residues if left out.
    search
        How hard to search.

    Returns
    -------
    Tensor
        (P,) float64 between 0 and 1; NaN for a pair with fewer than three residues to compare.
    """
    if there_PN is None:
        there_PN = torch.ones(model_PN3.shape[:-1], dtype=torch.bool, device=model_PN3.device)
    compared_P = there_PN.sum(-1)
    length_P = compared_P if length_P is None else length_P
    d0_P = d0_of(length_P).to(model_PN3.device)
    model_PN3, native_PN3 = _centered(model_PN3, there_PN), _centered(native_PN3, there_PN)
    products_PFN = _products(model_PN3, native_PN3, there_PN)
    starts_PSN = _fragments(there_PN, search)
    squared_d0_P = d0_P.square().to(products_PFN.dtype)
    # First steps at a wider scale, as the program's search distance is wider than d0 for short chains.
    wide_P = d0_P.clamp(*SEARCH_DISTANCES).square().to(products_PFN.dtype).maximum(squared_d0_P)
    weights_PSN = _climb(starts_PSN, products_PFN, there_PN, wide_P, search.first_steps)[1]
    scores_PS, weights_PSN = _climb(weights_PSN, products_PFN, there_PN, squared_d0_P, 1)
    kept_PS = scores_PS.topk(min(search.kept, scores_PS.shape[1]), dim=1).indices
    weights_PSN = weights_PSN.gather(1, kept_PS[..., None].expand(-1, -1, weights_PSN.shape[-1]))
    scores_PS, weights_PSN = _climb(weights_PSN, products_PFN, there_PN, squared_d0_P, search.last_steps)
    best_P = scores_PS.argmax(1)
    weights_PN = weights_PSN[torch.arange(len(best_P), device=best_P.device), best_P]
    score_P = _exact_score(model_PN3, native_PN3, there_PN, weights_PN, d0_P, length_P.to(d0_P))
    return torch.where(compared_P >= 3, score_P, torch.nan)


def _centered(points_PN3: Tensor, there_PN: Tensor) -> Tensor:
    # Squared distances are differences of large sums: without this, a structure far from the origin loses its digits.
    points_PN3 = torch.where(there_PN[..., None], points_PN3, 0.0).double()
    count_P11 = there_PN.sum(-1).clamp(min=1)[:, None, None]
    return torch.where(there_PN[..., None], points_PN3 - points_PN3.sum(1, keepdim=True) / count_P11, 0.0)


def _products(model_PN3: Tensor, native_PN3: Tensor, there_PN: Tensor) -> Tensor:
    outer_PN9 = (model_PN3[..., :, None] * native_PN3[..., None, :]).flatten(-2)
    squares_PN1 = (model_PN3.square() + native_PN3.square()).sum(-1, keepdim=True)
    columns = [there_PN[..., None].double(), squares_PN1, model_PN3, native_PN3, outer_PN9]
    return torch.cat(columns, dim=-1).float().mT.contiguous()


def _fragments(there_PN: Tensor, search: Search) -> Tensor:
    """Weights (P, S, N): 1 on each start's fragment. Fragments are counted in residues that are there."""
    rank_PN = there_PN.cumsum(-1) - 1
    count_P1 = there_PN.sum(-1, keepdim=True)
    longest = int(count_P1.max())
    starts = []
    divisor = 1
    while True:
        fragment_P1 = (count_P1 // divisor).clamp(min=SHORTEST_FRAGMENT)
        places = 1 if divisor == 1 else min(search.starts_per_length, 2 * divisor)
        fraction_1S = (
            torch.linspace(0, 1, places, device=there_PN.device)[None] if places > 1 else there_PN.new_zeros(1, 1)
        )
        first_PS = ((count_P1 - fragment_P1).clamp(min=0) * fraction_1S).round().long()
        after_first_PSN = rank_PN[:, None] >= first_PS[..., None]
        starts.append(after_first_PSN & (rank_PN[:, None] < (first_PS + fragment_P1)[..., None]) & there_PN[:, None])
        if longest // divisor <= SHORTEST_FRAGMENT:
            return torch.cat(starts, dim=1).float()
        divisor *= 2


def _climb(
    weights_PSN: Tensor, products_PFN: Tensor, there_PN: Tensor, squared_d0_P: Tensor, steps: int
) -> tuple[Tensor, Tensor]:
    """``steps`` re-weighted superpositions of every start.

    Returns the score of the last one (its sum over residues) and the weights that the next one would use.
    """
    inverse_P11 = 1 / squared_d0_P[:, None, None]
    gaps = None if there_PN.all() else there_PN[:, None]
    closeness_PSN = weights_PSN
    for step in range(steps):
        # Each pass over all starts and residues counts: they are what the search takes its time for.
        weights_PSN = weights_PSN if step == 0 else closeness_PSN.square_()
        coefficients_PSF = _distance_coefficients(weights_PSN @ products_PFN.mT)
        # The first product is the constant 1 where a residue is there, 0 elsewhere.
        ratio_PSN = (coefficients_PSF.to(products_PFN) * inverse_P11) @ products_PFN
        closeness_PSN = ratio_PSN.clamp_(min=0).add_(1).reciprocal_()
        if gaps is not None:
            closeness_PSN.mul_(gaps)
    return closeness_PSN.sum(-1), closeness_PSN.square()


def _distance_coefficients(sums_PSF: Tensor) -> Tensor:
    """From weighted sums of the products, the coefficients that give squared distances after superposition."""
    sums_PSF = sums_PSF.double()
    total_PS1 = sums_PSF[..., :1].clamp(min=1e-12)
    model_center_PS3, native_center_PS3 = sums_PSF[..., 2:5] / total_PS1, sums_PSF[..., 5:8] / total_PS1
    outer_PS33 = sums_PSF[..., 8:].unflatten(-1, (3, 3)) / total_PS1[..., None]
    covariance_PS33 = outer_PS33 - model_center_PS3[..., :, None] * native_center_PS3[..., None, :]
    spread_PS = (
        sums_PSF[..., 1] / total_PS1[..., 0] - model_center_PS3.square().sum(-1) - native_center_PS3.square().sum(-1)
    )
    rotation_PS33 = best_rotation(covariance_PS33, spread_PS)
    translation_PS3 = native_center_PS3 - (model_center_PS3[..., None, :] @ rotation_PS33)[..., 0, :]
    # |xR + t - y|^2 = |x|^2 + |y|^2 + |t|^2 + 2 xR.t - 2 y.t - 2 xR.y
    turned_PS3 = (rotation_PS33 @ translation_PS3[..., :, None])[..., 0]
    return torch.cat(
        [
            translation_PS3.square().sum(-1, keepdim=True),
            torch.ones_like(total_PS1),
            2 * turned_PS3,
            -2 * translation_PS3,
            -2 * rotation_PS33.flatten(-2),
        ],
        dim=-1,
    )


def _exact_score(
    model_PN3: Tensor, native_PN3: Tensor, there_PN: Tensor, weights_PN: Tensor, d0_P: Tensor, length_P: Tensor
) -> Tensor:
    rotation_P33, translation_P3 = superpose(model_PN3, native_PN3, weights_PN)
    squared_PN = (move(model_PN3, rotation_P33, translation_P3) - native_PN3).square().sum(-1)
    return (there_PN / (1 + squared_PN / d0_P[:, None].square())).sum(-1) / length_P


def tm_scores(
    models: Sequence[np.ndarray],
    natives: Sequence[np.ndarray],
    search: Search = FULL_SEARCH,
    device: torch.device | str = "cpu",
    residues_per_batch: int = 16384,
) -> np.ndarray:
    """TM-score of many pairs of different lengths; pairs of similar length are computed together.

    Parameters
    ----------
    models, natives
        C-alpha traces (L, 3) in angstrom, NaN where missing; the two of a pair have the same L. Residues that are
        missing in either are left out, and the score is normalized by the number of residues seen in the native.
    search, device
        How hard to search, and where.
    residues_per_batch
        Residues that are worked on at a time, padding counted.
    """
    scores = np.full(len(models), np.nan)
    for batch in by_length([len(model) for model in models], residues_per_batch):
        model_PN3, in_model_PN = pad([models[pair] for pair in batch], device)
        native_PN3, in_native_PN = pad([natives[pair] for pair in batch], device)
        lengths_P = in_native_PN.sum(-1)
        scores[batch] = tm_score(model_PN3, native_PN3, in_model_PN & in_native_PN, lengths_P, search).cpu().numpy()
    return scores

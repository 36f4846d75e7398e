"""How well decoded C-alpha traces fit the true ones: lDDT and RMSD, for the confidence loss and validation.

Shapes: B batch, L residues, X space.
"""

import torch
from torch import Tensor

LDDT_RADIUS = 15.0  # angstrom: true distances up to here count
LDDT_LIMITS = (0.5, 1.0, 2.0, 4.0)  # angstrom
EPSILON = 1e-10


def lddt(predicted_BLX: Tensor, true_BLX: Tensor, mask_BL: Tensor) -> Tensor:
    """lDDT of each residue's C-alpha, 0 to 1, ``(B, L)`` (Mariani et al. 2013, C-alpha atoms only).

    The share of true distances up to 15 angstrom that are kept within 0.5, 1, 2 and 4 angstrom, averaged over the four.
    """
    true_BLL, predicted_BLL = (torch.cdist(points, points) for points in (true_BLX, predicted_BLX))
    apart_LL = ~torch.eye(true_BLX.shape[1], dtype=torch.bool, device=true_BLX.device)
    counted = (true_BLL < LDDT_RADIUS) & mask_BL[:, :, None] & mask_BL[:, None, :] & apart_LL
    error_BLL = (true_BLL - predicted_BLL).abs()
    kept = sum((error_BLL < limit).float() for limit in LDDT_LIMITS) / len(LDDT_LIMITS)
    return ((kept * counted).sum(-1) + EPSILON) / (counted.sum(-1) + EPSILON)


def rmsd(predicted_BLX: Tensor, true_BLX: Tensor, mask_BL: Tensor) -> Tensor:
    """Root mean square deviation ``(B,)`` in angstrom after the best superposition (Kabsch 1976)."""
    weight_BL1 = mask_BL.unsqueeze(-1).double()
    count_B = mask_BL.sum(-1).clamp(min=1).double()

    def centred(points: Tensor) -> Tensor:
        points = torch.where(mask_BL.unsqueeze(-1), points, 0.0).double()
        return (points - points.sum(1, keepdim=True) / count_B[:, None, None]) * weight_BL1

    predicted, true = centred(predicted_BLX), centred(true_BLX)
    left, singular, right = torch.linalg.svd(predicted.transpose(1, 2) @ true)
    handed = torch.linalg.det(left @ right).sign()
    overlap = singular[:, 0] + singular[:, 1] + handed * singular[:, 2]
    squares = predicted.square().sum((1, 2)) + true.square().sum((1, 2)) - 2 * overlap
    return (squares.clamp(min=0) / count_B).sqrt().float()


def code_use(tokens_N: Tensor, codebook_size: int) -> dict[str, float]:
    """Share of the codes that occur, and perplexity of their frequencies (the exponential of the entropy)."""
    counts = torch.bincount(tokens_N.long(), minlength=codebook_size).double()
    frequencies = counts[counts > 0] / counts.sum()
    entropy = -(frequencies * frequencies.log()).sum()
    return {"codes_used": (counts > 0).double().mean().item(), "code_perplexity": entropy.exp().item()}

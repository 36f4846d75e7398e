"""Optimal superposition of matched points, batched: rotations, moved points, root mean square deviation.

Kabsch, Acta Cryst. A32 (1976) 922. Points that are missing carry weight 0.

Shapes: B pairs, N points, 3 coordinates in angstrom.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from dplm2.core.batching import by_length

POINTS_AT_ONCE = 65536


def superpose(mobile_BN3: Tensor, target_BN3: Tensor, weight_BN: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Rotation and translation that superimpose ``mobile`` on ``target`` with the least weighted squared distance.

    Parameters
    ----------
    mobile_BN3, target_BN3
        Matched points; rows of weight 0 may hold anything, NaN included.
    weight_BN
        Weight of each point, not negative; all 1 if left out.

    Returns
    -------
    rotation_B33, translation_B3
        ``mobile @ rotation + translation`` is the moved copy; float64.
    """
    mobile_BN3, target_BN3 = mobile_BN3.double(), target_BN3.double()
    if weight_BN is None:
        weight_BN = mobile_BN3.new_ones(mobile_BN3.shape[:-1])
    weight_BN1 = weight_BN.double()[..., None]
    mobile_BN3, target_BN3 = (torch.where(weight_BN1 > 0, points, 0.0) for points in (mobile_BN3, target_BN3))
    total_B11 = weight_BN1.sum(-2, keepdim=True).clamp(min=1e-12)
    mobile_center_B13 = (weight_BN1 * mobile_BN3).sum(-2, keepdim=True) / total_B11
    target_center_B13 = (weight_BN1 * target_BN3).sum(-2, keepdim=True) / total_B11
    covariance_B33 = (weight_BN1 * (mobile_BN3 - mobile_center_B13)).mT @ (target_BN3 - target_center_B13)
    left_B33, _, right_B33 = torch.linalg.svd(covariance_B33)
    # Without this sign a mirror image would be superimposed on its original by a reflection.
    handedness_B = torch.sign(torch.linalg.det(left_B33) * torch.linalg.det(right_B33))
    diagonal_B3 = torch.stack([torch.ones_like(handedness_B), torch.ones_like(handedness_B), handedness_B], dim=-1)
    rotation_B33 = (left_B33 * diagonal_B3[..., None, :]) @ right_B33
    translation_B3 = (target_center_B13 - mobile_center_B13 @ rotation_B33)[..., 0, :]
    return rotation_B33, translation_B3


def move(points_BN3: Tensor, rotation_B33: Tensor, translation_B3: Tensor) -> Tensor:
    """Points after a rotation (acting from the right) and a translation."""
    return points_BN3.to(rotation_B33) @ rotation_B33 + translation_B3[..., None, :]


def superposed(mobile_LAX: np.ndarray, target_LAX: np.ndarray) -> np.ndarray:
    """A backbone (N, CA, C, ...) superimposed on another one of its length, over the N, CA and C that both have."""
    mobile_1N3, target_1N3 = (torch.from_numpy(a[:, :3].reshape(1, -1, 3)) for a in (mobile_LAX, target_LAX))
    both_1N = (mobile_1N3.isfinite() & target_1N3.isfinite()).all(-1)
    moved = move(torch.from_numpy(mobile_LAX.reshape(1, -1, 3)), *superpose(mobile_1N3, target_1N3, both_1N))
    return moved.numpy().reshape(mobile_LAX.shape).astype(np.float32)


def rmsd(mobile_BN3: Tensor, target_BN3: Tensor, weight_BN: Tensor | None = None) -> Tensor:
    """Root mean square deviation in angstrom after optimal superposition; NaN for a pair without any point."""
    if weight_BN is None:
        weight_BN = mobile_BN3.new_ones(mobile_BN3.shape[:-1])
    rotation_B33, translation_B3 = superpose(mobile_BN3, target_BN3, weight_BN)
    squared_BN = (move(mobile_BN3, rotation_B33, translation_B3) - target_BN3.double()).square().sum(-1)
    squared_BN = torch.where(weight_BN > 0, squared_BN, 0.0)
    weight_BN = weight_BN.double()
    return ((weight_BN * squared_BN).sum(-1) / weight_BN.sum(-1)).sqrt()


def pad(arrays: Sequence[np.ndarray], device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
    """Stack arrays of points of different lengths: points (B, N, 3), and which of them are there and finite (B, N)."""
    longest = max(len(array) for array in arrays)
    points_BN3 = np.full((len(arrays), longest, 3), np.nan, dtype=np.float32)
    for row, array in enumerate(arrays):
        points_BN3[row, : len(array)] = array
    points = torch.from_numpy(points_BN3).to(device)
    there_BN = points.isfinite().all(-1)
    return torch.where(there_BN[..., None], points, 0.0), there_BN


def rmsds(
    models: Sequence[np.ndarray], natives: Sequence[np.ndarray], device: torch.device | str = "cpu"
) -> np.ndarray:
    """RMSD after superposition of pairs of point sets (N, 3) of different sizes, over points present in both."""
    values = np.full(len(models), np.nan)
    for batch in by_length([len(model) for model in models], POINTS_AT_ONCE):
        model_BN3, in_model_BN = pad([models[pair] for pair in batch], device)
        native_BN3, in_native_BN = pad([natives[pair] for pair in batch], device)
        values[batch] = rmsd(model_BN3, native_BN3, in_model_BN & in_native_BN).cpu().numpy()
    return values

"""Input features of the encoder: dihedral angles, directions and the graph of nearest residues.

The features are those of ESM-IF1 (Hsu et al. 2022, after Ingraham et al. 2019 and Jing et al. 2020) as used by the
DPLM-2 authors: residues without coordinates are at the centre of the chain, so that their neighbours' angles depend on
it, and angles across the ends of a chain are absent. Both also hold in a padded batch.

Shapes: B batch, L residues, A atoms (N, CA, C), X or 3 coordinates, K neighbours, E edges, F features.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

NORM_EPSILON = 1e-8  # under the square root of every norm, as in ESM-IF1
CENTRE_EPSILON = 1e-5  # added to the number of atoms in the mean, as in the authors' program
DISTANCE_BINS, LONGEST_DISTANCE = 16, 20.0
POSITION_FEATURES = 16
NODE_SCALARS, NODE_VECTORS = 7, 3
EDGE_SCALARS, EDGE_VECTORS = DISTANCE_BINS + POSITION_FEATURES + 2, 1
CA = 1


class Edges(NamedTuple):
    """The graph of all residues of a batch, which are numbered without padding.

    Edges run from each residue to its nearest residues, so that the number of edges into a residue varies. They are
    sorted by destination.
    """

    source_E: Tensor
    destination_E: Tensor
    scalars_EF: Tensor
    vectors_E3V: Tensor


def observed_residues(coords: Tensor) -> Tensor:
    """True (..., L) for residues with N, CA and C, from coordinates (..., L, 3 or more, 3) with NaN where missing."""
    return torch.isfinite(coords[..., :3, :]).all(-1).all(-1)


def centre(coords_BLAX: Tensor, observed_BL: Tensor) -> Tensor:
    """Chains translated so that their mean CA is the origin, with missing residues at the origin.

    Features next to missing residues depend on the origin, so that tokens agree with the authors' only with the same
    centre: the sum of observed CA divided by their number plus 1e-5.
    """
    known = observed_BL[..., None, None]
    coords = torch.where(known, coords_BLAX, 0.0)
    total = coords[..., CA, :].sum(-2)
    mean = total / (observed_BL.sum(-1, keepdim=True) + CENTRE_EPSILON)
    return torch.where(known, coords - mean[..., None, None, :], 0.0)


def unit(vectors: Tensor) -> Tensor:
    """Vectors normalised along the last axis; a zero vector remains zero."""
    return vectors / torch.sqrt(vectors.square().sum(-1, keepdim=True) + NORM_EPSILON)


def radial_basis(values: Tensor, highest: float) -> Tensor:
    """Sixteen Gaussians with centres from 0 to ``highest``, as a new last axis."""
    centres = torch.linspace(0.0, highest, DISTANCE_BINS, device=values.device)
    return torch.exp(-(((values[..., None] - centres) / (highest / DISTANCE_BINS)) ** 2))


def last_residues(residues_BL: Tensor) -> Tensor:
    """True (B, L) for the last residue of each chain of a padded batch."""
    return residues_BL & ~F.pad(residues_BL[:, 1:], (0, 1), value=False)


def dihedrals(coords_BLAX: Tensor, residues_BL: Tensor, exact_norm: bool = False) -> Tensor:
    """Cosines, then sines, of phi, psi, omega (B, L, 6).

    Angles across the ends of a chain (phi of the first residue, psi and omega of the last) are zero.

    Parameters
    ----------
    coords_BLAX
        N, CA, C, centred, zero where missing.
    residues_BL
        False at padding.
    exact_norm
        Normalise without the small term under the root; ESM-IF1 uses both forms.
    """
    atoms = coords_BLAX.flatten(1, 2)
    bonds = atoms[:, 1:] - atoms[:, :-1]
    steps = F.normalize(bonds, dim=-1) if exact_norm else unit(bonds)
    before, here, after = steps[:, :-2], steps[:, 1:-1], steps[:, 2:]
    normal_before = _normal(before, here, exact_norm)
    normal_after = _normal(here, after, exact_norm)
    cosine = (normal_before * normal_after).sum(-1).clamp(-1 + 1e-7, 1 - 1e-7)
    angle = torch.sign((before * normal_after).sum(-1)) * torch.acos(cosine)
    angle = F.pad(angle, (1, 2)).unflatten(1, (-1, 3))
    crosses_end = last_residues(residues_BL)[..., None] & torch.tensor([False, True, True], device=angle.device)
    angle = angle.masked_fill(crosses_end, 0.0)
    return torch.cat([torch.cos(angle), torch.sin(angle)], -1)


def _normal(first: Tensor, second: Tensor, exact_norm: bool) -> Tensor:
    product = torch.linalg.cross(first, second)
    return F.normalize(product, dim=-1) if exact_norm else unit(product)


def directions(coords_BLAX: Tensor, residues_BL: Tensor) -> Tensor:
    """Unit vectors to the next CA, to the previous CA and to an ideal CB (B, L, 3 vectors, 3)."""
    nitrogen, alpha, carbon = coords_BLAX.unbind(-2)
    step = unit(alpha[:, 1:] - alpha[:, :-1])
    forward = F.pad(step, (0, 0, 0, 1)).masked_fill(last_residues(residues_BL)[..., None], 0.0)
    backward = F.pad(-step, (0, 0, 1, 0))
    to_carbon, to_nitrogen = unit(carbon - alpha), unit(nitrogen - alpha)
    bisector = unit(to_carbon + to_nitrogen)
    perpendicular = unit(torch.linalg.cross(to_carbon, to_nitrogen))
    sidechain = -bisector * math.sqrt(1 / 3) - perpendicular * math.sqrt(2 / 3)
    return torch.stack([forward, backward, sidechain], -2)


def local_frames(coords_BLAX: Tensor) -> Tensor:
    """Axes of each residue's frame (B, L, 3, 3), as rows: towards C, in the plane towards N, their cross product."""
    nitrogen, alpha, carbon = coords_BLAX.unbind(-2)
    first = unit(carbon - alpha)
    to_nitrogen = nitrogen - alpha
    second = unit(to_nitrogen - first * (first * to_nitrogen).sum(-1, keepdim=True))
    return torch.stack([first, second, torch.linalg.cross(first, second)], -2)


def nearest_residues(coords_BLAX: Tensor, observed_BL: Tensor, neighbours: int) -> tuple[Tensor, Tensor]:
    """The nearest observed residues of each observed residue, including itself.

    Returns
    -------
    tuple
        Distances in angstrom (B, L, K), infinite if there is no such neighbour, and residue indices (B, L, K).
    """
    alpha = coords_BLAX[..., CA, :]
    length = alpha.shape[1]
    both = observed_BL[:, :, None] & observed_BL[:, None, :]
    squares = (alpha[:, None, :, :] - alpha[:, :, None, :]).square_().sum(-1)
    distances = torch.sqrt(squares + NORM_EPSILON).masked_fill(~both, math.inf)
    return torch.topk(distances, min(neighbours, length), dim=-1, largest=False)


def position_features(offset: Tensor) -> Tensor:
    """Cosines, then sines, of a sequence offset at eight frequencies, as a new last axis."""
    exponents = torch.arange(0, POSITION_FEATURES, 2, device=offset.device, dtype=torch.float32)
    angles = offset[..., None] * torch.exp(exponents * -(math.log(10000.0) / POSITION_FEATURES))
    return torch.cat([torch.cos(angles), torch.sin(angles)], -1)


def edges_of(coords_BLAX: Tensor, observed_BL: Tensor, residues_BL: Tensor, neighbours: int) -> Edges:
    """The graph of a batch, with edges between observed residues only.

    The last two scalars, ESM-IF1's flags of residues without coordinates, are therefore zero.
    """
    distances_BLK, index_BLK = nearest_residues(coords_BLAX, observed_BL, neighbours)
    chain, source, slot = torch.nonzero(torch.isfinite(distances_BLK), as_tuple=True)
    number = torch.cumsum(residues_BL.flatten(), 0).view_as(residues_BL) - 1
    order = torch.argsort(number[chain, index_BLK[chain, source, slot]], stable=True)
    chain, source, slot = chain[order], source[order], slot[order]
    destination = index_BLK[chain, source, slot]
    offset = (source - destination).float()
    scalars = torch.cat(
        [radial_basis(distances_BLK[chain, source, slot], LONGEST_DISTANCE), position_features(offset)], -1
    )
    alpha = coords_BLAX[..., CA, :]
    vectors = unit(alpha[chain, source] - alpha[chain, destination])
    return Edges(number[chain, source], number[chain, destination], F.pad(scalars, (0, 2)), vectors[:, :, None])

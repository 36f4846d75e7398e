"""The rotation of a superposition in closed form: quick and vectorized, for searches that need many of them.

Horn, J. Opt. Soc. Am. A 4 (1987) 629: the best rotation is the eigenvector of the largest eigenvalue of a 4 x 4 matrix
made of the covariance. Theobald, Acta Cryst. A61 (2005) 478: that eigenvalue by Newton's method from an upper bound.
`dplm2.geometry.superposition` has the slower exact way.

Shapes: any batch dimensions ``...`` before those named.
"""

import torch
from torch import Tensor

from dplm2.geometry.frames import rotations_of

NEWTON_STEPS = 12


def best_rotation(covariance_33: Tensor, spread: Tensor) -> Tensor:
    """Rotation ``R`` (acting from the right) that maximizes ``sum_i w_i (x_i R) . y_i``.

    Parameters
    ----------
    covariance_33
        (..., 3, 3) weighted mean of ``x_a y_b`` about the centers.
    spread
        (...) weighted mean of ``|x|^2 + |y|^2`` about the centers: half of it bounds the eigenvalue.
    """
    matrix_44 = _quaternion_matrix(covariance_33)
    # Scaled so that the bound is 1: the eigenvalue's accuracy does not depend on the protein's size.
    bound = (spread / 2).clamp(min=1e-12)
    matrix_44 = matrix_44 / bound[..., None, None]
    eigenvalue = _largest_eigenvalue(matrix_44)
    return rotations_of(_eigenvector(matrix_44, eigenvalue)).mT  # that one acts from the left


def _quaternion_matrix(covariance_33: Tensor) -> Tensor:
    (xx, xy, xz), (yx, yy, yz), (zx, zy, zz) = ([row[..., i] for i in range(3)] for row in covariance_33.unbind(-2))
    rows = [
        [xx + yy + zz, yz - zy, zx - xz, xy - yx],
        [yz - zy, xx - yy - zz, xy + yx, zx + xz],
        [zx - xz, xy + yx, yy - xx - zz, yz + zy],
        [xy - yx, zx + xz, yz + zy, zz - xx - yy],
    ]
    return torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)


def _largest_eigenvalue(matrix_44: Tensor) -> Tensor:
    # The characteristic polynomial is x^4 + a x^2 + b x + c: the matrix has no trace.
    squared_44 = matrix_44 @ matrix_44
    a = -squared_44.diagonal(dim1=-2, dim2=-1).sum(-1) / 2
    b = -(squared_44 * matrix_44).sum((-2, -1)) / 3
    c = (a.square() * 2 - squared_44.square().sum((-2, -1))) / 4
    x = torch.ones_like(a)
    for _ in range(NEWTON_STEPS):
        squared = x * x
        value = (squared + a) * squared + b * x + c
        slope = (4 * squared + 2 * a) * x + b
        x = x - value / torch.where(slope.abs() > 1e-12, slope, 1e-12)
    return x


def _eigenvector(matrix_44: Tensor, eigenvalue: Tensor) -> Tensor:
    """A column of the adjugate of ``matrix - eigenvalue``; the longest of the four, for some may vanish."""
    identity = torch.eye(4, dtype=matrix_44.dtype, device=matrix_44.device)
    m = matrix_44 - eigenvalue[..., None, None] * identity
    rows = [[m[..., i, j] for j in range(4)] for i in range(4)]

    def minors(i: int, j: int) -> dict[tuple[int, int], Tensor]:
        return {(p, q): rows[i][p] * rows[j][q] - rows[i][q] * rows[j][p] for p in range(4) for q in range(p + 1, 4)}

    upper, lower = minors(0, 1), minors(2, 3)

    def cofactors(row: list[Tensor], pairs: dict[tuple[int, int], Tensor]) -> list[Tensor]:
        result = []
        for skipped in range(4):
            p, q, r = (k for k in range(4) if k != skipped)
            determinant = row[p] * pairs[q, r] - row[q] * pairs[p, r] + row[r] * pairs[p, q]
            result.append(determinant if skipped % 2 == 0 else -determinant)
        return result

    columns = [
        torch.stack(cofactors(rows[1], lower), dim=-1),
        -torch.stack(cofactors(rows[0], lower), dim=-1),
        torch.stack(cofactors(rows[3], upper), dim=-1),
        -torch.stack(cofactors(rows[2], upper), dim=-1),
    ]
    candidates = torch.stack(columns, dim=-2)
    norms = candidates.square().sum(-1)
    longest = norms.argmax(-1)
    vector = candidates.gather(-2, longest[..., None, None].expand(*longest.shape, 1, 4))[..., 0, :]
    norm = norms.amax(-1, keepdim=True).sqrt()
    whole_turn = torch.zeros_like(vector)
    whole_turn[..., 0] = 1
    return torch.where(norm > 1e-30, vector / norm.clamp(min=1e-30), whole_turn)

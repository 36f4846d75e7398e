"""Lookup-free quantization (DPLM-2, section 3.3): a structure token is the signs of a few values, read as bits.

Shapes: B batch, L residues, V values, Q bits, N residues in the mask.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dplm2.settings.tokenizer import QuantizerSettings

ENTROPY_EPSILON = 1e-5  # inside the logarithm of the mean code distribution, as in the authors' code
RANDOM_DIRECTIONS = 16  # along which the distribution of values is compared with the uniform one


class Quantized(NamedTuple):
    """Output of the quantizer; losses are scalars over the residues in the mask."""

    codes_BLQ: Tensor
    indices_BL: Tensor
    commitment: Tensor
    sample_entropy: Tensor
    codebook_entropy: Tensor
    loss: Tensor


def bits_to_indices(bits_BLQ: Tensor) -> Tensor:
    """Read bits (bool) as a number, most significant bit first: (B, L, Q) to (B, L)."""
    values = 2 ** torch.arange(bits_BLQ.shape[-1] - 1, -1, -1, device=bits_BLQ.device)
    return (bits_BLQ * values).sum(-1)


def indices_to_codes(indices_BL: Tensor, bits: int) -> Tensor:
    """Codes of -1 and +1 (float32) of indices below 2^bits: (B, L) to (B, L, Q)."""
    shifts = torch.arange(bits - 1, -1, -1, device=indices_BL.device)
    return ((indices_BL.long()[..., None] >> shifts) & 1).float() * 2 - 1


def binary_entropy(logits: Tensor) -> Tensor:
    """Entropy in nats of a bit that is 1 with probability sigmoid(logits)."""
    size = logits.abs()  # the entropy is even, and free of cancellation for negative arguments
    return F.softplus(-size) + size * torch.sigmoid(-size)


def code_entropies(values_NQ: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Mean entropy of the residues' code distributions, and entropy of their mean, in nats.

    A residue with values x draws code c in {-1, +1}^Q with probability proportional to exp(2 x.c / T). The exponent is
    a sum over bits, so that bits are independent: bit d is 1 with probability
    p_d = exp(2 x_d / T) / (exp(2 x_d / T) + exp(-2 x_d / T)) = sigmoid(4 x_d / T).

    The entropy of a residue's distribution is therefore a sum of Q binary entropies. The mean over residues does not
    factorise, but each residue's distribution is an outer product a_n b_n^T of the distributions of the first and the
    second half of the bits, with 2^(Q/2) entries each. The mean over N residues is A^T B / N, one matrix product
    without a tensor of size N x 2^Q.

    Parameters
    ----------
    values_NQ
        Values whose signs are the bits.
    temperature
        Temperature T.
    """
    logits = 4 * values_NQ / temperature
    sample_entropy = binary_entropy(logits).sum(-1).mean()
    half = values_NQ.shape[1] // 2
    first, second = code_distribution(logits[:, :half]), code_distribution(logits[:, half:])
    mean = first.T @ second / len(values_NQ)
    return sample_entropy, -(mean * torch.log(mean + ENTROPY_EPSILON)).sum()


def code_distribution(logits_NQ: Tensor) -> Tensor:
    """Probabilities (N, 2^Q) of all codes of independent bits, in the order of their indices."""
    probabilities = logits_NQ.new_ones(len(logits_NQ), 1)
    for logits in logits_NQ.unbind(-1):
        zero_one = torch.stack([torch.sigmoid(-logits), torch.sigmoid(logits)], -1)
        probabilities = (probabilities[:, :, None] * zero_one[:, None, :]).flatten(1)
    return probabilities


class Quantizer(nn.Module):
    """Rounds values to bits, with a straight-through gradient.

    The paper's lookup-free quantization has one bit per value, its sign. With ``bits_per_value`` a value is read by
    successive approximation: its sign is the first bit, the sign of the remainder the second, and so on. The bits
    determine the nearest of 2^k evenly spaced levels between -1 and 1: finite scalar quantization (Mentzer et al.
    2024), of which one bit per value is the case of two levels.

    Attributes
    ----------
    bits_on : float
        Number of quantized bits: all, unless training enables them one by one; the other values pass unchanged.
    """

    def __init__(self, settings: QuantizerSettings) -> None:
        super().__init__()
        self.settings = settings
        self.bits_on = float(settings.bits)

    def bound(self, values_BLV: Tensor) -> Tensor:
        """Values bounded according to the settings; signs do not change."""
        if self.settings.bound == "tanh":
            return torch.tanh(values_BLV)
        if self.settings.bound == "normalize":
            return F.rms_norm(values_BLV, values_BLV.shape[-1:], eps=1e-6)
        return values_BLV

    def code_values(self) -> Tensor:
        """Quantized values (codes, V) of each code, between -1 and 1."""
        codes = indices_to_codes(torch.arange(2**self.settings.bits)[None], self.settings.bits)
        return levels_of(codes, self.settings)[0]

    def indices(self, values_BLV: Tensor, mask_BL: Tensor) -> Tensor:
        """Structure tokens of values; the bit of a value of exactly 0 is 0, as is the index outside the mask."""
        if self.settings.bits_per_value is not None:  # otherwise only the signs matter, which the bound keeps
            values_BLV = torch.cat(remainders(self.bound(values_BLV), self.settings.layout), -1)
        return bits_to_indices((values_BLV > 0) & mask_BL[..., None])

    def forward(self, values_BLV: Tensor, mask_BL: Tensor) -> Quantized:
        """Quantize a batch.

        Parameters
        ----------
        values_BLV
            One value per bit, or per entry of ``bits_per_value``.
        mask_BL
            True for residues in the losses; the others have index 0, as in the authors' code.

        Returns
        -------
        Quantized
            ``codes_BLQ`` of -1 and +1; ``loss`` is the weighted sum of commitment, sample minus codebook entropy, and
            distance to the uniform distribution.
        """
        layout = self.settings.layout
        bounded = self.bound(values_BLV)
        parts = remainders(bounded, layout)
        scaled = torch.cat([part * 2**place for part, place in zip(parts, bit_positions(layout), strict=True)], -1)
        values = torch.cat(parts, -1) * mask_BL[..., None]
        signs = torch.where(values > 0, 1.0, -1.0)
        quantized = values + (signs - values).detach()
        on = torch.arange(self.settings.bits, device=values.device) < self.bits_on
        codes = torch.where(on | ~mask_BL[..., None], quantized, values)
        commitment = (bounded[mask_BL] - levels_of(signs, self.settings)[mask_BL]).square().mean()
        sample_entropy, codebook_entropy = code_entropies(scaled[mask_BL], self.settings.entropy_temperature)
        loss = self.settings.commitment_weight * commitment
        loss = loss + self.settings.entropy_weight * (sample_entropy - codebook_entropy)
        if self.settings.uniformity_weight > 0:
            loss = loss + self.settings.uniformity_weight * distance_to_uniform(bounded[mask_BL], layout)
        return Quantized(codes, bits_to_indices(values > 0), commitment, sample_entropy, codebook_entropy, loss)


def distance_to_uniform(values_NV: Tensor, layout: Sequence[int]) -> Tensor:
    """Distance of the joint distribution of values from one that uses all codes equally.

    This is the squared sliced 2-Wasserstein distance (Bonneel et al. 2015) to `uniform_values`: along a direction, the
    distance of two samples is that of their sorted projections. The directions are the axes, which balances the levels
    of each value, and `RANDOM_DIRECTIONS` from torch's generator, which balances their combinations.

    Parameters
    ----------
    values_NV
        Values between -1 and 1.
    layout
        Bits of each value.
    """
    count, width = values_NV.shape
    directions_VS = torch.randn(width, RANDOM_DIRECTIONS, dtype=values_NV.dtype, device=values_NV.device)
    axes_VV = torch.eye(width, dtype=values_NV.dtype, device=values_NV.device)
    directions_VS = torch.cat([axes_VV, F.normalize(directions_VS, dim=0)], 1)
    uniform_NV = uniform_values(count, layout).to(values_NV)
    ours_NS, uniform_NS = ((sample @ directions_VS).sort(0).values for sample in (values_NV, uniform_NV))
    return (ours_NS - uniform_NS).square().mean()


@functools.lru_cache(maxsize=8)
def uniform_values(count: int, layout: tuple[int, ...]) -> Tensor:
    """Points (N, V) between -1 and 1 that are rounded to all codes equally often, evenly distributed in each cell.

    They are a Sobol sequence in units of cells. The outermost levels are -1 and 1; the outer halves of their cells are
    reflected to the inside.
    """
    levels_V = 2.0 ** torch.tensor(layout)
    cells_NV = torch.quasirandom.SobolEngine(len(layout)).draw(count) * levels_V
    values_NV = (2 * cells_NV - 1) / (levels_V - 1) - 1
    return values_NV - 2 * F.relu(values_NV - 1) + 2 * F.relu(-1 - values_NV)


def bit_positions(layout: Sequence[int]) -> list[int]:
    """Position of each bit within its value, from 0."""
    return [place for bits in layout for place in range(bits)]


def bit_weights(bits: int) -> list[float]:
    """Contribution of each bit (-1 or 1) to its value: powers of 1/2, scaled so that values are between -1 and 1."""
    return [2.0**-place / (2 - 2.0 ** (1 - bits)) for place in range(bits)]


def remainders(values_BLV: Tensor, layout: Sequence[int]) -> list[Tensor]:
    """Remainder of the value before each bit, ``(B, L, 1)`` per bit; its sign is the bit."""
    parts = []
    for value, bits in zip(values_BLV.split(1, -1), layout, strict=True):
        for weight in bit_weights(bits):
            parts.append(value)
            value = value - torch.where(value > 0, weight, -weight)
    return parts


def levels_of(codes_BLQ: Tensor, settings: QuantizerSettings) -> Tensor:
    """Quantized values ``(B, L, V)`` of codes; with one bit per value, the codes."""
    if settings.bits_per_value is None:
        return codes_BLQ
    parts = codes_BLQ.split(list(settings.layout), -1)
    weights = [part.new_tensor(bit_weights(part.shape[-1])) for part in parts]
    return torch.stack([part @ weight for part, weight in zip(parts, weights, strict=True)], -1)

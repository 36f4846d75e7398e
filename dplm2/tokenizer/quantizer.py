"""Lookup-free quantization (DPLM-2, section 3.3): a structure token is the signs of a few values, read as bits.

Shape legend: B batch, L residues, V values to quantize, Q bits, N residues that count.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dplm2.settings.tokenizer import QuantizerSettings

ENTROPY_EPSILON = 1e-5  # inside the logarithm of the mean code distribution, as in the authors' code
RANDOM_DIRECTIONS = 16  # along which the joint distribution of values is compared with the even one


class Quantized(NamedTuple):
    """What the quantizer gives; the losses are scalars and count only residues of the mask."""

    codes_BLQ: Tensor
    indices_BL: Tensor
    commitment: Tensor
    sample_entropy: Tensor
    codebook_entropy: Tensor
    loss: Tensor


def bits_to_indices(bits_BLQ: Tensor) -> Tensor:
    """Read bits (bool) as a number, the first bit being worth most."""
    places = 2 ** torch.arange(bits_BLQ.shape[-1] - 1, -1, -1, device=bits_BLQ.device)
    return (bits_BLQ * places).sum(-1)


def indices_to_codes(indices_BL: Tensor, bits: int) -> Tensor:
    """Codes of -1 and +1 (float32) of indices below 2^bits: (B, L) to (B, L, Q)."""
    shifts = torch.arange(bits - 1, -1, -1, device=indices_BL.device)
    return ((indices_BL.long()[..., None] >> shifts) & 1).float() * 2 - 1


def binary_entropy(logits: Tensor) -> Tensor:
    """Entropy, in nats, of a bit that is on with probability sigmoid(logits)."""
    size = logits.abs()  # the entropy is even, and for negative arguments nothing is lost to cancellation
    return F.softplus(-size) + size * torch.sigmoid(-size)


def code_entropies(values_NQ: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Mean entropy of each residue's code distribution, and entropy of the mean code distribution, in nats.

    A residue with values x draws code c in {-1, +1}^Q with probability proportional to exp(2 x.c / T). The exponent is
    a sum over bits, so the distribution is a product of independent bits: bit d is on with probability
    p_d = exp(2 x_d / T) / (exp(2 x_d / T) + exp(-2 x_d / T)) = sigmoid(4 x_d / T).

    The entropy of a product is the sum of the entropies of its factors: Q terms instead of 2^Q.

    The mean over residues is no product. But each residue's distribution is an outer product a_n b_n^T, where a_n is
    the distribution of the first half of the bits (2^(Q/2) entries) and b_n that of the second half; hence the mean
    over N residues is A^T B / N, one matrix product of (2^(Q/2), N) by (N, 2^(Q/2)), and nothing of size N x 2^Q is
    ever made. The result has 2^Q entries, as any exact form must: the logarithm is taken of each of them.

    Parameters
    ----------
    values_NQ
        Values whose signs are the bits.
    temperature
        T above.
    """
    logits = 4 * values_NQ / temperature
    sample_entropy = binary_entropy(logits).sum(-1).mean()
    half = values_NQ.shape[1] // 2
    first, second = code_distribution(logits[:, :half]), code_distribution(logits[:, half:])
    mean = first.T @ second / len(values_NQ)
    return sample_entropy, -(mean * torch.log(mean + ENTROPY_EPSILON)).sum()


def code_distribution(logits_NQ: Tensor) -> Tensor:
    """Probabilities of all 2^Q codes of independent bits, ordered by index: (N, 2^Q)."""
    probabilities = logits_NQ.new_ones(len(logits_NQ), 1)
    for logits in logits_NQ.unbind(-1):
        off_on = torch.stack([torch.sigmoid(-logits), torch.sigmoid(logits)], -1)
        probabilities = (probabilities[:, :, None] * off_on[:, None, :]).flatten(1)
    return probabilities


class Quantizer(nn.Module):
    """Rounds values to bits; the gradient passes straight through.

    The paper's lookup-free quantization takes one bit of each value, its sign. With ``bits_per_value`` a value is read
    by successive approximation: the sign of the value is its first bit, the sign of what this leaves the second, and so
    on. The bits then say which of 2^k evenly spaced levels between -1 and 1 is nearest, which is finite scalar
    quantization (Mentzer et al. 2024); one bit each is the case of two levels.

    Attributes
    ----------
    bits_on : float
        How many bits are quantized (all of them, unless training switches them on one by one); the values of the
        others pass through.
    """

    def __init__(self, settings: QuantizerSettings) -> None:
        super().__init__()
        self.settings = settings
        self.bits_on = float(settings.bits)

    def bound(self, values_BLV: Tensor) -> Tensor:
        """Values bounded as the settings say; signs do not change."""
        if self.settings.bound == "tanh":
            return torch.tanh(values_BLV)
        if self.settings.bound == "normalize":
            return F.rms_norm(values_BLV, values_BLV.shape[-1:], eps=1e-6)
        return values_BLV

    def code_values(self) -> Tensor:
        """The values (codes, V) that each code stands for, between -1 and 1."""
        codes = indices_to_codes(torch.arange(2**self.settings.bits)[None], self.settings.bits)
        return levels_of(codes, self.settings)[0]

    def indices(self, values_BLV: Tensor, mask_BL: Tensor) -> Tensor:
        """The structure tokens of values; a value of exactly zero gives bit 0, a residue outside the mask index 0."""
        if self.settings.bits_per_value is not None:  # else the sign, which no bound changes
            values_BLV = torch.cat(remainders(self.bound(values_BLV), self.settings.layout), -1)
        return bits_to_indices((values_BLV > 0) & mask_BL[..., None])

    def forward(self, values_BLV: Tensor, mask_BL: Tensor) -> Quantized:
        """Quantize a batch.

        Parameters
        ----------
        values_BLV
            One value per bit, or one for each entry of ``bits_per_value``.
        mask_BL
            Residues that count in the losses; the others have index 0, as in the authors' code, and code -1.

        Returns
        -------
        Quantized
            ``codes_BLQ`` of -1 and +1; ``loss`` is the weighted sum of commitment and of sample minus codebook entropy.
        """
        layout = self.settings.layout
        bounded = self.bound(values_BLV)
        left = remainders(bounded, layout)
        scaled = torch.cat([part * 2**place for part, place in zip(left, places(layout), strict=True)], -1)
        values = torch.cat(left, -1) * mask_BL[..., None]
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
    """How far the joint distribution of values over residues is from one that uses all codes alike.

    That is the squared sliced 2-Wasserstein distance (Bonneel et al. 2015) to the distribution of `even_values`: along
    a direction the distance of two samples is that of their sorted projections. The directions are the values
    themselves, which makes their levels even, and as many random ones (drawn from torch's generator) as make their
    combinations even.

    Parameters
    ----------
    values_NV
        Values in -1 to 1.
    layout
        Bits of each value.
    """
    count, width = values_NV.shape
    directions_VS = torch.randn(width, RANDOM_DIRECTIONS, dtype=values_NV.dtype, device=values_NV.device)
    axes_VV = torch.eye(width, dtype=values_NV.dtype, device=values_NV.device)
    directions_VS = torch.cat([axes_VV, F.normalize(directions_VS, dim=0)], 1)
    even_NV = even_values(count, layout).to(values_NV)
    ours_NS, even_NS = ((sample @ directions_VS).sort(0).values for sample in (values_NV, even_NV))
    return (ours_NS - even_NS).square().mean()


@functools.lru_cache(maxsize=8)
def even_values(count: int, layout: tuple[int, ...]) -> Tensor:
    """Points (N, V) in -1 to 1 that are rounded to each code equally often, and spread evenly within its cell.

    They are evenly spaced in the cube of all values in units of cells (Sobol's sequence). The outermost levels are -1
    and 1, half of whose cells lies outside: that half is folded in.
    """
    levels_V = 2.0 ** torch.tensor(layout)
    cells_NV = torch.quasirandom.SobolEngine(len(layout)).draw(count) * levels_V
    values_NV = (2 * cells_NV - 1) / (levels_V - 1) - 1
    return values_NV - 2 * F.relu(values_NV - 1) + 2 * F.relu(-1 - values_NV)


def places(layout: Sequence[int]) -> list[int]:
    """Which bit of its value each bit is, from 0 for the first."""
    return [place for bits in layout for place in range(bits)]


def bit_weights(bits: int) -> list[float]:
    """What each bit (-1 or 1) adds to its value: halves, scaled so that all bits together reach from -1 to 1."""
    return [2.0**-place / (2 - 2.0 ** (1 - bits)) for place in range(bits)]


def remainders(values_BLV: Tensor, layout: Sequence[int]) -> list[Tensor]:
    """What is left of each value before each of its bits is taken, ``(B, L, 1)`` per bit; the signs are the bits."""
    left = []
    for value, bits in zip(values_BLV.split(1, -1), layout, strict=True):
        for weight in bit_weights(bits):
            left.append(value)
            value = value - torch.where(value > 0, weight, -weight)
    return left


def levels_of(codes_BLQ: Tensor, settings: QuantizerSettings) -> Tensor:
    """The values ``(B, L, V)`` that codes stand for; with one bit each, the codes themselves."""
    if settings.bits_per_value is None:
        return codes_BLQ
    parts = codes_BLQ.split(list(settings.layout), -1)
    weights = [part.new_tensor(bit_weights(part.shape[-1])) for part in parts]
    return torch.stack([part @ weight for part, weight in zip(parts, weights, strict=True)], -1)

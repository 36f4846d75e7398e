"""Random numbers of the sampler, computed from what they are for instead of drawn one after the other.

A number is a hash of the sample's seed, the step, the position and its use. It does not depend on the device, on the
other samples of the batch, on padding, or on which other numbers are used; no state has to be kept, and nothing is
copied from the host. The hash is SplitMix64 (Steele, Lea and Flood, OOPSLA 2014): the n-th number of the generator with
a given seed is a function of seed and n, and is itself the seed of a generator: sample -> step -> position and use ->
class.

Words are 64 bits in int64, whose arithmetic wraps around on every device.

Shapes: B samples, L positions, N positions of several samples, C classes, U uses.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from dplm2.language.vocabulary import TRACKS, Track

GENERATOR = "splitmix64"
"""Recorded with samples: those of another generator are not reused."""
DRAW, ORDER = 0, 1  # uses of a number: a token, its place in the order of unmasking
_USES = 2 * len(TRACKS)
_BITS = 24  # of a float32


def _signed(word: int) -> int:
    return word - 2**64 if word >= 2**63 else word


_INCREMENT, *_FACTORS = map(_signed, (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


def words(seeds: Tensor, numbers: Tensor) -> Tensor:
    """The word with these numbers (from 0) of the generators with these seeds; both int64, broadcast."""
    state = (numbers + 1) * _INCREMENT + seeds
    for shift, factor in zip((30, 27), _FACTORS, strict=True):
        state.bitwise_xor_(_shifted(state, shift)).mul_(factor)
    return state.bitwise_xor_(_shifted(state, 31))


def _shifted(values: Tensor, bits: int) -> Tensor:
    """Logical shift to the right, while that of int64 copies the sign."""
    return (values >> bits).bitwise_and_(2 ** (64 - bits) - 1)


def uniform(words: Tensor, skipped: int = 0) -> Tensor:
    """Uniform numbers in [0, 1), float32, from 24 bits of each word after the first ``skipped`` ones."""
    return ((words >> (64 - _BITS - skipped)) & (2**_BITS - 1)).to(torch.float32) * 2.0**-_BITS


def class_uniforms(words_N: Tensor, classes: int) -> Tensor:
    """Uniform numbers (N, C) for the classes of each position, two from each word, from the words of the positions."""
    pairs = torch.arange(-(-classes // 2), device=words_N.device)
    found = words(words_N[:, None], pairs)
    return torch.stack([uniform(found), uniform(found, _BITS)], -1).flatten(1)[:, :classes]


def use_of(track: Track, use: int) -> int:
    """Index of a use of numbers on a track."""
    return 2 * TRACKS.index(track) + use


class Words:
    """The words of a batch.

    Parameters
    ----------
    seeds
        The seed of each sample.
    device
        Where the words are computed.
    """

    def __init__(self, seeds: Sequence[int], device: torch.device) -> None:
        self.seeds_B = torch.tensor([_signed(seed) for seed in seeds], device=device)

    def keep(self, rows: Tensor) -> None:
        """Keep only these samples."""
        self.seeds_B = self.seeds_B[rows]

    def of_step(self, step_B: Tensor, length: int) -> Tensor:
        """Words (B, L, U) of each sample's current step."""
        steps_B11 = words(self.seeds_B, step_B)[:, None, None]
        numbers_LU = torch.arange(length * _USES, device=step_B.device).view(length, _USES)
        return words(steps_B11, numbers_LU)

"""The given and generated tokens of a sample, and its seed; does not import torch.

Array axes: L residues.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from dplm2.core.errors import DPLM2Error
from dplm2.language.vocabulary import TRACKS, Track, Vocabulary


@dataclass(frozen=True)
class Conditioning:
    """The given and generated tokens of one sample.

    Parameters
    ----------
    sample_id
        Unique within a call; the sample's seed is derived from it and the run's seed.
    tokens
        Ids (L,) of each track of the sample; the mask id where unknown.
    fixed
        True (L,) where a token must not change.
    steps
        Number of steps of the complete schedule.
    first_step
        Steps regarded as completed: sampling starts from a partly noised sample.
    """

    sample_id: str
    tokens: Mapping[Track, np.ndarray]
    fixed: Mapping[Track, np.ndarray]
    steps: int
    first_step: int = 0

    @property
    def length(self) -> int:
        """Number of residues."""
        return len(next(iter(self.tokens.values())))

    @property
    def tracks(self) -> tuple[Track, ...]:
        """The tracks that the sample has."""
        return tuple(track for track in TRACKS if track in self.tokens)

    def check(self, vocabulary: Vocabulary) -> None:
        """Raise DPLM2Error if tracks differ in length, contain ids of the other track, or fix a mask."""
        for track, ids in self.tokens.items():
            if len(ids) != self.length or len(self.fixed[track]) != self.length:
                raise DPLM2Error(f"{self.sample_id}: its tracks differ in length")
            foreign = ~np.isin(ids, vocabulary.classes(track)) | vocabulary.is_edge(np.asarray(ids))
            if foreign.any():
                raise DPLM2Error(f"{self.sample_id}: id {ids[foreign][0]} does not belong on the {track} track")
            if (self.fixed[track] & (ids == vocabulary.mask(track))).any():
                raise DPLM2Error(f"{self.sample_id}: a position of the {track} track is fixed but not given")
        if self.length == 0 or self.steps < 1 or not 0 <= self.first_step < self.steps:
            raise DPLM2Error(f"{self.sample_id}: {self.length} residues in steps {self.first_step} to {self.steps}")


def sample_seed(seed: int, sample_id: str) -> int:
    """Seed (63 bits) of one sample, derived from the run's seed and the sample's id."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{sample_id}".encode()).digest()[:8]) >> 1

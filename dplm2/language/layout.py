"""Layout of a batch: each row is ``[<cls_struct> s.. <eos_struct> pad.. | <cls_aa> a.. <eos_aa> pad..]``.

Shapes: B batch, L residues of one sample, T tokens (both tracks), H tokens of one half.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from dplm2.core.errors import DPLM2Error
from dplm2.language.vocabulary import Track, Vocabulary

EDGES = 2
"""Number of tokens that a track has besides its residues: its begin and end tokens."""


def join(
    vocabulary: Vocabulary, structures: Sequence[np.ndarray | None], sequences: Sequence[np.ndarray | None]
) -> Tensor:
    """Join the residue ids (L,) of each sample's tracks into ids (B, T); None if a sample lacks the track.

    A track that all samples lack has no columns.

    Raises
    ------
    DPLM2Error
        If the tracks of a sample differ in length.
    """
    for number, (structure, sequence) in enumerate(zip(structures, sequences, strict=True)):
        if structure is not None and sequence is not None and len(structure) != len(sequence):
            raise DPLM2Error(f"sample {number}: {len(structure)} structure tokens but {len(sequence)} residues")
    longest = max(len(track) for track in (*structures, *sequences) if track is not None)
    halves = [
        _half(vocabulary, name, tracks, longest + EDGES)
        for name, tracks in (("structure", structures), ("sequence", sequences))
        if any(track is not None for track in tracks)
    ]
    return torch.from_numpy(np.concatenate(halves, axis=1))


def _half(vocabulary: Vocabulary, name: Track, tracks: Sequence[np.ndarray | None], width: int) -> np.ndarray:
    half_BH = np.full((len(tracks), width), vocabulary.pad, dtype=np.int64)
    for row_H, track in zip(half_BH, tracks, strict=True):
        if track is not None:
            row_H[0] = vocabulary.cls(name)
            row_H[1 : len(track) + 1] = track
            row_H[len(track) + 1] = vocabulary.eos(name)
    return half_BH


def split(vocabulary: Vocabulary, ids_BT: Tensor) -> list[dict[Track, np.ndarray | None]]:
    """Residue ids (L,) of each sample's tracks, the inverse of `join`; None if a sample lacks the track."""
    samples = []
    for row_T in ids_BT.cpu().numpy():
        sample: dict[Track, np.ndarray | None] = {}
        for track in ("structure", "sequence"):
            first = np.flatnonzero(row_T == vocabulary.cls(track))
            last = np.flatnonzero(row_T == vocabulary.eos(track))
            sample[track] = row_T[first[0] + 1 : last[0]] if len(first) else None
        samples.append(sample)
    return samples

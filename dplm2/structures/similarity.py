"""Near-identical sequences, found by shared k-mers.

Two sequences of identity p share a fraction of about p**k of their k-mers; sequences are related if they share that
fraction of the k-mers of the shorter one. All pairs are considered, without alignments, in linear time for a small set
of queries.
"""

from collections.abc import Sequence

import numpy as np

WORD = 6
BITS_PER_LETTER = 5


def words(sequence: str) -> np.ndarray:
    """The distinct k-mers of a sequence as sorted integers; k-mers with X are omitted."""
    if len(sequence) < WORD:
        return np.empty(0, np.int64)
    letters = np.frombuffer(sequence.encode("ascii"), np.uint8).astype(np.int64) - ord("A")
    windows = np.lib.stride_tricks.sliding_window_view(letters, WORD)
    known = (windows != ord("X") - ord("A")).all(-1)
    return np.unique(windows[known] @ (1 << BITS_PER_LETTER * np.arange(WORD)))


class WordIndex:
    """Finds the sequences of a set that are related to another one.

    Parameters
    ----------
    sequences
        The set.
    identity
        Sequence identity above which two sequences are related.
    """

    def __init__(self, sequences: Sequence[str], identity: float) -> None:
        found = [words(sequence) for sequence in sequences]
        self._sizes = np.array([len(one) for one in found], np.int64)
        owner = np.repeat(np.arange(len(found)), self._sizes)
        flat = np.concatenate(found) if found else np.empty(0, np.int64)
        order = np.argsort(flat, kind="stable")
        self._words, self._owner = flat[order], owner[order]
        self._least = identity**WORD

    def related(self, sequence: str) -> np.ndarray:
        """Indices of the sequences in the set that are near-identical to this one."""
        own = words(sequence)
        first, last = (np.searchsorted(self._words, own, side) for side in ("left", "right"))
        hit = last > first
        if not hit.any():
            return np.empty(0, np.int64)
        owners = np.concatenate(
            [self._owner[a:b] for a, b in zip(first[hit].tolist(), last[hit].tolist(), strict=True)]
        )
        shared = np.bincount(owners, minlength=len(self._sizes))
        return np.flatnonzero((shared > 0) & (shared >= self._least * np.minimum(self._sizes, len(own))))

"""Near-identical sequences, found by the short words that they share.

Of two sequences of identity p, a fraction of about p**k of the words of k residues is shared; sequences are related
if they share that fraction of the words of the shorter one. Exact over all pairs, without alignments, in linear time
for a small set of queries.
"""

from collections.abc import Sequence

import numpy as np

WORD = 6
BITS_PER_LETTER = 5


def words(sequence: str) -> np.ndarray:
    """The distinct words of a sequence as sorted integers; words with X are left out."""
    if len(sequence) < WORD:
        return np.empty(0, np.int64)
    letters = np.frombuffer(sequence.encode("ascii"), np.uint8).astype(np.int64) - ord("A")
    windows = np.lib.stride_tricks.sliding_window_view(letters, WORD)
    known = (windows != ord("X") - ord("A")).all(-1)
    return np.unique(windows[known] @ (1 << BITS_PER_LETTER * np.arange(WORD)))


class WordIndex:
    """Finds which of a set of sequences are related to another one.

    Parameters
    ----------
    sequences
        The set.
    identity
        Sequence identity from which two count as related.
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

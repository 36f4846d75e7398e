"""Use of the structure tokenizer's codes by a set of chains."""

from collections.abc import Iterable

import numpy as np


def codebook_use(tokens: Iterable[np.ndarray], codebook_size: int) -> tuple[float, float]:
    """Fraction of the codes that occur, and the perplexity: the exponential of the entropy of their frequencies.

    The perplexity is the equivalent number of equally frequent codes, between 1 and ``codebook_size``.
    """
    counts = np.zeros(codebook_size, dtype=np.int64)
    for chain in tokens:
        counts += np.bincount(np.asarray(chain, dtype=np.int64), minlength=codebook_size)
    frequencies = counts[counts > 0] / max(counts.sum(), 1)
    entropy = -(frequencies * np.log(frequencies)).sum()
    return float((counts > 0).mean()), float(np.exp(entropy))

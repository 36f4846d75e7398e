"""Amino-acid recovery and the composition entropy of a sequence."""

import numpy as np

AMINO_ACIDS = "ACDEFGHIKLMNPQRSTVWY"


def recovery(designed: str, native: str, observed: np.ndarray | None = None) -> float:
    """Fraction of positions at which ``designed`` has the native's amino acid, between 0 and 1.

    Positions are counted if the native letter is one of the 20 amino acids and ``observed`` (default: all). The
    released evaluator counts every position, X and unresolved ones among them, and turns X into A first: see
    `recovery_released`.
    """
    _same_length(designed, native)
    counted = np.array([letter in AMINO_ACIDS for letter in native], dtype=bool)
    if observed is not None:
        counted &= np.asarray(observed, dtype=bool)
    same = np.array([one == other for one, other in zip(designed, native, strict=True)], dtype=bool)
    return float(same[counted].mean()) if counted.any() else float("nan")


def recovery_released(designed: str, native: str) -> float:
    """Recovery as the authors' released evaluator counts it: over all positions, X in ``designed`` read as A."""
    _same_length(designed, native)
    designed = "".join(letter if letter in AMINO_ACIDS else "A" for letter in designed)
    return float(np.mean([one == other for one, other in zip(designed, native, strict=True)]))


def _same_length(designed: str, native: str) -> None:
    if len(designed) != len(native):
        raise ValueError(f"designed sequence has {len(designed)} residues, the native {len(native)}")


def sequence_entropy(sequence: str) -> float:
    """Entropy in nats of the letters of a sequence: 0 for a single repeated letter, 3.0 for all 20 equally."""
    counts = np.unique(list(sequence), return_counts=True)[1] if sequence else np.array([])
    shares = counts / max(counts.sum(), 1)
    return float((shares * -np.log(shares)).sum())

"""TM-scores of all pairs of a set, residue by residue, for structures of equal length."""

from collections.abc import Sequence

import numpy as np
import torch
from tqdm import tqdm

from dplm2.geometry.superposition import pad
from dplm2.geometry.tm_score import QUICK_SEARCH, Search, tm_score

RESIDUES_AT_ONCE = 65536


def all_pairs_tm_score(
    traces: Sequence[np.ndarray], search: Search = QUICK_SEARCH, device: torch.device | str = "cpu"
) -> np.ndarray:
    """Symmetric matrix (n, n) of TM-scores of C-alpha traces (L, 3); NaN where lengths differ, 1 on the diagonal."""
    scores = np.full((len(traces), len(traces)), np.nan)
    np.fill_diagonal(scores, 1.0)
    by_length: dict[int, list[int]] = {}
    for index, trace in enumerate(traces):
        by_length.setdefault(len(trace), []).append(index)
    for length, members in by_length.items():
        points_BN3, there_BN = pad([traces[index] for index in members], device)
        first, second = np.triu_indices(len(members), k=1)
        step = max(1, RESIDUES_AT_ONCE // length)
        for start in tqdm(range(0, len(first), step), desc=f"pairs of {length} residues", disable=None):
            one, other = first[start : start + step], second[start : start + step]
            there_PN = there_BN[one] & there_BN[other]
            found = tm_score(points_BN3[one], points_BN3[other], there_PN, search=search).cpu().numpy()
            rows, columns = np.array(members)[one], np.array(members)[other]
            scores[rows, columns] = scores[columns, rows] = found
    return scores

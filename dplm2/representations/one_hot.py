"""Features of a sequence without a model, against which representations are compared: one-hot, and composition.

Shapes: L residues, A amino acids, W residues of a window, F features.
"""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from dplm2.core.errors import DPLM2Error
from dplm2.generation.task import Target
from dplm2.language.vocabulary import AMINO_ACIDS


def one_hot(sequence: str, window: int = 0) -> np.ndarray:
    """Each residue as one of 20 amino acids (L, W * A), with ``window`` neighbours on either side.

    Unknown residues, and neighbours beyond the ends of the chain, are zeros.
    """
    letters = np.frombuffer(sequence.encode("ascii", errors="replace"), dtype=np.uint8)
    own_LA = (letters[:, None] == np.frombuffer(AMINO_ACIDS.encode(), dtype=np.uint8)).astype(np.float32)
    padded = np.pad(own_LA, ((window, window), (0, 0)))
    return np.concatenate([padded[start : start + len(own_LA)] for start in range(2 * window + 1)], axis=1)


def one_hot_table(targets: Sequence[Target], of_residues: bool, window: int = 0) -> pa.Table:
    """Features of proteins in the columns of `dplm2.representations.embedding.embed`.

    Parameters
    ----------
    targets
        Proteins with a sequence.
    of_residues
        Whether each residue has features. Otherwise the mean over the known residues of a protein: without neighbours,
        its composition.
    window
        Neighbours on either side.

    Raises
    ------
    DPLM2Error
        If a protein has no sequence or no known residue; the message names it.
    """
    vectors = []
    for target in targets:
        if target.sequence is None:
            raise DPLM2Error(f"{target.name}: has no sequence, which one-hot features need")
        features_LF = one_hot(target.sequence, window)
        known_L = features_LF[:, window * len(AMINO_ACIDS) :][:, : len(AMINO_ACIDS)].any(1)
        if not known_L.any():
            raise DPLM2Error(f"{target.name}: has no known residue")
        vectors.append(features_LF.reshape(-1) if of_residues else features_LF[known_L].mean(0))
    return pa.table(
        {
            "chain_id": pa.array([target.name for target in targets], pa.string()),
            "length": pa.array([target.length for target in targets], pa.int32()),
            "width": pa.array([(2 * window + 1) * len(AMINO_ACIDS)] * len(targets), pa.int32()),
            "sequence_embedding": pa.array(vectors, pa.list_(pa.float32())),
        }
    )

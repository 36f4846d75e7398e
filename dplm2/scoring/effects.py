"""Effects of mutations: log-probability of the mutant residues minus that of the wild type's (Meier et al. 2021).

Shapes: L residues, N residues that are read, D model width, A amino acids.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from dplm2.core.errors import DPLM2Error
from dplm2.generation.model import DPLM2
from dplm2.generation.proteins import ids_of
from dplm2.generation.task import Target
from dplm2.language.vocabulary import Track
from dplm2.scoring.likelihood import VIEWS
from dplm2.scoring.mutations import AMINO_ACIDS, Mutant
from dplm2.scoring.queries import Reading, answers, queries_of

_COLUMN = {letter: column for column, letter in enumerate(AMINO_ACIDS)}


def amino_acid_log_probabilities(
    model: DPLM2,
    target: Target,
    residues: Sequence[int],
    reading: Reading | None = None,
    progress: str | None = None,
) -> np.ndarray:
    """Log-probabilities (N, A), in nats, of the amino acids ``ACDEFGHIKLMNPQRSTVWY`` at some residues of a protein.

    Parameters
    ----------
    model
        The language model.
    target
        The protein, with a sequence; a structure, if it has one, is given to the model.
    residues
        Which, from 0.
    reading
        ``masked``: each residue in its own pass, masked. ``wild-type``: one pass without masks.
    progress
        Title of the progress bar; None: none.

    Raises
    ------
    DPLM2Error
        If the protein has no sequence.
    """
    reading = reading or Reading()
    if target.sequence is None:
        raise DPLM2Error(f"{target.name}: has no sequence, which mutations need")
    view = VIEWS["sequence" if target.structure_tokens is None else "sequence_given_structure"]
    residues = np.asarray(residues, dtype=np.int64)
    chosen = np.unique(residues)
    rows = {residue: row for row, residue in enumerate(chosen.tolist())}
    queries = list(queries_of(0, target.name, target.length, chosen, reading))
    columns = torch.from_numpy(model.vocabulary.encode_sequence(AMINO_ACIDS)).to(model.network.device)

    def read(hidden_ND: Tensor, ids_N: Tensor, track: Track) -> Tensor:
        return model.network.track_logits(hidden_ND, track).float().log_softmax(-1)[:, columns]

    result_NA = np.full((len(chosen), len(AMINO_ACIDS)), np.nan)
    proteins = [ids_of(target, model.vocabulary)]
    for query, values in answers(model.network, proteins, [target.name], queries, view, reading, read, progress):
        result_NA[[rows[residue] for residue in query.residues.tolist()]] = values["sequence"]
    return result_NA[[rows[residue] for residue in residues.tolist()]].reshape(len(residues), len(AMINO_ACIDS))


def mutant_scores(
    model: DPLM2,
    target: Target,
    mutants: Sequence[Mutant],
    reading: Reading | None = None,
    progress: str | None = None,
) -> np.ndarray:
    """Scores of mutants in nats: positive where the model prefers the mutant; 0 for the wild type.

    Each residue is scored in the context of the wild type, so the score of several substitutions is the sum of their
    scores, and any number of mutants costs one pass per changed residue (``masked``) or one (``wild-type``).

    Parameters
    ----------
    model, target, reading, progress
        See `amino_acid_log_probabilities`.
    mutants
        From `dplm2.scoring.mutations.Numbered.mutant`.
    """
    changed = sorted({one.position for mutant in mutants for one in mutant})
    log_probabilities_NA = amino_acid_log_probabilities(model, target, changed, reading, progress)
    rows = dict(zip(changed, log_probabilities_NA, strict=True))
    return np.array([sum(_effect(rows[one.position], one) for one in mutant) for mutant in mutants], dtype=np.float64)


def _effect(log_probabilities_A: np.ndarray, one) -> float:  # noqa: ANN001
    return log_probabilities_A[_COLUMN[one.mutant]] - log_probabilities_A[_COLUMN[one.wild_type]]


def effect_matrix(target: Target, log_probabilities_LA: np.ndarray) -> np.ndarray:
    """Scores (L, A) of all single mutations of a protein; 0 for its own residue, NaN where that is unknown."""
    own_L = np.array([_COLUMN.get(letter, -1) for letter in target.sequence])
    own_L1 = np.take_along_axis(log_probabilities_LA, np.maximum(own_L, 0)[:, None], axis=1)
    return np.where(own_L[:, None] < 0, np.nan, log_probabilities_LA - own_L1)

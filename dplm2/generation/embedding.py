"""Representations of proteins: the language model's last layer for each residue on each track.

Shapes: B batch, T tokens (both tracks), L residues, D model width.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from dplm2.core.batching import by_length
from dplm2.generation.model import DPLM2
from dplm2.generation.task import Target
from dplm2.language.layout import join
from dplm2.language.vocabulary import Track


def embed(model: DPLM2, targets: Sequence[Target], pool: str = "mean", token_budget: int = 8192) -> pa.Table:
    """Representations of proteins after the last layer.

    Parameters
    ----------
    model
        The language model.
    targets
        Proteins with a sequence, structure tokens or both; an unknown residue (``?``, -1) is masked.
    pool
        ``mean`` over the residues of a track, or ``none``: one vector per residue.
    token_budget
        Maximum number of tokens per batch, including padding.

    Returns
    -------
    pyarrow.Table
        A row per protein, in the order given: ``chain_id``, ``length``, ``width`` (D), and per track
        ``sequence_embedding`` and ``structure_embedding``, list<float> of D values, or of L*D (residue by residue) with
        ``pool`` none; null if the protein lacks the track.
    """
    vectors: dict[int, dict[Track, np.ndarray]] = {}
    for batch in _batches(targets, token_budget):
        vectors.update(zip(batch, _embed_batch(model, [targets[index] for index in batch], pool), strict=True))
    rows = [vectors[index] for index in range(len(targets))]
    columns = {
        "chain_id": [target.name for target in targets],
        "length": pa.array([target.length for target in targets], pa.int32()),
        "width": pa.array([model.network.model.config.hidden_size] * len(targets), pa.int32()),
    }
    for track in ("sequence", "structure"):
        columns[f"{track}_embedding"] = pa.array([row.get(track) for row in rows], pa.list_(pa.float32()))
    return pa.table(columns)


def _batches(targets: Sequence[Target], token_budget: int) -> Iterator[list[int]]:
    """Indices of proteins with the same tracks and about the same length, within the budget."""
    costs = [2 * (target.length + 2) for target in targets]
    kinds = [(target.sequence is None, target.structure_tokens is None) for target in targets]
    return by_length(costs, token_budget, kinds=kinds, longest_first=False)


@torch.inference_mode()
def _embed_batch(model: DPLM2, targets: Sequence[Target], pool: str) -> list[dict[Track, np.ndarray]]:
    vocabulary = model.vocabulary
    sequences, structures = [], []
    for target in targets:
        sequences.append(None if target.sequence is None else _sequence_ids(model, target.sequence))
        structures.append(None if target.structure_tokens is None else _structure_ids(model, target.structure_tokens))
    ids_BT = join(vocabulary, structures, sequences).to(model.network.device)
    hidden_BTD = model.network.hidden(ids_BT).float().cpu()
    half = ids_BT.shape[1] // 2 if sequences[0] is not None and structures[0] is not None else 0
    starts: dict[Track, int] = {"structure": 0, "sequence": half}
    present: list[Track] = [
        track for track, tracks in (("structure", structures), ("sequence", sequences)) if tracks[0] is not None
    ]
    return [
        {track: _pooled(hidden_TD[starts[track] + 1 : starts[track] + 1 + target.length], pool) for track in present}
        for hidden_TD, target in zip(hidden_BTD, targets, strict=True)
    ]


def _pooled(hidden_LD: Tensor, pool: str) -> np.ndarray:
    return (hidden_LD.mean(0) if pool == "mean" else hidden_LD.flatten()).numpy()


def _sequence_ids(model: DPLM2, sequence: str) -> np.ndarray:
    ids = model.vocabulary.encode_sequence(sequence.replace("?", "X"))
    ids[np.array(list(sequence)) == "?"] = model.vocabulary.mask("sequence")
    return ids


def _structure_ids(model: DPLM2, tokens: np.ndarray) -> np.ndarray:
    ids = model.vocabulary.encode_structure(np.maximum(tokens, 0))
    ids[tokens < 0] = model.vocabulary.mask("structure")
    return ids

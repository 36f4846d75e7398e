"""Tokenized chains in memory, and their noised batches.

Shapes: B batch, L residues, T tokens (both tracks).
"""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from dplm2.core.errors import DPLM2Error
from dplm2.language import diffusion, layout
from dplm2.language.vocabulary import Track, Vocabulary
from dplm2.settings.model import DiffusionSettings


def clusters_of(table: pa.Table) -> list[str | None] | None:
    """Cluster of each chain of a table of tokens; None if no chain has one."""
    clusters = table["cluster"].to_pylist() if "cluster" in table.column_names else []
    return clusters if any(cluster is not None for cluster in clusters) else None


class TokenizedChains:
    """Tokenized chains, stored as flat arrays (5 bytes per residue).

    Parameters
    ----------
    table
        Rows of the tokens' Parquet files: ``chain_id``, ``sequence``, ``structure_tokens``, ``observed``.
    vocabulary
        Vocabulary of the model.
    settings
        Treatment of residues without coordinates, and maximum length.

    Raises
    ------
    DPLM2Error
        If there are no chains, or a chain's tracks differ in length or contain tokens outside the vocabulary.
    """

    def __init__(self, table: pa.Table, vocabulary: Vocabulary, settings: DiffusionSettings) -> None:
        if not len(table):
            raise DPLM2Error("no tokenized chains: check the dataset's split and its rejected.parquet")
        self.vocabulary, self.settings = vocabulary, settings
        self.ids: list[str] = table["chain_id"].to_pylist()
        sequences = table["sequence"].to_pylist()
        self.lengths = np.array([len(sequence) for sequence in sequences])
        self._offsets = np.concatenate([[0], np.cumsum(self.lengths)])
        self._sequence = vocabulary.encode_sequence("".join(sequences)).astype(np.uint8)
        self._structure = self._encode_structure(table)
        self.clusters = clusters_of(table)

    def __len__(self) -> int:
        return len(self.ids)

    def _encode_structure(self, table: pa.Table) -> np.ndarray:
        tokens, observed = (_flat(table, name) for name in ("structure_tokens", "observed"))
        for name in ("structure_tokens", "observed"):
            counts = pc.list_value_length(table[name]).to_numpy()
            if (wrong := np.flatnonzero(counts != self.lengths)).size:
                raise DPLM2Error(f"{self.ids[wrong[0]]}: sequence and `{name}` differ in length")
        ids = self.vocabulary.encode_structure(tokens).astype(np.int32)
        if self.settings.unobserved_structure != "learn":
            ids[~observed.astype(bool)] = self.vocabulary.unknown_structure
        return ids

    def track(self, index: int, track: Track, window: slice = slice(None)) -> np.ndarray:
        """Ids (L,) of a chain's track; ``<unk_struct>`` where the structure is not observed."""
        source = self._structure if track == "structure" else self._sequence
        return source[self._offsets[index] : self._offsets[index + 1]][window].astype(np.int64)

    def window(self, index: int, generator: torch.Generator) -> slice:
        """A random crop of a chain: at most ``max_length`` residues, fewer with probability ``crop_probability``."""
        length = int(self.lengths[index])
        size = min(length, self.settings.max_length)
        minimum = self.settings.crop_min_length
        # All numbers are always drawn, so that a chain's length does not shift the random numbers of the next.
        chance, size_fraction, start_fraction = torch.rand(3, generator=generator, dtype=torch.float64).tolist()
        if chance < self.settings.crop_probability and size > minimum:
            size = minimum + int(size_fraction * (size - minimum))
        start = int(start_fraction * (length - size + 1))
        return slice(start, start + size)

    def join(self, indices: Sequence[int], windows: Sequence[slice], tracks: Sequence[Track]) -> Tensor:
        """Ids (B, T) of windows of chains, with only the given ``tracks``."""
        parts = {
            name: [
                self.track(i, name, window) if name in tracks else None
                for i, window in zip(indices, windows, strict=True)
            ]
            for name in ("structure", "sequence")
        }
        return layout.join(self.vocabulary, parts["structure"], parts["sequence"])

    def noised(self, indices: Sequence[int], generator: torch.Generator) -> diffusion.Noised:
        """A training batch: random windows, tasks and noise, all drawn from ``generator``."""
        target_ids_BT = self.join(indices, [self.window(i, generator) for i in indices], diffusion.TRACKS)
        settings = self.settings
        tasks_B = diffusion.assign_tasks(len(indices), settings.task_ratios, settings.task_assignment, generator)
        times = diffusion.draw_times(tasks_B, settings.steps, generator)
        return diffusion.add_noise(self.vocabulary, target_ids_BT, tasks_B, times, settings, generator)

    def costs(self) -> list[int]:
        """Maximum number of input tokens of each chain: both tracks with their begin and end tokens."""
        lengths = np.minimum(self.lengths, self.settings.max_length)
        return (len(diffusion.TRACKS) * (lengths + layout.EDGES)).tolist()


def _flat(table: pa.Table, name: str) -> np.ndarray:
    chunks = [chunk.flatten().to_numpy(zero_copy_only=False) for chunk in table[name].chunks]
    return np.concatenate(chunks) if chunks else np.empty(0)

"""Tasks of the training loop: the multimodal stage on tokenized chains, the sequence stage on sequences.

Shapes: B batch, T tokens.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from dplm2.language import diffusion, layout, likelihood
from dplm2.language.chains import TokenizedChains
from dplm2.language.network import MultimodalEsm
from dplm2.language.sequences import SequenceStore
from dplm2.settings.model import DiffusionSettings

_VALIDATION_SEED = 20241017
_VALIDATION_SEQUENCES = 256


class MultimodalTask:
    """The multimodal stage (paper section 3.1): both tracks of tokenized chains.

    Parameters
    ----------
    network
        The network to train.
    chains
        Training chains.
    validation
        Validation chains; None: the first training chains.
    settings
        Settings of the objective.
    compiled
        Whether the network will be compiled; only for `describe`.
    """

    def __init__(
        self,
        network: MultimodalEsm,
        chains: TokenizedChains,
        validation: TokenizedChains | None,
        settings: DiffusionSettings,
        *,
        compiled: bool = False,
    ) -> None:
        self.network, self.chains, self.settings, self._compiled = network, chains, settings, compiled
        self.module = diffusion.DiffusionObjective(network, settings)
        self.ids, self.costs, self.clusters = chains.ids, chains.costs(), chains.clusters
        self._validation = validation or chains

    def collate(self, indices: list[int], generator: torch.Generator) -> dict[str, Tensor]:
        """A noised batch; every random choice comes from ``generator``."""
        return self.chains.noised(indices, generator).batch()

    def validate(self, module: torch.nn.Module) -> dict[str, float]:
        """Cross-entropies (nats) of masked residues: per track, and per track and task."""
        chosen = range(min(len(self._validation), self.settings.validation_chains))
        with self.module.measuring():
            entries = likelihood.measure(
                module, self.network.device, self._validation, chosen, likelihood.MEASURED_TASKS, _VALIDATION_SEED
            )
        values = {f"cross_entropy_{track}": value for track, (value, _) in likelihood.pooled(entries).items()}
        return values | {f"cross_entropy_{entry.track}_{entry.task}": entry.value for entry in entries}

    def describe(self, batch: dict[str, Tensor]) -> dict[str, str]:
        """The first sample of a batch as the network sees it, and how attention is computed."""
        return _described(self.network, batch, self._compiled)


class SequenceTask:
    """The sequence stage: absorbing diffusion on sequences, as in DPLM (Wang et al. 2024).

    Parameters
    ----------
    network
        The network to train; any structure tokens do not change.
    store
        Training sequences.
    validation
        Ids (L,) of validation sequences; None: the first training sequences.
    settings
        Settings of the objective.
    clusters
        Cluster of each training sequence; None if unknown.
    compiled
        Whether the network will be compiled; only for `describe`.
    """

    def __init__(
        self,
        network: MultimodalEsm,
        store: SequenceStore,
        validation: Sequence[np.ndarray] | None,
        settings: DiffusionSettings,
        *,
        clusters: Sequence[str | None] | None = None,
        compiled: bool = False,
    ) -> None:
        self.network, self.store, self.settings, self._compiled = network, store, settings, compiled
        self.clusters = clusters
        self.module = diffusion.DiffusionObjective(network, settings, tracks=("sequence",))
        self.ids = store.names
        self.costs = store.lengths + np.int32(layout.EDGES)
        np.minimum(self.costs, settings.max_length + layout.EDGES, out=self.costs)
        self._validation = validation or [store[i] for i in range(min(len(store), _VALIDATION_SEQUENCES))]

    def collate(self, indices: list[int], generator: torch.Generator) -> dict[str, Tensor]:
        """A noised batch; every random choice comes from ``generator``."""
        return self._noised([self._window(self.store[i], generator) for i in indices], generator)

    def _window(self, ids_L: np.ndarray, generator: torch.Generator) -> np.ndarray:
        start = int(torch.rand(1, generator=generator) * max(len(ids_L) - self.settings.max_length + 1, 1))
        return ids_L[start : start + self.settings.max_length]

    def _noised(
        self, sequences: list[np.ndarray], generator: torch.Generator, time_B: Tensor | None = None
    ) -> dict[str, Tensor]:
        vocabulary = self.network.vocabulary
        target_ids_BT = layout.join(vocabulary, [None] * len(sequences), sequences)
        tasks_B = torch.full((len(sequences),), diffusion.TASKS.index("joint"))
        times = diffusion.draw_times(tasks_B, self.settings.steps, generator)
        if time_B is not None:
            times = dict.fromkeys(times, time_B)
        batch = diffusion.add_noise(vocabulary, target_ids_BT, tasks_B, times, self.settings, generator).batch()
        del batch["single_modality"]  # there is only one track
        return batch

    def validate(self, module: torch.nn.Module) -> dict[str, float]:
        """Cross-entropy (nats) of masked residues at evenly spread times."""
        generator = torch.Generator().manual_seed(_VALIDATION_SEED)
        tally = likelihood.Tally()
        with self.module.measuring(), torch.no_grad():
            for batch in self._validation_batches(generator):
                tensors = {name: value.to(self.network.device) for name, value in batch.items()}
                tally.add(module(tensors)[1], batch, self.network.vocabulary)
        return {"cross_entropy_sequence": tally.mean("sequence")}

    def _validation_batches(self, generator: torch.Generator) -> Iterator[dict[str, Tensor]]:
        sequences = sorted((s[: self.settings.max_length] for s in self._validation), key=len)
        times = torch.linspace(1, self.settings.steps, len(sequences)).round().long()
        times = times[torch.randperm(len(sequences), generator=generator)]
        costs = [len(sequence) + layout.EDGES for sequence in sequences]
        for chosen in likelihood.batches(range(len(sequences)), costs):
            yield self._noised([sequences[i] for i in chosen], generator, times[chosen])

    def describe(self, batch: dict[str, Tensor]) -> dict[str, str]:
        """The first sample of a batch as the network sees it, and how attention is computed."""
        return _described(self.network, batch, self._compiled)


def _described(network: MultimodalEsm, batch: dict[str, Tensor], compiled: bool) -> dict[str, str]:
    static_shapes = compiled and network.device.type == "cpu" and network.packing is None
    packs = network.packs and not static_shapes
    return {
        "attention": "each sample separately, without padding" if packs else "padded samples with a mask",
        "a noised input": "\n" + likelihood.written_out(network.vocabulary, batch["input_ids"][0]),
    }

"""Absorbing diffusion over two tracks: masking, and weighted cross-entropy of masked tokens. Paper section 3.1.

Each sample of a batch has one of five tasks; a track's time t in 0..S (S steps) is 0 if the track is given. At time t
a residue is masked with probability ``t / S`` (linear schedule).

Shapes: B batch, T tokens (both tracks), N noised positions of one track, D model width, C classes.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from dplm2.language.network import MultimodalEsm
from dplm2.language.vocabulary import TRACKS, Track, Vocabulary
from dplm2.settings.model import DiffusionSettings, TaskRatios

Task = Literal["single_modality", "folding", "inverse_folding", "independent", "joint"]
TASKS: tuple[Task, ...] = ("single_modality", "folding", "inverse_folding", "independent", "joint")
"""``joint`` is last: with the authors' assignment it receives the remainder from rounding."""

NOISED_TRACKS: dict[Task, tuple[Track, ...]] = {
    "single_modality": TRACKS,
    "folding": ("structure",),
    "inverse_folding": ("sequence",),
    "independent": TRACKS,
    "joint": TRACKS,
}
"""The tracks that a task predicts; the other one is given."""

_POSITIONS_PER_SLICE = 512  # 16 MB of logits with 8,192 codes


@dataclass(frozen=True)
class Noised:
    """A noised batch.

    Parameters
    ----------
    input_ids_BT
        Input of the network.
    target_ids_BT
        Ids without noise.
    learnable_BT
        Positions eligible for noise and loss (with clean self-mixup: only those of noised tracks).
    noised_BT
        Positions that are noised.
    weight_BT
        Weight of each position in the loss, from the time of its track.
    single_modality_B
        True for samples whose tracks do not attend to each other.
    """

    input_ids_BT: Tensor
    target_ids_BT: Tensor
    learnable_BT: Tensor
    noised_BT: Tensor
    weight_BT: Tensor
    single_modality_B: Tensor

    def batch(self) -> dict[str, Tensor]:
        """As a mapping of tensors, for the training loop."""
        return {name.rsplit("_", 1)[0]: value for name, value in vars(self).items()}


def assign_tasks(samples: int, ratios: TaskRatios, assignment: str, generator: torch.Generator) -> Tensor:
    """Task (B,) of each sample, as an index into `TASKS`.

    Parameters
    ----------
    assignment
        ``draw``: each sample's task is drawn with the probabilities ``ratios``. ``split`` (the authors): each task gets
        ``int(B * ratio)`` random samples, and ``joint`` the rest; with their ratios of a quarter, a batch of fewer than
        four samples is therefore all ``joint``.
    """
    shares = torch.tensor([getattr(ratios, task) for task in TASKS], dtype=torch.float64)
    if assignment == "draw":
        return torch.multinomial(shares, samples, replacement=True, generator=generator)
    counts = [int(samples * share) for share in shares.tolist()]
    counts[-1] = samples - sum(counts[:-1])
    tasks = torch.repeat_interleave(torch.arange(len(TASKS)), torch.tensor(counts))
    return tasks[torch.randperm(samples, generator=generator)]


def draw_times(tasks_B: Tensor, steps: int, generator: torch.Generator) -> dict[Track, Tensor]:
    """Time (B,) in 1..steps of each track; 0 if the track is given."""
    time = {track: torch.randint(1, steps + 1, tasks_B.shape, generator=generator) for track in TRACKS}
    time["sequence"] = torch.where(tasks_B == TASKS.index("joint"), time["structure"], time["sequence"])
    for track in TRACKS:
        given = [index for index, task in enumerate(TASKS) if track not in NOISED_TRACKS[task]]
        time[track] = time[track].masked_fill(torch.isin(tasks_B, torch.tensor(given)), 0)
    return time


def mask_probability(time_B: Tensor, settings: DiffusionSettings) -> Tensor:
    """Probability (B,) that a residue is masked at a time: ``t / S``, or ``1 - cos(pi t / 2 S)`` (cosine schedule)."""
    fraction_B = time_B / settings.steps
    return fraction_B if settings.schedule == "linear" else 1 - torch.cos(fraction_B * (math.pi / 2))


def loss_weight(time_B: Tensor, settings: DiffusionSettings) -> Tensor:
    """Loss weight (B,) at a time: ``1 - (t - 1) / S``, or 1 with constant weighting."""
    if settings.weighting == "constant":
        return torch.ones(time_B.shape)
    return 1 - (time_B - 1) / settings.steps


def add_noise(
    vocabulary: Vocabulary,
    target_ids_BT: Tensor,
    tasks_B: Tensor,
    time: dict[Track, Tensor],
    settings: DiffusionSettings,
    generator: torch.Generator,
) -> Noised:
    """Mask each learnable position of the targets with its track's probability.

    ``<unk_struct>`` in the targets marks an unobserved residue.
    """
    structure_BT = ~vocabulary.is_sequence(target_ids_BT)
    learnable_BT = learnable_positions(vocabulary, target_ids_BT, settings)
    shown_ids_BT = target_ids_BT
    if settings.unobserved_structure == "mask":
        unobserved_BT = target_ids_BT == vocabulary.unknown_structure
        shown_ids_BT = target_ids_BT.masked_fill(unobserved_BT, vocabulary.mask_structure)

    def by_track(values: dict[Track, Tensor]) -> Tensor:
        return torch.where(structure_BT, values["structure"][:, None], values["sequence"][:, None])

    probability_BT = by_track({track: mask_probability(time[track], settings) for track in TRACKS})
    noised_BT = (torch.rand(target_ids_BT.shape, generator=generator) < probability_BT) & learnable_BT
    if settings.self_mixup == "clean":
        learnable_BT = learnable_BT & (by_track(time) > 0)
    return Noised(
        input_ids_BT=torch.where(noised_BT, mask_ids(vocabulary, structure_BT), shown_ids_BT),
        target_ids_BT=target_ids_BT,
        learnable_BT=learnable_BT,
        noised_BT=noised_BT,
        weight_BT=by_track({track: loss_weight(time[track], settings) for track in TRACKS}).float(),
        single_modality_B=tasks_B == TASKS.index("single_modality"),
    )


def learnable_positions(vocabulary: Vocabulary, target_ids: Tensor, settings: DiffusionSettings) -> Tensor:
    """True where a position may be noised and enter the loss: known and observed residues, as configured."""
    learnable = ~vocabulary.is_edge(target_ids)
    if settings.unobserved_structure != "learn":
        learnable &= target_ids != vocabulary.unknown_structure
    if settings.unknown_residues == "skip":
        known = vocabulary.generated("sequence")
        learnable &= ~vocabulary.is_sequence(target_ids) | ((target_ids >= known.start) & (target_ids < known.stop))
    return learnable


def mask_ids(vocabulary: Vocabulary, structure: Tensor) -> Tensor:
    """Id of the mask at each position; ``structure`` is True on the structure track."""
    return torch.where(structure, vocabulary.mask_structure, vocabulary.mask_sequence)


class DiffusionObjective(nn.Module):
    """The training loss of a noised batch, as a module that contains the network.

    Parameters
    ----------
    network
        The network to train.
    settings
        Settings of the objective.
    tracks
        Tracks over which the loss is averaged: both, or only the sequence in the sequence stage.
    """

    def __init__(self, network: MultimodalEsm, settings: DiffusionSettings, tracks: tuple[Track, ...] = TRACKS) -> None:
        super().__init__()
        self.network, self.settings, self.tracks = network, settings, tracks
        self._measuring = False

    @contextmanager
    def measuring(self) -> Iterator[None]:
        """Within this context the loss is the plain cross-entropy over the classes of each track, without self-mixup.

        A switch rather than a second module, because distributed training wraps this one.
        """
        self._measuring = True
        try:
            yield
        finally:
            self._measuring = False

    def forward(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of a batch from `Noised`, and per track its loss and the plain cross-entropy (nats).

        Per track: the sum over noised positions of weight times cross-entropy, divided by their number; the loss is the
        mean over tracks (paper equation 4). Since each batch is divided by its own number of positions and the training
        loop averages batches, a residue in a batch with few masks has a larger weight, as in the authors' program.
        """
        input_ids_BT, chosen_BT = batch["input_ids"], batch["noised"]
        if self.settings.self_mixup != "off" and not self._measuring:
            input_ids_BT, chosen_BT = self.mixed_up(batch)
        single_modality_B = batch.get("single_modality")
        hidden_BTD = self.network.hidden(input_ids_BT, single_modality_B)
        losses, metrics = [], {}
        for track in self.tracks:
            nll_N, weight_N = self.track_nll(hidden_BTD, batch, chosen_BT, track)
            count = max(nll_N.numel(), 1)
            losses.append((nll_N * weight_N).sum() / count)
            metrics[f"loss_{track}"] = losses[-1].detach()
            # NaN if no position of the track is noised: the log omits it.
            metrics[f"cross_entropy_{track}"] = nll_N.detach().mean()
        return torch.stack(losses).mean(), metrics

    def track_nll(
        self, hidden_BTD: Tensor, batch: dict[str, Tensor], chosen_BT: Tensor, track: Track
    ) -> tuple[Tensor, Tensor]:
        """Negative log-likelihood (N,) in nats and weight (N,) of the chosen positions of a track."""
        # A token that the head cannot predict (for example an unobserved residue's) is not a target.
        of_track_BT = chosen_BT & self.network.is_scored(batch["target_ids"], track)
        # Only these positions pass through the head, which is a third of a small network's work.
        hidden_ND, targets_N = hidden_BTD[of_track_BT], batch["target_ids"][of_track_BT]
        if self.settings.classes == "track" or self._measuring:
            nll_N = self.network.nll(hidden_ND, targets_N, track)
        else:
            logits_NC = self.network.logits(hidden_ND, track)
            nll_N = nn.functional.cross_entropy(logits_NC.float(), targets_N, reduction="none")
        return nll_N, batch["weight"][of_track_BT]

    @torch.no_grad()
    def mixed_up(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Input (B, T) of self-mixup's second pass, and its loss positions (B, T). Paper section A.1.

        Masked positions of the first input contain the model's predictions and unmasked ones a mask, so that the model
        learns to correct its predictions. ``released`` follows the authors' code (given tracks are masked too,
        predictions over all ids of the softmax, dropout in the first pass); ``clean`` keeps given tracks, predicts only
        codes and amino acids, and disables dropout in the first pass.
        """
        vocabulary, released = self.network.vocabulary, self.settings.self_mixup == "released"
        training = self.network.training
        self.network.train(training and released)
        hidden_BTD = self.network.hidden(batch["input_ids"], batch.get("single_modality"))
        self.network.train(training)
        structure_BT = ~vocabulary.is_sequence(batch["target_ids"])
        chosen_BT, noised_BT = batch["learnable"], batch["noised"]
        mixed_BT = torch.where(chosen_BT, mask_ids(vocabulary, structure_BT), batch["input_ids"])
        for track in self.tracks:
            of_track_BT = noised_BT & (structure_BT if track == "structure" else ~structure_BT)
            mixed_BT[of_track_BT] = self._predictions(hidden_BTD[of_track_BT], track, released)
        return mixed_BT, chosen_BT

    def _predictions(self, hidden_ND: Tensor, track: Track, all_competing: bool) -> Tensor:
        """The most probable ids (N,), computed in slices of positions."""
        network = self.network
        allowed = network.competing(track) if all_competing else network.vocabulary.generated(track)
        first = network.competing(track).start if all_competing else network.classes(track).start
        columns = slice(allowed.start - first, allowed.stop - first)
        best = []
        for part_ND in hidden_ND.split(_POSITIONS_PER_SLICE):
            logits_NC = network.logits(part_ND, track) if all_competing else network.track_logits(part_ND, track)
            best.append(logits_NC[:, columns].argmax(-1) + allowed.start)
        return torch.cat(best)

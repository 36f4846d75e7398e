"""Cross-entropy of masked residues per track and task, and the unigram baseline.

Shapes: B batch, T tokens (both tracks), N masked positions.
"""

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from dplm2.core.batching import by_length
from dplm2.language import diffusion, layout
from dplm2.language.chains import TokenizedChains
from dplm2.language.network import MultimodalEsm
from dplm2.language.vocabulary import TRACKS, Track, Vocabulary
from dplm2.training.log import Progress

MEASURED_TASKS: tuple[diffusion.Task, ...] = ("single_modality", "folding", "inverse_folding", "joint")
_TOKENS_PER_BATCH = 4096


@dataclass(frozen=True)
class CrossEntropy:
    """Mean negative log-likelihood (nats) of ``positions`` masked residues of a track under a task."""

    track: Track
    task: diffusion.Task
    value: float
    positions: int


def masked_cross_entropies(
    network: MultimodalEsm,
    chains: TokenizedChains,
    indices: Sequence[int] | None = None,
    tasks: Sequence[diffusion.Task] = MEASURED_TASKS,
    seed: int = 0,
    progress: str | None = None,
) -> list[CrossEntropy]:
    """Cross-entropies of masked residues over the classes of their own track, per task and noised track.

    Each chain is evaluated once per task on its first ``max_length`` residues; times are evenly spread over 1..S. The
    same positions are masked for every model and training step, so that values can be compared.

    Parameters
    ----------
    network
        The model; temporarily in evaluation mode.
    chains
        Tokenized chains.
    indices
        Indices of the chains to use; all by default.
    tasks
        Tasks to evaluate.
    seed
        Seed of the noise.
    progress
        Title of the progress bar or lines; None: no progress.
    """
    objective = diffusion.DiffusionObjective(network, chains.settings)
    training = network.training
    objective.eval()
    try:
        with objective.measuring():
            return measure(objective, network.device, chains, indices, tasks, seed, progress)
    finally:
        network.train(training)


@torch.no_grad()
def measure(
    module: nn.Module,
    device: torch.device,
    chains: TokenizedChains,
    indices: Sequence[int] | None,
    tasks: Sequence[diffusion.Task],
    seed: int,
    progress: str | None = None,
) -> list[CrossEntropy]:
    """As `masked_cross_entropies`, by a diffusion objective in `measuring` mode (possibly wrapped for distribution)."""
    indices = list(range(len(chains)) if indices is None else indices)
    costs = chains.costs()
    groups = list(batches(indices, costs))
    entries, done = [], 0
    bar = Progress(progress or "", 0, len(tasks) * len(groups), quiet=progress is None, unit="batch")
    with contextlib.closing(bar):
        for task in tasks:
            tally = Tally()
            for group, batch in zip(groups, _of_task(chains, indices, groups, task, seed), strict=True):
                metrics = module({name: value.to(device) for name, value in batch.items()})[1]
                tally.add(metrics, batch, chains.vocabulary)
                done += 1
                bar.advance(done, sum(costs[index] for index in group), {})
            entries += [
                CrossEntropy(track, task, tally.mean(track), tally.positions[track])
                for track in diffusion.NOISED_TRACKS[task]
            ]
    return entries


class Tally:
    """Sums of cross-entropies over batches, per track."""

    def __init__(self) -> None:
        self.sums, self.positions = dict.fromkeys(TRACKS, 0.0), dict.fromkeys(TRACKS, 0)

    def add(self, metrics: Mapping[str, Tensor], batch: Mapping[str, Tensor], vocabulary: Vocabulary) -> None:
        """Add the metrics of a batch."""
        structure_BT = ~vocabulary.is_sequence(batch["target_ids"])
        for track in TRACKS:
            positions = int((batch["noised"] & (structure_BT == (track == "structure"))).sum())
            if positions:
                self.sums[track] += float(metrics[f"cross_entropy_{track}"]) * positions
                self.positions[track] += positions

    def mean(self, track: Track) -> float:
        """Mean over all positions so far (nats); NaN if there were none."""
        return self.sums[track] / self.positions[track] if self.positions[track] else float("nan")


def _of_task(
    chains: TokenizedChains, indices: list[int], groups: list[list[int]], task: diffusion.Task, seed: int
) -> Iterator[dict[str, Tensor]]:
    settings = chains.settings.replaced(self_mixup="off")
    generator = torch.Generator().manual_seed(seed)
    # Evenly spread, then shuffled, so that time does not correlate with the order of the chains.
    times = ((torch.arange(len(indices)) + 0.5) / len(indices) * settings.steps).ceil().long()
    time_of = dict(zip(indices, times[torch.randperm(len(indices), generator=generator)].tolist(), strict=True))
    for batch in groups:
        windows = [slice(0, settings.max_length)] * len(batch)
        target_ids_BT = chains.join(batch, windows, TRACKS)
        time_B = torch.tensor([time_of[index] for index in batch])
        time = {track: time_B * (track in diffusion.NOISED_TRACKS[task]) for track in TRACKS}
        tasks_B = torch.full_like(time_B, diffusion.TASKS.index(task))
        yield diffusion.add_noise(chains.vocabulary, target_ids_BT, tasks_B, time, settings, generator).batch()


def batches(indices: Iterable[int], costs: Sequence[int]) -> Iterator[list[int]]:
    """Batches of samples of similar cost (in tokens), small enough for a small machine."""
    indices = list(indices)
    groups = by_length([costs[index] for index in indices], _TOKENS_PER_BATCH, longest_first=False)
    return ([indices[place] for place in group] for group in groups)


def pooled(cross_entropies: Sequence[CrossEntropy]) -> dict[Track, tuple[float, int]]:
    """Per track, the mean over the masked positions of all tasks, and the number of these positions."""
    result = {}
    for track in TRACKS:
        of_track = [entry for entry in cross_entropies if entry.track == track and entry.positions]
        positions = sum(entry.positions for entry in of_track)
        if positions:
            result[track] = (sum(entry.value * entry.positions for entry in of_track) / positions, positions)
    return result


def unigram_baseline(chains: TokenizedChains) -> dict[Track, tuple[float, int]]:
    """Cross-entropy (nats) of a prediction without context, and the number of residues: for each track.

    Each chain is predicted from the token frequencies of the others, with one count added to each of the track's
    tokens. (Frequencies that include the chain itself would know it: those of a few chains predict their own structure
    tokens better than any model can.)
    """
    baseline = {}
    for track in TRACKS:
        generated = chains.vocabulary.generated(track)
        counts_NC = [_counts(chains, index, track, generated) for index in range(len(chains))]
        total_C = np.sum(counts_NC, axis=0)
        nll = 0.0
        for counts_C in counts_NC:
            others_C = total_C - counts_C + 1
            nll -= float((counts_C * np.log(others_C / others_C.sum())).sum())
        residues = int(total_C.sum())
        baseline[track] = (nll / residues if residues else float("nan")), residues
    return baseline


def _counts(chains: TokenizedChains, index: int, track: Track, generated: range) -> np.ndarray:
    """Number of learnable residues of a chain with each of the track's tokens."""
    ids = torch.from_numpy(chains.track(index, track))
    counted = diffusion.learnable_positions(chains.vocabulary, ids, chains.settings)
    counted &= (ids >= generated.start) & (ids < generated.stop)
    return np.bincount(ids[counted].numpy() - generated.start, minlength=len(generated))


def written_out(vocabulary: Vocabulary, ids_T: Tensor) -> str:
    """Ids as readable text: one line per track, masks as ``_``."""
    lines = []
    for track, ids in layout.split(vocabulary, ids_T[None])[0].items():
        if ids is not None:
            masked = ids == vocabulary.mask(track)
            width = len(vocabulary.tokens[vocabulary.first_code]) if track == "structure" else 1
            words = ["_" * width if m else vocabulary.tokens[i] for i, m in zip(ids, masked, strict=True)]
            lines.append(f"  {track:<9} {(' ' if track == 'structure' else '').join(words)}")
    return "\n".join(lines)

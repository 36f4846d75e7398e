"""Selection of the best of several candidates by the model's own likelihood."""

import math
from collections.abc import Sequence

import numpy as np
import torch

from dplm2.language import layout
from dplm2.language.conditioning import Conditioning, sample_seed
from dplm2.language.denoising import Sampled
from dplm2.language.network import MultimodalEsm
from dplm2.language.sampling import in_batches

PARTS = 4


@torch.inference_mode()
def log_likelihoods(
    network: MultimodalEsm,
    conditionings: Sequence[Conditioning],
    samples: Sequence[Sampled],
    seed: int,
    token_budget: int,
) -> list[float]:
    """Mean log-probability (nats) of the generated tokens of each sample, each predicted from the rest of the sample.

    The generated positions of both tracks are divided at random into `PARTS` parts; each part is masked in turn and its
    tokens scored among the classes of their track. NaN for a sample without generated tokens.

    Parameters
    ----------
    network
        The model.
    conditionings
        The given tokens of each sample.
    samples
        The finished samples, in the same order.
    seed
        The run's seed; samples of the same conditioning are masked at the same positions.
    token_budget
        Maximum number of tokens per batch.
    """
    sums, counts = np.zeros(len(samples)), np.zeros(len(samples), dtype=int)
    masks = [_parts(conditioning, seed) for conditioning in conditionings]

    def work(batch: list[int]) -> list[list[np.ndarray]]:
        batch_samples, batch_masks = [samples[i] for i in batch], [masks[i] for i in batch]
        return [_score_part(network, batch_samples, batch_masks, part) for part in range(PARTS)]

    for batch, parts in in_batches(conditionings, token_budget, work):
        for scored in parts:
            for index, log_probabilities in zip(batch, scored, strict=True):
                sums[index] += log_probabilities.sum()
                counts[index] += len(log_probabilities)
    return [float(total / count) if count else float("nan") for total, count in zip(sums, counts, strict=True)]


def best_of(scores: Sequence[float], candidates: Sequence[int]) -> int:
    """The candidate with the highest score, the first in a tie; NaN ranks below every number."""
    return max(candidates, key=lambda candidate: -math.inf if math.isnan(scores[candidate]) else scores[candidate])


def _parts(conditioning: Conditioning, seed: int) -> dict[str, np.ndarray]:
    """For each track, the part to which each position belongs; -1 if the token was given."""
    random = np.random.default_rng(sample_seed(seed, f"likelihood at {conditioning.length} residues"))
    parts = {}
    for track, fixed in conditioning.fixed.items():
        order = random.permutation(conditioning.length) % PARTS
        parts[track] = np.where(fixed, -1, order)
    return parts


def _score_part(network: MultimodalEsm, samples: Sequence[Sampled], masks: Sequence, part: int) -> list[np.ndarray]:
    vocabulary = network.vocabulary
    tracks = tuple(samples[0].tokens)
    masked_ids = {
        track: [
            np.where(mask[track] == part, vocabulary.mask(track), sample.tokens[track])
            for sample, mask in zip(samples, masks, strict=True)
        ]
        for track in tracks
    }
    none = [None] * len(samples)
    ids_BT = layout.join(vocabulary, masked_ids.get("structure", none), masked_ids.get("sequence", none))
    hidden_BTD = network.hidden(ids_BT.to(network.device))
    half = ids_BT.shape[1] // len(tracks)
    results: list[list[np.ndarray]] = [[] for _ in samples]
    for number, track in enumerate(tracks):
        for row, (sample, mask) in enumerate(zip(samples, masks, strict=True)):
            chosen = np.flatnonzero(mask[track] == part)
            positions = torch.from_numpy(chosen + number * half + 1).to(network.device)
            targets = torch.from_numpy(sample.tokens[track][chosen]).to(network.device)
            results[row].append(-network.nll(hidden_BTD[row, positions], targets, track).cpu().numpy())
    return [np.concatenate(scores) for scores in results]

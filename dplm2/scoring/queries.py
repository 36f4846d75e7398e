"""Log-probabilities of residues: what is masked, what is read, in which window of a long protein.

A query is one input of the network: a window of a protein in which some residues are masked, and read. Queries of many
proteins share batches; a result depends neither on the batch nor on padding.

Shapes: B batch, T tokens (both tracks), L residues of a protein, N residues that are read, A amino acids.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from dplm2.core.batching import by_length
from dplm2.core.memory import split_on_out_of_memory
from dplm2.language import layout
from dplm2.language.conditioning import sample_seed
from dplm2.language.network import MultimodalEsm
from dplm2.language.vocabulary import Track, Vocabulary
from dplm2.scoring.views import WINDOW, Marginals


@dataclass(frozen=True)
class View:
    """Which tracks the network sees and which of them are scored.

    Attributes
    ----------
    seen
        Tracks of the input; one that is not seen is absent, as in the single-modality samples of training.
    read
        Tracks that are scored, and masked if there are masks.
    """

    seen: tuple[Track, ...]
    read: tuple[Track, ...]


@dataclass(frozen=True)
class Query:
    """One input of the network.

    Attributes
    ----------
    protein
        Index of the protein.
    window
        The residues that the network sees.
    residues
        Those that are read (N,), from 0 in the protein.
    """

    protein: int
    window: slice
    residues: np.ndarray


@dataclass(frozen=True)
class Reading:
    """How residues are read.

    Attributes
    ----------
    marginals
        ``masked``: a residue is masked when it is read. ``wild-type``: nothing is masked, and one pass reads all.
    parts
        With masks: the residues are divided at random into so many parts, each masked and read at once; None: one
        residue at a time.
    window
        Largest number of residues that the network sees.
    seed
        Of the run; the parts of a protein follow from it and the protein's name.
    token_budget
        Maximum number of tokens per batch, including padding.
    """

    marginals: Marginals = "masked"
    parts: int | None = None
    window: int = WINDOW
    seed: int = 0
    token_budget: int = 8192


Read = Callable[[Tensor, Tensor, Track], Tensor]
"""From representations (N, D), the true ids (N,) and their track to values (N, ...)."""


def windows_of(length: int, window: int) -> np.ndarray:
    """First residue (L,) of the window in which each residue is read.

    Windows begin at every half of their length; a residue belongs to the one in which it is closest to the middle, so
    that at least a quarter of a window is on both sides of it, except at the ends of the protein.
    """
    if length <= window:
        return np.zeros(length, dtype=np.int64)
    starts = np.append(np.arange(0, length - window, max(1, window // 2)), length - window)
    distance_SL = np.abs(starts[:, None] + (window - 1) / 2 - np.arange(length))
    return starts[distance_SL.argmin(0)]


def queries_of(protein: int, name: str, length: int, residues: np.ndarray, reading: Reading) -> Iterator[Query]:
    """The queries that read each of ``residues`` (from 0, ascending) of a protein once."""
    starts_N = windows_of(length, reading.window)[residues]
    parts_N = _parts(name, length, reading)[residues]
    for start in np.unique(starts_N):
        window = slice(int(start), min(length, int(start) + reading.window))
        inside = starts_N == start
        for part in np.unique(parts_N[inside]):
            yield Query(protein, window, residues[inside & (parts_N == part)])


def _parts(name: str, length: int, reading: Reading) -> np.ndarray:
    """The part (L,) in which each residue is read."""
    if reading.marginals == "wild-type":
        return np.zeros(length, dtype=np.int64)
    if reading.parts is None:
        return np.arange(length)
    return np.random.default_rng(sample_seed(reading.seed, name)).permutation(length) % reading.parts


def answers(
    network: MultimodalEsm,
    proteins: Sequence[Mapping[Track, np.ndarray]],
    names: Sequence[str],
    queries: Sequence[Query],
    view: View,
    reading: Reading,
    read: Read,
    progress: str | None = None,
) -> Iterator[tuple[Query, dict[Track, np.ndarray]]]:
    """Yield each query with the values (N, ...) that ``read`` gives on each track that the view reads.

    Raises
    ------
    DPLM2Error
        If there is not enough memory for one query; the message names the protein.
    """
    lengths = [query.window.stop - query.window.start for query in queries]
    costs = [len(view.seen) * (length + layout.EDGES) for length in lengths]

    def work(batch: list[int]) -> list[dict[Track, np.ndarray]]:
        return _answer_batch(network, proteins, [queries[index] for index in batch], view, reading, read)

    done = split_on_out_of_memory(
        by_length(costs, reading.token_budget),
        work,
        lengths.__getitem__,
        lambda index: names[queries[index].protein],
        "query",
    )
    with tqdm(total=len(queries), desc=progress, unit="query", disable=None if progress else True) as bar:
        for batch, found in done:
            yield from ((queries[index], values) for index, values in zip(batch, found, strict=True))
            bar.update(len(batch))


@torch.inference_mode()
def _answer_batch(network, proteins, queries, view, reading, read) -> list[dict[Track, np.ndarray]]:
    inputs = {
        track: [_input(network.vocabulary, proteins, query, track, view, reading) for query in queries]
        for track in view.seen
    }
    none = [None] * len(queries)
    ids_BT = layout.join(network.vocabulary, inputs.get("structure", none), inputs.get("sequence", none))
    hidden_BTD = network.hidden(ids_BT.to(network.device))
    half = ids_BT.shape[1] // len(view.seen)
    results: list[dict[Track, np.ndarray]] = [{} for _ in queries]
    for track in view.read:
        first = half * view.seen.index(track) + 1  # after the token that begins the track
        rows = np.concatenate([np.full(len(query.residues), row) for row, query in enumerate(queries)])
        columns = np.concatenate([query.residues - query.window.start + first for query in queries])
        truth = np.concatenate([proteins[query.protein][track][query.residues] for query in queries])
        hidden_ND = hidden_BTD[torch.from_numpy(rows), torch.from_numpy(columns)]
        values = read(hidden_ND, torch.from_numpy(truth).to(network.device), track).double().cpu().numpy()
        ends = np.cumsum([len(query.residues) for query in queries])[:-1]
        for result, own in zip(results, np.split(values, ends), strict=True):
            result[track] = own
    return results


def _input(vocabulary: Vocabulary, proteins, query: Query, track: Track, view: View, reading: Reading) -> np.ndarray:
    ids = proteins[query.protein][track][query.window].copy()
    if reading.marginals == "masked" and track in view.read:
        ids[query.residues - query.window.start] = vocabulary.mask(track)
    return ids

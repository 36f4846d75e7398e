"""Samples for which only the length is given."""

from collections.abc import Iterator, Sequence

import numpy as np

from dplm2.core.errors import ConfigError
from dplm2.generation.task import Given, Request, random_for, request_of
from dplm2.language.vocabulary import Vocabulary
from dplm2.settings.generation import GenerationSettings

CHAINS = "draw lengths from these (with dataset in the configuration)"


def unconditional(settings: GenerationSettings, vocabulary: Vocabulary, seed: int, given: Given) -> list[Request]:
    """Requests on the task's tracks, with lengths from the settings or drawn from chains.

    Raises
    ------
    ConfigError
        If chains are given but lengths are not drawn from them, or vice versa.
    """
    if given.targets or (given.chains and settings.dataset is None):
        raise ConfigError(f"task {settings.task} takes no chains, unless `dataset` says to draw lengths from them")
    if settings.dataset is not None and not given.chains:
        raise ConfigError(f"lengths are drawn from data set {settings.dataset}, but no chains are given")
    lengths = None
    if settings.dataset is not None:
        from dplm2.generation.inputs import lengths_of

        lengths = lengths_of(given.chains, settings.split)
    requests = []
    for sample_id, problem, length in drawn_lengths(settings, seed, lengths):
        tokens = {track: np.full(length, vocabulary.mask(track)) for track in settings.tracks}
        requests.append(request_of(sample_id, problem, tokens, settings, vocabulary))
    return requests


def drawn_lengths(
    settings: GenerationSettings, seed: int, of_chains: Sequence[int] | None = None
) -> Iterator[tuple[str, str, int]]:
    """Yield (sample id, problem, length) of each sample.

    Parameters
    ----------
    settings
        Settings of the task.
    seed
        Seed of the run.
    of_chains
        Chain lengths of a data set to draw from; None: the lengths of the settings.
    """
    if of_chains is None and isinstance(settings.lengths, tuple):
        for length, copies in {length: settings.lengths.count(length) for length in settings.lengths}.items():
            problem = f"length-{length}"
            yield from ((f"{problem}_{n:04d}", problem, length) for n in range(settings.samples * copies))
        return
    for number in range(settings.samples):
        sample_id = f"sample_{number:04d}"
        random = random_for(seed, f"length of {sample_id}")
        if of_chains is not None:
            length = int(random.choice(np.sort(np.asarray(of_chains))))
        else:
            length = int(random.integers(settings.lengths.minimum, settings.lengths.maximum, endpoint=True))
        yield sample_id, f"length-{length}", length

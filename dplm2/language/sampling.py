"""Sampling from the language model, in batches under a token budget that are halved when memory runs out.

A sample's random numbers depend only on the run's seed and its id (`dplm2.language.randomness`).
"""

from collections.abc import Callable, Iterator, Sequence

from dplm2.core.batching import by_length
from dplm2.core.errors import DPLM2Error
from dplm2.core.memory import Result, split_on_out_of_memory
from dplm2.core.output import progress_bar
from dplm2.language.conditioning import Conditioning, sample_seed
from dplm2.language.denoising import Adjust, Denoiser, Sampled
from dplm2.language.layout import EDGES
from dplm2.language.network import MultimodalEsm
from dplm2.language.schedule import SamplerSettings


def cost(conditioning: Conditioning) -> int:
    """Number of tokens of a sample."""
    return len(conditioning.tracks) * (conditioning.length + EDGES)


def in_batches(
    conditionings: Sequence[Conditioning], token_budget: int, work: Callable[[list[int]], Result]
) -> Iterator[tuple[list[int], Result]]:
    """Process samples, given by their indices, in `batches`; a batch is halved if memory runs out."""
    return split_on_out_of_memory(
        batches(conditionings, token_budget),
        work,
        lambda index: conditionings[index].length,
        lambda index: conditionings[index].sample_id,
        "sample",
    )


def batches(conditionings: Sequence[Conditioning], token_budget: int) -> Iterator[list[int]]:
    """Indices of samples that fit into ``token_budget`` tokens together, padding included; longest first.

    Samples of a batch have the same tracks. A sample that exceeds the budget forms its own batch.
    """
    return by_length(
        [cost(each) for each in conditionings], token_budget, kinds=[each.tracks for each in conditionings]
    )


def sample(
    network: MultimodalEsm,
    conditionings: Sequence[Conditioning],
    settings: SamplerSettings,
    seed: int,
    token_budget: int = 8192,
    adjust: Adjust | None = None,
    trajectory: int = 0,
    done: Callable[[list[Sampled]], None] | None = None,
    before_step: Callable[[], None] | None = None,
    progress: str | None = None,
) -> list[Sampled]:
    """Fill the masks of samples.

    Parameters
    ----------
    network
        The language model, in evaluation mode.
    conditionings
        The given tokens of each sample.
    settings
        Settings of the sampler.
    seed
        The run's seed.
    token_budget
        Maximum number of tokens per batch (both tracks, padding included). If memory runs out, the batch is halved.
    adjust
        Callback that may change the logits before each draw (see `dplm2.language.guidance`).
    trajectory
        Interval in steps at which predictions are recorded; 0: never.
    done
        Called with the samples of each finished batch.
    before_step
        Called before each step of a batch; may raise an exception to stop.
    progress
        Title of the progress bar; None: no bar.

    Returns
    -------
    list
        The samples, in the order of ``conditionings``.

    Raises
    ------
    DPLM2Error
        If a conditioning is invalid, or memory does not suffice for a single sample; the message names it.
    """
    for conditioning in conditionings:
        conditioning.check(network.vocabulary)
    duplicates = len(conditionings) - len({conditioning.sample_id for conditioning in conditionings})
    if duplicates:
        raise DPLM2Error(f"{duplicates} of {len(conditionings)} sample ids occur more than once")
    results: dict[int, Sampled] = {}
    steps = [conditioning.steps - conditioning.first_step for conditioning in conditionings]

    def work(batch: list[int]) -> list[Sampled]:
        chosen = [conditionings[index] for index in batch]
        bar.n = finished_steps()  # a batch that ran out of memory begins again

        def step() -> None:
            bar.update(len(batch))
            if before_step is not None:
                before_step()

        return _run(network, chosen, settings, seed, adjust, trajectory, step)

    def finished_steps() -> int:
        return sum(steps[index] for index in results)

    with progress_bar(sum(steps), progress, "step") as bar:
        for batch, finished in in_batches(conditionings, token_budget, work):
            results.update(zip(batch, finished, strict=True))
            bar.n = finished_steps()
            bar.refresh()
            if done is not None:
                done(finished)
    return [results[index] for index in range(len(conditionings))]


def _run(network, conditionings, settings, seed, adjust, trajectory, before_step) -> list[Sampled]:
    seeds = [sample_seed(seed, conditioning.sample_id) for conditioning in conditionings]
    denoiser = Denoiser(network, conditionings, seeds, settings, adjust, trajectory)
    finished = {sampled.sample_id: sampled for sampled in denoiser.run(before_step)}
    return [finished[conditioning.sample_id] for conditioning in conditionings]

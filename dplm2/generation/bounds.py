"""Refuse samples that no memory here holds, before any of it is asked for.

The estimates are lower bounds, so that nothing is refused that might work; what fails above them is split or named when
it happens (`dplm2.core.memory`).
"""

from collections.abc import Sequence
from dataclasses import dataclass

from dplm2.core.errors import ConfigError
from dplm2.core.memory import total_memory
from dplm2.core.text import readable_size
from dplm2.generation.task import Request
from dplm2.language.network import MultimodalEsm
from dplm2.settings.generation import UNCONDITIONAL, GenerationSettings, LengthRange

BYTES = 4  # of a number in fp32
# Measured: rows of finished samples (12 coordinates as Python numbers, tokens, letters), and what each has besides.
BYTES_OF_RESIDUE, BYTES_OF_SAMPLE = 500, 2000
BYTES_OF_GIVEN = 2 * (8 + 1)  # per residue of a candidate: an id and whether it is given, on both tracks
# Of full size the decoder took 2.9 and 3.6 times its table of pairs above its weights (300 and 499 residues).
PAIR_TABLES = 2.9
ACTIVATIONS = 4  # of the network's width, at a time, for each token


@dataclass(frozen=True)
class Asked:
    """What is to be generated.

    Attributes
    ----------
    samples, residues
        Number of samples, and of their residues in all.
    longest
        Residues of the longest.
    name
        Which that is.
    """

    samples: int
    residues: int
    longest: int
    name: str


def asked_by(settings: GenerationSettings) -> Asked:
    """What settings alone say; lengths that they leave open count as one residue."""
    if settings.task in UNCONDITIONAL and isinstance(settings.lengths, LengthRange):
        least, most = settings.lengths.minimum, settings.lengths.maximum
        return Asked(settings.samples, settings.samples * (least + most) // 2, most, "lengths")
    if settings.task in UNCONDITIONAL and settings.lengths is not None:
        lengths = settings.lengths
        return Asked(settings.samples * len(lengths), settings.samples * sum(lengths), max(lengths), "lengths")
    return Asked(settings.samples, settings.samples, 1, "samples")


def asked_in(requests: Sequence[Request]) -> Asked:
    """What requests say."""
    lengths = [request.conditioning.length for request in requests]
    longest = max(range(len(lengths)), key=lengths.__getitem__, default=None)
    if longest is None:
        return Asked(0, 0, 0, "")
    return Asked(len(lengths), sum(lengths), lengths[longest], requests[longest].problem)


def check_memory(asked: Asked, settings: GenerationSettings, network: MultimodalEsm, pair_width: int | None) -> None:
    """Refuse samples that do not fit.

    Parameters
    ----------
    asked
        The samples.
    settings
        How they are made.
    network
        What makes them.
    pair_width
        Channels per pair of residues in the tokenizer's decoder; None where nothing is decoded.

    Raises
    ------
    ConfigError
        With the estimate.
    """
    config = network.model.config
    width = ACTIVATIONS * config.hidden_size + config.intermediate_size
    one = BYTES * len(settings.tracks) * asked.longest * width
    if pair_width is not None:
        one = max(one, PAIR_TABLES * BYTES * pair_width * asked.longest**2)
    of_device = total_memory(network.device)
    _refuse(f"{asked.name}: a protein of {asked.longest:,} residues", one, of_device, "choose a shorter one")
    all_samples = asked.samples * BYTES_OF_SAMPLE + asked.residues * BYTES_OF_RESIDUE
    _refuse(
        f"samples: {asked.samples:,} of {asked.residues:,} residues in all", all_samples, total_memory(),
        "generate them in several runs, each with a seed of its own",
    )  # fmt: skip
    candidates = settings.best_of * (BYTES_OF_SAMPLE + asked.longest * BYTES_OF_GIVEN)
    _refuse(f"best_of: {settings.best_of:,} candidates", candidates, total_memory(), "choose fewer")


def _refuse(what: str, estimate: float, available: int, remedy: str) -> None:
    if estimate > available:
        needed, present = readable_size(estimate), readable_size(available)
        raise ConfigError(f"{what} would need at least {needed} of memory, of {present} here; {remedy}")

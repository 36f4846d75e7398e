"""Lower bounds on the memory of a run; samples that cannot fit are refused before anything is allocated.

A run that passes may still run out of memory: it is then split, or the error reported (`dplm2.core.memory`).
"""

from collections.abc import Sequence
from dataclasses import dataclass

from dplm2.core.memory import refuse_beyond_memory, total_memory
from dplm2.generation.task import Request, Target
from dplm2.language.network import MultimodalEsm
from dplm2.settings.generation import UNCONDITIONAL, GenerationSettings, LengthRange

BYTES = 4  # per fp32 number
# Measured: a finished sample's row per residue (12 coordinates as Python numbers, token, letter), and its overhead.
BYTES_PER_RESIDUE, BYTES_PER_SAMPLE = 500, 2000
BYTES_PER_CANDIDATE_RESIDUE = 2 * (8 + 1)  # an id and whether it is given, on both tracks
# Measured peak memory of the full-size decoder above its weights, in units of its pair representation: 2.9 at 300
# residues, 3.6 at 499.
PAIR_REPRESENTATIONS = 2.9
HIDDEN_VECTORS = 4  # simultaneous activations of model width, per token


@dataclass(frozen=True)
class Workload:
    """Size of the samples to be generated.

    Attributes
    ----------
    samples, residues
        Number of samples, and their total number of residues.
    longest
        Number of residues of the longest sample.
    name
        Problem of the longest sample, or the setting that determines its length.
    """

    samples: int
    residues: int
    longest: int
    name: str


def workload_of_settings(settings: GenerationSettings) -> Workload:
    """Workload according to the settings alone; unknown lengths count as one residue."""
    if settings.task in UNCONDITIONAL and isinstance(settings.lengths, LengthRange):
        minimum, maximum = settings.lengths.minimum, settings.lengths.maximum
        return Workload(settings.samples, settings.samples * (minimum + maximum) // 2, maximum, "lengths")
    if settings.task in UNCONDITIONAL and settings.lengths is not None:
        lengths = settings.lengths
        return Workload(settings.samples * len(lengths), settings.samples * sum(lengths), max(lengths), "lengths")
    return Workload(settings.samples, settings.samples, 1, "samples")


def workload_of_requests(requests: Sequence[Request]) -> Workload:
    """Workload of the requests."""
    lengths = [request.conditioning.length for request in requests]
    longest = max(range(len(lengths)), key=lengths.__getitem__, default=None)
    if longest is None:
        return Workload(0, 0, 0, "")
    return Workload(len(lengths), sum(lengths), lengths[longest], requests[longest].problem)


def check_memory(
    workload: Workload, settings: GenerationSettings, network: MultimodalEsm, pair_width: int | None
) -> None:
    """Check that samples can fit into memory.

    Parameters
    ----------
    workload
        Size of the samples.
    settings
        Settings of the run.
    network
        The language model.
    pair_width
        Channels of the pair representation of the tokenizer's decoder; None if no structure is decoded.

    Raises
    ------
    ConfigError
        If they cannot; the message contains the estimate.
    """
    longest = BYTES * len(settings.tracks) * workload.longest * _numbers_per_token(network)
    if pair_width is not None:
        longest = max(longest, PAIR_REPRESENTATIONS * BYTES * pair_width * workload.longest**2)
    device_memory = total_memory(network.device)
    subject = f"{workload.name}: a protein of {workload.longest:,} residues"
    refuse_beyond_memory(subject, longest, device_memory, "choose a shorter one")
    all_samples = workload.samples * BYTES_PER_SAMPLE + workload.residues * BYTES_PER_RESIDUE
    refuse_beyond_memory(
        f"samples: {workload.samples:,} of {workload.residues:,} residues in total", all_samples, total_memory(),
        "generate them in several runs with different seeds",
    )  # fmt: skip
    candidates = settings.best_of * (BYTES_PER_SAMPLE + workload.longest * BYTES_PER_CANDIDATE_RESIDUE)
    refuse_beyond_memory(f"best_of: {settings.best_of:,} candidates", candidates, total_memory(), "choose fewer")


def check_network(proteins: Sequence[Target], network: MultimodalEsm) -> None:
    """Check that the longest protein can pass through the network.

    Raises
    ------
    ConfigError
        If it cannot; the message contains the estimate.
    """
    longest = max(proteins, key=lambda protein: protein.length, default=None)
    if longest is not None:
        tracks = (longest.sequence is not None) + (longest.structure_tokens is not None)
        subject = f"{longest.name}: a protein of {longest.length:,} residues"
        estimate = BYTES * tracks * longest.length * _numbers_per_token(network)
        refuse_beyond_memory(subject, estimate, total_memory(network.device), "leave it out")


def _numbers_per_token(network: MultimodalEsm) -> int:
    config = network.model.config
    return HIDDEN_VECTORS * config.hidden_size + config.intermediate_size

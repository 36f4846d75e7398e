"""Seeds: every random choice is a function of the run's seed and of its position in the training.

No state of a random generator is carried from step to step, so a resumed run needs none, and several processes that
share micro-batches draw the same numbers as a single one.
"""

import hashlib

import torch

# Purpose of a seed; these numbers affect results and must not change.
EPOCH, WINDOW, NOISE, FORWARD, VALIDATION, TRIAL = range(6)


def derive(seed: int, purpose: int, *place: int) -> int:
    """A 63-bit seed for one purpose at one position (an epoch, a micro-batch), independent of all others."""
    digest = hashlib.blake2b(repr((seed, purpose, *place)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def generator(seed: int, purpose: int, *place: int) -> torch.Generator:
    """A torch generator on the CPU, seeded by `derive`."""
    return torch.Generator().manual_seed(derive(seed, purpose, *place))


def seed_globally(device: torch.device, seed: int) -> None:
    """Seed the generator of dropout and other layers on ``device``.

    `torch.manual_seed` would do more than needed at every step: without a GPU it queues each call until one is used.
    """
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.default_generators[device.index or 0].manual_seed(seed)
    elif device.type == "mps":
        torch.mps.manual_seed(seed)

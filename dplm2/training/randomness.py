"""Seeds: every random choice is a function of the run's seed and of where in the training it is made.

No state of a random generator is carried from step to step, so a resumed run needs none, and two processes that share
the micro-batches of one draw what the one would have drawn.
"""

import hashlib

import torch

# What a seed is for; the numbers are part of what makes two runs equal and must not change.
EPOCH, WINDOW, NOISE, FORWARD, VALIDATION, TRIAL = range(6)


def derive(seed: int, purpose: int, *place: int) -> int:
    """A 63-bit seed for one purpose at one place (an epoch, a micro-batch), independent of all others."""
    digest = hashlib.blake2b(repr((seed, purpose, *place)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def generator(seed: int, purpose: int, *place: int) -> torch.Generator:
    """A torch generator on the CPU, seeded by `derive`."""
    return torch.Generator().manual_seed(derive(seed, purpose, *place))


def seed_globally(device: torch.device, seed: int) -> None:
    """Seed what dropout and other layers draw from on ``device``.

    `torch.manual_seed` would do more than is needed for every step: without a GPU it remembers each call for the day
    when one is used.
    """
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.default_generators[device.index or 0].manual_seed(seed)
    elif device.type == "mps":
        torch.mps.manual_seed(seed)

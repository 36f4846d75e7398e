"""Seeds: every random choice is a function of the run's seed and of where in the training it is made.

No state of a random generator is carried from step to step, so a resumed run needs none, and two processes that share
the micro-batches of one draw what the one would have drawn.
"""

import numpy as np
import torch

# What a seed is for; the numbers are part of what makes two runs equal and must not change.
EPOCH, WINDOW, NOISE, FORWARD, VALIDATION, TRIAL = range(6)


def derive(seed: int, purpose: int, *place: int) -> int:
    """A 63-bit seed for one purpose at one place (an epoch, a micro-batch), independent of all others."""
    state = np.random.SeedSequence([seed, purpose, *place]).generate_state(1, np.uint64)
    return int(state[0] >> np.uint64(1))


def generator(seed: int, purpose: int, *place: int) -> torch.Generator:
    """A torch generator on the CPU, seeded by `derive`."""
    return torch.Generator().manual_seed(derive(seed, purpose, *place))

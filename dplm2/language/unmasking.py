"""Which positions stay masked after a step: the schedule, and the choice of the least certain positions.

The sampler of reparameterised discrete diffusion (RDM) as DPLM-2 uses it: after every step the k positions with the
lowest scores are masked, whether they were decoded before or not; k falls to 0 over the steps. Paper section 3.2.

Shapes: B samples, L positions of one track.
"""

import math
import re
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from dplm2.errors import ConfigError
from dplm2.language.filtering import gumbel

Schedule = Literal["linear", "cosine"]
Remasking = Literal["fresh", "kept", "never"]


@dataclass(frozen=True)
class Unmasking:
    """Noise on the ranking of positions.

    Parameters
    ----------
    noise
        Scale of the Gumbel noise at the first step; it falls with the share of positions that stay masked. 0: none.
    """

    noise: float

    @classmethod
    def parse(cls, text: str) -> "Unmasking":
        """Read ``deterministic``, ``stochastic`` (scale 1) or ``stochastic@SCALE``.

        Raises
        ------
        ConfigError
            If it is none of these.
        """
        if text == "deterministic":
            return cls(0.0)
        if match := re.fullmatch(r"stochastic(?:@(\d+(?:\.\d*)?|\.\d+))?", text):
            return cls(float(match[1] or 1.0))
        raise ConfigError(
            f"unmasking: {text!r} is not known; allowed: deterministic, stochastic, stochastic@SCALE "
            "(for example stochastic@1.0)"
        )


def masked_share(step: int, steps: int, schedule: Schedule) -> float:
    """Share of the positions that stay masked after ``step`` (1 to ``steps``) steps."""
    return 1 - step / steps if schedule == "linear" else math.cos(math.pi / 2 * step / steps)


def masked_count(positions: int, step: int, steps: int, schedule: Schedule) -> int:
    """How many of ``positions`` that are generated stay masked after ``step`` steps; 0 after the last."""
    if step >= steps:
        return 0
    if schedule == "linear":
        return positions * (steps - step) // steps  # in whole numbers: 10 positions, 9 of 10 steps leave 1, not 0.99
    return math.floor(positions * masked_share(step, steps, schedule))


def lowest(scores_BL: Tensor, candidates_BL: Tensor, count_B: Tensor) -> Tensor:
    """True at the ``count_B`` candidates of each row with the lowest scores.

    As in the authors' program the comparison with the first score that is not chosen is strict, so that fewer are
    chosen when scores are equal there.
    """
    ranked_BL = scores_BL.masked_fill(~candidates_BL, torch.inf)
    padded_BL = torch.nn.functional.pad(ranked_BL.sort(-1).values, (0, 1), value=torch.inf)
    return candidates_BL & (ranked_BL < padded_BL.gather(-1, count_B[:, None]))


def noised_scores(scores_BL: Tensor, scale_B: Tensor, uniform_BL: Tensor) -> Tensor:
    """Scores plus Gumbel noise of the scale of each row."""
    return scores_BL + scale_B[:, None] * gumbel(uniform_BL)

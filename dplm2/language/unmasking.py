"""Selection of the positions that remain masked after a step: the least certain ones.

The sampler of reparameterised discrete diffusion (RDM) as in DPLM-2: after every step the k positions with the lowest
scores are masked, whether or not they were decoded before; k decreases to 0 over the steps. Paper section 3.2.

Shapes: B samples, L positions of one track.
"""

import torch
from torch import Tensor

from dplm2.language.filtering import gumbel


def lowest(scores_BL: Tensor, candidates_BL: Tensor, count_B: Tensor) -> Tensor:
    """True at the ``count_B`` candidates of each row with the lowest scores.

    As in the authors' program, scores must be strictly below the lowest score not selected: fewer positions are
    selected if scores are tied there.
    """
    ranked_BL = scores_BL.masked_fill(~candidates_BL, torch.inf)
    padded_BL = torch.nn.functional.pad(ranked_BL.sort(-1).values, (0, 1), value=torch.inf)
    return candidates_BL & (ranked_BL < padded_BL.gather(-1, count_B[:, None]))


def noised_scores(scores_BL: Tensor, scale_B: Tensor, uniform_BL: Tensor) -> Tensor:
    """Scores plus Gumbel noise of scale ``scale_B[b]`` in row b."""
    return scores_BL + scale_B[:, None] * gumbel(uniform_BL)

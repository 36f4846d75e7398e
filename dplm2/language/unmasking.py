"""Selection of the positions that remain masked after a step: the least certain ones.

The sampler of reparameterised discrete diffusion (RDM) as DPLM-2 uses it: after every step the k positions with the
lowest scores are masked, whether they were decoded before or not; k falls to 0 over the steps. Paper section 3.2.

Shapes: B samples, L positions of one track.
"""

import torch
from torch import Tensor

from dplm2.language.filtering import gumbel


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

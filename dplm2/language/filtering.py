"""From logits to tokens: nucleus filter, temperature, and the draw.

Nothing here asks what a class means; rows are positions, columns the classes that may be generated there.

Shapes: N positions, C classes.
"""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

_SMALLEST_TEMPERATURE = 1e-4  # a schedule may end at 0: the draw is then the most probable class


def nucleus_threshold(probabilities_NC: Tensor, mass: float) -> Tensor:
    """Smallest probability (N, 1) in the nucleus: the most probable classes up to the one that exceeds ``mass``.

    Classes as probable as the last one kept are kept as well.
    """
    falling_NC = _sorted_falling(probabilities_NC)
    last_N1 = (falling_NC.cumsum(-1) <= mass).sum(-1, keepdim=True)
    return falling_NC.gather(-1, last_N1.clamp_(max=falling_NC.shape[-1] - 1))


def _sorted_falling(values_NC: Tensor) -> Tensor:
    # On processors numpy's vectorised sort takes a third of torch's time; it lets other threads run.
    if values_NC.device.type != "cpu" or values_NC.shape[-1] < 256:
        return values_NC.sort(-1, descending=True).values
    negative_NC = np.negative(values_NC.numpy(force=True))
    parts = np.array_split(negative_NC, torch.get_num_threads())
    if len(parts) == 1:
        negative_NC.sort(-1)
    else:
        with ThreadPoolExecutor(len(parts)) as pool:
            list(pool.map(lambda part: part.sort(-1), parts))
    return torch.from_numpy(np.negative(negative_NC, out=negative_NC))


def filtered_logits(logits_NC: Tensor, nucleus: float) -> Tensor:
    """Logits with -inf outside the nucleus."""
    if nucleus >= 1:
        return logits_NC
    probabilities_NC = logits_NC.softmax(-1)
    return logits_NC.masked_fill(probabilities_NC < nucleus_threshold(probabilities_NC, nucleus), -torch.inf)


def take_best(logits_NC: Tensor, log_total_N: Tensor) -> tuple[Tensor, Tensor]:
    """The most probable class of each row, and its log-probability given the logarithm of the row's total weight.

    The total may be over more classes than those in the row: the authors score an argmax by its probability among all
    classes of both tracks.
    """
    best_N, index_N = logits_NC.max(-1)
    return index_N, best_N - log_total_N


def draw(
    logits_NC: Tensor, temperature_N: Tensor, nucleus: float, uniform_N: Tensor, kept_N: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Draw a class from each row: nucleus first, then temperature.

    Parameters
    ----------
    logits_NC
        Logits of the classes allowed.
    temperature_N
        Temperature of each row.
    nucleus
        Probability mass that the filter keeps; 1 keeps all.
    uniform_N
        Uniform random numbers in [0, 1): each row's draw is the inverse of its cumulative distribution.
    kept_N
        Classes whose log-probability under the same distribution is wanted too.

    Returns
    -------
    tuple
        Classes (N,), their log-probabilities (N,) under the tempered, filtered distribution, and those of ``kept_N``.
    """
    weights_NC = (logits_NC / temperature_N.clamp(min=_SMALLEST_TEMPERATURE)[:, None]).softmax(-1)
    if nucleus < 1:
        probabilities_NC = logits_NC.softmax(-1)
        weights_NC *= probabilities_NC >= nucleus_threshold(probabilities_NC, nucleus)
    cumulative_NC = weights_NC.cumsum(-1)
    total_N1 = cumulative_NC[:, -1:].contiguous()
    below_total_N1 = torch.nextafter(total_N1, torch.zeros_like(total_N1))
    point_N1 = torch.minimum(uniform_N[:, None] * total_N1, below_total_N1)
    index_N1 = torch.searchsorted(cumulative_NC, point_N1, right=True)

    def log_probability(index_N1: Tensor) -> Tensor:
        return (weights_NC.gather(-1, index_N1) / total_N1).log().squeeze(-1)

    kept_score_N = None if kept_N is None else log_probability(kept_N[:, None])
    return index_N1.squeeze(-1), log_probability(index_N1), kept_score_N


def draw_gumbel(
    logits_NC: Tensor, temperature_N: Tensor, nucleus: float, uniform_NC: Tensor, kept_N: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Argmax of filtered log-probabilities plus temperature times Gumbel noise, as in `draw`.

    Scores are the log-softmax of the noised log-probabilities, as in the authors' program.
    """
    log_probabilities_NC = filtered_logits(logits_NC, nucleus).log_softmax(-1)
    noised_NC = log_probabilities_NC + temperature_N[:, None] * gumbel(uniform_NC)
    scores_NC = noised_NC.log_softmax(-1)
    score_N, index_N = scores_NC.max(-1)
    return index_N, score_N, None if kept_N is None else scores_NC.gather(-1, kept_N[:, None]).squeeze(-1)


def gumbel(uniform: Tensor) -> Tensor:
    """Standard Gumbel noise from uniform numbers in [0, 1)."""
    # 0 comes up once in 2**24 draws of 32-bit floats; half a step above it stays finite.
    return -(-uniform.clamp(min=2.0**-25).log()).log()

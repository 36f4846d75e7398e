"""From logits to tokens: nucleus filter, temperature, and drawing.

Rows are positions, columns the classes that may be generated there.

Shapes: N positions, C classes.
"""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

_MIN_TEMPERATURE = 1e-4  # a schedule may end at 0: the most probable class is drawn


def nucleus_threshold(probabilities_NC: Tensor, mass: float) -> Tensor:
    """Smallest probability (N, 1) in the nucleus: the most probable classes up to the one that exceeds ``mass``.

    Classes tied with the last one are kept as well.
    """
    descending_NC = _sorted_descending(probabilities_NC)
    last_N1 = (descending_NC.cumsum(-1) <= mass).sum(-1, keepdim=True)
    return descending_NC.gather(-1, last_N1.clamp_(max=descending_NC.shape[-1] - 1))


def _sorted_descending(values_NC: Tensor) -> Tensor:
    # On a CPU numpy's vectorised sort takes a third of torch's time; it releases the GIL, hence the threads.
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
    """The most probable class (N,) of each row and its log-probability, given the row's log-normaliser.

    The normaliser may include more classes than the row: the authors score an argmax by its probability among all
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
        Logits of the allowed classes.
    temperature_N
        Temperature of each row.
    nucleus
        Probability mass that the filter keeps; 1 keeps all.
    uniform_N
        Uniform random numbers in [0, 1), one per row, for inverse transform sampling.
    kept_N
        Current classes, whose log-probabilities under the same distribution are returned, too.

    Returns
    -------
    tuple
        Classes (N,), their log-probabilities (N,) under the tempered, filtered distribution, and those of ``kept_N``.
    """
    weights_NC = (logits_NC / temperature_N.clamp(min=_MIN_TEMPERATURE)[:, None]).softmax(-1)
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
    # 0 has probability 2**-24 in float32; half a step above it, the noise is finite.
    return -(-uniform.clamp(min=2.0**-25).log()).log()

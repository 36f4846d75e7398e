"""Metrics of the structure tokenizer: reconstruction and use of the codebook."""

from dplm2.evaluation.metrics.metric import SHARE, Metric
from dplm2.evaluation.metrics.structure import COMPARED

CODEBOOK_USE = Metric("codebook_use", "codebook in use", SHARE, "higher", of="codes", source="dplm2.tokenizer.codebook")
CODEBOOK_PERPLEXITY = Metric(
    "codebook_perplexity", "codebook perplexity", "", "higher", source="dplm2.tokenizer.codebook"
)
CODEBOOK = (CODEBOOK_USE, CODEBOOK_PERPLEXITY)


def of_weights(metric: Metric) -> Metric:
    """A metric of trained or untrained weights."""
    return metric.under("{name}_{weights}", "{title}, {weights}")


METRICS = (*CODEBOOK, *map(of_weights, (*COMPARED, *CODEBOOK)))

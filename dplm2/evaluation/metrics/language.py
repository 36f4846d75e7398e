"""Metrics of the language model: likelihood of masked tokens."""

from dplm2.evaluation.metrics.metric import NATS, Metric

LIKELIHOOD = "dplm2.language.likelihood"
CROSS_ENTROPY = Metric(
    "{track}_cross_entropy_{network}", "{track} cross-entropy, {network}", NATS, "lower", of="masked tokens",
    source=LIKELIHOOD,
)  # fmt: skip
CROSS_ENTROPY_OF_TASK = Metric(
    "{track}_cross_entropy_{network}_{given}", "{track} cross-entropy, {network} ({given})", NATS, "lower",
    of="masked tokens", source=LIKELIHOOD,
)  # fmt: skip
PERPLEXITY = Metric(
    "{track}_perplexity_{network}", "{track} perplexity, {network}", "", "lower", of="masked tokens",
    source=f"{LIKELIHOOD}; the exponential of the cross-entropy",
)  # fmt: skip
METRICS = (CROSS_ENTROPY, CROSS_ENTROPY_OF_TASK, PERPLEXITY)

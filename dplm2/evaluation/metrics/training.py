"""Metrics logged by trainings (``metrics.csv``); the prefix ``validation_`` is not part of a name."""

from dplm2.evaluation.metrics.metric import ANGSTROM, LETTER_C_ALPHA, NATS, SHARE, Metric

RECONSTRUCTION_LOSS = "dplm2.tokenizer.losses"
TERMS = {
    "fape": "FAPE",
    "local_fape": "local FAPE",
    "distogram": "distogram cross-entropy",
    "violation": "structural violations",
    "sequence": "sequence cross-entropy of the tokenizer",
    "confidence": "cross-entropy of the confidence",
    "distance": "distance error",
    "chain": "chain error",
    "chain_outliers": "chain outliers",
}
LOSS = Metric("loss", "loss", "", "lower", source="the objective that is trained")
TRACK_LOSS = Metric("loss_{track}", "loss, {track} track", "", "lower", source="DPLM-2, equation 4")
CROSS_ENTROPY = Metric("cross_entropy", "cross-entropy", NATS, "lower", source="dplm2.language.diffusion")
TRACK_CROSS_ENTROPY = Metric(
    "cross_entropy_{track}", "cross-entropy, {track} track", NATS, "lower", source="dplm2.language.diffusion"
)
TASK_CROSS_ENTROPY = Metric(
    "cross_entropy_{given}", "cross-entropy ({given})", NATS, "lower", source="dplm2.language.likelihood"
)
TRACK_AND_TASK_CROSS_ENTROPY = Metric(
    "cross_entropy_{track}_{given}", "cross-entropy, {track} track ({given})", NATS, "lower",
    source="dplm2.language.likelihood",
)  # fmt: skip
LOSS_TERMS = tuple(Metric(name, title, "", "lower", source=RECONSTRUCTION_LOSS) for name, title in TERMS.items())
QUANTIZER = "Yu et al. 2024 (lookup-free quantization); dplm2.tokenizer.quantizer"
COMMITMENT = Metric("commitment", "commitment loss", "", "lower", source=QUANTIZER)
SAMPLE_ENTROPY = Metric("sample_entropy", "entropy of single codes", "", "lower", source=QUANTIZER)
CODEBOOK_ENTROPY = Metric("codebook_entropy", "entropy of code frequencies", "", "higher", source=QUANTIZER)
SUPERPOSITION, CODEBOOK = "dplm2.geometry.superposition", "dplm2.tokenizer.codebook"
RMSD = Metric("rmsd", f"{LETTER_C_ALPHA} RMSD", ANGSTROM, "lower", source=SUPERPOSITION)
RMSD_MEDIAN = Metric("rmsd_median", f"median {LETTER_C_ALPHA} RMSD", ANGSTROM, "lower", source=SUPERPOSITION)
CODES_USED = Metric("codes_used", "codebook in use", SHARE, "higher", of="codes", source=CODEBOOK)
CODE_PERPLEXITY = Metric("code_perplexity", "codebook perplexity", "", "higher", source=CODEBOOK)

METRICS = (
    LOSS, TRACK_LOSS, CROSS_ENTROPY, TRACK_CROSS_ENTROPY, TASK_CROSS_ENTROPY, TRACK_AND_TASK_CROSS_ENTROPY,
    *LOSS_TERMS, COMMITMENT, SAMPLE_ENTROPY, CODEBOOK_ENTROPY, RMSD, RMSD_MEDIAN, CODES_USED, CODE_PERPLEXITY,
)  # fmt: skip

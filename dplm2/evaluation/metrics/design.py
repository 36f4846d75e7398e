"""Metrics of designs: self-consistency, agreement with the native sequence, motif scaffolding."""

from dplm2.evaluation.metrics.metric import ANGSTROM, AT_LEAST, AT_MOST, LETTER_C_ALPHA, NATS, SHARE, Metric

SELF_CONSISTENCY = "DPLM-2, section 4.1 and C.1; Trippe et al. 2023"
SC_TM = Metric(
    "sc_tm", "scTM", "", "higher", limits=(0, 1), published={"scTM": 1.0}, source=SELF_CONSISTENCY,
    aliases=("self_consistency_tm", "sctm"),
)  # fmt: skip
SC_RMSD = Metric(
    "sc_rmsd", "scRMSD", ANGSTROM, "lower", published={"scRMSD_A": 1.0}, source=f"{SELF_CONSISTENCY}; N, CA and C",
    aliases=("self_consistency_rmsd", "scrmsd"),
)  # fmt: skip
SC_CA_RMSD = Metric("sc_ca_rmsd", f"scRMSD of {LETTER_C_ALPHA}", ANGSTROM, "lower", source=SELF_CONSISTENCY)
SC_LDDT_CA = Metric("sc_lddt_ca", f"sc lDDT-{LETTER_C_ALPHA}", "", "higher", source=SELF_CONSISTENCY)
SC_TM_RELEASED = Metric(
    "sc_tm_released", "scTM as in the released evaluator", "", "higher", source="DPLM-2's released evaluator"
)
DESIGNABLE_SC_TM = Metric(
    "designable_sc_tm_{threshold}", f"designable (scTM {AT_LEAST} {{threshold}})", SHARE, "higher", of="samples",
    judges=SC_TM, source="DPLM-2's released evaluator",
)  # fmt: skip
DESIGNABLE_SC_RMSD = Metric(
    "designable_sc_rmsd_{threshold}", f"designable (scRMSD {AT_MOST} {{threshold}} {ANGSTROM})", SHARE, "higher",
    of="samples", judges=SC_RMSD, source="Trippe et al. 2023",
)  # fmt: skip

RECOVERY = Metric(
    "recovery", "amino-acid recovery", SHARE, "higher", of="observed native residues", limits=(0, 1),
    published={"AAR_pct": 0.01}, aliases=("amino_acid_recovery", "aar"), source="DPLM-2, section 4.3, table 5",
)  # fmt: skip
RECOVERY_ALL_LEUCINE = Metric(
    "recovery_all_leucine", "recovery, all leucine", SHARE, None, of="observed native residues",
    source="the share of leucine, the most frequent amino acid, in the native: what knows nothing would score",
)  # fmt: skip
RECOVERY_RELEASED = Metric(
    "recovery_released", "amino-acid recovery as in the released evaluator", SHARE, "higher", of="positions",
    source="DPLM-2's released evaluator",
)  # fmt: skip
SEQUENCE_ENTROPY = Metric(
    "sequence_entropy", "entropy of amino-acid frequencies", NATS, None,
    source="dplm2.evaluation.recovery.sequence_entropy",
)  # fmt: skip

LOG_LIKELIHOOD = Metric(
    "log_likelihood", "log-likelihood under the model", f"{NATS} per token", "higher", of="generated tokens",
    source="dplm2.generation.selection.log_likelihoods",
)  # fmt: skip

SCAFFOLDING = "DPLM-2, section 4.4, table 9"
MOTIF_RMSD = Metric("motif_rmsd", "motif RMSD", ANGSTROM, "lower", source=SCAFFOLDING)
MOTIF_RMSD_GENERATED = Metric(
    "motif_rmsd_generated", "motif RMSD in the generated structure", ANGSTROM, "lower",
    source="dplm2.evaluation.benchmarks.scaffolding.motif_rmsds",
)  # fmt: skip
MOTIF_RESIDUES = Metric("motif_residues", "residues of the motif", of="residues", source="samples.parquet")
SUCCESS = Metric(
    "success_motif_rmsd_{threshold}", f"success (motif RMSD < {{threshold}} {ANGSTROM})", SHARE, "higher",
    of="designs", judges=MOTIF_RMSD, published={"success_rate": 1.0, "avg_success_rate": 1.0}, source=SCAFFOLDING,
)  # fmt: skip
PASSES = Metric(
    "passes_motif_rmsd_{threshold}", f"designs that pass (motif RMSD < {{threshold}} {ANGSTROM})", "", "higher",
    of="designs", source="dplm2.evaluation.benchmarks.scaffolding.passes_rows",
)  # fmt: skip
PROBLEMS_SOLVED = Metric(
    "problems_solved", "problems solved", "", "higher", of="motif problems", published={"problems_solved_of_24": 1.0},
    source=SCAFFOLDING,
)  # fmt: skip

METRICS = (
    SC_TM, SC_RMSD, SC_CA_RMSD, SC_LDDT_CA, SC_TM_RELEASED, DESIGNABLE_SC_TM, DESIGNABLE_SC_RMSD, RECOVERY,
    RECOVERY_ALL_LEUCINE, RECOVERY_RELEASED, SEQUENCE_ENTROPY, LOG_LIKELIHOOD, MOTIF_RMSD, MOTIF_RMSD_GENERATED,
    MOTIF_RESIDUES, SUCCESS, PASSES, PROBLEMS_SOLVED,
)  # fmt: skip

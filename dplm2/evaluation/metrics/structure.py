"""Metrics of a structure: against a reference, on its own, and for the chains in the comparison."""

from dplm2.evaluation.metrics.metric import (
    ANGSTROM,
    AT_LEAST,
    CONFIDENCE,
    LETTER_C_ALPHA,
    SHARE,
    Metric,
)

PSEA = "P-SEA (Labesse et al. 1997), C-alpha atoms only"

CA_RMSD = Metric(
    "ca_rmsd", f"{LETTER_C_ALPHA} RMSD", ANGSTROM, "lower", published={"RMSD_A": 1.0}, aliases=("rmsd_ca",),
    source="dplm2.geometry.superposition.rmsds, after superposition (Kabsch 1976)",
)  # fmt: skip
BB_RMSD = Metric(
    "bb_rmsd", "backbone RMSD", ANGSTROM, "lower", published={"RMSD_A": 1.0},
    source="dplm2.geometry.superposition.rmsds over N, CA and C",
)  # fmt: skip
TM_SCORE = Metric(
    "tm_score", "TM-score", "", "higher", limits=(0, 1), published={"TM-score": 1.0},
    source="Zhang & Skolnick 2004, over C-alpha; dplm2.geometry.tm_score",
)  # fmt: skip
TM_SCORE_RELEASED = Metric(
    "tm_score_released", "TM-score as in the released evaluator", "", "higher",
    source="DPLM-2's released evaluator; dplm2.evaluation.backends.tm_align.tm_score_released",
)  # fmt: skip
LDDT_CA = Metric(
    "lddt_ca", f"lDDT-{LETTER_C_ALPHA}", "", "higher", limits=(0, 1), published={"lddt_ca": 1.0}, aliases=("lddt",),
    source="Mariani et al. 2013, C-alpha atoms only; dplm2.geometry.lddt",
)  # fmt: skip
SECONDARY_STRUCTURE = Metric(
    "secondary_structure", "secondary structure right", SHARE, "higher", of="residues", source=PSEA
)
ALL_COIL = Metric(
    "secondary_structure_all_coil", "secondary structure right, all coil", SHARE, None, of="residues",
    source="the share of coil in the native: what a prediction without helix or strand would score",
)  # fmt: skip
PLDDT = Metric(
    "plddt", "pLDDT", CONFIDENCE, "higher", limits=(0, 100), published={"pLDDT": 1.0},
    aliases=("plddt_mean", "mean_plddt"), source="mean confidence of the folding program",
)  # fmt: skip
TOKENIZER_PLDDT = Metric(
    "tokenizer_plddt", "pLDDT by the tokenizer", CONFIDENCE, "higher", source="mean of the tokenizer's confidence head"
)
MATCH = Metric(
    "match_tm_score_{threshold}", f"match (TM-score {AT_LEAST} {{threshold}})", SHARE, "higher", of="samples",
    judges=TM_SCORE, source="DPLM-2's released evaluator",
)  # fmt: skip
LENGTH = Metric("length", "length", "residues", source="the sample or chain itself")
COMPARED = (CA_RMSD, BB_RMSD, TM_SCORE, LDDT_CA, TM_SCORE_RELEASED, SECONDARY_STRUCTURE)
BASELINES = tuple(
    metric.under("baseline_{name}", "{title}, folding program")
    for metric in (CA_RMSD, BB_RMSD, TM_SCORE, TM_SCORE_RELEASED, LDDT_CA, SECONDARY_STRUCTURE, PLDDT)
)

HELIX, STRAND, COIL = (
    Metric(name, name, SHARE, None, of="residues", source=PSEA) for name in ("helix", "strand", "coil")
)
COMPOSITION = (HELIX, STRAND, COIL)
NATIVE_COMPOSITION = tuple(metric.under("native_{name}", "{title}, natives") for metric in COMPOSITION)

VIOLATIONS = "Jumper et al. 2021, supplement 1.9.11; dplm2.geometry.chemistry"
CLASHES = Metric("clashes_per_100_residues", "clashes per 100 residues", "", "lower", source=VIOLATIONS)
BROKEN_BONDS = Metric("broken_bonds", "broken peptide bonds", SHARE, "lower", of="peptide bonds", source=VIOLATIONS)
BOND_DEVIATION = Metric("bond_deviation", "deviation of peptide bond lengths", ANGSTROM, "lower", source=VIOLATIONS)
GEOMETRY = (CLASHES, BROKEN_BONDS, BOND_DEVIATION)

METRICS = (
    LENGTH, *COMPARED, ALL_COIL, PLDDT, TOKENIZER_PLDDT, MATCH, *BASELINES, *COMPOSITION, *NATIVE_COMPOSITION,
    *GEOMETRY,
)  # fmt: skip

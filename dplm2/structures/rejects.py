"""Reasons for rejecting a file or a chain: the codes and their meanings."""

from typing import NamedTuple

CODES = {
    "unreadable": "The file or archive member cannot be read: unknown format, truncated, invalid, or beyond a limit.",
    "invalid_row": "A row of a table whose sequence, tokens or confidence are missing, invalid, or of unequal lengths.",
    "no_protein": "The entry has no protein chain of two or more residues.",
    "ambiguous_chain": "Several molecules may share the chain id, and the file does not distinguish them.",
    "no_backbone": "No residue has N, CA and C with finite coordinates (C-alpha traces, coarse-grained beads).",
    "too_short": "Fewer residues than filters.min_length.",
    "too_long": "More residues than filters.max_length.",
    "too_many_missing": "A smaller fraction of observed residues than filters.min_observed_fraction.",
    "too_many_unknown": "A larger fraction of X than filters.max_unknown_fraction (D-residues, modified ones).",
    "chain_breaks": "More breaks without missing residues than filters.max_chain_breaks.",
    "low_plddt": "Mean pLDDT below filters.min_plddt, or no residue reaches filters.trim_plddt.",
    "plddt_spread": "Standard deviation of pLDDT above filters.max_plddt_deviation.",
    "coil": "A larger fraction of coil than filters.max_coil.",
    "not_monomer": "filters.monomers_only: the entry has more than one protein chain.",
    "resolution": "Resolution worse than filters.max_resolution, or an experimental entry without one.",
    "release_date": "Release date outside filters.released_after and released_before, or missing.",
    "duplicate": "filters.deduplicate: another chain has the same sequence.",
    "radius_of_gyration": "Above filters.radius_of_gyration_quantile for its length.",
    "same_cluster": "filters.one_per_cluster: another chain represents its cluster.",
    "leak": "A training chain related to a held-out chain (split.leaks).",
    "not_fetched": "The download failed.",
}


class Reject(NamedTuple):
    """One row of ``rejected.parquet``; ``chain`` is empty for a whole file."""

    source_file: str
    source_sha256: str
    chain: str
    code: str
    reason: str

"""From the content of a file to clean chains: gaps are filled, ends trimmed, filters applied, rejects reported.

Shapes: L residues of a chain, A backbone atoms (N, CA, C, O), X Cartesian coordinates.
"""

from dataclasses import dataclass

import numpy as np

from dplm2.geometry.backbone import observed_residues, radius_of_gyration
from dplm2.geometry.secondary_structure import fractions
from dplm2.settings.dataset import DatasetSettings, Filters
from dplm2.structures.atoms import Entry
from dplm2.structures.gaps import with_gaps
from dplm2.structures.molecules import protein_chains
from dplm2.structures.residues import ChainResidues, bonds, clashing


@dataclass
class Chain:
    """A clean chain; the units and shapes are those of the Parquet columns of the same names.

    ``author_chain`` is unique within the entry: where several molecules share a chain id, see ``molecules``.
    """

    author_chain: str
    label_chain: str | None
    sequence: str
    residue_index: np.ndarray
    insertion_codes: str | None
    backbone_LAX: np.ndarray
    plddt: np.ndarray | None
    method: str | None
    resolution: float | None
    release_date: str | None
    predicted: bool
    helix: float = 0.0
    strand: float = 0.0
    coil: float = 0.0
    radius_of_gyration: float = 0.0

    def __len__(self) -> int:
        return len(self.sequence)

    @property
    def observed_L(self) -> np.ndarray:
        """Mask of the residues with N, CA and C."""
        return observed_residues(self.backbone_LAX)

    def cut(self, start: int, stop: int) -> None:
        """Keep the residues from ``start`` up to ``stop``."""
        self.sequence = self.sequence[start:stop]
        self.residue_index = self.residue_index[start:stop]
        self.backbone_LAX = self.backbone_LAX[start:stop]
        if self.insertion_codes is not None:
            self.insertion_codes = self.insertion_codes[start:stop]
        if self.plddt is not None:
            self.plddt = self.plddt[start:stop]


@dataclass(frozen=True)
class Refusal:
    """Why a chain (or, with an empty name, a whole entry) is rejected; see ``rejects.CODES``."""

    chain: str
    code: str
    reason: str


def clean_entry(entry: Entry, settings: DatasetSettings) -> tuple[list[Chain], list[Refusal]]:
    """The clean chains of an entry, and a refusal for each rejected chain.

    There is one of either for every protein chain of the entry; an entry without any gives one refusal.
    """
    found = protein_chains(entry)
    if not found:
        return [], [Refusal("", "no_protein", f"no protein chain among {len(entry.atoms)} atoms")]
    monomeric = entry.monomeric if entry.monomeric is not None else len(found) == 1
    chains, refusals = [], []
    for residues in found:
        outcome = _clean_chain(entry, residues, monomeric, settings)
        (chains if isinstance(outcome, Chain) else refusals).append(outcome)
    return chains, refusals


def _clean_chain(entry: Entry, residues: ChainResidues, monomeric: bool, settings: DatasetSettings) -> Chain | Refusal:
    name, filters = residues.name, settings.filters
    if residues.ambiguous:
        return Refusal(name, "ambiguous_chain", residues.ambiguous)
    chain = _chain(entry, residues, settings)
    observed = np.flatnonzero(chain.observed_L)
    if len(observed) == 0:
        return Refusal(name, "no_backbone", f"none of {len(residues)} residues has N, CA and C")
    # Before trimming: a C-alpha trace with a short complete stretch must not pass as a chain of that stretch.
    missing = _refuse_missing(len(observed), len(chain), filters)
    chain.cut(observed[0], observed[-1] + 1)
    refusal = _refuse_entry(chain, monomeric, filters) or _refuse_confidence(chain, filters)
    refusal = refusal or _refuse_short(chain, filters) or missing or _refuse_content(chain, filters)
    if refusal is None:
        alpha = chain.backbone_LAX[:, 1]
        chain.helix, chain.strand, chain.coil = fractions(alpha).values()
        chain.radius_of_gyration = radius_of_gyration(alpha)
        if filters.max_coil is not None and chain.coil > filters.max_coil:
            refusal = "coil", f"coil fraction {chain.coil:.2f}, above {filters.max_coil}"
    return chain if refusal is None else Refusal(name, *refusal)


def refuse_without_coordinates(chain: Chain, filters: Filters) -> Refusal | None:
    """Trim a chain that has no coordinates by its pLDDT, and apply the filters that need none.

    The chain is one whose residues all count as observed.
    """
    if filters.max_resolution is not None and (chain.resolution or 0.0) > filters.max_resolution:
        reason = f"{chain.resolution:g} angstrom, above {filters.max_resolution:g}"
        return Refusal(chain.author_chain, "resolution", reason)
    refusal = _refuse_confidence(chain, filters) or _refuse_short(chain, filters) or _refuse_content(chain, filters)
    return None if refusal is None else Refusal(chain.author_chain, *refusal)


def _chain(entry: Entry, residues: ChainResidues, settings: DatasetSettings) -> Chain:
    key = residues.author_chain if entry.format == "PDB" else residues.entity
    gapped = with_gaps(residues, entry.polymers.get(key, ()), settings.reading.max_numbering_gap)
    present = gapped.source >= 0
    backbone = np.full((len(gapped.source), 4, 3), np.nan, np.float32)
    backbone[present] = residues.backbone_RAX[gapped.source[present]]
    backbone[clashing(backbone)] = np.nan
    plddt = None
    if settings.reading.plddt == "b_factor" or (settings.reading.plddt == "auto" and entry.predicted):
        plddt = np.full(len(present), np.nan, np.float32)
        plddt[present] = residues.b_factor[gapped.source[present]]
        plddt = _as_percent(plddt)
    return Chain(
        author_chain=residues.name,
        label_chain=residues.label_chain,
        sequence=gapped.sequence,
        residue_index=gapped.number,
        insertion_codes=gapped.insertion,
        backbone_LAX=backbone,
        plddt=plddt,
        method=entry.method,
        resolution=entry.resolution,
        release_date=entry.release_date,
        predicted=entry.predicted,
    )


def _as_percent(plddt: np.ndarray) -> np.ndarray:
    """Confidence as 0 to 100; some programs write 0 to 1. Missing values become 0."""
    plddt = np.nan_to_num(plddt, nan=0.0, posinf=0.0, neginf=0.0)
    scale = 100.0 if 0 < plddt.max(initial=0) <= 1 else 1.0
    return np.clip(plddt * scale, 0, 100).astype(np.float32)


def _refuse_entry(chain: Chain, monomeric: bool, filters: Filters) -> tuple[str, str] | None:
    if filters.monomers_only and not monomeric:
        return "not_monomer", "the entry has more than one protein chain"
    if filters.max_resolution is not None and not chain.predicted:
        if chain.resolution is None:
            return "resolution", "the entry gives no resolution"
        if chain.resolution > filters.max_resolution:
            return "resolution", f"{chain.resolution:g} angstrom, above {filters.max_resolution:g}"
    if filters.released_after is not None or filters.released_before is not None:
        date = chain.release_date
        if date is None:
            return "release_date", "the entry gives no release date"
        if filters.released_after is not None and date < filters.released_after:
            return "release_date", f"released {date}, before {filters.released_after}"
        if filters.released_before is not None and date >= filters.released_before:
            return "release_date", f"released {date}, not before {filters.released_before}"
    return None


def _refuse_confidence(chain: Chain, filters: Filters) -> tuple[str, str] | None:
    """Apply the pLDDT filters to the whole chain, then trim its ends, in the order of the authors' code."""
    if chain.plddt is None:
        return None
    confidence = chain.plddt[chain.observed_L]
    mean, deviation = float(confidence.mean()), float(confidence.std())
    if filters.min_plddt is not None and mean < filters.min_plddt:
        return "low_plddt", f"mean pLDDT {mean:.1f}, below {filters.min_plddt:g}"
    if filters.max_plddt_deviation is not None and deviation > filters.max_plddt_deviation:
        return "plddt_spread", f"standard deviation of pLDDT {deviation:.1f}, above {filters.max_plddt_deviation:g}"
    if filters.trim_plddt is not None:
        sound = np.flatnonzero((chain.plddt >= filters.trim_plddt) & chain.observed_L)
        if len(sound) == 0:
            return "low_plddt", f"no residue reaches pLDDT {filters.trim_plddt:g}"
        chain.cut(sound[0], sound[-1] + 1)
    return None


def _refuse_missing(observed: int, length: int, filters: Filters) -> tuple[str, str] | None:
    if filters.min_observed_fraction is None or observed >= filters.min_observed_fraction * length:
        return None
    return "too_many_missing", f"{observed} of {length} residues observed, less than {filters.min_observed_fraction:g}"


def _refuse_short(chain: Chain, filters: Filters) -> tuple[str, str] | None:
    if filters.min_length is None or len(chain) >= filters.min_length:
        return None
    return "too_short", f"{len(chain)} residues, fewer than {filters.min_length}"


def _refuse_content(chain: Chain, filters: Filters) -> tuple[str, str] | None:
    if filters.max_length is not None and len(chain) > filters.max_length:
        return "too_long", f"{len(chain)} residues, more than {filters.max_length}"
    seen = [letter for letter, present in zip(chain.sequence, chain.observed_L.tolist(), strict=True) if present]
    unknown = seen.count("X")
    if filters.max_unknown_fraction is not None and unknown > filters.max_unknown_fraction * len(seen):
        return (
            "too_many_unknown",
            f"{unknown} of {len(seen)} residues are X, more than {filters.max_unknown_fraction:g}",
        )
    if filters.max_chain_breaks is not None and (breaks := _chain_breaks(chain)) > filters.max_chain_breaks:
        return "chain_breaks", f"{breaks} breaks without missing residues, more than {filters.max_chain_breaks}"
    return None


def _chain_breaks(chain: Chain) -> int:
    """Number of neighbouring observed residues that no peptide bond links."""
    neighbours_L = chain.observed_L[:-1] & chain.observed_L[1:]
    return int((neighbours_L & ~bonds(chain.backbone_LAX)).sum())

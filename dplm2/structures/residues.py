"""From atoms to the residues of each protein chain, one backbone each.

Arrays of coordinates: R residues, A backbone atoms (N, CA, C, O), X Cartesian coordinates.
"""

from dataclasses import dataclass

import numpy as np

from dplm2.structures.atoms import Atoms, Entry
from dplm2.structures.components import component
from dplm2.structures.geometry import lengths
from dplm2.structures.store import BACKBONE_ATOMS

# A peptide bond is 1.33 angstrom, two bonded C-alpha 2.9 (cis) to 3.9 (trans) apart; poor models strain both.
LONGEST_PEPTIDE_BOND = 2.0
LONGEST_CA_DISTANCE = 4.5
LARGEST_COORDINATE = 1e5
FEWEST_RESIDUES = 2
# In a slab of a protein one angstrom thick lie far fewer C-alpha atoms; a made-up file must not cost the square.
MOST_NEIGHBOURS = 500


@dataclass
class ChainResidues:
    """The residues of one author's chain that have atoms, in order; ``position`` is 0 where the file gives none."""

    author_chain: str
    label_chain: str | None
    entity: str
    names: list[str]
    number: np.ndarray
    insertion: list[str]
    position: np.ndarray
    backbone_RAX: np.ndarray
    b_factor: np.ndarray
    bonded: np.ndarray

    def __len__(self) -> int:
        return len(self.names)


@dataclass
class _Runs:
    """Stretches of consecutive atoms of one residue, with what is the same for all atoms of a stretch."""

    start: np.ndarray
    run_of_atom: np.ndarray
    chain: list[str]
    key: list[tuple]
    name: list[str]
    hetero: np.ndarray
    candidate: np.ndarray


def protein_chains(entry: Entry) -> list[ChainResidues]:
    """The protein chains of an entry, by the author's chain id, in the order of the file.

    A residue belongs to a chain if it is an amino acid by name (or has N, CA and C) and the file says that it is part
    of a polypeptide; where the file does not say, if its record is ATOM or peptide bonds lead to one whose record is.
    A chain has at least two residues.
    """
    atoms = entry.atoms
    if len(atoms) == 0:
        return []
    code = _backbone_codes(atoms)
    runs = _runs(entry, code)
    chains = []
    for chain in dict.fromkeys(runs.chain):
        members = [
            i
            for i, (name, yes) in enumerate(zip(runs.chain, runs.candidate.tolist(), strict=True))
            if yes and name == chain
        ]
        if len(members) >= FEWEST_RESIDUES:
            residues = _assemble(entry, runs, members, code)
            if len(residues) >= FEWEST_RESIDUES:
                chains.append(residues)
    return chains


def _backbone_codes(atoms: Atoms) -> np.ndarray:
    code = np.full(len(atoms), -1, np.int8)
    for i, name in enumerate(BACKBONE_ATOMS):
        code[atoms.name == name] = i
    return code


def _runs(entry: Entry, code: np.ndarray) -> _Runs:
    atoms = entry.atoms
    change = np.zeros(len(atoms), bool)
    change[0] = True
    for column in (atoms.author_chain, atoms.number, atoms.insertion, atoms.residue, atoms.position, atoms.hetero):
        change[1:] |= column[1:] != column[:-1]
    start = np.flatnonzero(change)
    run_of_atom = np.cumsum(change) - 1
    name, chain = atoms.residue[start].tolist(), atoms.author_chain[start].tolist()
    hetero, position = atoms.hetero[start], atoms.position[start]
    if entry.peptides is not None:
        in_polymer = np.array([entity in entry.peptides for entity in atoms.entity[start].tolist()]) & (position > 0)
        key = list(zip(chain, position.tolist(), strict=True))
    else:
        in_polymer = np.ones(len(start), bool)
        key = list(zip(chain, atoms.number[start].tolist(), atoms.insertion[start].tolist(), strict=True))
    known = {residue: component(residue).amino_acid for residue in set(name)}
    amino_acid = np.array([known[residue] for residue in name])
    if not amino_acid.all():
        has = [np.bincount(run_of_atom[code == i], minlength=len(start)) > 0 for i in range(3)]
        amino_acid |= has[0] & has[1] & has[2]
    return _Runs(start, run_of_atom, chain, key, name, hetero, amino_acid & in_polymer)


def _assemble(entry: Entry, runs: _Runs, members: list[int], code: np.ndarray) -> ChainResidues:
    """Put the stretches of one chain together: alternate locations and repeats are stretches of one key."""
    atoms = entry.atoms
    groups: dict[tuple, list[int]] = {}
    for run in members:
        groups.setdefault(runs.key[run], []).append(run)
    # Residues scattered over the file (a modified one behind the chain's end) still know their place in the polymer.
    ordered = sorted(groups) if entry.peptides is not None else list(groups)
    chosen = [_run_of_highest_occupancy(atoms, runs, groups[key]) for key in ordered]
    group_of_run = np.full(len(runs.start), -1)
    group_of_run[chosen] = np.arange(len(chosen))
    for group, (key, run) in enumerate(zip(ordered, chosen, strict=True)):
        if len(groups[key]) > 1:
            group_of_run[[other for other in groups[key] if runs.name[other] == runs.name[run]]] = group
    backbone, b_factor = _backbones(atoms, group_of_run[runs.run_of_atom], code, len(ordered))
    bonded = _bonded(backbone)
    first = runs.start[chosen]
    residues = ChainResidues(
        author_chain=runs.chain[members[0]],
        label_chain=str(atoms.label_chain[first[0]]) or None,
        entity=str(atoms.entity[first[0]]),
        names=[runs.name[run] for run in chosen],
        number=atoms.number[first],
        insertion=atoms.insertion[first].tolist(),
        position=atoms.position[first],
        backbone_RAX=backbone,
        b_factor=b_factor,
        bonded=bonded,
    )
    return residues if entry.peptides is not None else _without_ligands(residues, runs.hetero[chosen])


def _run_of_highest_occupancy(atoms: Atoms, runs: _Runs, candidates: list[int]) -> int:
    """Of residues on one place (micro-heterogeneity) the one of highest mean occupancy, the first of equals."""
    if len(candidates) == 1 or len({runs.name[run] for run in candidates}) == 1:
        return candidates[0]
    stops = np.append(runs.start[1:], len(atoms))
    means = [atoms.occupancy[runs.start[run] : stops[run]].mean() for run in candidates]
    return candidates[int(np.argmax(means))]


def _backbones(atoms: Atoms, group: np.ndarray, code: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Backbone (R, 4, 3), NaN where missing, and B factor (R,) of C-alpha, or of what there is of the backbone."""
    at = np.flatnonzero((code >= 0) & (group >= 0))
    coords = atoms.coords[at]
    # The origin is where programs put atoms that they have no coordinates for.
    with np.errstate(invalid="ignore"):
        sound = (np.abs(coords) < LARGEST_COORDINATE).all(-1) & (coords != 0).any(-1)
    at = at[sound]
    slot = group[at] * len(BACKBONE_ATOMS) + code[at]
    if len(at) and np.bincount(slot).max() > 1:
        at, slot = _one_atom_per_slot(atoms, group, at, slot)
    backbone = np.full((count * len(BACKBONE_ATOMS), 3), np.nan, np.float32)
    backbone[slot] = atoms.coords[at]
    factors = np.full(count * len(BACKBONE_ATOMS), np.nan, np.float32)
    factors[slot] = atoms.b_factor[at]
    factors = factors.reshape(count, -1)
    fallback = np.where(np.isnan(factors[:, 0]), factors[:, 2], factors[:, 0])
    b_factor = np.where(np.isnan(factors[:, 1]), fallback, factors[:, 1])
    return backbone.reshape(count, len(BACKBONE_ATOMS), 3), b_factor


def _one_atom_per_slot(
    atoms: Atoms, group: np.ndarray, at: np.ndarray, slot: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Where atoms stand twice: those of the residue's best alternate location, then of highest occupancy, then the
    first.

    One location is chosen for the whole residue, so that conformers are not mixed as long as it is complete.
    """
    altloc, occupancy = atoms.altloc[at], atoms.occupancy[at]
    other = np.zeros(len(at), bool)
    labelled = altloc != ""
    for residue in np.unique(group[at[labelled]]).tolist():
        here = np.flatnonzero((group[at] == residue) & labelled)
        means = {name: occupancy[here[altloc[here] == name]].mean() for name in dict.fromkeys(altloc[here].tolist())}
        best = max(means, key=means.get)
        other[here[altloc[here] != best]] = True
    order = np.lexsort((np.arange(len(at)), -occupancy, other, slot))
    first = np.append(True, np.diff(slot[order]) != 0)
    chosen = order[first]
    return at[chosen], slot[chosen]


def _bonded(backbone_RAX: np.ndarray) -> np.ndarray:
    """Whether residues i and i + 1 are linked (R - 1,): by C-N distance, or C-alpha distance where one is missing."""
    with np.errstate(invalid="ignore"):
        peptide = lengths(backbone_RAX[1:, 0] - backbone_RAX[:-1, 2])
        alpha = lengths(backbone_RAX[1:, 1] - backbone_RAX[:-1, 1])
        return np.where(np.isnan(peptide), alpha < LONGEST_CA_DISTANCE, peptide < LONGEST_PEPTIDE_BOND)


def _without_ligands(residues: ChainResidues, hetero: np.ndarray) -> ChainResidues:
    """Drop amino acids of HETATM records that no peptide bond links to the chain: free ones, peptides as ligands."""
    if not hetero.any():
        return residues
    stretch = np.append(0, np.cumsum(~residues.bonded))
    anchored = np.unique(stretch[~hetero])
    if len(anchored) == 0:
        anchored = np.flatnonzero(np.bincount(stretch) >= FEWEST_RESIDUES)
    return subset(residues, np.isin(stretch, anchored))


def subset(residues: ChainResidues, kept: np.ndarray) -> ChainResidues:
    """The residues that a mask keeps."""
    if kept.all():
        return residues
    places = np.flatnonzero(kept)
    backbone = residues.backbone_RAX[places]
    return ChainResidues(
        residues.author_chain,
        residues.label_chain,
        residues.entity,
        [residues.names[i] for i in places],
        residues.number[places],
        [residues.insertion[i] for i in places],
        residues.position[places],
        backbone,
        residues.b_factor[places],
        _bonded(backbone),
    )


def clashing(backbone_RAX: np.ndarray, closest: float = 1.0) -> np.ndarray:
    """Residues whose C-alpha lies within ``closest`` angstrom of an earlier one's: two cannot share a place.

    Returns
    -------
    numpy.ndarray
        Mask (R,).
    """
    alpha = backbone_RAX[:, 1]
    there = np.flatnonzero(np.isfinite(alpha).all(-1))
    order = there[np.argsort(alpha[there, 0], kind="stable")]
    sorted_alpha = alpha[order]
    place = np.arange(len(order))
    # Along x, each is compared with those that follow within reach.
    reach = np.searchsorted(sorted_alpha[:, 0], sorted_alpha[:, 0] + np.float32(closest)) - place - 1
    reach = np.clip(reach, 0, MOST_NEIGHBOURS)
    first = np.repeat(place, reach)
    second = first + 1 + np.arange(len(first)) - np.repeat(np.cumsum(reach) - reach, reach)
    close = lengths(sorted_alpha[second] - sorted_alpha[first]) < closest
    found = np.zeros(len(alpha), bool)
    found[np.maximum(order[first[close]], order[second[close]])] = True
    return found

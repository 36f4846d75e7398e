"""From atoms to the residues of each protein chain, with one backbone per residue.

Arrays of coordinates: R residues, A backbone atoms (N, CA, C, O), X Cartesian coordinates.
"""

from dataclasses import dataclass, replace

import numpy as np

from dplm2.geometry.backbone import lengths
from dplm2.structures.alternates import FARTHEST_ALTERNATE, FARTHEST_LABELLED, combine
from dplm2.structures.atoms import Atoms, Entry
from dplm2.structures.components import component
from dplm2.structures.store import BACKBONE_ATOMS

# A peptide bond is 1.33 angstrom, two bonded C-alpha 2.9 (cis) to 3.9 (trans) apart; poor models strain both.
LONGEST_PEPTIDE_BOND = 2.0
LONGEST_CA_DISTANCE = 4.5
LARGEST_COORDINATE = 1e5
FEWEST_RESIDUES = 2
# A one-angstrom slab of a protein contains far fewer C-alpha atoms; an artificial file must not take quadratic time.
MOST_NEIGHBOURS = 500


@dataclass
class ChainResidues:
    """Residues with atoms, in order, of one author's chain or of one molecule of it.

    ``position`` is 0 if the file gives none; ``bonded`` (R - 1,) marks neighbours linked by a peptide bond.
    ``segment`` and ``section`` are those of the first atom, ``run`` locates a residue's atoms in the file. ``mixed``
    marks residues with two positions of an atom too far apart for one molecule. ``name`` is the author's chain id, made
    unique within the entry; ``ambiguous`` is the reason why its molecules cannot be separated, empty if they can.
    """

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
    hetero: np.ndarray
    segment: np.ndarray
    section: np.ndarray
    run: np.ndarray
    mixed: np.ndarray
    name: str = ""
    ambiguous: str = ""

    def __len__(self) -> int:
        return len(self.names)


@dataclass
class Runs:
    """Runs of consecutive atoms of one residue, with the properties shared by all atoms of a run."""

    start: np.ndarray
    run_of_atom: np.ndarray
    chain: list[str]
    key: list[tuple]
    name: list[str]
    hetero: np.ndarray
    candidate: np.ndarray


def residues_by_chain(entry: Entry) -> tuple[Runs, list[ChainResidues]]:
    """The residues of proteins by the author's chain id, in file order.

    A residue belongs to a protein if it is an amino acid by name (or has N, CA and C) and is part of a polypeptide
    according to the file; if the file gives no polymers, any amino acid may belong to one, including ligands.
    """
    code = _backbone_codes(entry.atoms)
    runs = _runs(entry, code)
    chains = _by_chain(entry, runs, code)
    if any(chain.mixed.any() for chain in chains):
        entry, begins = _without_mixtures(entry, runs, chains)
        runs = _runs(entry, code, begins)
        chains = _by_chain(entry, runs, code)
    return runs, chains


def _by_chain(entry: Entry, runs: Runs, code: np.ndarray) -> list[ChainResidues]:
    chains = []
    for chain in dict.fromkeys(runs.chain):
        members = [
            i
            for i, (name, yes) in enumerate(zip(runs.chain, runs.candidate.tolist(), strict=True))
            if yes and name == chain
        ]
        if len(members) >= FEWEST_RESIDUES:
            chains.append(_assemble(entry, runs, members, code))
    return chains


def _without_mixtures(entry: Entry, runs: Runs, chains: list[ChainResidues]) -> tuple[Entry, np.ndarray]:
    """The entry, and additional starts of residues (atoms,), if runs with the same number contain two molecules.

    Another residue may start at the atom name with which a run starts. If the two have labels of alternate locations,
    these are used as segment ids.
    """
    atoms = entry.atoms
    begins, segment = np.zeros(len(atoms), bool), atoms.segment
    stops = np.append(runs.start[1:], len(atoms))
    for chain in chains:
        labels = set()
        for run in chain.run[chain.mixed].tolist():
            start, stop = runs.start[run], stops[run]
            name, label = atoms.name[start:stop], atoms.altloc[start:stop]
            begins[start:stop] = (name == name[0]) & (label == label[0])
            labels |= set(label.tolist()) - {""}
        if len(labels) > 1:
            own = atoms.author_chain == chain.author_chain
            segment = np.where(own, np.char.add(segment.astype(str), atoms.altloc.astype(str)), segment)
    return replace(entry, atoms=replace(atoms, segment=segment)), begins


def _backbone_codes(atoms: Atoms) -> np.ndarray:
    code = np.full(len(atoms), -1, np.int8)
    for i, name in enumerate(BACKBONE_ATOMS):
        code[atoms.name == name] = i
    return code


def _runs(entry: Entry, code: np.ndarray, begins: np.ndarray | None = None) -> Runs:
    atoms = entry.atoms
    change = np.zeros(len(atoms), bool) if begins is None else begins
    change[0] = True
    for column in (atoms.author_chain, atoms.number, atoms.insertion, atoms.residue, atoms.position, atoms.hetero):
        change[1:] |= column[1:] != column[:-1]
    change[1:] |= atoms.segment[1:] != atoms.segment[:-1]
    if atoms.section[0] != atoms.section[-1]:
        change[1:] |= atoms.section[1:] != atoms.section[:-1]
    start = np.flatnonzero(change)
    run_of_atom = np.cumsum(change) - 1
    name, chain = atoms.residue[start].tolist(), atoms.author_chain[start].tolist()
    hetero, position = atoms.hetero[start], atoms.position[start]
    segment = atoms.segment[start].tolist()
    if entry.peptides is not None:
        in_polymer = np.array([entity in entry.peptides for entity in atoms.entity[start].tolist()]) & (position > 0)
        key = list(zip(segment, position.tolist(), strict=True))
    else:
        in_polymer = np.ones(len(start), bool)
        key = list(zip(segment, atoms.number[start].tolist(), atoms.insertion[start].tolist(), strict=True))
    known = {residue: component(residue).amino_acid for residue in set(name)}
    amino_acid = np.array([known[residue] for residue in name])
    if not amino_acid.all():
        has = [np.bincount(run_of_atom[code == i], minlength=len(start)) > 0 for i in range(3)]
        amino_acid |= has[0] & has[1] & has[2]
    return Runs(start, run_of_atom, chain, key, name, hetero, amino_acid & in_polymer)


def _assemble(entry: Entry, runs: Runs, members: list[int], code: np.ndarray) -> ChainResidues:
    """Combine the runs of one chain into residues: alternate locations of a residue are several runs."""
    atoms = entry.atoms
    group_of_run = np.full(len(runs.start), -1)
    if len({runs.key[run] for run in members}) == len(members):
        chosen = _ordered(atoms, runs, np.array(members), by_position=entry.peptides is not None)
        group_of_run[chosen] = np.arange(len(chosen))
    else:
        groups = {_run_of_highest_occupancy(atoms, runs, group): group for group in combine(atoms, runs, members, code)}
        unique = len({runs.key[run] for run in groups}) == len(groups)
        chosen = _ordered(atoms, runs, np.array(list(groups)), by_position=entry.peptides is not None and unique)
        for place, run in enumerate(chosen.tolist()):
            group_of_run[[other for other in groups[run] if runs.name[other] == runs.name[run]]] = place
    backbone, b_factor, mixed = _backbones(atoms, runs.run_of_atom, group_of_run, code, len(chosen))
    first = runs.start[chosen]
    return ChainResidues(
        author_chain=runs.chain[members[0]],
        label_chain=str(atoms.label_chain[first[0]]) or None,
        entity=str(atoms.entity[first[0]]),
        names=[runs.name[run] for run in chosen.tolist()],
        number=atoms.number[first],
        insertion=atoms.insertion[first].tolist(),
        position=atoms.position[first],
        backbone_RAX=backbone,
        b_factor=b_factor,
        bonded=bonds(backbone),
        hetero=runs.hetero[chosen],
        segment=atoms.segment[first],
        section=atoms.section[first],
        run=chosen,
        mixed=mixed,
    )


def _ordered(atoms: Atoms, runs: Runs, chosen: np.ndarray, by_position: bool) -> np.ndarray:
    """Residues grouped by segment; scattered ones at their position in the polymer, if the file gives it."""
    first = runs.start[chosen]
    segment, place = atoms.segment[first], atoms.position[first] if by_position else np.arange(len(chosen))
    if (segment[1:] == segment[:-1]).all():
        return chosen if (place[1:] > place[:-1]).all() else chosen[np.argsort(place, kind="stable")]
    _, begin, inverse = np.unique(segment, return_index=True, return_inverse=True)
    return chosen[np.lexsort((place, begin[inverse]))]


def _run_of_highest_occupancy(atoms: Atoms, runs: Runs, candidates: list[int]) -> int:
    """Of residues at one position (microheterogeneity), the first with the highest mean occupancy."""
    if len(candidates) == 1 or len({runs.name[run] for run in candidates}) == 1:
        return candidates[0]
    stops = np.append(runs.start[1:], len(atoms))
    means = [atoms.occupancy[runs.start[run] : stops[run]].mean() for run in candidates]
    return candidates[int(np.argmax(means))]


def _backbones(
    atoms: Atoms, run_of_atom: np.ndarray, group_of_run: np.ndarray, code: np.ndarray, count: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Backbone (R, 4, 3), NaN where missing; B factor (R,) of C-alpha or another atom; mask of mixed residues."""
    group = group_of_run[run_of_atom]
    at = np.flatnonzero((code >= 0) & (group >= 0))
    at = at[placed(atoms.coords[at])]
    slot = group[at] * len(BACKBONE_ATOMS) + code[at]
    mixed = np.zeros(count, bool)
    if len(at) and np.bincount(slot).max() > 1:
        mixed[group[_too_far_apart(atoms, run_of_atom, at, slot)]] = True
        at, slot = _one_atom_per_slot(atoms, group, at, slot)
    backbone = np.full((count * len(BACKBONE_ATOMS), 3), np.nan, np.float32)
    backbone[slot] = atoms.coords[at]
    factors = np.full(count * len(BACKBONE_ATOMS), np.nan, np.float32)
    factors[slot] = atoms.b_factor[at]
    factors = factors.reshape(count, -1)
    fallback = np.where(np.isnan(factors[:, 0]), factors[:, 2], factors[:, 0])
    b_factor = np.where(np.isnan(factors[:, 1]), fallback, factors[:, 1])
    return backbone.reshape(count, len(BACKBONE_ATOMS), 3), b_factor, mixed


def placed(coords: np.ndarray) -> np.ndarray:
    """Mask of atoms with coordinates; programs place atoms without coordinates at the origin."""
    with np.errstate(invalid="ignore"):
        return (np.abs(coords) < LARGEST_COORDINATE).all(-1) & (coords != 0).any(-1)


def _too_far_apart(atoms: Atoms, run_of_atom: np.ndarray, at: np.ndarray, slot: np.ndarray) -> np.ndarray:
    """Second occurrences of an atom in one run, too distant for an alternate location."""
    order = np.lexsort((np.arange(len(at)), atoms.altloc[at], slot))
    before, after = at[order[:-1]], at[order[1:]]
    twice = (slot[order[:-1]] == slot[order[1:]]) & (run_of_atom[before] == run_of_atom[after])
    limit = np.where(atoms.altloc[before] == atoms.altloc[after], FARTHEST_ALTERNATE, FARTHEST_LABELLED)
    return after[twice & (lengths(atoms.coords[after] - atoms.coords[before]) > limit)]


def _one_atom_per_slot(
    atoms: Atoms, group: np.ndarray, at: np.ndarray, slot: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Of duplicate atoms: those of the residue's best alternate location, then of highest occupancy, then the
    first.

    One location is chosen for the whole residue, so that conformers are not mixed if it is complete.
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


def bonds(backbone_RAX: np.ndarray) -> np.ndarray:
    """Whether residues i and i + 1 are linked (R - 1,), by C-N distance, or C-alpha distance if one is missing."""
    return linked(backbone_RAX[:-1], backbone_RAX[1:])


def linked(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Whether a peptide bond links one residue to the other; backbones (..., A, X)."""
    with np.errstate(invalid="ignore"):
        peptide = lengths(after[..., 0, :] - before[..., 2, :])
        alpha = lengths(after[..., 1, :] - before[..., 1, :])
        return np.where(np.isnan(peptide), alpha < LONGEST_CA_DISTANCE, peptide < LONGEST_PEPTIDE_BOND)


def subset(residues: ChainResidues, places: np.ndarray) -> ChainResidues:
    """The residues at these indices, in this order."""
    if len(places) == len(residues) and (np.diff(places) == 1).all():
        return residues
    backbone = residues.backbone_RAX[places]
    columns = {
        name: getattr(residues, name)[places]
        for name in ("number", "position", "b_factor", "hetero", "segment", "section", "run", "mixed")
    }
    listed = {name: [getattr(residues, name)[i] for i in places.tolist()] for name in ("names", "insertion")}
    return replace(residues, **columns, **listed, backbone_RAX=backbone, bonded=bonds(backbone))


def clashing(backbone_RAX: np.ndarray, closest: float = 1.0) -> np.ndarray:
    """Residues whose C-alpha is within ``closest`` angstrom of an earlier one's.

    Returns
    -------
    numpy.ndarray
        Mask (R,).
    """
    alpha = backbone_RAX[:, 1]
    present = np.flatnonzero(np.isfinite(alpha).all(-1))
    order = present[np.argsort(alpha[present, 0], kind="stable")]
    sorted_alpha = alpha[order]
    place = np.arange(len(order))
    # Sorted by x, each is compared with those that follow within the distance.
    reach = np.searchsorted(sorted_alpha[:, 0], sorted_alpha[:, 0] + np.float32(closest)) - place - 1
    reach = np.clip(reach, 0, MOST_NEIGHBOURS)
    first = np.repeat(place, reach)
    second = first + 1 + np.arange(len(first)) - np.repeat(np.cumsum(reach) - reach, reach)
    close = lengths(sorted_alpha[second] - sorted_alpha[first]) < closest
    found = np.zeros(len(alpha), bool)
    found[np.maximum(order[first[close]], order[second[close]])] = True
    return found

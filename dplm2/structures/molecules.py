"""Division of the residues under one chain id into molecules; the rule is described in ``docs/structures.md``.

Peptide bonds link residues to fragments. Fragments are one chain if nothing indicates that a molecule ends between
them: neither segment ids, nor repeated numbers, nor a chain end (TER, a terminal oxygen, a cap) that the numbers do not
explain as a gap. Undecidable cases are ambiguous and never joined.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from enum import Enum
from functools import cached_property
from itertools import combinations, pairwise

import numpy as np

from dplm2.geometry.backbone import lengths
from dplm2.structures.atoms import Atoms, Entry
from dplm2.structures.components import TERMINAL_NAMES
from dplm2.structures.gaps import in_polymer
from dplm2.structures.residues import (
    FEWEST_RESIDUES,
    LONGEST_PEPTIDE_BOND,
    ChainResidues,
    Runs,
    residues_by_chain,
    subset,
)

TERMINAL_OXYGENS = ({"OXT"}, {"OT1", "OT2"}, {"OC1", "OC2"}, {"O1", "O2"}, {"OT"}, {"OTX"})
TERMINAL_HYDROGENS = ({"H1", "H2", "H3"}, {"HT1", "HT2", "HT3"}, {"1H", "2H", "3H"}, {"HN1", "HN2", "HN3"})
FEWEST_TERMINAL_HYDROGENS = 2
CAPS = frozenset(("ACE", "FOR", "NME", "NMA", "NHE", "NH2", "CT3"))
# An extended chain has 3.8 angstrom per residue; poor models slightly exceed it.
CA_STEP, STRAIN = 3.8, 1.0
# Maximum C-alpha distance across a bond stretched by poor geometry, in angstrom.
LONGEST_STRAINED_STEP = 6.0
# Maximum gap, in residues, that explains a TER record or a terminal oxygen inside a chain. The largest ones among
# 11,000 chains of the Protein Data Bank: 5 at a TER record, 10 at a terminal oxygen.
LONGEST_GAP_AT_END = 15
# Beyond this distance, in angstrom, consecutive residues are not neighbours, unless the file gives their molecule.
FARTHEST_NEIGHBOURS = 16.0
# Bounds on the time spent on a broken file.
MOST_FRAGMENTS, MOST_ALIGNMENTS = 2000, 20


class Verdict(Enum):
    """Relation of two fragments."""

    SAME = "one molecule"
    OTHER = "two molecules"
    UNCLEAR = "undecidable"


def protein_chains(entry: Entry) -> list[ChainResidues]:
    """The protein chains of an entry, each of one molecule, in file order.

    A chain has at least two residues. Amino acids of HETATM records that no peptide bond links to the chain are
    ligands and left out.

    Returns
    -------
    list of ChainResidues
        ``name`` is unique within the entry: the first molecule of a chain id keeps it, others are named ``A-2``,
        ``A-3`` ...; molecules under a blank id are named after their segment ids. For a chain whose molecules cannot be
        separated, ``ambiguous`` gives the reason.
    """
    if len(entry.atoms) == 0:
        return []
    runs, chains = residues_by_chain(entry)
    found, divided = [], False
    names = _Names(runs.chain)
    for residues in chains:
        molecules = _Chain(entry, runs, residues).molecules()
        divided |= len(molecules) > 1
        found += names.given(molecules)
    return sorted(found, key=lambda chain: chain.run.min()) if divided else found


class _Names:
    """Unique names of the chains of one entry."""

    def __init__(self, author_chains: Iterable[str]) -> None:
        self._taken = set(author_chains)

    def given(self, molecules: list[ChainResidues]) -> Iterator[ChainResidues]:
        """The molecules of one chain id, named in file order."""
        segments = [str(molecule.segment[0]) for molecule in molecules]
        by_segment = len(molecules) > 1 and not molecules[0].author_chain and all(segments)
        for i, molecule in enumerate(molecules):
            name = base = segments[i] if by_segment else molecule.author_chain
            attempt = 1
            while (i > 0 or by_segment) and name in self._taken:
                attempt += 1
                name = f"{base or 'blank'}-{attempt}"
            self._taken.add(name)
            molecule.name = name
            yield molecule


@dataclass
class _Chain:
    """The residues under one chain id, to be divided into molecules."""

    entry: Entry
    runs: Runs
    residues: ChainResidues
    alignments: int = 0

    def molecules(self) -> list[ChainResidues]:
        """The molecules in file order; a single ambiguous one if they cannot be separated."""
        residues = self.residues
        if not np.isfinite(residues.backbone_RAX[:, :3]).all((1, 2)).any():
            # Rejected for that reason, regardless of the number of molecules.
            return [residues]
        if residues.mixed.any():
            number = residues.number[np.argmax(residues.mixed)]
            return self._ambiguous(f"atoms of residue {number} occur twice, far apart: molecules whose atoms alternate")
        fragments = self._fragments()
        if not fragments:
            return []
        groups, used = [[fragments[0]]], self._keys_of(fragments[0])
        for i in range(1, len(fragments)):
            verdict = self._judge(fragments, i, groups[-1], used)
            if verdict is Verdict.UNCLEAR:
                return self._ambiguous(self._doubt(groups[-1][-1][-1], fragments[i][0]))
            if verdict is Verdict.OTHER:
                groups.append([])
                used = set()
            groups[-1].append(fragments[i])
            used |= self._keys_of(fragments[i])
        places = [np.concatenate(group) for group in groups]
        if self._alternating and self._incomplete(places):
            return self._ambiguous("residues of several molecules alternate, and gaps obscure which belong together")
        long = [group for group in places if len(group) >= FEWEST_RESIDUES]
        if not long and len(residues) >= FEWEST_RESIDUES:
            return self._ambiguous(f"none of its {len(residues)} residues is linked to another")
        long.sort(key=lambda group: residues.run[group].min())
        return [self._molecule(group) for group in long]

    def _molecule(self, places: np.ndarray) -> ChainResidues:
        found = subset(self.residues, places)
        if found is self.residues:
            return found
        first = self.runs.start[found.run[0]]
        atoms = self.entry.atoms
        return replace(found, label_chain=str(atoms.label_chain[first]) or None, entity=str(atoms.entity[first]))

    def _ambiguous(self, reason: str) -> list[ChainResidues]:
        return [replace(self.residues, ambiguous=reason)]

    def _doubt(self, last: int, first: int) -> str:
        numbers = f"{self.residues.number[last]} and {self.residues.number[first]}"
        return (
            f"residues {numbers} follow each other, {self._ca_distance(last, first):.0f} angstrom apart, and nothing "
            "indicates whether a molecule ends between them"
        )

    def _fragments(self) -> list[np.ndarray]:
        """Indices of residues linked by peptide bonds, without ligands."""
        residues = self.residues
        linked = residues.bonded
        if self.entry.peptides is not None:
            linked = linked & (residues.segment[1:] == residues.segment[:-1])
        if linked.all():
            return [np.arange(len(residues))]
        fragments = np.split(np.arange(len(residues)), np.flatnonzero(~linked) + 1)
        if 1 < len(fragments) <= MOST_FRAGMENTS:
            fragments = self._spliced(fragments)
        if self.entry.peptides is not None or not residues.hetero.any():
            return fragments
        anchored = [fragment for fragment in fragments if not residues.hetero[fragment].all()]
        return anchored or [fragment for fragment in fragments if len(fragment) >= FEWEST_RESIDUES]

    def _spliced(self, fragments: list[np.ndarray]) -> list[np.ndarray]:
        """Join fragments linked by a peptide bond although others are between them in the file."""
        residues = self.residues
        tails, heads = [fragment[-1] for fragment in fragments], [fragment[0] for fragment in fragments]
        apart = residues.backbone_RAX[tails, None, 2] - residues.backbone_RAX[None, heads, 0]
        with np.errstate(invalid="ignore"):
            linked = lengths(apart) < LONGEST_PEPTIDE_BOND
        np.fill_diagonal(linked, val=False)
        if self.entry.peptides is not None:
            linked &= residues.segment[tails][:, None] == residues.segment[heads]
        if not linked.any():
            return fragments
        if not self._repeats:
            # If the numbers are consecutive in the file, its order is kept even against the geometry.
            run_on = np.flatnonzero(residues.number[heads[1:]] == residues.number[tails[:-1]] + 1)
            linked[run_on], linked[:, run_on + 1] = False, False
        following: dict[int, int] = {}
        for tail, head in np.argwhere(linked).tolist():
            if tail not in following and head not in following.values():
                following[tail] = head
        return [np.concatenate([fragments[i] for i in row]) for row in _rows(len(fragments), following)]

    @cached_property
    def _keys(self) -> list[tuple]:
        return [self.runs.key[run] for run in self.residues.run.tolist()]

    @cached_property
    def _repeats(self) -> bool:
        """Whether any residue number is repeated."""
        return len(set(self._keys)) < len(self._keys)

    @cached_property
    def _alternating(self) -> bool:
        """Whether residues of molecules with the same numbering alternate in the file."""
        if not self._repeats:
            return False
        run, segment = self.residues.run, self.residues.segment
        spans = sorted((segment[one[0]], run[one].min(), run[one].max()) for one in self._fragments())
        return any(one[0] == other[0] and other[1] < one[2] for one, other in pairwise(spans))

    def _keys_of(self, fragment: np.ndarray) -> set[tuple]:
        return {self._keys[i] for i in fragment.tolist()}

    def _incomplete(self, places: list[np.ndarray]) -> bool:
        """Whether two of the molecules may be parts of one: they share no residue number."""
        keys = [self._keys_of(group) for group in places]
        segments = [self.residues.segment[group[0]] for group in places]
        pairs = combinations(range(len(places)), 2)
        return any(segments[i] == segments[k] and keys[i].isdisjoint(keys[k]) for i, k in pairs)

    def _judge(self, fragments: list[np.ndarray], i: int, molecule: list[np.ndarray], used: set[tuple]) -> Verdict:
        """Whether fragment ``i`` continues the molecule before it, whose residue keys are ``used``."""
        residues = self.residues
        last, first = molecule[-1][-1], fragments[i][0]
        segments = residues.segment[last], residues.segment[first]
        if segments[0] != segments[1] and all(segments):
            return Verdict.OTHER
        atoms, start = self.entry.atoms, self.runs.start[residues.run]
        if atoms.entity[start[last]] != atoms.entity[start[first]]:
            return Verdict.OTHER
        if not used.isdisjoint(self._keys_of(fragments[i])):
            return Verdict.OTHER
        if self.entry.peptides is not None:
            return self._if_not_alternating(Verdict.SAME)
        verdict = self._judge_numbers(last, first)
        if verdict is not Verdict.OTHER and residues.number[first] < residues.number[last]:
            verdict = Verdict.OTHER if self._comes_again(used, fragments, i) else verdict
        if verdict is not Verdict.SAME and self._in_seqres([*molecule, fragments[i]]):
            return Verdict.SAME
        return self._if_not_alternating(verdict)

    def _if_not_alternating(self, verdict: Verdict) -> Verdict:
        return Verdict.UNCLEAR if verdict is Verdict.SAME and self._alternating else verdict

    def _comes_again(self, used: set[tuple], fragments: list[np.ndarray], i: int) -> bool:
        """Whether used residues are repeated in the fragments from ``i`` on, as long as their numbers increase."""
        number = self.residues.number
        for k in range(i + 1, len(fragments)):
            if number[fragments[k][0]] < number[fragments[k - 1][-1]]:
                return False
            if not used.isdisjoint(self._keys_of(fragments[k])):
                return True
        return False

    def _judge_numbers(self, last: int, first: int) -> Verdict:
        """Decide by chain ends, numbers and distance; see the table in the documentation."""
        residues = self.residues
        distance = self._ca_distance(last, first)
        ter, end = residues.section[last] != residues.section[first], self._ends(last, first)
        missing = int(residues.number[first]) - int(residues.number[last]) - 1
        # Insertion codes: equal numbers are neighbours.
        falls, missing = missing < -1, max(missing, 0)
        if ter or end:
            gap = 1 <= missing <= LONGEST_GAP_AT_END and not distance > CA_STEP * (missing + 1) + STRAIN
            torn = missing == 0 and distance < LONGEST_STRAINED_STEP
            return Verdict.SAME if (gap or torn) and not (falls or (ter and end)) else Verdict.OTHER
        if self.entry.format == "PDB" and not residues.author_chain and missing > LONGEST_GAP_AT_END:
            # Without a chain id, nothing links the two.
            return Verdict.UNCLEAR
        named = self.entry.format != "PDB" and residues.segment[first] != ""
        excess = 0.0 if falls else CA_STEP * missing
        return Verdict.UNCLEAR if distance > FARTHEST_NEIGHBOURS + excess and not named else Verdict.SAME

    def _ca_distance(self, one: int, other: int) -> float:
        alpha = self.residues.backbone_RAX[:, 1]
        return float(lengths(alpha[one] - alpha[other]))

    def _ends(self, last: int, first: int) -> bool:
        """Whether terminal atoms, terminal residue names or caps indicate that a molecule ends between two residues."""
        atoms, runs, residues = self.entry.atoms, self.runs, self.residues
        before, after = int(residues.run[last]), int(residues.run[first])
        left, right = _atom_names(atoms, runs, before), _atom_names(atoms, runs, after)
        names = residues.names[last].upper(), residues.names[first].upper()
        between = zip(runs.name[before + 1 : after], runs.chain[before + 1 : after], strict=True)
        return (
            any(oxygens <= left for oxygens in TERMINAL_OXYGENS)
            or any(len(hydrogens & right) >= FEWEST_TERMINAL_HYDROGENS for hydrogens in TERMINAL_HYDROGENS)
            or (names[0] in TERMINAL_NAMES and names[0][0] == "C")
            or (names[1] in TERMINAL_NAMES and names[1][0] == "N")
            or any(name in CAPS and chain == residues.author_chain for name, chain in between)
        )

    def _in_seqres(self, fragments: list[np.ndarray]) -> bool:
        """Whether the file's sequence of the chain contains the residues of all these fragments, in order."""
        polymer = self.entry.polymers.get(self.residues.author_chain, ()) if self.entry.format == "PDB" else ()
        self.alignments += bool(polymer)
        if not polymer or self.alignments > MOST_ALIGNMENTS:
            return False
        return in_polymer(subset(self.residues, np.concatenate(fragments)), polymer)


def _rows(count: int, following: dict[int, int]) -> list[list[int]]:
    """Chains of successive items, sorted by their smallest member; a ring is cut before its smallest."""
    starts = set(range(count)) - set(following.values())
    rows, used = [], set()
    for start in [*sorted(starts), *range(count)]:
        row, at = [], start
        while at is not None and at not in used:
            used.add(at)
            row.append(at)
            at = following.get(at)
        if row:
            rows.append(row)
    return sorted(rows, key=min)


def _atom_names(atoms: Atoms, runs: Runs, run: int) -> set[str]:
    stop = runs.start[run + 1] if run + 1 < len(runs.start) else len(atoms)
    return set(atoms.name[runs.start[run] : stop].tolist())

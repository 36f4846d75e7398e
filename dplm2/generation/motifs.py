"""Motifs of scaffolding problems, extracted from their reference structures.

Array axes: L residues, M residues of a motif.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from dplm2.core.errors import DPLM2Error
from dplm2.core.fasta import TO_GENERATE
from dplm2.generation.contigs import BLANK_CHAIN, Problem, Segment, read_problems, written_chain
from dplm2.generation.inputs import StructureChain, chains_of, observed_tokens
from dplm2.generation.task import Tokenize


@dataclass(frozen=True)
class ReferenceMotif:
    """A problem's motif from its reference, as concatenated segments.

    Parameters
    ----------
    problem
        The problem.
    sequence
        (M) letters.
    structure_tokens
        (M,), -1 where the reference lacks atoms.
    backbone
        (M, 4, 3) angstrom.
    """

    problem: Problem
    sequence: str
    structure_tokens: np.ndarray
    backbone: np.ndarray


def read_motifs(
    sources: Sequence[str | os.PathLike],
    references: str | os.PathLike | None,
    motif_tokens: str,
    tokenize: Tokenize,
) -> list[ReferenceMotif]:
    """Read motif problems with their references.

    Parameters
    ----------
    sources
        YAML files or folders of them.
    references
        Folder of the reference structures; None: the folder of each problem's file.
    motif_tokens
        ``reference``: structure tokens of a motif are computed from its whole chain; ``motif``: from only its residues.
    tokenize
        Converts backbones to structure tokens.

    Raises
    ------
    DPLM2Error
        If a problem cannot be satisfied, or its reference lacks a chain or a residue; the message names the problem.
    """
    if not sources:
        raise DPLM2Error("task scaffolding needs motif problems (--problems, or the key problems)")
    motifs = []
    for problem in read_problems(sources, references):
        if not problem.reference.is_file():
            raise DPLM2Error(
                f"problem {problem.name}: its reference {problem.reference} does not exist; "
                "download it, or give its folder with references"
            )
        motifs.append(_reference_motif(problem, motif_tokens, tokenize))
    return motifs


def _reference_motif(problem: Problem, motif_tokens: str, tokenize: Tokenize) -> ReferenceMotif:
    by_chain: dict[str, StructureChain] = {}
    for chain in chains_of(problem.reference):
        by_chain.setdefault(chain.author_chain.strip(), chain)
    places = []
    for segment in problem.segments:
        chain = _chain_of(problem.name, segment, by_chain)
        places.append((chain, _find(problem.name, segment, chain)))
    tokens = _motif_tokens(places, motif_tokens, tokenize)
    return ReferenceMotif(
        problem.with_residues([len(rows) for _, rows in places]),
        "".join(chain.sequence[row] for chain, rows in places for row in rows).replace("X", TO_GENERATE),
        np.concatenate([tokens[chain.author_chain][rows] for chain, rows in places]),
        np.concatenate([chain.backbone[rows] for chain, rows in places]),
    )


def _chain_of(name: str, segment: Segment, by_chain: Mapping[str, StructureChain]) -> StructureChain:
    """The chain of a segment: by its id, or the only one if its id is blank (also written ``_``)."""
    if segment.chain in by_chain:
        return by_chain[segment.chain]
    if "" in by_chain and (len(by_chain) == 1 and len(segment.chain) == 1 or segment.chain == BLANK_CHAIN):
        return by_chain[""]
    available = ", ".join(map(written_chain, sorted(by_chain)))
    raise DPLM2Error(
        f"problem {name}: its reference has no chain {written_chain(segment.chain)}; available: {available}"
    )


def _find(name: str, segment: Segment, chain: StructureChain) -> np.ndarray:
    """Rows of a segment in the reference chain: from its first residue to its last in file order.

    The numbering may have gaps, as in antibodies, but no residue may be missing.
    """
    observed = np.isfinite(chain.backbone[:, 1]).all(-1)
    first = _row_of(name, segment, (segment.first, segment.first_insertion), chain, observed)
    last = _row_of(name, segment, (segment.last, segment.last_insertion), chain, observed)
    rows = np.arange(first, last + 1)
    numbers = chain.number[rows]
    if last < first or (np.diff(numbers) < 0).any():
        raise DPLM2Error(f"problem {name}: the residue numbers of its reference do not increase along {segment}")
    missing = numbers[~observed[rows]].tolist()
    skipped = (np.diff(numbers) > 1) & ~_bonded(chain.backbone[rows])
    missing += (numbers[:-1][skipped] + 1).tolist()
    if missing:
        raise _no_residue(name, segment, min(missing))
    return rows


def _bonded(backbone: np.ndarray) -> np.ndarray:
    """Whether each residue of a backbone (L, 4, 3) is bonded to the next one (L - 1,)."""
    from dplm2.structures.residues import LONGEST_PEPTIDE_BOND

    return np.linalg.norm(backbone[1:, 0] - backbone[:-1, 2], axis=-1) < LONGEST_PEPTIDE_BOND


def _row_of(name: str, segment: Segment, residue: tuple[int, str], chain: StructureChain, observed: np.ndarray) -> int:
    """The row of an observed residue, by number and insertion code."""
    number, code = residue
    codes = np.array([code.strip() for code in chain.insertion])
    same_number = (chain.number == number) & observed
    found = np.flatnonzero(same_number & (codes == code))
    if len(found) == 1:
        return int(found[0])
    if len(found) > 1:
        raise DPLM2Error(
            f"problem {name}: its reference has {len(found)} residues {number}{code} "
            f"in chain {written_chain(segment.chain)}"
        )
    if same_number.any():
        available = ", ".join(f"{number}{code}" for code in codes[same_number])
        raise _no_residue(name, segment, f"{number}{code}", f", but {available}")
    known = set(chain.number[observed].tolist())
    raise _no_residue(name, segment, next(one for one in range(segment.first, number + 1) if one not in known))


def _no_residue(name: str, segment: Segment, residue: int | str, more: str = "") -> DPLM2Error:
    chain = written_chain(segment.chain)
    return DPLM2Error(f"problem {name}: its reference has no residue {residue} in chain {chain}{more}")


def _motif_tokens(
    places: Sequence[tuple[StructureChain, np.ndarray]], source: str, tokenize: Tokenize
) -> dict[str, np.ndarray]:
    """Structure tokens of each chain that contains a part of the motif, by author chain id."""
    chains = {chain.author_chain: chain for chain, _ in places}
    backbones = []
    for name, chain in chains.items():
        backbone = chain.backbone
        if source == "motif":
            # Masked rather than removed: residues distant in the chain must not become neighbours.
            own = np.concatenate([rows for other, rows in places if other.author_chain == name])
            kept = np.isin(np.arange(len(backbone)), own)
            backbone = np.where(kept[:, None, None], backbone, np.float32(np.nan))
        backbones.append(backbone)
    return dict(zip(chains, observed_tokens(backbones, tokenize), strict=True))

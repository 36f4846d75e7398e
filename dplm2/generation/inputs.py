"""What tasks work on: sequences, structures, residue tables and motifs, from files or from memory.

Array axes: L residues, M residues of a motif.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from dplm2.core import parquet
from dplm2.core.errors import DPLM2Error
from dplm2.core.fasta import LETTERS, TO_GENERATE, clean_sequences, is_fasta, read_fasta
from dplm2.core.text import shown
from dplm2.generation.contigs import BLANK_CHAIN, Problem, Segment, read_problems, written_chain
from dplm2.generation.tasks import ReferenceMotif, Target
from dplm2.geometry.backbone import observed_residues

Tokenize = Callable[[list[np.ndarray]], list[np.ndarray]]
"""From backbones to structure tokens."""

TABLE_ENDINGS = (".csv", ".parquet")
_TABLE_COLUMNS = ("position", "residue", "structure_token")


class Chain(NamedTuple):
    """A chain of a structure file: gaps are rows without coordinates."""

    name: str
    author_chain: str
    sequence: str
    number: np.ndarray
    insertion: Sequence[str]
    backbone: np.ndarray


def read_targets(
    sources: Sequence[str | os.PathLike], split: str | None = None, tokenize: Tokenize | None = None
) -> list[Target]:
    """Read proteins: data-set folders, Parquet files of chains, FASTA and structure files or folders of them.

    Parameters
    ----------
    sources
        The files and folders.
    split
        Only chains of this split of data sets.
    tokenize
        Makes structure tokens of backbones; None if only sequences are wanted. A residue without all
        of N, CA and C has none.

    Raises
    ------
    DPLM2Error
        If a source cannot be read or holds no protein.
    """
    targets: list[Target] = []
    for source in map(Path, sources):
        found = list(_targets_of(source, split, tokenize))
        if not found:
            raise DPLM2Error(f"{source}: no protein chains there" + (f" in split {split}" if split else ""))
        targets += found
    return targets


def _targets_of(source: Path, split: str | None, tokenize: Tokenize | None) -> Iterator[Target]:
    from dplm2.structures.store import backbones, read_chains

    if source.suffix == ".parquet" or any(source.glob("part-*.parquet")):
        table = read_chains(source, ["chain_id", "sequence", "backbone"], split)
        names, sequences = table["chain_id"].to_pylist(), table["sequence"].to_pylist()
        coordinates = backbones(table) if tokenize is not None else [None] * len(names)
    else:
        files = {path: is_fasta(path) for path in input_files(source)}
        for path in (path for path, fasta in files.items() if fasta):
            yield from (Target(*item, None) for item in read_fasta(path, to_generate=True).items())
        chains = [chain for path, fasta in files.items() if not fasta for chain in chains_of(path)]
        names, sequences, coordinates = ([getattr(c, key) for c in chains] for key in ("name", "sequence", "backbone"))
    tokens = observed_tokens(coordinates, tokenize) if tokenize is not None and names else coordinates
    for name, sequence, structure in zip(names, sequences, tokens, strict=True):
        # X is an unknown residue: the model may say what it is, where it is asked to.
        yield Target(name, sequence, None if tokenize is None else structure)


def observed_tokens(backbones: Sequence[np.ndarray], tokenize: Tokenize) -> list[np.ndarray]:
    """Structure tokens (L,) int64 of backbones; -1 for a residue without all of N, CA, C, which must be generated."""
    tokens = []
    for backbone, codes in zip(backbones, tokenize(list(backbones)), strict=True):
        observed = observed_residues(backbone)
        tokens.append(np.where(observed, codes.astype(np.int64), -1))
    return tokens


def lengths_of(sources: Sequence[str | os.PathLike], split: str | None) -> list[int]:
    """Lengths of the chains of data sets.

    Raises
    ------
    DPLM2Error
        If there is none.
    """
    from dplm2.structures.store import read_chains

    lengths = read_chains([Path(source) for source in sources], ["length"], split)["length"].to_pylist()
    if not lengths:
        raise DPLM2Error(f"{', '.join(map(str, sources))}: no chains to draw lengths from")
    return lengths


def in_memory(
    sequences: Sequence[str] | Mapping[str, str],
    backbones: Sequence[np.ndarray] | Mapping[str, np.ndarray],
    tokenize: Tokenize,
) -> list[Target]:
    """Proteins from sequences, backbones or both; those of the same name (or place in a list) belong together.

    Raises
    ------
    DPLM2Error
        If a sequence and a backbone that belong together differ in length, or one has no partner; if a sequence is
        wrong (see `dplm2.core.fasta`).
    """
    if isinstance(sequences, str) or isinstance(backbones, np.ndarray):
        raise DPLM2Error("sequences and backbones are lists, or mappings from names, also where there is only one")
    sequence_of, backbone_of = clean_sequences(_named(sequences), to_generate=True), _named(backbones)
    if sequence_of and backbone_of and set(sequence_of) != set(backbone_of):
        raise DPLM2Error("sequences and backbones do not belong together: their names or numbers differ")
    coordinates = [np.asarray(backbone, dtype=np.float32) for backbone in backbone_of.values()]
    tokens = dict(zip(backbone_of, observed_tokens(coordinates, tokenize), strict=True)) if backbone_of else {}
    targets = []
    for name in sequence_of or backbone_of:
        target = Target(name, sequence_of.get(name), tokens.get(name))
        structure = target.structure_tokens
        if target.sequence is not None and structure is not None and len(target.sequence) != len(structure):
            raise DPLM2Error(f"{name}: {len(target.sequence)} letters for a backbone of {len(structure)} residues")
        targets.append(target)
    return targets


def _named(items) -> dict:
    named = items.items() if isinstance(items, Mapping) else ((f"protein-{n}", item) for n, item in enumerate(items))
    return {str(name): item for name, item in named}


def tables(sources: Sequence[str | os.PathLike]) -> list[Path]:
    """Residue tables of files and folders.

    Raises
    ------
    DPLM2Error
        If a source is neither.
    """
    paths: list[Path] = []
    for source in map(Path, sources):
        found = sorted(p for p in source.iterdir() if p.suffix in TABLE_ENDINGS) if source.is_dir() else [source]
        if not found or not found[0].is_file() or found[0].suffix not in TABLE_ENDINGS:
            raise DPLM2Error(f"{source}: no residue table there ({', '.join(TABLE_ENDINGS)})")
        paths += found
    return paths


def read_residue_table(path: str | os.PathLike) -> Target:
    """Read a residue table: ``position`` (1, 2, ...), ``residue`` (a letter) and ``structure_token`` (a number).

    A cell that is empty is to be generated.

    Raises
    ------
    DPLM2Error
        If columns are missing, positions are not 1 to L, or a cell is no residue or token; the message names it.
    """
    path = Path(path)
    try:
        table = (
            parquet.read_frame(path)
            if path.suffix == ".parquet"
            else pd.read_csv(path, dtype=str, keep_default_na=False)
        )
    except (OSError, ValueError) as error:
        raise DPLM2Error(f"{path}: cannot be read as a table ({' '.join(str(error).split())})") from error
    if missing := [name for name in _TABLE_COLUMNS if name not in table.columns]:
        raise DPLM2Error(
            f"{path}: a residue table has the columns {', '.join(_TABLE_COLUMNS)}; {missing[0]} is missing"
        )
    positions = pd.to_numeric(table["position"], errors="coerce")
    if sorted(positions) != list(range(1, len(table) + 1)):
        raise DPLM2Error(f"{path}: positions must be 1 to {len(table)}, each once")
    table = table.assign(position=positions).sort_values("position")
    letters = [
        "?" if pd.isna(cell) or not str(cell).strip() else str(cell).strip().upper() for cell in table["residue"]
    ]
    if wrong := [place for place, letter in enumerate(letters, 1) if letter not in set(LETTERS + TO_GENERATE)]:
        raise DPLM2Error(f"{path}: {shown(letters[wrong[0] - 1])} is not the letter of a residue (position {wrong[0]})")
    tokens = pd.to_numeric(table["structure_token"].replace("", np.nan), errors="coerce")
    given = table["structure_token"].notna() & (table["structure_token"].astype(str).str.strip() != "")
    if (given & (tokens.isna() | (tokens < 0) | (tokens % 1 != 0))).any():
        raise DPLM2Error(
            f"{path}: {table['structure_token'][given & tokens.isna()].tolist() or 'a value'} is no structure token"
        )
    return Target(path.stem, "".join(letters), tokens.fillna(-1).to_numpy(dtype=np.int64))


# Structure files ----------------------------------------------------------------------------------------------------


def input_files(source: Path) -> list[Path]:
    """The files of a folder, or the one given.

    Raises
    ------
    DPLM2Error
        If there is none.
    """
    if source.is_file():
        return [source]
    if not source.is_dir():
        raise DPLM2Error(f"{source}: no such file or folder")
    return sorted(path for path in source.iterdir() if path.is_file() and not path.name.startswith("."))


def chains_of(path: Path) -> list[Chain]:
    """The protein chains of a structure file, as they are: nothing is filtered.

    Raises
    ------
    DPLM2Error
        If the file cannot be read.
    """
    from dplm2.settings.dataset import DatasetSettings, Filters
    from dplm2.structures.atoms import UnreadableError
    from dplm2.structures.cleaning import clean_entry
    from dplm2.structures.manifest import entry_name
    from dplm2.structures.reading import read_structure
    from dplm2.structures.shards import chain_name

    switches = {key: False if isinstance(value, bool) else None for key, value in Filters()}
    settings = DatasetSettings(filters=Filters(**switches))
    try:
        chains, refusals = clean_entry(read_structure(path, settings.reading), settings)
    except UnreadableError as error:
        raise DPLM2Error(f"{path}: {error}") from error
    if not chains:
        why = "; ".join(f"chain {refusal.chain}: {refusal.reason}" for refusal in refusals[:3])
        raise DPLM2Error(f"{path}: no protein chain with a backbone" + (f" ({why})" if why else ""))
    return [
        Chain(
            chain_name(entry_name(str(path)), chain.author_chain),
            chain.author_chain,
            chain.sequence,
            np.asarray(chain.residue_index),
            chain.insertion_codes or " " * len(chain),
            chain.backbone_LAX,
        )
        for chain in chains
    ]


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
        Folder of the reference structures; None: beside each problem.
    motif_tokens
        ``reference``: structure tokens of a motif come from its whole chain; ``motif``: from its own residues alone.
    tokenize
        Makes structure tokens of backbones.

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
                f"problem {problem.name}: its reference {problem.reference} is not there; "
                "fetch it, or say with references where it lies"
            )
        motifs.append(_reference_motif(problem, motif_tokens, tokenize))
    return motifs


def _reference_motif(problem: Problem, motif_tokens: str, tokenize: Tokenize) -> ReferenceMotif:
    """A problem's motif, from its reference."""
    by_chain: dict[str, Chain] = {}
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


def _chain_of(name: str, segment: Segment, by_chain: Mapping[str, Chain]) -> Chain:
    """The chain that a segment means: by its id, or the only one if its id is blank (also written ``_``)."""
    if segment.chain in by_chain:
        return by_chain[segment.chain]
    if "" in by_chain and (len(by_chain) == 1 and len(segment.chain) == 1 or segment.chain == BLANK_CHAIN):
        return by_chain[""]
    there = ", ".join(map(written_chain, sorted(by_chain)))
    raise DPLM2Error(f"problem {name}: its reference has no chain {written_chain(segment.chain)}; there are: {there}")


def _find(name: str, segment: Segment, chain: Chain) -> np.ndarray:
    """Rows of the reference chain that a segment means: from its first residue to its last in the order of the file.

    Numbers may be skipped, as antibody numbering does, but no residue may be missing.
    """
    observed = np.isfinite(chain.backbone[:, 1]).all(-1)
    first = _row_of(name, segment, (segment.first, segment.first_insertion), chain, observed)
    last = _row_of(name, segment, (segment.last, segment.last_insertion), chain, observed)
    rows = np.arange(first, last + 1)
    numbers = chain.number[rows]
    if last < first or (np.diff(numbers) < 0).any():
        raise DPLM2Error(f"problem {name}: the residue numbers of its reference do not rise along {segment}")
    missing = numbers[~observed[rows]].tolist()
    skipped = (np.diff(numbers) > 1) & ~_bonded(chain.backbone[rows])
    missing += (numbers[:-1][skipped] + 1).tolist()
    if missing:
        raise _no_residue(name, segment, min(missing))
    return rows


def _bonded(backbone: np.ndarray) -> np.ndarray:
    """Whether residues of a backbone (L, 4, 3) are linked to the next one (L - 1,)."""
    from dplm2.structures.residues import LONGEST_PEPTIDE_BOND

    return np.linalg.norm(backbone[1:, 0] - backbone[:-1, 2], axis=-1) < LONGEST_PEPTIDE_BOND


def _row_of(name: str, segment: Segment, residue: tuple[int, str], chain: Chain, observed: np.ndarray) -> int:
    """The row of an observed residue, by number and insertion code."""
    number, code = residue
    codes = np.array([code.strip() for code in chain.insertion])
    same_number = (chain.number == number) & observed
    found = np.flatnonzero(same_number & (codes == code))
    if len(found) == 1:
        return int(found[0])
    if len(found) > 1:
        what = f"{len(found)} residues {number}{code}"
        raise DPLM2Error(f"problem {name}: its reference has {what} in chain {written_chain(segment.chain)}")
    if same_number.any():
        there = ", ".join(f"{number}{code}" for code in codes[same_number])
        raise _no_residue(name, segment, f"{number}{code}", f", but {there}")
    known = set(chain.number[observed].tolist())
    raise _no_residue(name, segment, next(one for one in range(segment.first, number + 1) if one not in known))


def _no_residue(name: str, segment: Segment, residue: int | str, more: str = "") -> DPLM2Error:
    chain = written_chain(segment.chain)
    return DPLM2Error(f"problem {name}: its reference has no residue {residue} in chain {chain}{more}")


def _motif_tokens(places: Sequence[tuple[Chain, np.ndarray]], source: str, tokenize: Tokenize) -> dict[str, np.ndarray]:
    """Structure tokens of each chain that has a part of the motif, by its id."""
    chains = {chain.author_chain: chain for chain, _ in places}
    backbones = []
    for name, chain in chains.items():
        backbone = chain.backbone
        if source == "motif":
            # Hidden, not cut out: residues far apart in the chain must not look like neighbours.
            own = np.concatenate([rows for other, rows in places if other.author_chain == name])
            kept = np.isin(np.arange(len(backbone)), own)
            backbone = np.where(kept[:, None, None], backbone, np.float32(np.nan))
        backbones.append(backbone)
    return dict(zip(chains, observed_tokens(backbones, tokenize), strict=True))

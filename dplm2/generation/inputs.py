"""Inputs of tasks: sequences and structures, from files or from memory.

Array axes: L residues.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dplm2.core.errors import DPLM2Error
from dplm2.core.fasta import clean_sequences, is_fasta, read_fasta
from dplm2.generation.task import Target, Tokenize
from dplm2.geometry.backbone import observed_residues


class StructureChain(NamedTuple):
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
        Converts backbones to structure tokens; None if only sequences are needed. A residue without all of N, CA and C
        has none.

    Raises
    ------
    DPLM2Error
        If a source cannot be read or contains no protein.
    """
    targets: list[Target] = []
    for source in map(Path, sources):
        found = list(_targets_of(source, split, tokenize))
        if not found:
            raise DPLM2Error(f"{source}: contains no protein chains" + (f" in split {split}" if split else ""))
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
        # X is an unknown residue, which the model may generate.
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
    """Proteins from sequences, backbones or both; those of the same name (or position in a list) belong together.

    Raises
    ------
    DPLM2Error
        If a sequence and a backbone that belong together differ in length, or one has no counterpart; if a sequence is
        invalid (see `dplm2.core.fasta`).
    """
    if isinstance(sequences, str) or isinstance(backbones, np.ndarray):
        raise DPLM2Error("sequences and backbones must be lists, or mappings from names, even for a single one")
    sequence_of, backbone_of = clean_sequences(_named(sequences), to_generate=True), _named(backbones)
    if sequence_of and backbone_of and set(sequence_of) != set(backbone_of):
        raise DPLM2Error("sequences and backbones do not match: their names or numbers differ")
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


def chains_of(path: Path) -> list[StructureChain]:
    """The protein chains of a structure file, without filters.

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
        StructureChain(
            chain_name(entry_name(str(path)), chain.author_chain),
            chain.author_chain,
            chain.sequence,
            np.asarray(chain.residue_index),
            chain.insertion_codes or " " * len(chain),
            chain.backbone_LAX,
        )
        for chain in chains
    ]

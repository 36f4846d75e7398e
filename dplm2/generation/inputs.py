"""Inputs of tasks: sequences and structures, from files or from memory.

Array axes: L residues.
"""

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dplm2.core.artifacts import fingerprint, sha256_of_file
from dplm2.core.errors import DPLM2Error
from dplm2.core.fasta import ENDINGS, clean_sequences, is_fasta, read_fasta
from dplm2.generation.task import Target, Tokenize
from dplm2.geometry.backbone import observed_residues

_log = logging.getLogger(__name__)


class ChainSource(NamedTuple):
    """A file or folder, and its selected chains by their author ids; None: all."""

    path: Path
    chains: tuple[str, ...] | None = None


class Protein(NamedTuple):
    """An input: its name, its sequence (``?`` or X for an unknown residue), its backbone (L, 4, 3) or None."""

    name: str
    sequence: str
    backbone: np.ndarray | None


class StructureChain(NamedTuple):
    """A chain of a structure file; missing residues are rows of NaN coordinates."""

    name: str
    author_chain: str
    sequence: str
    number: np.ndarray
    insertion: Sequence[str]
    backbone: np.ndarray


def source_of(given: str | os.PathLike) -> ChainSource:
    """Parse a source: a path, or a file with selected chains, ``complex.pdb:A`` or ``complex.pdb:A,B``."""
    path, colon, chains = str(given).rpartition(":")
    if colon and Path(path).is_file() and not Path(given).exists():
        return ChainSource(Path(path), tuple(chains.split(",")))
    return ChainSource(Path(given))


def read_targets(
    sources: Sequence[str | os.PathLike], split: str | None = None, tokenize: Tokenize | None = None
) -> list[Target]:
    """Read proteins: data-set folders, Parquet files of chains, FASTA and structure files, archives or folders of them.

    Folders are searched at every depth, as by `dplm2 structures clean`. Files without protein chains in folders and
    archives are skipped and listed in a warning; a file that is given itself must contain one.

    Parameters
    ----------
    sources
        The files and folders; ``complex.pdb:A`` is chain A of a file.
    split
        Read only this split of data sets.
    tokenize
        Converts backbones to structure tokens; None if only sequences are needed. A residue that lacks N, CA or C has
        no token.

    Raises
    ------
    DPLM2Error
        If a source cannot be read or contains no protein.
    """
    targets: list[Target] = []
    for source in map(source_of, sources):
        found = list(_targets_of(source, split, tokenize))
        if not found:
            raise DPLM2Error(f"{source.path}: contains no protein chains" + (f" in split {split}" if split else ""))
        targets += found
    return targets


def _targets_of(source: ChainSource, split: str | None, tokenize: Tokenize | None) -> Iterator[Target]:
    proteins = list(_proteins_of(source, split, with_structure=tokenize is not None))
    known = [protein.backbone for protein in proteins if protein.backbone is not None]
    tokens = iter(observed_tokens(known, tokenize) if tokenize is not None and known else ())
    for protein in proteins:
        # The model has a token for X, the unknown residue.
        yield Target(protein.name, protein.sequence, None if protein.backbone is None else next(tokens))


def read_proteins(sources: Sequence[str | os.PathLike], split: str | None = None) -> list[Protein]:
    """Proteins of the sources of `read_targets`, in the same order, with their backbones."""
    return [protein for source in map(source_of, sources) for protein in _proteins_of(source, split, True)]


def _proteins_of(source: ChainSource, split: str | None, with_structure: bool) -> Iterator[Protein]:
    from dplm2.structures.store import backbones, read_chains

    path = source.path
    if path.suffix == ".parquet" or any(path.glob("part-*.parquet")):
        _refuse_selection(source, "a data set")
        table = read_chains(path, ["chain_id", "sequence", "backbone"], split)
        coordinates = backbones(table) if with_structure else [None] * len(table)
        yield from map(Protein, table["chain_id"].to_pylist(), table["sequence"].to_pylist(), coordinates)
        return
    files = input_files(path)
    fastas = [file for file in files if is_fasta(file)]
    for fasta in fastas:
        _refuse_selection(source, "a FASTA file")
        yield from (Protein(*item, None) for item in read_fasta(fasta, to_generate=True).items())
    structures = [file for file in files if file not in set(fastas)]
    chains = _selected(source, chains_of(path)) if structures == [path] else chains_among(structures, path)
    for chain in chains:
        yield Protein(chain.name, chain.sequence, chain.backbone if with_structure else None)


def content_of(given: str | os.PathLike) -> str:
    """Fingerprint of the content of an input: a data-set folder, a folder of any files, or a file.

    Raises
    ------
    DPLM2Error
        If it is not there.
    """
    from dplm2.structures.store import SELECTION_FILE, part_files

    source = source_of(given).path
    if not source.exists():
        raise DPLM2Error(f"{source}: no such file or folder")
    if any(source.glob("part-*.parquet")):
        files = [*part_files(source), *source.glob(SELECTION_FILE)]
    else:
        files = [source] if source.is_file() else sorted(path for path in source.rglob("*") if path.is_file())
    return fingerprint([sha256_of_file(path) for path in files])


def _refuse_selection(source: ChainSource, kind: str) -> None:
    if source.chains is not None:
        raise DPLM2Error(
            f"{source.path}:{','.join(source.chains)}: chains can be selected from a structure, not from {kind}"
        )


def _selected(source: ChainSource, chains: Sequence[StructureChain]) -> list[StructureChain]:
    """The selected chains of a source, in the order of the file."""
    if source.chains is None:
        return list(chains)
    available = [chain.author_chain for chain in chains]
    if missing := [name for name in source.chains if name not in available]:
        raise DPLM2Error(
            f"{source.path}: no protein chain {', '.join(map(repr, missing))}; "
            f"available: {', '.join(dict.fromkeys(available))}"
        )
    return [chain for chain in chains if chain.author_chain in source.chains]


def observed_tokens(backbones: Sequence[np.ndarray], tokenize: Tokenize) -> list[np.ndarray]:
    """Structure tokens (L,) int64 of backbones; -1 (to be generated) for a residue that lacks N, CA or C."""
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
        If there are no chains.
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
    """Proteins from sequences, backbones or both, paired by name (or position in a list).

    Raises
    ------
    DPLM2Error
        If the sequence and backbone of a pair differ in length, or one has no counterpart; if a sequence is invalid
        (see `dplm2.core.fasta`).
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
    """The files of a folder at every depth, except those whose extension rules out proteins; or the given file.

    Raises
    ------
    DPLM2Error
        If the source does not exist.
    """
    from dplm2.structures.scanning import NO_STRUCTURE_ENDINGS, walk

    if source.is_file():
        return [source]
    if not source.is_dir():
        raise DPLM2Error(f"{source}: no such file or folder")
    return sorted(Path(path) for path, _ in walk(str(source), NO_STRUCTURE_ENDINGS - {*ENDINGS, ".txt"}))


def chains_among(files: Sequence[Path], source: Path) -> list[StructureChain]:
    """The protein chains of the structure files and archives in a folder; a warning lists files without any."""
    from dplm2.structures.formats.archives import items_of
    from dplm2.structures.shards import clean_item, with_content

    settings = _without_filters()
    found, skipped = [], []
    for item in (item for file in files for item in items_of(str(file), "", settings.reading)):
        chains, rejects = clean_item(with_content(item), settings)
        found += [_named_chain(item.entry, chain) for chain in chains]
        if not chains:
            reason = rejects[0].reason if rejects else "no protein chain"
            skipped.append(f"{item.source_file}{f':{item.member}' if item.member else ''} ({reason})")
    if skipped:
        _log.warning("%s: %d files skipped: %s", source, len(skipped), "; ".join(skipped))
    return found


def chains_of(path: Path) -> list[StructureChain]:
    """The protein chains of a structure file or an archive, without filters.

    Raises
    ------
    DPLM2Error
        If the file cannot be read.
    """
    from dplm2.structures.atoms import UnreadableError
    from dplm2.structures.cleaning import clean_entry
    from dplm2.structures.formats.archives import is_archive
    from dplm2.structures.manifest import entry_name
    from dplm2.structures.reading import read_structure

    if path.is_file() and is_archive(path):
        return chains_among([path], path)
    settings = _without_filters()
    try:
        chains, refusals = clean_entry(read_structure(path, settings.reading), settings)
    except UnreadableError as error:
        raise DPLM2Error(f"{path}: {error}") from error
    if not chains:
        why = "; ".join(f"chain {refusal.chain}: {refusal.reason}" for refusal in refusals[:3])
        raise DPLM2Error(f"{path}: no protein chain with a backbone" + (f" ({why})" if why else ""))
    return [_named_chain(entry_name(str(path)), chain) for chain in chains]


def _without_filters():  # noqa: ANN202
    from dplm2.settings.dataset import DatasetSettings, Filters

    return DatasetSettings(filters=Filters(**{key: False if isinstance(v, bool) else None for key, v in Filters()}))


def _named_chain(entry: str, chain) -> StructureChain:  # noqa: ANN001
    from dplm2.structures.shards import chain_name

    return StructureChain(
        chain_name(entry, chain.author_chain),
        chain.author_chain,
        chain.sequence,
        np.asarray(chain.residue_index),
        chain.insertion_codes or " " * len(chain),
        chain.backbone_LAX,
    )

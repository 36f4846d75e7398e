"""Proteins as input of the network: read from files of any kind, as ids of both tracks.

Array axes: L residues.
"""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from dplm2.core import parquet
from dplm2.core.artifacts import fingerprint, sha256_of_file
from dplm2.core.errors import DPLM2Error
from dplm2.core.fasta import is_fasta
from dplm2.generation.inputs import read_targets, source_of
from dplm2.generation.kept_tokens import KeptTokens
from dplm2.generation.model import DPLM2
from dplm2.generation.task import Target, Tokenize, distinct, known_tokens
from dplm2.language.vocabulary import TRACKS, Track, Vocabulary
from dplm2.structures.store import parts_found

TrackChoice = Literal["both", "sequence", "structure"]
TRACK_CHOICES: tuple[TrackChoice, ...] = ("both", "sequence", "structure")


def read_proteins(
    model: DPLM2,
    sources: Sequence[str | os.PathLike],
    tracks: TrackChoice = "both",
    kept: Path | None = None,
) -> list[Target]:
    """Read proteins from FASTA files, structure files, archives, folders, data sets of chains, and tokens.

    Parameters
    ----------
    model
        The model; its tokenizer, which converts structures, is loaded only if needed.
    sources
        See `dplm2.generation.inputs.read_targets`; also files and folders of tokens (``dplm2 tokens encode``).
    tracks
        Tracks to keep. With ``both``, proteins of FASTA files have only a sequence.
    kept
        Folder in which tokens of structures are kept as they are made, for a run after an interruption; None: nowhere.

    Returns
    -------
    list of Target
        Proteins with unique names. A residue that lacks N, CA or C has the structure token -1.

    Raises
    ------
    DPLM2Error
        If a source cannot be read or contains no protein, tokens are from another tokenizer, or ``tracks`` is
        ``structure`` and a protein has none.
    """
    for source in sources:
        if tracks == "structure" and is_fasta(source_of(source).path):
            _refuse_without_structure(read_targets([source]))
    targets = []
    for source in sources:
        path = source_of(source).path
        if _has_tokens(path):
            targets += _read_tokens(model, path, tracks)
            continue
        with_structure = tracks != "sequence" and not is_fasta(path)
        targets += read_targets([source], tokenize=_tokenize(model, kept) if with_structure else None)
    if tracks == "structure":
        _refuse_without_structure(targets)
        targets = [Target(target.name, None, target.structure_tokens) for target in targets]
    return distinct(targets)


def _refuse_without_structure(targets: Sequence[Target]) -> None:
    if names := [target.name for target in targets if target.structure_tokens is None]:
        raise DPLM2Error(f"{names[0]}: a FASTA file has no structure (--tracks structure)")


def _tokenize(model: DPLM2, kept: Path | None) -> Tokenize:
    return model.tokenizer.encode if kept is None else KeptTokens(model.tokenizer, kept)


def _has_tokens(path: Path) -> bool:
    """Whether a Parquet file, or the first part of a folder, has structure tokens."""
    parts = parts_found(path) if path.is_dir() else [path] if path.suffix == ".parquet" and path.is_file() else []
    return bool(parts) and "structure_tokens" in parquet.read_schema(parts[0]).names


def _read_tokens(model: DPLM2, path: Path, tracks: TrackChoice) -> list[Target]:
    from dplm2.tokenizer.tokens import read_tokens

    table = read_tokens(path)
    actual, expected = table.schema.metadata[b"tokenizer_fingerprint"].decode(), model.network.tokenizer_fingerprint
    if expected is not None and actual != expected:
        raise DPLM2Error(f"{path}: tokens of tokenizer {actual}, but the model was trained on those of {expected}")
    if not len(table):
        raise DPLM2Error(f"{path}: contains no proteins")
    rows = table.select(
        [name for name in ("chain_id", "sequence", "structure_tokens", "observed") if name in table.column_names]
    )
    return [_target_of(row, tracks) for row in rows.to_pylist()]


def _target_of(row: dict, tracks: TrackChoice) -> Target:
    tokens = None
    if tracks != "sequence":
        tokens = np.array(row["structure_tokens"], dtype=np.int64)
        if row.get("observed") is not None:
            tokens[~np.array(row["observed"], dtype=bool)] = -1
    return Target(row["chain_id"], row["sequence"], tokens)


def ids_of(target: Target, vocabulary: Vocabulary) -> dict[Track, np.ndarray]:
    """Ids (L,) of a protein's tracks, with masks where a residue is unknown.

    Raises
    ------
    DPLM2Error
        If it has no residues, or tokens or letters outside the vocabulary; the message names the protein.
    """
    if target.length == 0:
        raise DPLM2Error(f"{target.name}: no residues")
    try:
        ids = known_tokens(target, vocabulary)
    except DPLM2Error as error:
        message = str(error)
        raise DPLM2Error(message if message.startswith(target.name) else f"{target.name}: {message}") from error
    given = {"structure": target.structure_tokens, "sequence": target.sequence}
    return {track: ids[track] for track in TRACKS if given[track] is not None}


def fingerprint_of(targets: Sequence[Target]) -> str:
    """Fingerprint of what the model sees of proteins, and of their names."""
    digest = hashlib.sha256()
    for target in targets:
        tokens = b"-" if target.structure_tokens is None else np.asarray(target.structure_tokens, np.int64).tobytes()
        digest.update(f"{target.name}\0{target.sequence}\0{len(tokens)}\0".encode() + tokens)
    return digest.hexdigest()


def contents_of(sources: Sequence[str | os.PathLike]) -> dict[str, str]:
    """Fingerprint of the content of each source, for ``run.json``.

    Raises
    ------
    DPLM2Error
        If a source does not exist.
    """
    contents = {}
    for source in sources:
        path = source_of(source).path
        if not path.exists():
            raise DPLM2Error(f"{path}: no such file or folder")
        files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
        contents[str(source)] = fingerprint([sha256_of_file(file) for file in files])
    return contents

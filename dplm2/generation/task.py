"""Definition of a generation task: the given and the generated tokens of each sample and track.

Array axes: L residues, M residues of a motif.
"""

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from dplm2.core.errors import DPLM2Error
from dplm2.core.names import numbered
from dplm2.core.text import some
from dplm2.language.conditioning import Conditioning, sample_seed
from dplm2.language.vocabulary import Track, Vocabulary
from dplm2.settings.generation import GenerationSettings

_log = logging.getLogger(__name__)

Tokenize = Callable[[list[np.ndarray]], list[np.ndarray]]
"""Converts backbones to structure tokens."""


@dataclass(frozen=True)
class Target:
    """An input protein; residues unknown on a track are generated.

    Parameters
    ----------
    name
        Value of the column ``problem``.
    sequence
        One letter per residue, ``?`` if unknown; None without a sequence.
    structure_tokens
        (L,), -1 if unknown; None without a structure.
    """

    name: str
    sequence: str | None
    structure_tokens: np.ndarray | None

    @property
    def length(self) -> int:
        """Number of residues."""
        return len(self.sequence if self.sequence is not None else self.structure_tokens)


@dataclass(frozen=True)
class Motif:
    """Position of a motif in a sample, and its coordinates in the reference.

    Parameters
    ----------
    contig
        The contig with the drawn lengths, for example ``7,A16-35,12``.
    positions
        Residues (M,) of the sample, from 0.
    backbone
        (M, 4, 3) angstrom, as in the reference; NaN where an atom is missing.
    """

    contig: str
    positions: np.ndarray
    backbone: np.ndarray


@dataclass(frozen=True)
class Request:
    """A request for one sample."""

    problem: str
    conditioning: Conditioning
    motif: Motif | None = None

    @property
    def sample_id(self) -> str:
        """Unique within a run."""
        return self.conditioning.sample_id


@dataclass(frozen=True)
class Given:
    """Inputs of a task.

    Attributes
    ----------
    chains
        Files: data-set folders, Parquet files of chains, FASTA files, structure files or folders of them.
    targets
        Proteins in memory.
    tokenize
        Converts backbones to structure tokens.
    """

    chains: Sequence[str | os.PathLike]
    targets: Sequence[Target]
    tokenize: Tokenize


@dataclass(frozen=True)
class GenerationTask:
    """A generation task: its command-line help and how its samples are requested.

    Attributes
    ----------
    meaning
        What is generated; completes "Generate ...".
    examples
        Command lines, and notes on the inputs.
    requests
        Function of settings, vocabulary, run seed and inputs that returns a request for every sample. Raises
        `DPLM2Error` for unusable inputs; the message names them.
    chains, problems
        Descriptions of ``--chains`` and ``--problems``; empty if the task has none.
    references
        Whether problems refer to structure files.
    """

    meaning: str
    examples: str
    requests: Callable[[GenerationSettings, Vocabulary, int, Given], list[Request]]
    chains: str = ""
    problems: str = ""
    references: bool = False


def parse_residues(text: str | None, length: int, name: str) -> np.ndarray:
    """Parse ``5,10-20`` (counted from 1) or ``all`` into a mask (L,), True for these residues; None is no residue.

    Raises
    ------
    DPLM2Error
        If a residue exceeds the protein's length; the message names the protein.
    """
    chosen = np.zeros(length, dtype=bool)
    if text is None:
        return chosen
    if text.strip() == "all":
        return ~chosen
    for piece in text.split(","):
        first, _, last = piece.strip().partition("-")
        start, end = int(first), int(last or first)
        if not 1 <= start <= end <= length:
            raise DPLM2Error(f"{name}: residues {piece.strip()} of a protein of {length} residues")
        chosen[start - 1 : end] = True
    return chosen


def distinct(targets: Sequence[Target]) -> list[Target]:
    """Targets with unique names: repeated names are numbered ``-2``, ``-3``, ..., with a warning."""
    names = numbered([target.name for target in targets])
    if changed := [name for name, target in zip(names, targets, strict=True) if name != target.name]:
        _log.warning("numbered proteins with the same name: %s", some(changed))
    return [replace(target, name=name) for target, name in zip(targets, names, strict=True)]


def known_tokens(target: Target, vocabulary: Vocabulary) -> dict[Track, np.ndarray]:
    """Ids (L,) of both tracks of a target, with masks where unknown."""
    structure = np.full(target.length, vocabulary.mask_structure)
    sequence = np.full(target.length, vocabulary.mask_sequence)
    if target.structure_tokens is not None:
        known = np.asarray(target.structure_tokens).astype(np.int64) >= 0
        structure[known] = vocabulary.encode_structure(np.asarray(target.structure_tokens)[known])
    if target.sequence is not None:
        known = np.array([letter != "?" for letter in target.sequence], dtype=bool)
        letters = "".join(letter for letter in target.sequence if letter != "?")
        try:
            sequence[known] = vocabulary.encode_sequence(letters)
        except DPLM2Error as error:
            raise DPLM2Error(f"{target.name}: {error}") from error
    return {"structure": structure, "sequence": sequence}


def request_of(
    sample_id: str,
    problem: str,
    tokens: Mapping[Track, np.ndarray],
    settings: GenerationSettings,
    vocabulary: Vocabulary,
) -> Request:
    """Request a sample: masked positions of ``tokens`` (L,) are generated, the others are fixed."""
    fixed = {track: ids != vocabulary.mask(track) for track, ids in tokens.items()}
    length = len(next(iter(tokens.values())))
    conditioning = Conditioning(sample_id, dict(tokens), fixed, settings.steps_for(length))
    return Request(problem, conditioning)


def random_for(seed: int, purpose: str) -> np.random.Generator:
    """Random generator for one purpose of a run, independent of those for other purposes."""
    return np.random.default_rng(sample_seed(seed, purpose))

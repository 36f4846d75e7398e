"""Motif problems in contig notation, and where a motif lies in a sample.

``5-20,A16-35,10-25,A52-71,5-20`` is: 5 to 20 residues to be generated, residues 16 to 35 of chain A of the reference,
10 to 25 residues to be generated, and so on. ``A38`` is one residue; ``A16-35:sequence`` gives only its amino acids,
``A16-35:structure`` only its structure; ``heavy/16-35`` names a chain of more than one character.
"""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import yaml

from dplm2.errors import DPLM2Error

Given = Literal["both", "sequence", "structure"]
_KEYS = {"name", "reference", "contig", "total_length", "offset", "given", "source"}
_SEGMENT = re.compile(r"(?:([A-Za-z])|([A-Za-z0-9]+)/)(-?\d+)(?:-(-?\d+))?(?::(\w+))?")
_SPACER = re.compile(r"(\d+)(?:-(\d+))?")


@dataclass(frozen=True)
class Spacer:
    """Residues to be generated."""

    shortest: int
    longest: int


@dataclass(frozen=True)
class Segment:
    """Residues of a reference chain, both ends included, by the numbers in its file."""

    chain: str
    first: int
    last: int
    given: Given

    @property
    def length(self) -> int:
        """Number of residues, as the numbers say."""
        return self.last - self.first + 1


@dataclass(frozen=True)
class Problem:
    """A motif and the lengths that a protein around it may have.

    Parameters
    ----------
    name
        Of the problem; stands in every sample's column ``problem``.
    reference
        Structure file that holds the motif.
    parts
        Spacers and segments in the order of the contig.
    shortest, longest
        Limits of the total length.
    """

    name: str
    reference: Path
    parts: tuple[Spacer | Segment, ...]
    shortest: int
    longest: int

    @property
    def segments(self) -> tuple[Segment, ...]:
        """The motif's segments."""
        return tuple(part for part in self.parts if isinstance(part, Segment))

    def check(self) -> None:
        """Raise DPLM2Error, naming the problem, if no protein can satisfy it."""
        shortest, longest = contig_limits(self.parts)
        motif = sum(segment.length for segment in self.segments)
        if motif > self.longest:
            raise DPLM2Error(
                f"problem {self.name}: its motif of {motif} residues is longer than the total of {self.longest}"
            )
        if shortest > self.longest:
            raise DPLM2Error(
                f"problem {self.name}: motif and shortest spacers are {shortest} residues, "
                f"more than the total of {self.longest}"
            )
        if longest < self.shortest:
            raise DPLM2Error(
                f"problem {self.name}: motif and longest spacers are {longest} residues, "
                f"fewer than the total of {self.shortest}"
            )

    def draw_lengths(self, random: np.random.Generator) -> list[int]:
        """Draw the length of each part, evenly among all choices whose total is allowed."""
        # ways[i][t]: in how many ways parts i.. have t residues in all; floats, since only their ratios count.
        ways = [np.ones(1)]
        for part in reversed(self.parts):
            choices = np.zeros(_longest(part) + 1)
            choices[_shortest(part) :] = 1
            ways.insert(0, np.convolve(choices, ways[0]))
        totals = np.arange(len(ways[0]))
        allowed = np.where((totals >= self.shortest) & (totals <= self.longest), ways[0], 0)
        left = int(random.choice(totals, p=allowed / allowed.sum()))
        lengths = []
        for part, after in zip(self.parts, ways[1:], strict=True):
            options = np.arange(_shortest(part), min(_longest(part), left) + 1)
            rest = left - options
            weights = np.where(rest < len(after), after[np.minimum(rest, len(after) - 1)], 0)
            lengths.append(int(random.choice(options, p=weights / weights.sum())))
            left -= lengths[-1]
        return lengths


def _shortest(part: Spacer | Segment) -> int:
    return part.length if isinstance(part, Segment) else part.shortest


def _longest(part: Spacer | Segment) -> int:
    return part.length if isinstance(part, Segment) else part.longest


def contig_limits(parts: Sequence[Spacer | Segment]) -> tuple[int, int]:
    """Fewest and most residues that a contig allows."""
    return sum(map(_shortest, parts)), sum(map(_longest, parts))


def parse_contig(text: str, offset: int = 0, given: Given = "both") -> tuple[Spacer | Segment, ...]:
    """Read contig notation.

    Parameters
    ----------
    text
        The contig.
    offset
        Added to the residue numbers of segments.
    given
        What of a segment is given where its own suffix does not say.

    Raises
    ------
    DPLM2Error
        Names the part that cannot be read.
    """
    parts: list[Spacer | Segment] = []
    for piece in (piece.strip() for piece in text.split(",")):
        if match := _SPACER.fullmatch(piece):
            shortest = int(match[1])
            part: Spacer | Segment = Spacer(shortest, int(match[2] or shortest))
            backwards = part.longest < part.shortest
        elif match := _SEGMENT.fullmatch(piece):
            first = int(match[3])
            what = match[5] or given
            if what not in get_args(Given):
                raise DPLM2Error(f"contig: {piece!r}: {what!r} is not one of {', '.join(get_args(Given))}")
            part = Segment(match[1] or match[2], first + offset, int(match[4] or first) + offset, what)
            backwards = part.last < part.first
        else:
            raise DPLM2Error(f"contig: {piece!r} is neither a spacer (10-25) nor a segment of a chain (A16-35)")
        if backwards:
            raise DPLM2Error(f"contig: {piece!r} ends before it begins")
        parts.append(part)
    return tuple(parts)


def read_problem(path: str | os.PathLike, references: str | os.PathLike | None = None) -> Problem:
    """Read a motif problem: YAML with ``reference`` and ``contig``.

    If wanted: ``name``, ``total_length`` (a number or [shortest, longest]), ``offset`` (added to the contig's residue
    numbers) and ``given`` (both, sequence or structure).

    Parameters
    ----------
    path
        The YAML file.
    references
        Folder that holds the reference; by default it is found relative to the YAML file.

    Raises
    ------
    DPLM2Error
        If the file cannot be read or the problem cannot be satisfied; the message names it.
    """
    path = Path(path)
    try:
        given = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise DPLM2Error(f"{path}: cannot be read as a motif problem ({' '.join(str(error).split())})") from error
    if not isinstance(given, dict) or not {"reference", "contig"} <= set(given):
        raise DPLM2Error(f"{path}: a motif problem has at least the keys reference and contig")
    if unknown := set(given) - _KEYS:
        raise DPLM2Error(f"{path}: unknown key {', '.join(sorted(unknown))}; allowed: {', '.join(sorted(_KEYS))}")
    name, offset, kind = str(given.get("name", path.stem)), given.get("offset", 0), given.get("given", "both")
    if not isinstance(offset, int) or kind not in get_args(Given):
        raise DPLM2Error(f"{path}: offset is a whole number, given one of {', '.join(get_args(Given))}")
    folder = Path(references) if references is not None else path.parent
    try:
        parts = parse_contig(str(given["contig"]), offset, kind)
    except DPLM2Error as error:
        raise DPLM2Error(f"problem {name}: {error}") from error
    shortest, longest = _total(given.get("total_length"), parts, name)
    problem = Problem(name, folder / str(given["reference"]), parts, shortest, longest)
    problem.check()
    return problem


def _total(given: object, parts: Sequence[Spacer | Segment], name: str) -> tuple[int, int]:
    if given is None:
        return contig_limits(parts)
    ends = given if isinstance(given, list) else [given, given]
    if len(ends) != 2 or not all(isinstance(end, int) for end in ends) or not 1 <= ends[0] <= ends[1]:
        raise DPLM2Error(f"problem {name}: total_length is {given!r}; a number or [shortest, longest]")
    return ends[0], ends[1]


def read_problems(sources: Sequence[str | os.PathLike], references: str | os.PathLike | None = None) -> list[Problem]:
    """Read the problems of YAML files and folders of them, in the order of their names.

    Raises
    ------
    DPLM2Error
        If a source is not there, a folder holds none, two problems share a name, or one is wrong.
    """
    problems: dict[str, Problem] = {}
    for source in map(Path, sources):
        paths = sorted(source.glob("*.y*ml")) if source.is_dir() else [source]
        if not paths:
            raise DPLM2Error(f"{source}: no motif problems (*.yaml) there")
        for path in paths:
            problem = read_problem(path, references)
            if problem.name in problems:
                raise DPLM2Error(f"{path}: a second problem named {problem.name}")
            problems[problem.name] = problem
    return list(problems.values())


def reference_files(sources: Sequence[str | os.PathLike], references: str | os.PathLike | None = None) -> list[Path]:
    """The structure files that the problems of `read_problems` take their motifs from."""
    return sorted({problem.reference for problem in read_problems(sources, references)})

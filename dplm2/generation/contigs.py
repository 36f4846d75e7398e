"""Motif problems in contig notation.

``5-20,A16-35,10-25,A52-71,5-20`` is: 5 to 20 residues to be generated, residues 16 to 35 of chain A of the reference,
10 to 25 residues to be generated, and so on. Segments of the reference:

- ``A38`` is one residue; ``H52-52A`` ends with an insertion code. A range contains all residues from its first to its
  last in the order of the file, including those with insertion codes: ``H45-60`` contains 52, 52A, 52B and 52C.
  ``H52`` is only residue 52.
- A chain id other than a single letter is followed by a slash: ``heavy/16-35``, ``A-2/10-20``, ``*/5``. In double
  quotes it may contain any character, and the slash may be omitted: ``"A-2"10-20``, ``"A,1"/10-20``.
- ``""10-20`` or ``_/10-20`` refers to a chain with a blank id. If that is the only chain of the reference, any letter
  refers to it.
- ``A16-35:sequence`` provides only the amino acids, ``A16-35:structure`` only the structure.

RFdiffusion's contigs are read unchanged: ``[5-15/A10-25/30-40]``, with or without brackets, also as a YAML list. In a
contig without commas, slashes separate the parts; a longer chain id therefore needs quotes (``5/"A-2"10-20/5``), and
ambiguous text is read as in RFdiffusion: ``A-2/10-20`` alone is residue -2 of chain A and a spacer. A chain break at
the end (``/0``) is ignored; a contig of several chains is an error, since a sample is one chain.
"""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from dplm2.core.errors import ConfigError, DPLM2Error
from dplm2.core.text import read_text, shortened, shown, some
from dplm2.settings.loading import parse_value

Given = Literal["both", "sequence", "structure"]
MOST_RESIDUES = 20_000  # maximum total length of a contig: memory for drawing lengths grows with it
BLANK_CHAIN = "_"
_FORMATS = tuple(f"{ending}{gz}" for ending in (".bcif", ".cif", ".pdb") for gz in (".gz", ""))
_KEYS = {"name", "reference", "contig", "total_length", "offset", "given", "source"}
_RANGE = r"(?P<first>-?\d{1,9})(?P<from>[A-Za-z]?)(?:-(?P<last>-?\d{1,9})(?P<to>[A-Za-z]?))?(?::(?P<given>\w+))?"
_LETTER = re.compile(rf"(?P<chain>[A-Za-z*]){_RANGE}")
_QUOTED = re.compile(rf'"(?P<chain>[^"]*)"/?{_RANGE}')
_SLASHED = re.compile(rf"(?P<chain>[^\"/,]+)/{_RANGE}")
_SPACER = re.compile(r"(\d{1,9})(?:-(\d{1,9}))?")
_BREAK_AT_END = re.compile(r"/0\s*$")


@dataclass(frozen=True)
class Spacer:
    """Residues to be generated."""

    shortest: int
    longest: int

    @property
    def limits(self) -> tuple[int, int]:
        """Minimum and maximum number of residues."""
        return self.shortest, self.longest


@dataclass(frozen=True)
class Segment:
    """Residues of a reference chain, both ends included, by the numbers in its file.

    Parameters
    ----------
    chain
        The author's chain id, empty if blank.
    first, last
        Residue numbers.
    given
        The given tracks of the residues.
    first_insertion, last_insertion
        Insertion codes of the ends.
    residues
        Number of residues in the reference; None before it is read.
    """

    chain: str
    first: int
    last: int
    given: Given
    first_insertion: str = ""
    last_insertion: str = ""
    residues: int | None = None

    @property
    def length(self) -> int:
        """Number of residues in the reference, or, before it is read, the minimum according to the numbers."""
        return self.last - self.first + 1 if self.residues is None else self.residues

    @property
    def limits(self) -> tuple[int, int]:
        """Minimum and maximum number of residues: both are the segment's length."""
        return self.length, self.length

    @property
    def ends(self) -> tuple[str, str]:
        """First and last residue in contig notation."""
        return f"{self.first}{self.first_insertion}", f"{self.last}{self.last_insertion}"

    def __str__(self) -> str:
        first, last = self.ends
        return f"{written_chain(self.chain)}{first}-{last}"


def written_chain(chain: str) -> str:
    """A chain id as written before residues in a contig of either notation."""
    return chain if re.fullmatch("[A-Za-z*]", chain) else f'"{chain}"'


@dataclass(frozen=True)
class Problem:
    """A motif and the allowed lengths of a protein around it.

    Parameters
    ----------
    name
        Name of the problem; the value of the column ``problem`` of its samples.
    reference
        Structure file that contains the motif.
    parts
        Spacers and segments in the order of the contig.
    shortest, longest
        Limits of the total length.
    limited
        Whether these limits were set explicitly rather than derived from the parts.
    """

    name: str
    reference: Path
    parts: tuple[Spacer | Segment, ...]
    shortest: int
    longest: int
    limited: bool = True

    @property
    def segments(self) -> tuple[Segment, ...]:
        """The motif's segments."""
        return tuple(part for part in self.parts if isinstance(part, Segment))

    def with_residues(self, counts: Sequence[int]) -> "Problem":
        """The problem with the number of residues of each segment in its reference, checked.

        Raises
        ------
        DPLM2Error
            If no protein can satisfy it.
        """
        remaining = iter(counts)
        parts = tuple(
            replace(part, residues=next(remaining)) if isinstance(part, Segment) else part for part in self.parts
        )
        shortest, longest = (self.shortest, self.longest) if self.limited else contig_limits(parts)
        problem = replace(self, parts=parts, shortest=shortest, longest=longest)
        problem.check()
        return problem

    def check_motif(self) -> None:
        """Raise DPLM2Error, naming the problem, if it has no motif or its proteins are too long.

        Lengths can be checked only with the reference (`check`): residues with insertion codes add to a range, gaps in
        the numbering shorten it.
        """
        if not self.segments:
            raise DPLM2Error(
                f"problem {self.name}: no motif: its contig contains no residues of the reference; "
                "write their chain before them (A16-35)"
            )
        if max(self.longest, contig_limits(self.parts)[1]) > MOST_RESIDUES:
            raise DPLM2Error(
                f"problem {self.name}: its contig or total_length allows more than {MOST_RESIDUES} residues"
            )

    def check(self) -> None:
        """Raise DPLM2Error, naming the problem, if no protein can satisfy it."""
        self.check_motif()
        shortest, longest = contig_limits(self.parts)
        motif = sum(segment.length for segment in self.segments)
        if motif > self.longest:
            raise DPLM2Error(
                f"problem {self.name}: its motif of {motif} residues exceeds the total length of {self.longest}"
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
        """Draw the length of each part, uniformly from all combinations with an allowed total."""
        # ways[i][t]: number of ways in which parts i.. have t residues in total; floats, since only ratios matter.
        ways = [np.ones(1)]
        for part in reversed(self.parts):
            shortest, longest = part.limits
            choices = np.zeros(longest + 1)
            choices[shortest:] = 1
            ways.insert(0, np.convolve(choices, ways[0]))
        totals = np.arange(len(ways[0]))
        allowed = np.where((totals >= self.shortest) & (totals <= self.longest), ways[0], 0)
        left = int(random.choice(totals, p=allowed / allowed.sum()))
        lengths = []
        for part, after in zip(self.parts, ways[1:], strict=True):
            shortest, longest = part.limits
            options = np.arange(shortest, min(longest, left) + 1)
            rest = left - options
            weights = np.where(rest < len(after), after[np.minimum(rest, len(after) - 1)], 0)
            lengths.append(int(random.choice(options, p=weights / weights.sum())))
            left -= lengths[-1]
        return lengths


def contig_limits(parts: Sequence[Spacer | Segment]) -> tuple[int, int]:
    """Minimum and maximum number of residues of a contig."""
    return sum(part.limits[0] for part in parts), sum(part.limits[1] for part in parts)


def parse_contig(text: str, offset: int = 0, given: Given = "both") -> tuple[Spacer | Segment, ...]:
    """Parse contig notation, this module's or RFdiffusion's.

    Parameters
    ----------
    text
        The contig.
    offset
        Added to the residue numbers of segments.
    given
        The given tracks of segments without a suffix.

    Raises
    ------
    DPLM2Error
        If a part cannot be read; the message names it.
    """
    return tuple(_parse_part(piece, offset, given) for piece in _pieces(text))


def _pieces(text: str) -> list[str]:
    """The parts of a contig, separated by commas, or by slashes if it has no comma."""
    text = text.strip().removeprefix("[").removesuffix("]")
    pieces = _outside_quotes(",").split(text)
    if len(pieces) > 1:
        return [piece.strip() for piece in pieces]
    text = re.sub(r"\s*/\s*", "/", _BREAK_AT_END.sub("", text)).strip()
    chains = [chain for chain in _outside_quotes(r"\s").split(text) if chain]
    if len(chains) > 1:
        raise DPLM2Error(
            f"contig: {shown(text)} has {len(chains)} chains, but a sample is one chain: blanks (/0 ) separate "
            "chains, slashes or commas the parts of one"
        )
    # A slash after a quoted chain id separates no parts: "A-2"/10-20 is one.
    pieces = _outside_quotes('(?<!")/').split(text)
    readable = all(any(form.fullmatch(piece) for form in (_SPACER, _LETTER, _QUOTED)) for piece in pieces)
    return [text] if not readable and _SLASHED.fullmatch(text) else pieces


def _parse_part(piece: str, offset: int, given: Given) -> Spacer | Segment:
    if match := _SPACER.fullmatch(piece):
        shortest = int(match[1])
        spacer = Spacer(shortest, int(match[2] or shortest))
        if spacer.longest < spacer.shortest:
            raise DPLM2Error(f"contig: {piece!r} ends before it begins")
        return spacer
    match = _LETTER.fullmatch(piece) or _QUOTED.fullmatch(piece) or _SLASHED.fullmatch(piece)
    if match is None:
        raise DPLM2Error(
            f"contig: {shown(piece)} is neither a spacer (10-25) nor a segment of a chain (A16-35, H52-52A; chain ids "
            'longer than one letter in quotes: "AB"16-35)'
        )
    return _segment(piece, match, offset, given)


def _segment(piece: str, match: re.Match, offset: int, given: Given) -> Segment:
    what = match["given"] or given
    if what not in get_args(Given):
        raise DPLM2Error(f"contig: {shown(piece)}: {what!r} is not one of {', '.join(get_args(Given))}")
    first, insertion = int(match["first"]), match["from"]
    last, last_insertion = (int(match["last"]), match["to"]) if match["last"] else (first, insertion)
    if last < first:
        raise DPLM2Error(f"contig: {piece!r} ends before it begins")
    return Segment(match["chain"].strip(), first + offset, last + offset, what, insertion, last_insertion)


def _outside_quotes(separator: str) -> re.Pattern:
    return re.compile(f'{separator}(?=(?:[^"]*"[^"]*")*[^"]*$)')


def read_problem(path: str | os.PathLike, references: str | os.PathLike | None = None) -> Problem:
    """Read a motif problem: YAML with ``reference`` and ``contig``.

    Optional: ``name``, ``total_length`` (a number or [shortest, longest]), ``offset`` (added to the contig's residue
    numbers) and ``given`` (both, sequence or structure).

    Parameters
    ----------
    path
        The YAML file.
    references
        Folder of the reference; by default its path is relative to the YAML file. If there is no file of the name, one
        in another format (``1bcf.bcif.gz`` for ``1bcf.pdb``) is taken.

    Raises
    ------
    DPLM2Error
        If the file cannot be read or the problem has no motif; the message names it.
    """
    path = Path(path)
    try:
        given = parse_value(read_text(path), str(path))
    except ConfigError as error:
        raise DPLM2Error(f"{error}: cannot be read as a motif problem") from error
    _check_keys(given, path)
    name, offset, kind = str(given.get("name", path.stem)), given.get("offset", 0), given.get("given", "both")
    if type(offset) is not int or kind not in get_args(Given):
        raise DPLM2Error(f"{path}: offset must be an integer, and given one of {', '.join(get_args(Given))}")
    folder = Path(references) if references is not None else path.parent
    try:
        parts = parse_contig(_contig_text(given["contig"]), offset, kind)
    except DPLM2Error as error:
        raise DPLM2Error(f"problem {shortened(name)}: {error}") from error
    total = given.get("total_length")
    shortest, longest = _total(total, parts, name)
    reference = _in_any_format(folder / str(given["reference"]))
    problem = Problem(name, reference, parts, shortest, longest, limited=total is not None)
    problem.check_motif()
    return problem


def _in_any_format(reference: Path) -> Path:
    """The reference, or where there is none of that name, the file of its name in another format."""
    if reference.is_file():
        return reference
    others = [reference.with_suffix(ending) for ending in _FORMATS]
    return next((other for other in others if other.is_file()), reference)


def _check_keys(given: object, path: Path) -> None:
    if not isinstance(given, dict) or not {"reference", "contig"} <= set(given):
        raise DPLM2Error(f"{path}: a motif problem requires the keys reference and contig")
    if unknown := set(given) - _KEYS:
        raise DPLM2Error(f"{path}: unknown key {some(sorted(map(str, unknown)))}; allowed: {', '.join(sorted(_KEYS))}")
    for key in ("name", "reference", "given"):
        if isinstance(given.get(key), list | dict):
            raise DPLM2Error(f"{path}: {key} is {shown(given[key])}, but must be text")


def _contig_text(contig: object) -> str:
    """A contig as text; YAML reads RFdiffusion's brackets as a list of its parts."""
    parts = contig if isinstance(contig, list) else [contig]
    if not parts or not all(isinstance(part, str | int) for part in parts):
        raise DPLM2Error("contig: must be text, such as 5-20,A16-35,10-25")
    return ",".join(map(str, parts))


def _total(given: object, parts: Sequence[Spacer | Segment], name: str) -> tuple[int, int]:
    if given is None:
        return contig_limits(parts)
    ends = given if isinstance(given, list) else [given, given]
    if len(ends) != 2 or not all(type(end) is int for end in ends) or not 1 <= ends[0] <= ends[1]:
        what = given if isinstance(given, list) and all(type(end) is int for end in given) else shown(given)
        raise DPLM2Error(f"problem {shortened(name)}: total_length is {what}; a number or [shortest, longest]")
    return ends[0], ends[1]


def read_problems(sources: Sequence[str | os.PathLike], references: str | os.PathLike | None = None) -> list[Problem]:
    """Read the problems in YAML files and folders of them (sorted by file name).

    Raises
    ------
    DPLM2Error
        If a source does not exist, a folder contains no problem, two problems have the same name, or one is invalid.
    """
    problems: dict[str, Problem] = {}
    for source in map(Path, sources):
        paths = sorted(source.glob("*.y*ml")) if source.is_dir() else [source]
        if not paths:
            raise DPLM2Error(f"{source}: contains no motif problems (*.yaml)")
        for path in paths:
            problem = read_problem(path, references)
            if problem.name in problems:
                raise DPLM2Error(f"{path}: a second problem named {problem.name}")
            problems[problem.name] = problem
    return list(problems.values())


def reference_files(sources: Sequence[str | os.PathLike], references: str | os.PathLike | None = None) -> list[Path]:
    """Reference structures of all problems that `read_problems` reads."""
    return sorted({problem.reference for problem in read_problems(sources, references)})

"""Tasks as data: for each sample and each track, what is given and what is generated.

Array axes: L residues, M residues of a motif.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from dplm2.core.errors import DPLM2Error
from dplm2.core.names import file_names, numbered
from dplm2.core.text import some
from dplm2.generation.contigs import Problem, Segment
from dplm2.generation.samples import Motif
from dplm2.language.denoising import Conditioning
from dplm2.language.sampling import sample_seed
from dplm2.language.schedule import masked_count
from dplm2.language.vocabulary import Track, Vocabulary
from dplm2.settings.generation import GenerationSettings

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Target:
    """A protein to work on; a residue that is not known on a track is to be generated there.

    Parameters
    ----------
    name
        Stands in the column ``problem``.
    sequence
        One letter per residue, ``?`` where it is not known; None if there is no sequence at all.
    structure_tokens
        (L,), -1 where it is not known; None if there is no structure at all.
    """

    name: str
    sequence: str | None
    structure_tokens: np.ndarray | None

    @property
    def length(self) -> int:
        """Number of residues."""
        return len(self.sequence if self.sequence is not None else self.structure_tokens)


@dataclass(frozen=True)
class Request:
    """One sample to be made."""

    problem: str
    conditioning: Conditioning
    motif: Motif | None = None

    @property
    def sample_id(self) -> str:
        """Unique within a run."""
        return self.conditioning.sample_id


@dataclass(frozen=True)
class ReferenceMotif:
    """A problem's motif as found in its reference, segments one after the other.

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


def parse_residues(text: str | None, length: int, name: str) -> np.ndarray:
    """True (L,) for the residues of ``5,10-20`` (counted from 1) or ``all``; none for None.

    Raises
    ------
    DPLM2Error
        If a residue is beyond the protein, whose name is in the message.
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
    """Targets with names of their own: of equal ones the later get ``-2``, ``-3``, ..., and a warning says so."""
    names = numbered([target.name for target in targets])
    if changed := [name for name, target in zip(names, targets, strict=True) if name != target.name]:
        _log.warning("proteins of the same name are numbered: %s", some(changed))
    return [replace(target, name=name) for target, name in zip(targets, names, strict=True)]


def drawn_lengths(
    settings: GenerationSettings, seed: int, of_chains: Sequence[int] | None = None
) -> Iterator[tuple[str, str, int]]:
    """Yield (sample id, problem, length) of samples for which nothing is given.

    Parameters
    ----------
    settings
        The task.
    seed
        Of the run.
    of_chains
        Lengths of a data set's chains, to draw from.
    """
    if of_chains is None and isinstance(settings.lengths, tuple):
        for length, copies in {length: settings.lengths.count(length) for length in settings.lengths}.items():
            problem = f"length-{length}"
            yield from ((f"{problem}_{n:04d}", problem, length) for n in range(settings.samples * copies))
        return
    for number in range(settings.samples):
        sample_id = f"sample_{number:04d}"
        random = _random(seed, f"length of {sample_id}")
        if of_chains is not None:
            length = int(random.choice(np.sort(np.asarray(of_chains))))
        else:
            length = int(random.integers(settings.lengths.minimum, settings.lengths.maximum, endpoint=True))
        yield sample_id, f"length-{length}", length


def unconditional(
    settings: GenerationSettings, vocabulary: Vocabulary, seed: int, of_chains: Sequence[int] | None = None
) -> list[Request]:
    """Samples for which nothing but the length is given; see `drawn_lengths`."""
    requests = []
    for sample_id, problem, length in drawn_lengths(settings, seed, of_chains):
        tokens = {track: np.full(length, vocabulary.mask(track)) for track in settings.tracks}
        requests.append(_request(sample_id, problem, tokens, settings, vocabulary))
    return requests


def of_targets(
    settings: GenerationSettings, vocabulary: Vocabulary, targets: Sequence[Target], seed: int
) -> list[Request]:
    """Samples for folding, inverse folding and infilling of given proteins.

    Raises
    ------
    DPLM2Error
        Names the protein: nothing of it is given or to be generated, or residues beyond its end.
    """
    build: Mapping[str, Callable[[GenerationSettings, Vocabulary, Target], dict[Track, np.ndarray]]] = {
        "folding": _for_folding,
        "inverse-folding": _for_inverse_folding,
        "infilling": _for_infilling,
    }
    targets = distinct(targets)
    requests = []
    for name, target in zip(file_names([target.name for target in targets]), targets, strict=True):
        if target.length == 0:
            raise DPLM2Error(f"{target.name}: no residues")
        tokens = build[settings.task](settings, vocabulary, target)
        for number in range(settings.samples):
            request = _request(f"{name}_{number:04d}", target.name, tokens, settings, vocabulary)
            requests.append(_noised(request, target, settings, vocabulary, seed) if settings.renoise else request)
    return requests


def known_tokens(target: Target, vocabulary: Vocabulary) -> dict[Track, np.ndarray]:
    """Ids (L,) of both tracks of a target, masks where it is not known."""
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


def _for_folding(settings: GenerationSettings, vocabulary: Vocabulary, target: Target) -> dict[Track, np.ndarray]:
    tokens = known_tokens(target, vocabulary)
    if (tokens["sequence"] == vocabulary.mask_sequence).all():
        raise DPLM2Error(f"{target.name}: no sequence to fold")
    if settings.fixed is not None and target.structure_tokens is None:
        raise DPLM2Error(f"{target.name}: fixed residues of folding need a structure, but only a sequence is given")
    tokens["structure"][~parse_residues(settings.fixed, target.length, target.name)] = vocabulary.mask_structure
    return tokens


def _for_inverse_folding(
    settings: GenerationSettings, vocabulary: Vocabulary, target: Target
) -> dict[Track, np.ndarray]:
    tokens = known_tokens(target, vocabulary)
    if (tokens["structure"] == vocabulary.mask_structure).all():
        raise DPLM2Error(f"{target.name}: no structure to find a sequence for")
    fixed = parse_residues(settings.fixed, target.length, target.name)
    fixed &= tokens["sequence"] != vocabulary.unknown_residue
    tokens["sequence"][~fixed] = vocabulary.mask_sequence
    return tokens


def _for_infilling(settings: GenerationSettings, vocabulary: Vocabulary, target: Target) -> dict[Track, np.ndarray]:
    tokens = known_tokens(target, vocabulary)
    if settings.renoise:
        return tokens
    for track, text in (("sequence", settings.mask_sequence), ("structure", settings.mask_structure)):
        tokens[track][parse_residues(text, target.length, target.name)] = vocabulary.mask(track)
    if not any((ids == vocabulary.mask(track)).any() for track, ids in tokens.items()):
        raise DPLM2Error(f"{target.name}: nothing to generate; set mask_sequence, mask_structure or renoise")
    return tokens


def _noised(
    request: Request, target: Target, settings: GenerationSettings, vocabulary: Vocabulary, seed: int
) -> Request:
    """The request with the share ``renoise`` of its open positions masked, and as many of the steps left to run."""
    conditioning = request.conditioning
    steps = conditioning.steps
    first_step = min(steps - round(settings.renoise * steps), steps - 1)
    random = _random(seed, f"noise of {request.sample_id}")
    tokens, fixed = {}, {}
    texts = {"sequence": settings.mask_sequence, "structure": settings.mask_structure}
    everything = not any(texts.values())
    for track, ids in conditioning.tokens.items():
        may_change = parse_residues("all" if everything else texts[track], target.length, target.name)
        may_change |= ids == vocabulary.mask(track)
        order = random.permutation(np.flatnonzero(may_change))
        tokens[track] = ids.copy()
        tokens[track][order[: masked_count(len(order), first_step, steps, settings.schedule)]] = vocabulary.mask(track)
        fixed[track] = ~may_change
    return replace(request, conditioning=replace(conditioning, tokens=tokens, fixed=fixed, first_step=first_step))


def scaffolds(
    settings: GenerationSettings, vocabulary: Vocabulary, motifs: Sequence[ReferenceMotif], seed: int
) -> list[Request]:
    """Samples around motifs; the lengths of spacers are drawn for each sample."""
    requests = []
    for name, motif in zip(file_names([motif.problem.name for motif in motifs]), motifs, strict=True):
        known = known_tokens(Target(motif.problem.name, motif.sequence, motif.structure_tokens), vocabulary)
        for number in range(settings.samples):
            sample_id = f"{name}_{number:04d}"
            lengths = motif.problem.draw_lengths(_random(seed, f"spacers of {sample_id}"))
            requests.append(_scaffold(sample_id, motif, known, lengths, settings, vocabulary))
    return requests


def _scaffold(
    sample_id: str,
    motif: ReferenceMotif,
    known: Mapping[Track, np.ndarray],
    lengths: Sequence[int],
    settings: GenerationSettings,
    vocabulary: Vocabulary,
) -> Request:
    tokens = {track: np.full(sum(lengths), vocabulary.mask(track)) for track in known}
    positions, contig, start, done = [], [], 0, 0
    for part, length in zip(motif.problem.parts, lengths, strict=True):
        if isinstance(part, Segment):
            for track in known:
                if part.given in ("both", track):
                    tokens[track][start : start + length] = known[track][done : done + length]
            positions += range(start, start + length)
            contig.append(str(part))
            done += length
        else:
            contig.append(str(length))
        start += length
    request = _request(sample_id, motif.problem.name, tokens, settings, vocabulary)
    return replace(request, motif=Motif(",".join(contig), np.array(positions, dtype=np.int32), motif.backbone))


def _request(
    sample_id: str,
    problem: str,
    tokens: Mapping[Track, np.ndarray],
    settings: GenerationSettings,
    vocabulary: Vocabulary,
) -> Request:
    fixed = {track: ids != vocabulary.mask(track) for track, ids in tokens.items()}
    length = len(next(iter(tokens.values())))
    conditioning = Conditioning(sample_id, dict(tokens), fixed, settings.steps_for(length))
    return Request(problem, conditioning)


def _random(seed: int, purpose: str) -> np.random.Generator:
    return np.random.default_rng(sample_seed(seed, purpose))

"""Infilling: any missing part of given proteins, or variants of them."""

from dataclasses import replace

import numpy as np

from dplm2.core.errors import DPLM2Error
from dplm2.generation.given_proteins import CHAINS, requests_for, targets_of
from dplm2.generation.task import (
    GenerationTask,
    Given,
    Request,
    Target,
    known_tokens,
    parse_residues,
    random_for,
)
from dplm2.language.schedule import masked_count
from dplm2.language.vocabulary import Track, Vocabulary
from dplm2.settings.generation import GenerationSettings


def requests(settings: GenerationSettings, vocabulary: Vocabulary, seed: int, given: Given) -> list[Request]:
    """Requests for each protein."""
    requested = requests_for(targets_of(settings, given), settings, vocabulary, masked)
    if not settings.renoise:
        return requested
    return [noised(request, settings, vocabulary, seed) for request in requested]


def masked(settings: GenerationSettings, vocabulary: Vocabulary, target: Target) -> dict[Track, np.ndarray]:
    """All known tokens except those of the chosen residues; for variants, `noised` masks tokens at random."""
    tokens = known_tokens(target, vocabulary)
    if settings.renoise:
        return tokens
    for track, text in (("sequence", settings.mask_sequence), ("structure", settings.mask_structure)):
        tokens[track][parse_residues(text, target.length, target.name)] = vocabulary.mask(track)
    if not any((ids == vocabulary.mask(track)).any() for track, ids in tokens.items()):
        raise DPLM2Error(f"{target.name}: nothing to generate; set mask_sequence, mask_structure or renoise")
    return tokens


def noised(request: Request, settings: GenerationSettings, vocabulary: Vocabulary, seed: int) -> Request:
    """The request with a fraction ``renoise`` of the changeable positions masked, and that fraction of steps to run."""
    conditioning = request.conditioning
    steps = conditioning.steps
    first_step = min(steps - round(settings.renoise * steps), steps - 1)
    random = random_for(seed, f"noise of {request.sample_id}")
    tokens, fixed = {}, {}
    texts = {"sequence": settings.mask_sequence, "structure": settings.mask_structure}
    everything = not any(texts.values())
    for track, ids in conditioning.tokens.items():
        may_change = parse_residues("all" if everything else texts[track], conditioning.length, request.problem)
        may_change |= ids == vocabulary.mask(track)
        order = random.permutation(np.flatnonzero(may_change))
        tokens[track] = ids.copy()
        tokens[track][order[: masked_count(len(order), first_step, steps, settings.schedule)]] = vocabulary.mask(track)
        fixed[track] = ~may_change
    return replace(request, conditioning=replace(conditioning, tokens=tokens, fixed=fixed, first_step=first_step))


TASK = GenerationTask(
    meaning="any missing part of given proteins, or variants of them",
    examples="""\
  dplm2 generate infilling --model M --out loops --chains 1ubq.pdb --set mask_sequence=8-11 mask_structure=8-11
  dplm2 generate infilling --model M --out variants --chains 1ubq.pdb --set renoise=0.3 samples=20
  dplm2 generate infilling --model M --out filled --problems table.csv
A residue table (CSV or Parquet) has the columns position, residue, structure_token; an empty cell is generated.""",
    requests=requests,
    chains=CHAINS,
    problems="residue tables (CSV or Parquet)",
)

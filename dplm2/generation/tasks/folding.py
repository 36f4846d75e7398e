"""Folding: structures for given sequences."""

import numpy as np

from dplm2.core.errors import DPLM2Error
from dplm2.generation.given_proteins import CHAINS, requests_for, targets_of
from dplm2.generation.task import GenerationTask, Given, Request, Target, known_tokens, parse_residues
from dplm2.language.vocabulary import Track, Vocabulary
from dplm2.settings.generation import GenerationSettings


def requests(settings: GenerationSettings, vocabulary: Vocabulary, seed: int, given: Given) -> list[Request]:
    """Requests for each sequence; structures are read only if some of their residues are fixed."""
    targets = targets_of(settings, given, with_structure=settings.fixed is not None)
    return requests_for(targets, settings, vocabulary, masked)


def masked(settings: GenerationSettings, vocabulary: Vocabulary, target: Target) -> dict[Track, np.ndarray]:
    """The sequence, and the structure of the fixed residues."""
    tokens = known_tokens(target, vocabulary)
    if (tokens["sequence"] == vocabulary.mask_sequence).all():
        raise DPLM2Error(f"{target.name}: no sequence to fold")
    if settings.fixed is not None and target.structure_tokens is None:
        raise DPLM2Error(f"{target.name}: fixed residues of folding need a structure, but only a sequence is given")
    tokens["structure"][~parse_residues(settings.fixed, target.length, target.name)] = vocabulary.mask_structure
    return tokens


TASK = GenerationTask(
    meaning="a structure for each given sequence",
    examples="""\
  dplm2 generate folding --model results/models/demo --out folded --chains proteins.fasta
  dplm2 generate folding --model M --out folded --chains results/structures/test
  dplm2 generate folding --model M --out loops --chains 1ubq.pdb --set fixed=1-30,45-76""",
    requests=requests,
    chains=f"{CHAINS} (FASTA files as well)",
)

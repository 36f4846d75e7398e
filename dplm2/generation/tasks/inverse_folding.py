"""Inverse folding: sequences for given structures."""

import numpy as np

from dplm2.core.errors import DPLM2Error
from dplm2.generation.given_proteins import CHAINS, requests_for, targets_of
from dplm2.generation.task import GenerationTask, Given, Request, Target, known_tokens, parse_residues
from dplm2.language.vocabulary import Track, Vocabulary
from dplm2.settings.generation import GenerationSettings


def requests(settings: GenerationSettings, vocabulary: Vocabulary, seed: int, given: Given) -> list[Request]:
    """Requests for each structure."""
    return requests_for(targets_of(settings, given), settings, vocabulary, masked)


def masked(settings: GenerationSettings, vocabulary: Vocabulary, target: Target) -> dict[Track, np.ndarray]:
    """The structure, and the amino acids of the fixed residues."""
    tokens = known_tokens(target, vocabulary)
    if (tokens["structure"] == vocabulary.mask_structure).all():
        raise DPLM2Error(f"{target.name}: no structure to inverse-fold")
    fixed = parse_residues(settings.fixed, target.length, target.name)
    fixed &= tokens["sequence"] != vocabulary.unknown_residue
    tokens["sequence"][~fixed] = vocabulary.mask_sequence
    return tokens


TASK = GenerationTask(
    meaning="a sequence for each given structure",
    examples="""\
  dplm2 generate inverse-folding --model M --out sequences --chains results/structures/test
  dplm2 generate inverse-folding --model M --out sequences --chains 1ubq.pdb designs/ --set samples=8""",
    requests=requests,
    chains=CHAINS,
)

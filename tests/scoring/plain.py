"""Scores from single inputs of the network, without batches and windows."""

import numpy as np
import torch

LETTERS = "ACDEFGHIKLMNPQRSTVWY"


def ids_by_hand(network, sequence=None, tokens=None, hidden=()):
    """One row of ids; ``hidden``: pairs of track and position to mask."""
    vocabulary = network.vocabulary
    halves = []
    if tokens is not None:
        half = [vocabulary.mask_structure if t < 0 else vocabulary.first_code + int(t) for t in tokens]
        half = [vocabulary.mask_structure if ("structure", i) in hidden else one for i, one in enumerate(half)]
        halves += [vocabulary.cls_structure, *half, vocabulary.eos_structure]
    if sequence is not None:
        half = [vocabulary.mask_sequence if a == "?" else vocabulary.tokens.index(a) for a in sequence]
        half = [vocabulary.mask_sequence if ("sequence", i) in hidden else one for i, one in enumerate(half)]
        halves += [vocabulary.cls_sequence, *half, vocabulary.eos_sequence]
    return torch.tensor([halves])


@torch.no_grad()
def log_probabilities(network, track, position, sequence=None, tokens=None, hidden=()):
    """Log-probabilities of the ids of a track at a position, by id, from the logits of the whole vocabulary."""
    ids = ids_by_hand(network, sequence, tokens, hidden)
    length = len(sequence if sequence is not None else tokens)
    before = length + 2 if track == "sequence" and tokens is not None else 0
    classes = network.classes(track)
    logits = network(ids)[0, before + 1 + position, classes.start : classes.stop].double()
    return dict(zip(classes, logits.log_softmax(-1).tolist(), strict=True))


def effect(network, sequence, position, mutant, tokens=None, masked=True):
    """Score of one substitution by a separate call."""
    hidden = {("sequence", position)} if masked else ()
    found = log_probabilities(network, "sequence", position, sequence, tokens, hidden)
    ids = network.vocabulary.tokens
    return found[ids.index(mutant)] - found[ids.index(sequence[position])]


def all_effects(network, sequence, tokens=None, masked=True):
    return np.array([[effect(network, sequence, i, a, tokens, masked) for a in LETTERS] for i in range(len(sequence))])

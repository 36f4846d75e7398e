"""Callbacks that steer sampling by changing logits: examples of `dplm2.language.denoising.Adjust`.

A callback receives logits (N, C) and a description of their positions, and returns the logits to be used.

Shapes: B samples, L residues, N positions, C classes.
"""

from collections.abc import Mapping
from functools import cache

import numpy as np
import torch
from torch import Tensor

from dplm2.core.errors import DPLM2Error
from dplm2.language.denoising import Adjust, Open
from dplm2.language.vocabulary import AMINO_ACIDS, Track, Vocabulary


def composition(target: Mapping[str, float], strength: float = 1.0) -> Adjust:
    """Steer the amino-acid composition of each sample towards target fractions.

    Each step adds ``strength * log(target / fraction)`` to the logits of an amino acid, where ``fraction`` is its
    fraction among the residues decoded so far, with a pseudocount of 1 per amino acid.

    Parameters
    ----------
    target
        Target fractions of some amino acids; the logits of the others are not changed.
    strength
        Factor of the bias; 0 has no effect.

    Raises
    ------
    DPLM2Error
        If a key is not an amino acid, or a fraction is not between 0 and 1.
    """
    for letter, fraction in target.items():
        if len(letter) != 1 or letter not in AMINO_ACIDS or not 0 < fraction < 1:
            raise DPLM2Error(f"composition: {letter!r}: {fraction} is not a fraction (0 to 1) of a standard amino acid")
    letters = sorted(target)
    ids = torch.from_numpy(Vocabulary().encode_sequence("".join(letters)))
    targets = torch.tensor([target[letter] for letter in letters])

    @cache
    def on(device: torch.device) -> tuple[Tensor, Tensor]:
        return ids.to(device), targets.to(device)

    def adjust(logits_NC: Tensor, view: Open) -> Tensor:
        if view.track != "sequence":
            return logits_NC
        known_BL = torch.isin(view.tokens, view.classes)
        counts_BC = (view.tokens[:, :, None] == view.classes) & known_BL[:, :, None]
        fraction_BC = (counts_BC.sum(1) + 1) / (known_BL.sum(1, keepdim=True) + len(view.classes))
        ids_here, targets_here = on(view.classes.device)
        columns = torch.searchsorted(view.classes, ids_here)
        bias_BC = torch.zeros_like(fraction_BC)
        bias_BC[:, columns] = strength * (targets_here / fraction_BC[:, columns]).log()
        return logits_NC + bias_BC[view.row]

    return adjust


def token_bias(track: Track, bias: np.ndarray, vocabulary: Vocabulary) -> Adjust:
    """Add a constant to the logits of each token of a track, for example the helix propensity of each structure token.

    Parameters
    ----------
    track
        Track that the bias applies to.
    bias
        One value per amino acid (in the order of ``AMINO_ACIDS``) or structure token.
    vocabulary
        Vocabulary of the model.

    Raises
    ------
    DPLM2Error
        If the number of values differs from the number of tokens.
    """
    tokens = vocabulary.generated(track)
    if len(bias) != len(tokens):
        raise DPLM2Error(f"token_bias: {len(bias)} values for the {len(tokens)} tokens of the {track} track")
    bias_of_id = torch.zeros(len(vocabulary))
    bias_of_id[tokens.start : tokens.stop] = torch.as_tensor(bias, dtype=torch.float32)
    on = cache(bias_of_id.to)

    def adjust(logits_NC: Tensor, view: Open) -> Tensor:
        if view.track != track:
            return logits_NC
        return logits_NC + on(logits_NC.device)[view.classes]

    return adjust

"""Choices of ``dplm2 score``, without torch: the command line lists them."""

from typing import Literal

Marginals = Literal["masked", "wild-type"]
MARGINALS: tuple[Marginals, ...] = ("masked", "wild-type")
VIEW_NAMES = ("sequence", "structure", "sequence_given_structure", "structure_given_sequence", "pair")
WINDOW = 1022
"""Residues that the network sees at once by default: as in the training of ESM-2, whose weights models start from."""

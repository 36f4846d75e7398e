"""Structure heads: embedding and prediction of structure tokens.

A head is one module: the embedding of structure tokens, the logits of all codes, their loss, and the sampler's defaults
(`dplm2.language.heads.interface`). The rest of the package does not depend on which head a model has.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from dplm2.core.errors import DPLM2Error
from dplm2.language.heads.bits import Bits
from dplm2.language.heads.codes import Codes
from dplm2.language.heads.interface import Official, Sampling, StructureHead
from dplm2.language.heads.pairs import Pairs
from dplm2.language.vocabulary import Vocabulary

__all__ = ["DEFAULT", "HEADS", "Official", "Sampling", "StructureHead", "make", "of_description"]

HEADS: dict[str, type[StructureHead]] = {kind.name: kind for kind in (Codes, Bits, Pairs)}
DEFAULT = Codes.name


def make(name: str, vocabulary: Vocabulary, width: int, layout: Sequence[int] | None = None) -> StructureHead:
    """A head without trained weights.

    Parameters
    ----------
    name
        ``codes``, ``bits`` or ``pairs``.
    vocabulary, width
        Vocabulary and width of the network.
    layout
        Bits of each of the tokenizer's values, for heads that depend on them.

    Raises
    ------
    DPLM2Error
        If there is no such head, or it does not fit the codebook.
    """
    if name not in HEADS:
        raise DPLM2Error(f"structure_head: {name!r} is unknown; available: {', '.join(HEADS)}")
    return HEADS[name](vocabulary, width, tuple(layout or ()))


def of_description(description: Mapping[str, Any], vocabulary: Vocabulary, width: int) -> StructureHead:
    """The head with this `StructureHead.description`, without trained weights."""
    name = description.get("structure_head", DEFAULT)
    return make(name, vocabulary, width, description.get("bits_per_value"))

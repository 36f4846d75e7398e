"""Structure heads: embedding and prediction of structure tokens.

A head is one module: the embedding of structure tokens, the logits of all codes, their loss, and the sampler's defaults
(`dplm2.language.heads.interface`). The rest of the package does not depend on which head a model has.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from dplm2.core.errors import ConfigError, DPLM2Error
from dplm2.language.heads.bits import Bits
from dplm2.language.heads.codes import Codes
from dplm2.language.heads.interface import Official, Sampling, StructureHead
from dplm2.language.heads.pairs import Pairs
from dplm2.language.vocabulary import Vocabulary
from dplm2.settings.generation import LEFT_TO_THE_MODEL, GenerationSettings

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
    """The head with this `StructureHead.description`, without trained weights.

    Raises
    ------
    DPLM2Error
        If there is no such head, it does not fit the codebook, or its ``sampling`` is not valid.
    """
    name = description.get("structure_head", DEFAULT)
    head = make(name, vocabulary, width, description.get("bits_per_value"))
    head.sampling = _recommended(description.get("sampling", {}), head.sampling)
    return head


def _recommended(own: Mapping[str, Any], defaults: Sampling) -> Sampling:
    """The defaults, with a model's own values."""
    own = {key: value for key, value in own.items() if value is not None}
    if unknown := sorted(own.keys() - LEFT_TO_THE_MODEL):
        raise DPLM2Error(f"sampling: {unknown[0]} is unknown; available: {', '.join(LEFT_TO_THE_MODEL)}")
    try:
        GenerationSettings.make(task="co-generation", **own)
    except ConfigError as error:
        raise DPLM2Error(f"sampling: {str(error).splitlines()[-1].strip()}") from error
    return replace(defaults, **own)

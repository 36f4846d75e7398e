"""Interface of the structure heads; the rest of the package depends only on it.

Shapes: B batch, T tokens (both tracks), N selected positions, D model width, C codes or classes.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn
from transformers import EsmForMaskedLM

from dplm2.language.vocabulary import Track, Vocabulary
from dplm2.settings.model import DiffusionSettings


@dataclass(frozen=True)
class Sampling:
    """Sampler defaults of the models with a head.

    Attributes
    ----------
    strategy
        How tokens are drawn in design tasks, in the notation of `dplm2.language.schedule.Strategy`.
    nucleus
        Probability mass kept before a draw, per track.
    """

    strategy: str
    nucleus: Mapping[Track, float]


@dataclass(frozen=True)
class Official:
    """How the authors' program stores models with a head.

    Attributes
    ----------
    kind
        ``dplm_type`` in ``config.json``, by which their program picks the class.
    architecture
        Name of that class.
    scaling
        What ``token_dropout: true`` means for such a model (see `MultimodalEsm.embeddings`).
    names
        Their name of each weight, or of each module (with a final dot), of the head's own; by ours.
    codes_of
        The number of codes that weights under our names are for; None for a head without weights of its own.
    """

    kind: str
    architecture: str
    scaling: str
    names: Mapping[str, str]
    codes_of: Callable[[Mapping[str, Tensor]], int] | None = None


class StructureHead(Protocol):
    """Embedding and output of structure tokens; an ``nn.Module`` with the head's own weights.

    A code's logits always cover all codes, so that their log-softmax is an exact log-probability whatever the head.

    Attributes
    ----------
    name
        As of ``structure_head`` in the configuration.
    table_rows
        Ids in the network's own embedding table and output layer once structure tokens are there.
    one_softmax
        Whether the tokens of both tracks compete in one softmax. If so, an argmax is scored by its probability among
        all of them, as the authors do; else by that among the classes of its track that pass the filter.
    classes
        Ids of the columns of `logits`.
    sampling
        Defaults of the sampler.
    official
        The authors' format of such models; None if their program has no such head.
    """

    name: str
    table_rows: int
    one_softmax: bool
    classes: range
    sampling: Sampling
    official: Official | None

    def __init__(self, vocabulary: Vocabulary, width: int, layout: Sequence[int] = ()) -> None:
        """For a vocabulary, a model width, and the bits of each of the tokenizer's values (empty: not known)."""
        ...

    @property
    def description(self) -> dict[str, Any]:
        """What `dplm2.language.heads.of_description` needs to make this head again, without its weights."""
        ...

    def embed(self, table: nn.Embedding, ids_BT: Tensor) -> Tensor:
        """Input embeddings (B, T, D) of the ids of both tracks, not scaled; ``table`` is the network's own."""
        ...

    def logits(self, lm_head: nn.Module, hidden_ND: Tensor) -> Tensor:
        """Logits (N, C) over ``classes``; ``lm_head`` is the network's own output layer."""
        ...

    def nll(self, lm_head: nn.Module, hidden_ND: Tensor, ids_N: Tensor) -> Tensor:
        """Negative log-probability (N,) in nats, in float32, of ids among ``classes``."""
        ...

    def start(self, model: EsmForMaskedLM, seed: int, code_values_CV: Tensor | None = None) -> None:
        """Draw the weights that a sequence model lacks (warm-up, paper section 3.1).

        Parameters
        ----------
        model
            The sequence model; changed in place where the head lives in its tables.
        seed
            Of what is drawn.
        code_values_CV
            The values that each code stands for: near codes are to begin alike.

        Raises
        ------
        ConfigError
            If values are given that the head cannot use.
        """
        ...

    def check(self, settings: DiffusionSettings) -> None:
        """Reject an objective that this head does not support.

        Raises
        ------
        ConfigError
            Names the key.
        """
        ...

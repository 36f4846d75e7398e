"""Interface of the structure heads; the rest of the package depends only on it.

Shapes: B batch, T tokens (both tracks), N selected positions, D model width, C codes or classes.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn

from dplm2.language.esm import Esm2
from dplm2.language.vocabulary import Track, Vocabulary
from dplm2.settings.model import DiffusionSettings


@dataclass(frozen=True)
class Sampling:
    """Sampler defaults of models with a head; a model's config.json can have others (``sampling``).

    Attributes
    ----------
    strategy, unmasking
        Sampling strategy and unmasking of design tasks, as in the configuration.
    nucleus
        Probability mass kept before a draw, per track.
    """

    strategy: str
    nucleus: Mapping[Track, float]
    unmasking: str = "stochastic@1.0"


@dataclass(frozen=True)
class Official:
    """Format of models with a head in the authors' program.

    Attributes
    ----------
    kind
        ``dplm_type`` in ``config.json``, by which their program selects the class.
    architecture
        Name of that class.
    scaling
        Embedding scaling if ``token_dropout`` is true (see `MultimodalEsm.embeddings`).
    names
        The authors' names of the head's weights, or modules (ending with a dot), by our names.
    codes_of
        Function from the head's weights (under our names) to the number of codes; None if the head has no weights.
    """

    kind: str
    architecture: str
    scaling: str
    names: Mapping[str, str]
    codes_of: Callable[[Mapping[str, Tensor]], int] | None = None


class StructureHead(Protocol):
    """Embedding and output of structure tokens; an ``nn.Module`` with the head's own weights.

    Logits cover all codes, so that their log-softmax is the exact log-probability for every head.

    Attributes
    ----------
    name
        Value of ``structure_head`` in the configuration.
    table_rows
        Number of ids in the network's own embedding table and output layer of a model with structure tokens.
    one_softmax
        Whether the tokens of both tracks share one softmax. If so, an argmax is scored by its probability among all of
        them, as the authors do; otherwise among the filtered classes of its track.
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
        """For a vocabulary, a model width, and the bits of each of the tokenizer's values (empty: unknown)."""
        ...

    @property
    def description(self) -> dict[str, Any]:
        """Arguments from which `dplm2.language.heads.of_description` rebuilds the head, without its weights."""
        ...

    def embed(self, table: nn.Embedding, ids_BT: Tensor) -> Tensor:
        """Unscaled input embeddings (B, T, D) of the ids of both tracks; ``table`` is the network's own."""
        ...

    def logits(self, lm_head: nn.Module, hidden_ND: Tensor) -> Tensor:
        """Logits (N, C) over ``classes``; ``lm_head`` is the network's own output layer."""
        ...

    def nll(self, lm_head: nn.Module, hidden_ND: Tensor, ids_N: Tensor) -> Tensor:
        """Negative log-probability (N,) in nats, in float32, of ids among ``classes``."""
        ...

    def start(self, model: Esm2, seed: int, code_values_CV: Tensor | None = None) -> None:
        """Initialize the weights that a sequence model lacks (warm-up, paper section 3.1).

        Parameters
        ----------
        model
            The sequence model; its tables are extended in place if the head needs it.
        seed
            Seed of the weights.
        code_values_CV
            Quantized values of each code: codes with similar values get similar weights.

        Raises
        ------
        ConfigError
            If values are given that the head cannot use.
        """
        ...

    def check(self, settings: DiffusionSettings) -> None:
        """Check that the head supports the objective.

        Raises
        ------
        ConfigError
            If it does not; the message names the key.
        """
        ...

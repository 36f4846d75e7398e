"""Settings of one structure tokenizer: the section ``tokenizers.<name>`` of the configuration.

Defaults live in ``dplm2/schema/tokenizer.json`` alone; they are the paper's sizes. Lengths of vectors are counts of
channels; weights of loss terms multiply the mean of the term.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dplm2 import config
from dplm2.errors import ConfigError


@dataclass(frozen=True)
class EncoderSettings:
    """The GVP transformer of ESM-IF1 (Hsu et al. 2022), which turns backbones into features per residue."""

    weights: str | None
    frozen: bool
    cached_features: bool
    width: int
    layers: int
    heads: int
    feedforward_width: int
    gvp_layers: int
    node_scalars: int
    node_vectors: int
    edge_scalars: int
    edge_vectors: int
    neighbours: int
    positions: bool
    bridge_gaps: bool
    dropout: float


@dataclass(frozen=True)
class QuantizerSettings:
    """Lookup-free quantization (DPLM-2, section 3.3): 2^bits codes, one bit of each value but for ``bits_per_value``.

    Raises
    ------
    ConfigError
        If ``bits_per_value`` does not fit the other settings.
    """

    bits: int
    bits_per_value: tuple[int, ...] | None
    hidden: int | None
    bound: str
    gradual_steps: int
    commitment_weight: float
    entropy_weight: float
    entropy_temperature: float
    uniformity_weight: float

    def __post_init__(self) -> None:
        if self.bits_per_value is None:
            return
        if sum(self.bits_per_value) != self.bits:
            raise ConfigError(f"quantizer.bits_per_value: adds up to {sum(self.bits_per_value)}, bits is {self.bits}")
        if self.bound != "tanh":
            raise ConfigError(f"quantizer.bits_per_value: levels are in -1 to 1; bound must be tanh, not {self.bound}")
        if self.gradual_steps:
            raise ConfigError("quantizer.bits_per_value: bits cannot be switched on one by one; set gradual_steps: 0")

    @property
    def layout(self) -> tuple[int, ...]:
        """Bits of each value."""
        return self.bits_per_value or (1,) * self.bits


@dataclass(frozen=True)
class DecoderSettings:
    """Post-quantization transformer, folding trunk and structure module (DPLM-2, appendix B.2).

    Raises
    ------
    ConfigError
        If there is neither a first trace nor a pass that would give coordinates.
    """

    sequence_dim: int
    pair_dim: int
    blocks: int
    sequence_head_width: int
    pairwise_head_width: int
    structure_blocks: int
    ipa_heads: int
    post_quant_layers: int
    post_quant_heads: int
    post_quant_window: int | None
    dropout: float
    confidence_hidden: int
    distogram_bins: int
    triangle_attention: bool
    start: str

    def __post_init__(self) -> None:
        if self.structure_blocks == 0 and self.start != "chain":
            raise ConfigError("decoder.structure_blocks: without any pass the first trace is all; set start: chain")


@dataclass(frozen=True)
class LossSettings:
    """Weights of the terms of the reconstruction loss (DPLM-2, appendix B.3, and the authors' code)."""

    fape: float
    fape_clamp: float
    unclamped_fraction: float
    distogram: float
    sequence: float
    violation: float
    codebook: float
    confidence: float
    length_scaling: bool
    local_fape: float
    local_fape_window: int
    distance: float
    chain: float
    chain_reach: int
    chain_outliers: float
    crop: int | None


@dataclass(frozen=True)
class TokenizationSettings:
    """How chains are batched when a dataset is tokenized or detokenized; none of it changes a token in float32."""

    token_budget: int
    precision: str


@dataclass(frozen=True)
class TokenizerSettings:
    """The whole section; ``training`` is the completed section of ``training.json``, built by the training task."""

    encoder: EncoderSettings
    quantizer: QuantizerSettings
    decoder: DecoderSettings
    loss: LossSettings
    tokenization: TokenizationSettings
    training: Mapping[str, Any]
    datasets: tuple[str, ...] = ()
    pretrained: str | None = None
    initial: str | None = None


def default_settings(**sections: Mapping[str, Any]) -> TokenizerSettings:
    """The settings of the paper, with some keys of some sections replaced.

    Parameters
    ----------
    **sections
        For example ``encoder={"layers": 2}``.
    """
    return config.build(TokenizerSettings, config.complete(dict(sections), "tokenizer"))

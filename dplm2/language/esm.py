"""ESM-2 with its output layer, under the names of weights and of settings of transformers' ``EsmForMaskedLM``.

The results are those of transformers' class, which opens what is saved here, and the reverse. Importing that class
takes longer than a short generation, because it also imports code for sharding, losses and generating text.

Shapes: B batch, T tokens, N selected positions, D model width, H heads, C channels of a head, I inputs of a matrix, O
outputs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from dplm2.core.errors import DPLM2Error
from dplm2.core.unfilled import unfilled
from dplm2.cpu import attention, layers, switch
from dplm2.cpu.products import linear
from dplm2.language.vocabulary import Vocabulary

if TYPE_CHECKING:
    from transformers import EsmForMaskedLM

Angles = tuple[Tensor, Tensor]
"""Cosines and sines (B or 1, T, C) of the rotary positions."""

FREQUENCIES = "esm.rotary_embeddings.inv_freq"
"""Name of the rotary frequencies among the weights."""

CONTACT_HEAD = "esm.contact_head."
"""Prefix of weights that are not used."""

KIND = {"position_embedding_type": "rotary", "emb_layer_norm_before": False, "tie_word_embeddings": False}
"""What a ``config.json`` says if its network is exactly this one; transformers' ESM networks have other forms, too."""

MISFITS = ("missing_keys", "unexpected_keys", "mismatched_keys")
"""How weights can misfit a network, as in transformers' reports of loading."""

Segments = Sequence[int] | attention.Bounds
"""Bounds of the attention in a batch of one packed row (see `dplm2.cpu.attention`)."""

_DERIVED = ("inv_freq", "position_ids")
_ROTARY_BASE = 10000.0
_FRACTIONS = ("hidden_dropout_prob", "initializer_range", "layer_norm_eps")
# Other entries of a ``config.json`` that only other programs read.
_UNREAD = {
    "model_type": "esm",
    "architectures": ["EsmForMaskedLM"],
    "dtype": "float32",
    "mask_token_id": Vocabulary.mask_sequence,
    "pad_token_id": Vocabulary.pad,
    "rope_theta": _ROTARY_BASE,
    "is_folding_model": False,
    "attention_probs_dropout_prob": 0.0,
}


@dataclass
class Esm2Config:
    """Sizes and settings of a network, under transformers' names.

    Attributes
    ----------
    vocab_size
        Number of ids.
    hidden_size, num_hidden_layers, num_attention_heads, intermediate_size
        Model width, number of layers, heads of each, and width of the feed-forward parts.
    hidden_dropout_prob
        Dropout on the outputs of attention and feed-forward parts.
    initializer_range
        Standard deviation of the initial weights.
    layer_norm_eps
        Added to the variance by normalisations.
    max_position_embeddings
        Not used: rotary positions have no limit. Other programs read it.
    token_dropout
        Whether the source scales unmasked input (`dplm2.language.warmup`).
    """

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    hidden_dropout_prob: float = 0.1
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-5
    max_position_embeddings: int = 1026
    token_dropout: bool = False

    def __post_init__(self) -> None:
        """Check the values.

        Raises
        ------
        DPLM2Error
            If one is not possible, or the width does not divide into heads of even width (rotary positions rotate pairs
            of channels).
        """
        for name, value in asdict(self).items():
            kind = type(value)
            if name == "token_dropout":
                possible = kind is bool
            elif name in _FRACTIONS:
                possible = kind in (int, float) and 0 <= value <= 1
            else:
                possible = kind is int and value > (Vocabulary.pad if name == "vocab_size" else 0)
            if not possible:
                raise DPLM2Error(f"{name}: {str(value)[:40]!r} is not possible")
        if self.hidden_size % (2 * self.num_attention_heads):
            raise DPLM2Error(
                f"hidden_size {self.hidden_size} does not divide into {self.num_attention_heads} heads of even width"
            )

    def to_dict(self) -> dict[str, Any]:
        """The entries of a ``config.json`` that transformers needs."""
        return KIND | _UNREAD | asdict(self)

    @classmethod
    def of_dict(cls, values: Mapping[str, Any]) -> "Esm2Config":
        """Read the entries of a ``config.json``.

        Raises
        ------
        DPLM2Error
            If an entry is missing or not possible.
        """
        if missing := [field.name for field in fields(cls) if field.default is MISSING and field.name not in values]:
            raise DPLM2Error(f"no entry {', '.join(missing)}")
        return cls(**{field.name: values[field.name] for field in fields(cls) if field.name in values})


class Esm2(nn.Module):
    """The network with random weights; their distributions are transformers'."""

    def __init__(self, config: Esm2Config) -> None:
        super().__init__()
        self.config = config
        self.esm = _Body(config)
        self.lm_head = OutputLayer(config.hidden_size, config.vocab_size, config.layer_norm_eps)
        _initialize(self.lm_head, config)

    @classmethod
    def of_transformers(cls, model: "EsmForMaskedLM") -> "Esm2":
        """A network of transformers; weights are shared, but those of embeddings and output layer no longer tied.

        Raises
        ------
        DPLM2Error
            If it is not an ESM-2.
        """
        with unfilled():
            network = cls(Esm2Config.of_dict(model.config.to_dict()))
        # Releases of transformers differ in where they keep what follows from the configuration.
        weights = {name: value for name, value in model.state_dict().items() if not name.endswith(_DERIVED)}
        weights[FREQUENCIES] = next(value for name, value in model.named_buffers() if name.endswith("inv_freq"))
        if misfits := misfitting(network, weights):
            raise DPLM2Error(f"not an ESM-2: {misfits}")
        if model.config.tie_word_embeddings:
            weights["lm_head.decoder.weight"] = weights["lm_head.decoder.weight"].clone()
        network.load_state_dict(weights, assign=True)
        return network.train(model.training)


def misfitting(module: nn.Module, weights: Mapping[str, Tensor]) -> dict[str, list[str]]:
    """Names of weights that are missing, unknown or of wrong shape for a module, by kind (`MISFITS`)."""
    expected = module.state_dict()
    common = expected.keys() & weights.keys()
    reshaped = {name for name in common if expected[name].shape != weights[name].shape}
    found = (expected.keys() - common, weights.keys() - common, reshaped)
    return {kind: sorted(names) for kind, names in zip(MISFITS, found, strict=True) if names}


def with_unread(network: Esm2, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights completed by those that a file may lack: rotary frequencies, and the contact head, which is not used."""
    known = {FREQUENCIES: rotary_frequencies(network.config)}
    known |= {name: torch.zeros(value.shape) for name, value in network.state_dict().items() if CONTACT_HEAD in name}
    return known | weights


class _Body(nn.Module):
    """Everything but the output layer. The contact head is not used; it is kept for other programs."""

    def __init__(self, config: Esm2Config) -> None:
        super().__init__()
        self.embeddings = _Embeddings(config)
        self.rotary_embeddings = _RotaryPositions(config)
        self.encoder = _Layers(config)
        self.contact_head = _ContactHead(config)
        _initialize(self, config)

    def forward(
        self,
        hidden_BTD: Tensor,
        positions_BT: Tensor,
        mask: Tensor | None = None,
        segments: Segments | None = None,
    ) -> Tensor:
        """Representations (B, T, D) after the last layer.

        Parameters
        ----------
        hidden_BTD
            Embeddings.
        positions_BT
            Rotary positions; (1, T) for the same in all samples.
        mask
            Added to the logits of the attention (B, H or 1, T or 1, T).
        segments
            Instead of a mask, in a batch of one packed row.
        """
        angles = self.rotary_embeddings(positions_BT, hidden_BTD.dtype)
        for layer in self.encoder.layer:
            hidden_BTD = layer(hidden_BTD, angles=angles, mask=mask, segments=segments)
        return self.encoder.emb_layer_norm_after(hidden_BTD)


class Layer(nn.Module):
    """Attention and feed-forward part, each after a normalisation and added to its input."""

    def __init__(self, config: Esm2Config) -> None:
        super().__init__()
        self.attention = _Attention(config)
        self.intermediate = _Dense(config.hidden_size, config.intermediate_size)
        self.output = _Output(config.intermediate_size, config)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(
        self,
        hidden_BTD: Tensor,
        angles: Angles,
        mask: Tensor | None = None,
        segments: Segments | None = None,
    ) -> Tensor:
        """Hidden states (B, T, D) after the layer; for the parameters see `_Body.forward`."""
        if segments is not None and hidden_BTD.device.type == "cpu" and switch.is_lean():
            return layers.forward(self, hidden_BTD[0], angles, segments).unsqueeze(0)
        hidden_BTD = self.attention(hidden_BTD, angles, mask, segments)
        inner_BTI = functional.gelu(self.intermediate.dense(self.LayerNorm(hidden_BTD)))
        return self.output(inner_BTI, hidden_BTD)


class OutputLayer(nn.Module):
    """Dense layer, GELU, normalisation and decoder.

    Parameters
    ----------
    width
        Model width.
    outputs
        Number of rows.
    epsilon
        Added to the variance by the normalisation; 1e-5 in ESM-2.
    """

    def __init__(self, width: int, outputs: int, epsilon: float = 1e-5) -> None:
        super().__init__()
        self.dense = nn.Linear(width, width)
        self.layer_norm = nn.LayerNorm(width, eps=epsilon)
        self.decoder = nn.Linear(width, outputs, bias=False)
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, hidden_ND: Tensor) -> Tensor:
        """Outputs (N, O)."""
        return linear(features(self, hidden_ND), self.decoder.weight, self.bias)

    @torch.no_grad()
    def start(self, spread: float, row_spread: float, generator: torch.Generator) -> None:
        """Initialize the dense layer and the rows with these standard deviations, and the biases with 0."""
        self.dense.weight.normal_(0.0, spread, generator=generator)
        self.decoder.weight.normal_(0.0, row_spread, generator=generator)
        self.layer_norm.reset_parameters()
        self.dense.bias.zero_()
        self.bias.zero_()


def features(layer: nn.Module, hidden_ND: Tensor) -> Tensor:
    """Input (N, D) of the decoder of an output layer."""
    return layer.layer_norm(functional.gelu(linear(hidden_ND, layer.dense.weight, layer.dense.bias)))


class _Attention(nn.Module):
    def __init__(self, config: Esm2Config) -> None:
        super().__init__()
        self.self = _SelfAttention(config)
        self.output = _Output(config.hidden_size, config)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, hidden_BTD: Tensor, angles: Angles, mask: Tensor | None, segments: Segments | None) -> Tensor:
        return self.output(self.self(self.LayerNorm(hidden_BTD), angles, mask, segments), hidden_BTD)


class _SelfAttention(nn.Module):
    def __init__(self, config: Esm2Config) -> None:
        super().__init__()
        self.heads = config.num_attention_heads
        self.query, self.key, self.value = (nn.Linear(config.hidden_size, config.hidden_size) for _ in range(3))

    def forward(self, hidden_BTD: Tensor, angles: Angles, mask: Tensor | None, segments: Segments | None) -> Tensor:
        q_BHTC, k_BHTC, v_BHTC = (
            matrix(hidden_BTD).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for matrix in (self.query, self.key, self.value)
        )
        # ESM-2 scales the queries before their rotation.
        q_BHTC = _rotated(q_BHTC * q_BHTC.shape[-1] ** -0.5, angles)
        k_BHTC = _rotated(k_BHTC, angles)
        if segments is None:
            out_BHTC = functional.scaled_dot_product_attention(q_BHTC, k_BHTC, v_BHTC, attn_mask=mask, scale=1.0)
            return out_BHTC.transpose(1, 2).flatten(2)
        tracks = (track[0].transpose(0, 1) for track in (q_BHTC, k_BHTC, v_BHTC))
        parts = attention.parts_within_segments(*tracks, segments, scaling=1.0)
        return torch.cat(parts).flatten(1).unsqueeze(0)


class _RotaryPositions(nn.Module):
    """Angles of rotary positions. The frequencies are a weight, because some checkpoints have them rounded."""

    def __init__(self, config: Esm2Config) -> None:
        super().__init__()
        self.register_buffer("inv_freq", rotary_frequencies(config))

    @torch.no_grad()
    def forward(self, positions_BT: Tensor, dtype: torch.dtype) -> Angles:
        half_BTC = positions_BT.unsqueeze(-1).float() * self.inv_freq.float()
        angles_BTC = torch.cat([half_BTC, half_BTC], -1)
        return angles_BTC.cos().to(dtype), angles_BTC.sin().to(dtype)


def rotary_frequencies(config: Esm2Config) -> Tensor:
    """Radians per residue (C / 2,) by which pairs of channels are rotated."""
    width = config.hidden_size // config.num_attention_heads
    return 1.0 / _ROTARY_BASE ** (torch.arange(0, width, 2, dtype=torch.float, device="cpu") / width)


def _rotated(x_BHTC: Tensor, angles: Angles) -> Tensor:
    """Rotated in fp32, whatever the type of ``x``."""
    cos_B1TC, sin_B1TC = (table.unsqueeze(1) for table in angles)
    x = x_BHTC.float()
    first, second = x.chunk(2, -1)
    return (x * cos_B1TC + torch.cat([-second, first], -1) * sin_B1TC).to(x_BHTC.dtype)


class _Embeddings(nn.Module):
    def __init__(self, config: Esm2Config) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size, padding_idx=Vocabulary.pad)


class _Layers(nn.Module):
    def __init__(self, config: Esm2Config) -> None:
        super().__init__()
        self.layer = nn.ModuleList([Layer(config) for _ in range(config.num_hidden_layers)])
        self.emb_layer_norm_after = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)


class _ContactHead(nn.Module):
    def __init__(self, config: Esm2Config) -> None:
        super().__init__()
        self.regression = nn.Linear(config.num_hidden_layers * config.num_attention_heads, 1)


class _Dense(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.dense = nn.Linear(inputs, outputs)


class _Output(_Dense):
    def __init__(self, inputs: int, config: Esm2Config) -> None:
        super().__init__(inputs, config.hidden_size)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, inner_BTI: Tensor, hidden_BTD: Tensor) -> Tensor:
        return hidden_BTD + self.dropout(self.dense(inner_BTI))


@torch.no_grad()
def _initialize(part: nn.Module, config: Esm2Config) -> None:
    for module in part.modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            module.weight.normal_(0.0, config.initializer_range)
        if isinstance(module, nn.Linear) and module.bias is not None:
            module.bias.zero_()
        if isinstance(module, nn.Embedding):
            module.weight[module.padding_idx].zero_()

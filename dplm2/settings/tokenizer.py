"""Settings of one structure tokenizer. The defaults are the paper's sizes; widths are in channels."""

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from dplm2.settings.fields import Section, decides, operates, refers, section
from dplm2.settings.files import OBTAIN_ESM_IF1, OBTAIN_TOKENIZER, WEIGHTS, Tokenizer
from dplm2.settings.training import TrainingSettings


class EncoderSettings(Section):
    """The GVP transformer that computes features of each residue from the backbone; the defaults are ESM-IF1's
    sizes."""

    weights: str | None = refers(
        None,
        "File with ESM-IF1 weights under fair-esm's names (esm_if1_gvp4_t16_142M_UR50.pt or safetensors). null: "
        "random weights, which are trained.",
        min_length=1,
        files=("*",),
        obtain=OBTAIN_ESM_IF1,
    )
    frozen: bool = decides(
        False, "Do not train the encoder (the paper: true, with ESM-IF1's weights); its dropout is then off."
    )
    cached_features: bool = decides(
        False,
        "Compute the features of the frozen encoder once per chain, store them (float32) in the state folder, and "
        "train on windows of them, which makes steps much cheaper. The features are those of whole chains, as in "
        "tokenization; false: each crop is encoded by itself, as the authors do. Requires frozen.",
    )
    width: int = decides(512, "Number of features per residue.", ge=6)
    layers: int = decides(8, "Number of transformer layers after the GVP layers.", ge=0)
    heads: int = decides(8, "Number of attention heads; a divisor of width.", ge=1)
    feedforward_width: int = decides(2048, "Hidden width of the transformer's feed-forward layers.", ge=1)
    gvp_layers: int = decides(4, "Number of message-passing layers of geometric vector perceptrons.", ge=0)
    node_scalars: int = decides(1024, "Scalar channels per residue in the GVP layers.", ge=1)
    node_vectors: int = decides(256, "Vector channels per residue in the GVP layers.", ge=1)
    edge_scalars: int = decides(32, "Scalar channels per edge.", ge=1)
    edge_vectors: int = decides(1, "Vector channels per edge.", ge=1)
    positions: bool = decides(
        True,
        "Add an encoding of the position in the chain to the features of each residue, as in ESM-IF1. It is useless"
        " without transformer layers; an encoder trained with it on short windows does not generalise to longer "
        "chains.",
    )
    bridge_gaps: bool = decides(
        False,
        "Replace missing residues between observed ones by ideal residues that bridge the gap, so that a decoder "
        "with `start: chain` can place both sides of the gap from their tokens. They still count as unobserved. "
        "false (the authors): their token is 0 and carries no information.",
    )
    neighbours: int = decides(
        30, "Number of nearest residues (including the residue itself) that send messages to each residue.", ge=1
    )
    dropout: float = decides(0.1, "Dropout during training of the encoder.", ge=0, lt=1)

    def contradictions(self) -> Iterator[str]:
        if self.layers and self.width % self.heads:
            yield f"heads: {self.heads} is not a divisor of width ({self.width})"
        if self.cached_features and not self.frozen:
            yield "cached_features: has no effect unless frozen is true; omit it"

    @property
    def unused(self) -> tuple[str, ...]:
        """Sizes without effect."""
        return () if self.layers else ("heads", "feedforward_width")

    def idle(self) -> Iterator[str]:
        for key in self.unused:
            if self.differs(key):
                yield f"{key}: has no effect with layers: 0; omit it"


class QuantizerSettings(Section):
    """Lookup-free quantization: the sign of each of `bits` values is one bit of the structure token."""

    frozen: bool = decides(
        False,
        "Do not train the projection to codes; requires `initial`. Together with `encoder.frozen`, only the decoder is "
        "trained: chains keep their tokens, and models trained on them remain valid.",
    )
    bits: int = decides(13, "Bits per structure token; the codebook has 2^bits codes.", ge=1, le=16)
    bits_per_value: tuple[Annotated[int, Field(ge=1, le=8)], ...] | None = decides(
        None,
        "Bits of each value, `bits` in total: a value of k bits is rounded to one of 2^k evenly spaced levels "
        "(finite scalar quantization), which makes small networks about twice as accurate. Requires `bound: tanh`. "
        "null: one bit each, the sign (the paper).",
        min_length=1,
    )
    hidden: int | None = decides(
        None,
        "Hidden width of the perceptron that computes the values to quantize. null: equal to bits (the authors); "
        "larger widths train faster from random weights.",
        ge=1,
    )
    bound: Literal["none", "tanh", "normalize"] = decides(
        "none",
        "Transformation of the values before their signs are taken: none (the authors), tanh, or normalize (the "
        "values of each residue are scaled to a root mean square of 1). Bounded values prevent the bits from "
        "collapsing when all weights are trained from random initialisation. The tokens of given weights do not "
        "depend on it.",
    )
    gradual_steps: int = decides(
        0,
        "Training steps over which the bits are enabled one by one; the values of bits that are not yet enabled are"
        " passed on unquantized. 0: all are enabled from the start (the authors).",
        ge=0,
    )
    commitment_weight: float = decides(
        0.25, "Weight of the mean squared distance between values and their signs.", ge=0
    )
    entropy_weight: float = decides(
        0.1,
        "Weight of the entropy term: entropy of each residue's code minus entropy of the mean code distribution.",
        ge=0,
    )
    entropy_temperature: float = decides(0.01, "Temperature of the code distribution in the entropy term.", gt=0)
    uniformity_weight: float = decides(
        0.0,
        "Weight of the distance between the joint distribution of the bounded values over residues and the uniform "
        "distribution over codes. It keeps values of several bits (`bits_per_value`) evenly distributed, "
        "individually and jointly. 0: no such term (the paper).",
        ge=0,
    )

    @property
    def layout(self) -> tuple[int, ...]:
        """Bits of each value."""
        return self.bits_per_value or (1,) * self.bits

    def contradictions(self) -> Iterator[str]:
        if self.bits_per_value is None:
            return
        if sum(self.bits_per_value) != self.bits:
            yield f"bits_per_value: adds up to {sum(self.bits_per_value)}, bits is {self.bits}"
        if self.bound != "tanh":
            yield f"bits_per_value: levels are in -1 to 1; bound must be tanh, not {self.bound}"
        if self.gradual_steps:
            yield "bits_per_value: bits cannot be enabled one by one; set gradual_steps: 0"

    def idle(self) -> Iterator[str]:
        if self.entropy_weight == 0 and self.differs("entropy_temperature"):
            yield "entropy_temperature: has no effect with entropy_weight: 0; omit it"


class DecoderSettings(Section):
    """Folding trunk and structure module that convert structure tokens into a backbone; the defaults are the paper's
    sizes."""

    sequence_dim: int = decides(128, "Number of channels per residue.", ge=1)
    pair_dim: int = decides(32, "Number of channels per pair of residues.", ge=1)
    blocks: int = decides(4, "Number of blocks of the folding trunk.", ge=0)
    sequence_head_width: int = decides(
        32, "Width of each head of the attention over residues; a divisor of sequence_dim.", ge=1
    )
    pairwise_head_width: int = decides(32, "Width of each head of triangle attention; a divisor of pair_dim.", ge=1)
    structure_blocks: int = decides(
        8,
        "Number of passes through the structure module's shared block. 0, with `start: chain`: the initial chain is"
        " the result, for the first stage of a training.",
        ge=0,
    )
    ipa_heads: int = decides(12, "Number of heads of invariant point attention.", ge=1)
    post_quant_layers: int = decides(4, "Number of transformer layers between the codes and the trunk.", ge=0)
    post_quant_heads: int = decides(8, "Number of attention heads of these layers; a divisor of sequence_dim.", ge=1)
    post_quant_window: int | None = decides(
        None,
        "Attention window of these layers, in residues to either side. With a window, a decoder trained on short "
        "crops generalises to long chains; without one it does not. null: the whole chain (the paper).",
        ge=1,
    )
    dropout: float = decides(0.1, "Dropout in the structure module during training.", ge=0, lt=1)
    confidence_hidden: int = decides(128, "Hidden width of the pLDDT head.", ge=1)
    distogram_bins: int = decides(64, "Number of bins of the distogram head, between 2.3 and 21.7 angstrom.", ge=2)
    triangle_attention: bool = decides(
        True,
        "Triangle attention in the trunk (the paper: true). false: triangle multiplication only, for small and fast"
        " tokenizers.",
    )
    start: Literal["origin", "chain"] = decides(
        "origin",
        "Initial frames of the structure module: origin, all at one point (the authors); or chain, an initial chain"
        " built residue by residue, with each frame predicted relative to the previous one. With chain, small "
        "tokenizers learn in minutes what takes days from the origin.",
    )

    def contradictions(self) -> Iterator[str]:
        if self.structure_blocks == 0 and self.start != "chain":
            yield "structure_blocks: 0 requires start: chain, since the initial chain is then the result"
        for key, width, used in (
            ("sequence_head_width", "sequence_dim", self.blocks > 0),
            ("pairwise_head_width", "pair_dim", self.blocks > 0 and self.triangle_attention),
            ("post_quant_heads", "sequence_dim", self.post_quant_layers > 0),
        ):
            if used and getattr(self, width) % getattr(self, key):
                yield f"{key}: {getattr(self, key)} is not a divisor of {width} ({getattr(self, width)})"

    def idle(self) -> Iterator[str]:
        unread = {
            "blocks": ("sequence_head_width", "pairwise_head_width", "triangle_attention"),
            "post_quant_layers": ("post_quant_heads", "post_quant_window"),
        }
        for layers, keys in unread.items():
            for key in keys:
                if getattr(self, layers) == 0 and self.differs(key):
                    yield f"{key}: has no effect with {layers}: 0; omit it"
        if self.blocks and not self.triangle_attention and self.differs("pairwise_head_width"):
            yield "pairwise_head_width: has no effect with triangle_attention: false; omit it"


class LossSettings(Section):
    """Weights of the terms of the reconstruction loss."""

    fape: float = decides(
        1.0, "Frame-aligned point error of the backbone, averaged over the passes of the structure module.", ge=0
    )
    fape_clamp: float = decides(10.0, "Distance at which the frame-aligned point error is clamped, in angstrom.", gt=0)
    unclamped_fraction: float = decides(
        0.0,
        "Fraction of the frame-aligned point error that is not clamped, so that distant domains contribute a gradient.",
        ge=0,
        le=1,
    )
    distogram: float = decides(1.0, "Cross-entropy of the distogram.", ge=0)
    sequence: float = decides(1.0, "Cross-entropy of the amino acid head.", ge=0)
    violation: float = decides(0.3, "Violations of bond lengths and angles, and clashes.", ge=0)
    codebook: float = decides(1.0, "Loss of the quantizer (commitment and entropy).", ge=0)
    confidence: float = decides(
        0.01,
        "Cross-entropy of the pLDDT head. 0: the head is not trained, and the tokenizer reports no confidence. Nor "
        "does it if pLDDT explains less than a quarter of the variance of lDDT between validation residues.",
        ge=0,
    )
    length_scaling: bool = decides(True, "Multiply the loss by the square root of the mean length, as the authors do.")
    local_fape: float = decides(
        0.0,
        "Unclamped frame-aligned point error of points within local_fape_window residues of the frame along the "
        "chain. 0: no such term (the authors).",
        ge=0,
    )
    local_fape_window: int = decides(
        12, "Window of the local frame-aligned point error, in residues to either side.", ge=1
    )
    distance: float = decides(
        0.0,
        "Mean relative error of C-alpha distances, which gives a gradient at any distance from the first step. 0: "
        "no such term (the authors).",
        ge=0,
    )
    chain: float = decides(
        1.0,
        "Error of each frame of the initial chain relative to the previous frame; only with the decoder's `start: "
        "chain`.",
        ge=0,
    )
    chain_reach: int = decides(
        16,
        "Maximum separation, in residues, of the frames of the initial chain that are compared: 1, 2, 4, ... up to "
        "this.",
        ge=1,
    )
    chain_outliers: float = decides(
        0.0,
        "Squared error of the single steps of the initial chain, which emphasises rare, large errors: a cis peptide"
        " predicted as trans turns the rest of the chain. 0: no such term.",
        ge=0,
    )
    crop: int | None = decides(
        512, "Longer chains are cropped to a random window of this many residues. null: no cropping.", ge=8
    )

    def idle(self) -> Iterator[str]:
        for term, keys in {"fape": ("fape_clamp", "unclamped_fraction"), "local_fape": ("local_fape_window",)}.items():
            for key in keys:
                if getattr(self, term) == 0 and self.differs(key):
                    yield f"{key}: has no effect with {term}: 0; omit it"


class TokenizationSettings(Section):
    """How chains are batched for encoding and decoding."""

    token_budget: int = operates(
        2000,
        "Maximum number of residues per batch, including padding; chains of similar length are batched together, "
        "and a longer chain forms a batch of its own.",
        ge=1,
    )
    precision: Literal["float32", "bfloat16"] = decides(
        "float32",
        "Arithmetic of the encoder's large matrix products, and of the folding trunk in `dplm2 tokens decode`. "
        "bfloat16 is faster on processors that support it and changes a small fraction of the tokens; encoders with"
        " fewer than 128 node_scalars remain in float32.",
    )


class TokenizerSettings(Section):
    """A structure tokenizer: either trained on `datasets`, or `pretrained` (a folder or hub id; without training, and
    only together with `tokenization`)."""

    datasets: tuple[str, ...] = refers((), "Names of the datasets to train on; only their training chains are used.")
    pretrained: Tokenizer | None = refers(
        None,
        "Folder or hub id (owner/name or owner/name@revision, such as airkingbd/struct_tokenizer) of a trained "
        "tokenizer, or `small` (the one that comes with the package), used without further training.",
        min_length=1,
        files=WEIGHTS,
        hub=True,
        obtain=OBTAIN_TOKENIZER,
    )
    initial: Tokenizer | None = refers(
        None,
        "Folder of a tokenizer, or `small`, whose weights initialise the training; it must have the architecture "
        "configured here. null: random weights.",
        min_length=1,
        files=WEIGHTS,
    )
    encoder: EncoderSettings = section(
        "The GVP transformer that computes features of each residue from the backbone; the defaults are ESM-IF1's "
        "sizes."
    )
    quantizer: QuantizerSettings = section(
        "Lookup-free quantization: the sign of each of `bits` values is one bit of the structure token."
    )
    decoder: DecoderSettings = section(
        "Folding trunk and structure module that convert structure tokens into a backbone; the defaults are the "
        "paper's sizes."
    )
    loss: LossSettings = section("Weights of the terms of the reconstruction loss.")
    training: TrainingSettings = section("Optimiser, batches and checkpoints of the training.")
    tokenization: TokenizationSettings = section("How chains are batched for encoding and decoding.")

    def contradictions(self) -> Iterator[str]:
        if self.quantizer.frozen and self.initial is None:
            yield "quantizer.frozen: nothing would ever be learned of the codes; give `initial`"

    def idle(self) -> Iterator[str]:
        if self.pretrained is not None:
            unread = [key for key in type(self).model_fields if key not in ("pretrained", "tokenization")]
            for key in filter(self.differs, unread):
                yield f"{key}: has no effect together with 'pretrained'; omit it"
            return
        if self.quantizer.frozen and not self.encoder.frozen:
            yield "quantizer.frozen: has no effect on the tokens unless encoder.frozen is true; set both"
        if self.decoder.structure_blocks == 0:
            for key in ("fape", "local_fape", "distance", "violation"):
                if getattr(self.loss, key) > 0:
                    yield f"loss.{key}: has no effect with decoder.structure_blocks: 0; set it to 0"
        if self.decoder.start != "chain":
            for key in ("chain", "chain_reach", "chain_outliers"):
                if self.loss.differs(key):
                    yield f"loss.{key}: has no effect without decoder.start: chain; omit it"

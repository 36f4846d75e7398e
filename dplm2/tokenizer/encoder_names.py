"""Conversion of the encoder's parameters from and to fair-esm's names of ESM-IF1, part of the authors' tokenizer."""

import itertools
import re
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from dplm2.core.errors import DPLM2Error
from dplm2.settings.tokenizer import EncoderSettings

ENCODER_PREFIX = "encoder.encoder."  # in the authors' tokenizer
TOKENS_NAME = "embed_tokens.weight"
TOKENS, MASK_TOKEN = 35, 32  # ESM-IF1's vocabulary size, and the row of `<mask>`, the only one in use

# Patterns of complete names and our replacements.
ENCODER_NAMES = [
    (r"embed_gvp_input_features\.(weight|bias)", r"inputs.\1"),
    (r"embed_confidence\.(weight|bias)", r"confidence.\1"),
    (r"embed_dihedrals\.node_embedding\.(weight|bias)", r"dihedrals.linear.\1"),
    (r"embed_dihedrals\.norm_nodes\.(gain|bias)", r"dihedrals.\1"),
    (r"embed_gvp_output\.(weight|bias)", r"geometry.\1"),
    (r"gvp_encoder\.embed_graph\.embed_(node|edge)\.0\.(w[hsv])\.(weight|bias)", r"gvp.\1_embedding.<\2>.\3"),
    (r"gvp_encoder\.embed_graph\.embed_(node|edge)\.1\.scalar_norm\.(weight|bias)", r"gvp.\1_norm.scalar.\2"),
    (r"gvp_encoder\.embed_graph\.embed_confidence\.(weight|bias)", r"gvp.confidence.\1"),
    (
        r"gvp_encoder\.encoder_layers\.(\d+)\.conv\.message_func\.([012])\.(w[hsvg])\.(weight|bias)",
        r"gvp.layers.\1.message.\2.<\3>.\4",
    ),
    (
        r"gvp_encoder\.encoder_layers\.(\d+)\.ff_func\.([01])\.(w[hsvg])\.(weight|bias)",
        r"gvp.layers.\1.feedforward.\2.<\3>.\4",
    ),
    (
        r"gvp_encoder\.encoder_layers\.(\d+)\.norm\.([01])\.scalar_norm\.(weight|bias)",
        r"gvp.layers.\1.norms.\2.scalar.\3",
    ),
    (r"layers\.(\d+)\.self_attn\.([qkv])_proj\.(weight|bias)", r"layers.\1.<\2>.\3"),
    (r"layers\.(\d+)\.self_attn\.out_proj\.(weight|bias)", r"layers.\1.output.\2"),
    (r"layers\.(\d+)\.self_attn_layer_norm\.(weight|bias)", r"layers.\1.attention_norm.\2"),
    (r"layers\.(\d+)\.fc1\.(weight|bias)", r"layers.\1.expand.\2"),
    (r"layers\.(\d+)\.fc2\.(weight|bias)", r"layers.\1.contract.\2"),
    (r"layers\.(\d+)\.final_layer_norm\.(weight|bias)", r"layers.\1.feedforward_norm.\2"),
    (r"layer_norm\.(weight|bias)", r"norm.\1"),
]
PARTS = {
    "<wh>": "hidden", "<ws>": "scalar", "<wv>": "vector", "<wg>": "gate", "<q>": "query", "<k>": "key", "<v>": "value",
}  # fmt: skip
UNUSED_IN_ENCODER = [r"embed_positions\._float_tensor"]


def rename(name: str, table: list[tuple[str, str]]) -> str | None:
    """The new name according to the first matching row of ``table``, or None."""
    for pattern, replacement in table:
        match = re.fullmatch(pattern, name)
        if match:
            renamed = match.expand(replacement)
            for short, word in PARTS.items():
                renamed = renamed.replace(short, word)
            return renamed
    return None


def encoder_weights(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """ESM-IF1's encoder under our names; ``weights`` are under fair-esm's names, without the leading ``encoder.``.

    Raises
    ------
    DPLM2Error
        If a key is unknown; the message names it.
    """
    state, unknown = {}, []
    for name, value in weights.items():
        if name == TOKENS_NAME:
            state["mask_embedding"] = value[MASK_TOKEN].clone()
        elif (new := rename(name, ENCODER_NAMES)) is not None:
            state[new] = value
        elif not any(re.fullmatch(pattern, name) for pattern in UNUSED_IN_ENCODER):
            unknown.append(name)
    if unknown:
        raise DPLM2Error(f"{len(unknown)} unknown keys of an encoder: {', '.join(unknown[:5])}")
    return state


def is_partly_used(name: str) -> bool:
    """Whether `encoder_weights` uses only a part of a tensor, or nothing."""
    return name == TOKENS_NAME or any(re.fullmatch(pattern, name) for pattern in UNUSED_IN_ENCODER)


def official_encoder(state: Mapping[str, Tensor], settings: EncoderSettings) -> dict[str, Tensor]:
    """The inverse of `encoder_weights`; embeddings of unused tokens are zero.

    Raises
    ------
    DPLM2Error
        If a parameter has no counterpart; the message names it.
    """
    names = {ours: theirs for theirs in _possible_names(settings) if (ours := rename(theirs, ENCODER_NAMES)) in state}
    weights = {theirs: state[ours] for ours, theirs in names.items()}
    tokens = torch.zeros(TOKENS, settings.width)
    tokens[MASK_TOKEN] = state["mask_embedding"]
    if unknown := sorted(set(state) - set(names) - {"mask_embedding"}):
        raise DPLM2Error(
            f"{len(unknown)} parameters have no counterpart in ESM-IF1's encoder: {', '.join(unknown[:5])}"
        )
    return {**weights, TOKENS_NAME: tokens, "embed_positions._float_tensor": torch.zeros(1)}


def _possible_names(settings: EncoderSettings) -> Iterator[str]:
    """All names that match a pattern of `ENCODER_NAMES`, up to the number of layers."""
    numbers = [str(number) for number in range(max(settings.layers, settings.gvp_layers))]
    for pattern, _ in ENCODER_NAMES:
        text, *rest = re.split(r"\(([^)]*)\)", pattern.replace("\\.", "."))
        choices = [numbers if group == "\\d+" else _alternatives(group) for group in rest[::2]]
        for chosen in itertools.product(*choices):
            yield text + "".join(itertools.chain(*zip(chosen, rest[1::2], strict=True)))


def _alternatives(group: str) -> list[str]:
    """All matches of a pattern's group: words separated by bars, or a word and one of the characters in brackets."""
    if match := re.fullmatch(r"(\w*)\[(\w+)\]", group):
        return [match[1] + letter for letter in match[2]]
    return group.split("|")

"""A tokenizer of ours in the authors' layout: weights under their names, and the YAML that their program reads."""

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import load_file
from torch import Tensor

from dplm2.core.artifacts import RUN_FILE, atomic_path, read_json_object, write_text
from dplm2.core.errors import DPLM2Error
from dplm2.settings.roles import plain
from dplm2.settings.tokenizer import EncoderSettings, TokenizerSettings
from dplm2.tokenizer.decoder_names import to_official
from dplm2.tokenizer.encoder_names import ENCODER_PREFIX, official_encoder
from dplm2.tokenizer.importing import ESM_IF1_SIZES, UNREAD_FILE, tokenizer_of
from dplm2.tokenizer.model import StructureTokenizer
from dplm2.tokenizer.post_quant import ROTARY_BASE

OFFICIAL_WEIGHTS, OFFICIAL_CONFIG = "dplm2_struct_tokenizer.ckpt", "config.yaml"
# What their program computes, where ours has a choice; keys that matter in training alone are not among them.
ENCODER_SIZES = (
    *("width", "layers", "heads", "feedforward_width", "gvp_layers", "neighbours"),
    *("node_scalars", "node_vectors", "edge_scalars", "edge_vectors"),
)
THEIRS: Mapping[str, Mapping[str, Any]] = {
    "encoder": {"positions": True, "bridge_gaps": False},
    "quantizer": {"bits_per_value": None},
    "decoder": {"triangle_attention": True, "start": "origin", "post_quant_window": None},
}


def export_tokenizer(folder: str | os.PathLike, destination: str | os.PathLike) -> bool:
    """Write a tokenizer as the authors' hub repository holds theirs: ``dplm2_struct_tokenizer.ckpt``, ``config.yaml``.

    An imported tokenizer gives back every tensor of its source, those included that are never read. Of another one,
    their language model for sequences (``decoder.esm``) and two heads without use are left out; their program fills
    them by itself.

    Returns
    -------
    bool
        Whether the encoder has ESM-IF1's sizes. Their program builds no other; what the weights of another one do not
        show, this package reads from ``if1_args`` in the YAML.

    Raises
    ------
    DPLM2Error
        If their program cannot compute what the tokenizer computes; the message names the settings.
    """
    folder, destination = Path(folder), Path(destination)
    tokenizer = StructureTokenizer.from_pretrained(folder)
    if without := list(_without_counterpart(tokenizer.settings)):
        raise DPLM2Error(f"{folder}: the authors' program has no counterpart of {', '.join(without)}")
    unread = load_file(folder / UNREAD_FILE) if (folder / UNREAD_FILE).is_file() else {}
    weights = official_weights(tokenizer) | unread
    described = official_config(tokenizer.settings, _imported_config(folder))
    if not _is_same(tokenizer, tokenizer_of(weights, described)):
        raise DPLM2Error(f"{folder}: {UNREAD_FILE} belongs to other weights than model.safetensors; remove it")
    with atomic_path(destination / OFFICIAL_WEIGHTS) as temporary:
        torch.save(weights, temporary)
    write_text(destination / OFFICIAL_CONFIG, yaml.safe_dump(described, sort_keys=False))
    sizes, of_esm_if1 = plain(tokenizer.settings.encoder), plain(EncoderSettings())
    return all(sizes[key] == of_esm_if1[key] for key in ENCODER_SIZES)


def official_weights(tokenizer: StructureTokenizer) -> dict[str, Tensor]:
    """The tensors of a tokenizer that are read, under the authors' names; what is not held is filled without effect."""
    settings = tokenizer.settings
    encoder = official_encoder(tokenizer.encoder.state_dict(), settings.encoder)
    weights = {ENCODER_PREFIX + name: value for name, value in encoder.items()}
    weights |= {f"pre_quant.{name}": value for name, value in tokenizer.pre_quant.state_dict().items()}
    weights |= to_official(tokenizer.decoder.state_dict(), settings.decoder)
    width = settings.decoder.sequence_dim // settings.decoder.post_quant_heads
    frequencies = 1.0 / ROTARY_BASE ** (torch.arange(0, width, 2).float() / width)
    for layer in range(settings.decoder.post_quant_layers):
        weights[f"post_quant.transformer.layers.{layer}.self_attn.rot_emb.inv_freq"] = frequencies.clone()
    return {name: value.detach().cpu().contiguous().clone() for name, value in weights.items()}


def official_config(settings: TokenizerSettings, imported: Mapping[str, Any]) -> dict[str, Any]:
    """The authors' YAML: that of the source of an imported tokenizer, or one with its sizes."""
    if imported:
        return dict(imported)
    encoder, quantizer, decoder = settings.encoder, settings.quantizer, settings.decoder
    described: dict[str, Any] = {
        "codebook_config": {
            "freeze": False,
            "num_codes": 2**quantizer.bits,
            "embed_dim": quantizer.bits,
            "entropy_loss_weight": quantizer.entropy_weight,
            "commitment_loss_weight": quantizer.commitment_weight,
        },
        "encoder_config": {"freeze": encoder.frozen},
        "decoder_config": {
            "input_dim": decoder.sequence_dim,
            "lddt_head_hid_dim": decoder.confidence_hidden,
            "trunk": {
                "num_blocks": decoder.blocks,
                "sequence_state_dim": decoder.sequence_dim,
                "pairwise_state_dim": decoder.pair_dim,
                "sequence_head_width": decoder.sequence_head_width,
                "pairwise_head_width": decoder.pairwise_head_width,
                "max_recycles": 1,
                "structure_module": {
                    "c_s": decoder.sequence_dim,
                    "c_z": decoder.pair_dim,
                    "c_resnet": decoder.sequence_dim,
                    "no_angles": 7,
                    "no_blocks": decoder.structure_blocks,
                    "no_heads_ipa": decoder.ipa_heads,
                },
            },
        },
    }
    sizes = {theirs: getattr(encoder, ours) for theirs, (ours, _) in ESM_IF1_SIZES.items()}
    if sizes != {theirs: value for theirs, (_, value) in ESM_IF1_SIZES.items()}:
        described["if1_args"] = sizes
    return described


def _without_counterpart(settings: TokenizerSettings) -> Iterator[str]:
    for section, values in THEIRS.items():
        for key, value in values.items():
            if getattr(getattr(settings, section), key) != value:
                yield f"{section}.{key}: {json.dumps(getattr(getattr(settings, section), key))}"
    if settings.quantizer.hidden not in (None, settings.quantizer.bits):
        yield f"quantizer.hidden: {settings.quantizer.hidden}"
    for key in ("blocks", "post_quant_layers"):
        if getattr(settings.decoder, key) == 0:
            yield f"decoder.{key}: 0"


def _imported_config(folder: Path) -> Mapping[str, Any]:
    """The YAML that the tokenizer was imported with; nothing for any other tokenizer."""
    record = read_json_object(folder / RUN_FILE) if (folder / RUN_FILE).is_file() else {}
    return record["settings"]["model_config"] if record.get("command") == "import tokenizer" else {}


def _is_same(one: StructureTokenizer, other: StructureTokenizer) -> bool:
    ours, theirs = one.state_dict(), other.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)

"""Export of tokenizers in the authors' layout: weights under their names, and the YAML that their program reads."""

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
ENCODER_SIZES = (
    *("width", "layers", "heads", "feedforward_width", "gvp_layers", "neighbours"),
    *("node_scalars", "node_vectors", "edge_scalars", "edge_vectors"),
)
# The authors' values of settings that their program does not have, except those that only affect training.
AUTHORS_VALUES: Mapping[str, Mapping[str, Any]] = {
    "encoder": {"positions": True, "bridge_gaps": False},
    "quantizer": {"bits_per_value": None},
    "decoder": {"triangle_attention": True, "start": "origin", "post_quant_window": None},
}


def export_tokenizer(folder: str | os.PathLike, destination: str | os.PathLike) -> bool:
    """Write a tokenizer in the layout of the authors' hub repository: ``dplm2_struct_tokenizer.ckpt``, ``config.yaml``.

    The export of an imported tokenizer has all tensors of its source, including unused ones. For other tokenizers the
    authors' language model for sequences (``decoder.esm``) and two unused heads are omitted; their program initializes
    them itself.

    Returns
    -------
    bool
        Whether the encoder has ESM-IF1's sizes, the only ones that their program can build. Other sizes that do not
        follow from the weights are in ``if1_args`` in the YAML, from which this package reads them.

    Raises
    ------
    DPLM2Error
        If their program has no equivalent of the tokenizer's settings; the message names these.
    """
    folder, destination = Path(folder), Path(destination)
    tokenizer = StructureTokenizer.from_pretrained(folder)
    if without := list(_without_counterpart(tokenizer.settings)):
        raise DPLM2Error(f"{folder}: the authors' program has no counterpart of {', '.join(without)}")
    unread = load_file(folder / UNREAD_FILE) if (folder / UNREAD_FILE).is_file() else {}
    weights = official_weights(tokenizer) | unread
    config = official_config(tokenizer.settings, _imported_config(folder))
    if not _is_same(tokenizer, tokenizer_of(weights, config)):
        raise DPLM2Error(f"{folder}: {UNREAD_FILE} belongs to other weights than model.safetensors; remove it")
    with atomic_path(destination / OFFICIAL_WEIGHTS) as temporary:
        torch.save(weights, temporary)
    write_text(destination / OFFICIAL_CONFIG, yaml.safe_dump(config, sort_keys=False))
    sizes, esm_if1_sizes = plain(tokenizer.settings.encoder), plain(EncoderSettings())
    return all(sizes[key] == esm_if1_sizes[key] for key in ENCODER_SIZES)


def official_weights(tokenizer: StructureTokenizer) -> dict[str, Tensor]:
    """A tokenizer's tensors under the authors' names; values that ours lacks are set so that they have no effect."""
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
    """The authors' YAML: that of an imported tokenizer's source, or one with the tokenizer's sizes."""
    if imported:
        return dict(imported)
    encoder, quantizer, decoder = settings.encoder, settings.quantizer, settings.decoder
    config: dict[str, Any] = {
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
        config["if1_args"] = sizes
    return config


def _without_counterpart(settings: TokenizerSettings) -> Iterator[str]:
    for section, values in AUTHORS_VALUES.items():
        for key, value in values.items():
            if getattr(getattr(settings, section), key) != value:
                yield f"{section}.{key}: {json.dumps(getattr(getattr(settings, section), key))}"
    if settings.quantizer.hidden not in (None, settings.quantizer.bits):
        yield f"quantizer.hidden: {settings.quantizer.hidden}"
    for key in ("blocks", "post_quant_layers"):
        if getattr(settings.decoder, key) == 0:
            yield f"decoder.{key}: 0"


def _imported_config(folder: Path) -> Mapping[str, Any]:
    """The YAML that the tokenizer was imported with; empty for other tokenizers."""
    record = read_json_object(folder / RUN_FILE) if (folder / RUN_FILE).is_file() else {}
    return record["settings"]["model_config"] if record.get("command") == "import tokenizer" else {}


def _is_same(one: StructureTokenizer, other: StructureTokenizer) -> bool:
    ours, theirs = one.state_dict(), other.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)

"""Import of checkpoints: the DPLM-2 authors' structure tokenizer, and ESM-IF1's encoder.

Every key of a checkpoint must map to one of our names, or be known as unused by the authors' model; unknown or missing
keys are errors. Unused and partly used tensors are saved with the tokenizer, so that an export restores them.
"""

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dplm2.core.artifacts import RunRecord, sha256_of_file
from dplm2.core.errors import ConfigError, DPLM2Error
from dplm2.core.tensors import save_tensors
from dplm2.core.text import read_text
from dplm2.core.unfilled import unfilled
from dplm2.core.weights import read_weights
from dplm2.settings.loading import parse_value
from dplm2.settings.tokenizer import TokenizerSettings
from dplm2.tokenizer import decoder_names, encoder_names
from dplm2.tokenizer.cards import write_tokenizer_card
from dplm2.tokenizer.decoder_names import from_official
from dplm2.tokenizer.encoder import Encoder
from dplm2.tokenizer.encoder_names import ENCODER_PREFIX, encoder_weights
from dplm2.tokenizer.model import StructureTokenizer

WEIGHTS_SUFFIXES = (".ckpt", ".pt", ".pth", ".bin", ".safetensors")
WRAPPERS = ("model.", "module.", "net.")  # prefixes added by training frameworks
# ESM-IF1's released file has older names, of which fair-esm replaces these parts on loading.
OLD_IF1_NAMES = [
    ("W_v", "embed_graph.embed_node"),
    ("W_e", "embed_graph.embed_edge"),
    ("embed_scores.0", "embed_confidence"),
    ("embed_score.", "embed_graph.embed_confidence."),
    ("embed_ingraham_features", "embed_dihedrals"),
    ("embed_gvp_in_local_frame.0", "embed_gvp_output"),
    ("embed_features_in_local_frame.0", "embed_gvp_input_features"),
]
# Sizes that do not follow from the weights' shapes: fair-esm's names, ours, and ESM-IF1's values.
ESM_IF1_SIZES = {"encoder_attention_heads": ("heads", 8), "gvp_top_k_neighbors": ("neighbours", 30)}
UNREAD_FILE = "unread.safetensors"


def import_tokenizer(
    source: str | os.PathLike,
    destination: str | os.PathLike,
    model_config: str | os.PathLike | None = None,
    **origin: str | None,
) -> StructureTokenizer:
    """Convert a checkpoint of the authors' structure tokenizer to a tokenizer folder.

    Parameters
    ----------
    source
        The checkpoint, or the folder that contains it and its YAML.
    destination
        Folder to write.
    model_config
        The authors' YAML; by default the one beside the checkpoint, if any. It is needed only for sizes that do not
        follow from the weights' shapes (passes of the structure module: 8 unless specified).
    **origin
        ``licence`` and ``origin`` for the model card.

    Returns
    -------
    StructureTokenizer
        The tokenizer, without confidence: the authors' code never trains that head.

    Raises
    ------
    DPLM2Error
        If the checkpoint cannot be read, or a key is unknown or missing.
    """
    weights_file, config_file = find_checkpoint(Path(source))
    config_file = Path(model_config) if model_config is not None else config_file
    config = read_official_config(config_file) if config_file else {}
    weights = read_plain_weights(weights_file)
    record = RunRecord("import tokenizer", {"model_config": config}, {weights_file.name: sha256_of_file(weights_file)})
    tokenizer = tokenizer_of(weights, config)
    record.supersede(destination)
    tokenizer.save_pretrained(destination)
    unread = {name: value.clone() for name, value in weights.items() if not is_fully_used(name)}
    save_tensors(Path(destination) / UNREAD_FILE, unread)
    record.write(destination, fingerprint=tokenizer.fingerprint)
    write_tokenizer_card(destination, tokenizer, **origin)
    return tokenizer


def tokenizer_of(weights: Mapping[str, Tensor], config: Mapping[str, Any]) -> StructureTokenizer:
    """The tokenizer with official weights and their YAML.

    Raises
    ------
    DPLM2Error
        If a key is unknown or missing.
    """
    settings = settings_of(weights, config)
    with unfilled():
        tokenizer = StructureTokenizer(settings).eval()
    parts = {prefix: {} for prefix in (ENCODER_PREFIX, "pre_quant.", "post_quant.", "decoder.")}
    unknown = []
    for name, value in weights.items():
        prefix = next((prefix for prefix in parts if name.startswith(prefix)), None)
        if prefix is None:
            unknown.append(name)
        else:
            parts[prefix][name] = value
    if unknown:
        raise DPLM2Error(f"{len(unknown)} unknown keys in the checkpoint: {', '.join(unknown[:5])}")
    encoder = encoder_weights(without_prefix(parts[ENCODER_PREFIX], ENCODER_PREFIX))
    pre_quant = without_prefix(parts["pre_quant."], "pre_quant.")
    decoder = from_official({**parts["post_quant."], **parts["decoder."]}, tokenizer.settings.decoder)
    for module, part, name in [
        (tokenizer.encoder, encoder, "encoder"),
        (tokenizer.pre_quant, pre_quant, "pre_quant"),
        (tokenizer.decoder, decoder, "decoder"),
    ]:
        load_exactly(module, part, name)
    return tokenizer


def is_fully_used(name: str) -> bool:
    """Whether an official tensor is used completely, so that an export can restore it from our weights."""
    if name.startswith(ENCODER_PREFIX):
        return not encoder_names.is_partly_used(name.removeprefix(ENCODER_PREFIX))
    return not (decoder_names.is_unused(name) or name in decoder_names.PARTLY_USED)


def without_prefix(weights: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors under names without a common prefix."""
    return {name.removeprefix(prefix): value for name, value in weights.items()}


def load_exactly(module: torch.nn.Module, weights: Mapping[str, Tensor], name: str) -> None:
    """Load weights, which must be exactly those of the module.

    Raises
    ------
    DPLM2Error
        If weights are missing, unknown or of wrong shape; the message names them.
    """
    empty = any(parameter.is_meta for parameter in module.parameters())
    try:
        module.load_state_dict({name: value.to(torch.float32) for name, value in weights.items()}, assign=empty)
    except RuntimeError as error:
        raise DPLM2Error(f"the weights of the {name} do not match: {' '.join(str(error).split())[:500]}") from error


def load_encoder_weights(encoder: Encoder, path: str | os.PathLike) -> None:
    """Load ESM-IF1 (``esm_if1_gvp4_t16_142M_UR50``, fair-esm's names) into an encoder of the same sizes.

    The decoder of ESM-IF1, which generates sequences, is ignored.

    Raises
    ------
    DPLM2Error
        If the file has other keys or sizes.
    """
    renamed = {
        modern_name(name): value for name, value in read_plain_weights(Path(path)).items() if "version" not in name
    }
    others = [name for name in renamed if not name.startswith(("encoder.", "decoder."))]
    if others:
        raise DPLM2Error(f"{path}: not ESM-IF1, it contains {', '.join(others[:5])}")
    part = {name: value for name, value in renamed.items() if name.startswith("encoder.")}
    load_exactly(encoder, encoder_weights(without_prefix(part, "encoder.")), "encoder")


def modern_name(name: str) -> str:
    """The name under which fair-esm loads a key of ESM-IF1's released file."""
    for old, new in OLD_IF1_NAMES:
        name = name.replace(old, new)
    return name


def find_checkpoint(source: Path) -> tuple[Path, Path | None]:
    """The weights file of a folder, and the YAML beside it (or in ``.hydra``), if any.

    Raises
    ------
    DPLM2Error
        If there is no weights file, or more than one.
    """
    if source.is_dir():
        found = sorted(path for path in source.rglob("*") if path.suffix in WEIGHTS_SUFFIXES)
        if len(found) != 1:
            names = ", ".join(str(path.relative_to(source)) for path in found) or "none"
            raise DPLM2Error(f"{source}: must contain one checkpoint ({', '.join(WEIGHTS_SUFFIXES)}); found: {names}")
        weights, folder = found[0], source
    elif source.exists():
        weights, folder = source, source.parent
    else:
        raise DPLM2Error(f"{source}: no such file or folder")
    for candidate in (folder / "config.yaml", folder / ".hydra" / "config.yaml", weights.with_name("config.yaml")):
        if candidate.exists():
            return weights, candidate
    return weights, None


def read_plain_weights(path: Path) -> dict[str, Tensor]:
    """Tensors of a checkpoint by name, without the prefixes of training frameworks; see `read_weights`."""
    tensors = read_weights(path)
    for wrapper in WRAPPERS:
        if all(name.startswith(wrapper) for name in tensors):
            tensors = {name.removeprefix(wrapper): value for name, value in tensors.items()}
    return tensors


def read_official_config(path: Path) -> dict[str, Any]:
    """The part of an official YAML that describes the tokenizer (the mapping with the key ``codebook_config``).

    Raises
    ------
    DPLM2Error
        If there is none.
    """
    try:
        content = parse_value(read_text(path), str(path))
    except ConfigError as error:
        raise DPLM2Error(str(error)) from error
    for mapping in _mappings(content):
        if "codebook_config" in mapping:
            return mapping
    raise DPLM2Error(f"{path}: does not describe a structure tokenizer (no `codebook_config`)")


def _mappings(value: Any) -> Iterator[dict]:
    if isinstance(value, dict):
        yield value
        for item in value.values():
            yield from _mappings(item)


def settings_of(weights: Mapping[str, Tensor], config: Mapping[str, Any]) -> TokenizerSettings:
    """Sizes from the weights' shapes, and those that do not follow from these from the YAML.

    ``config`` may contain ``if1_args`` (fair-esm's names) for encoders of other sizes than ESM-IF1's.
    """
    try:
        settings = TokenizerSettings.make(
            encoder=_encoder_sizes(weights, config.get("if1_args") or {}),
            quantizer={"bits": len(weights["pre_quant.3.bias"])},
            decoder=_decoder_sizes(weights, (config.get("decoder_config") or {}).get("trunk") or {}),
        )
    except (KeyError, IndexError) as error:
        raise DPLM2Error(f"not a structure tokenizer of the DPLM-2 authors: the checkpoint has no {error}") from error
    codes = (config.get("codebook_config") or {}).get("num_codes", 2**settings.quantizer.bits)
    if codes != 2**settings.quantizer.bits:
        raise DPLM2Error(f"the YAML says {codes} codes, the weights {settings.quantizer.bits} bits per token")
    return settings


def _count(weights: Mapping[str, Tensor], pattern: str) -> int:
    found = [int(match.group(1)) for match in (re.match(pattern, name) for name in weights) if match]
    return max(found) + 1 if found else 0


def _encoder_sizes(weights: Mapping[str, Tensor], config: Mapping[str, Any]) -> dict[str, Any]:
    prefix = ENCODER_PREFIX
    graph = f"{prefix}gvp_encoder.embed_graph."
    return {
        "frozen": True,
        "width": weights[f"{prefix}layer_norm.weight"].shape[0],
        "layers": _count(weights, r"encoder\.encoder\.layers\.(\d+)\."),
        "feedforward_width": weights[f"{prefix}layers.0.fc1.weight"].shape[0],
        "gvp_layers": _count(weights, r"encoder\.encoder\.gvp_encoder\.encoder_layers\.(\d+)\."),
        "node_scalars": weights[f"{graph}embed_node.0.ws.weight"].shape[0],
        "node_vectors": weights[f"{graph}embed_node.0.wv.weight"].shape[0],
        "edge_scalars": weights[f"{graph}embed_edge.0.ws.weight"].shape[0],
        "edge_vectors": weights[f"{graph}embed_edge.0.wv.weight"].shape[0],
        **{ours: config.get(theirs, value) for theirs, (ours, value) in ESM_IF1_SIZES.items()},
    }


def _decoder_sizes(weights: Mapping[str, Tensor], config: Mapping[str, Any]) -> dict[str, Any]:
    if config.get("max_recycles", 1) != 1:
        raise DPLM2Error(f"the YAML says {config['max_recycles']} recycles of the folding trunk; only 1 is supported")
    pair_dim, sequence_dim = (
        weights["decoder.trunk.trunk2sm_z.weight"].shape[1],
        weights["decoder.lm_head.weight"].shape[1],
    )
    block = "decoder.trunk.blocks.0."
    head_width = 2 * len(weights["post_quant.transformer.layers.0.self_attn.rot_emb.inv_freq"])
    structure = config.get("structure_module") or {}
    sizes = {
        "sequence_dim": sequence_dim,
        "pair_dim": pair_dim,
        "blocks": _count(weights, r"decoder\.trunk\.blocks\.(\d+)\."),
        "sequence_head_width": sequence_dim // weights[f"{block}pair_to_sequence.linear.weight"].shape[0],
        "pairwise_head_width": pair_dim // weights[f"{block}tri_att_start.linear.weight"].shape[0],
        "ipa_heads": len(weights["decoder.trunk.structure_module.ipa.head_weights"]),
        "post_quant_layers": _count(weights, r"post_quant\.transformer\.layers\.(\d+)\."),
        "post_quant_heads": sequence_dim // head_width,
        "confidence_hidden": len(weights["decoder.lddt_head.1.bias"]),
        "distogram_bins": len(weights["decoder.distogram_head.bias"]),
    }
    if "no_blocks" in structure:
        sizes["structure_blocks"] = structure["no_blocks"]
    return sizes

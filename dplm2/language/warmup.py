"""Initialization of a multimodal model: structure tokens are added to a sequence model. Paper section 3.1."""

import math
import os
import re
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn

from dplm2.core.errors import ConfigError, DPLM2Error
from dplm2.core.hub import is_hub_id
from dplm2.core.weights import read_pickled
from dplm2.language import heads
from dplm2.language.esm import Esm2, Esm2Config
from dplm2.language.model_folder import load_masked_lm, model_folder, read_config
from dplm2.language.network import MultimodalEsm
from dplm2.language.vocabulary import SEQUENCE_IDS, Vocabulary
from dplm2.settings.model import NetworkSettings

_FAIR_ESM = re.compile(r"esm2_t\d+_\w+")
_FAIR_ESM_URL = "https://dl.fbaipublicfiles.com/fair-esm/models/{}.pt"
_FAIR_ESM_PARTS = {
    "embed_tokens.": "esm.embeddings.word_embeddings.",
    "emb_layer_norm_after.": "esm.encoder.emb_layer_norm_after.",
    "contact_head.": "esm.contact_head.",
}
_FAIR_ESM_LAYER_PARTS = {
    "self_attn.q_proj.": "attention.self.query.",
    "self_attn.k_proj.": "attention.self.key.",
    "self_attn.v_proj.": "attention.self.value.",
    "self_attn.out_proj.": "attention.output.dense.",
    "self_attn_layer_norm.": "attention.LayerNorm.",
    "fc1.": "intermediate.dense.",
    "fc2.": "output.dense.",
    "final_layer_norm.": "LayerNorm.",
}
# ESM-2's scaling of unmasked input: 1 - 0.15 * 0.8.
_SCALE_WITHOUT_MASKS = 0.88
# Initial offsets of local attention, assigned to the heads of all layers in turn, and the logit's margin there.
_OFFSETS = (0, -1, 1, -2, 2, -4, 4, -3, 3)
_LOGIT_MARGIN = 8.0
_MIN_FREQUENCY = 0.125  # radians per residue; slower rotary channels hardly differ between neighbours


def random_model(settings: NetworkSettings, seed: int) -> Esm2:
    """A sequence model with random weights."""
    config = Esm2Config(SEQUENCE_IDS, settings.hidden_size, settings.layers, settings.heads, settings.intermediate_size)
    # Xavier initialization of square matrices; ESM-2's 0.02 suits widths of a thousand and more.
    config.initializer_range = settings.hidden_size**-0.5
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Esm2(config)
    if settings.attention == "near":
        _initialize_local_attention(model)
    return model


@torch.no_grad()
def _initialize_local_attention(model: Esm2) -> None:
    """Initialize every head to attend to one nearby offset, in both tracks; all weights remain trainable.

    Rotary positions rotate channel pair j of a query and a key by ``f_j`` per residue. With a bias of norm b on some
    pairs of both, that of the query rotated by ``offset * f_j``, the logit at distance d gains
    ``b^2 / sqrt(width) * sum_j cos((d - offset) f_j)``, which is highest at the offset.
    """
    width, heads = model.config.hidden_size // model.config.num_attention_heads, model.config.num_attention_heads
    frequencies = 10000.0 ** (-torch.arange(0, width, 2) / width)
    frequencies = frequencies[frequencies >= _MIN_FREQUENCY]
    norm = math.sqrt(_LOGIT_MARGIN * math.sqrt(width) / len(frequencies))
    first = torch.arange(len(frequencies))
    for number, layer in enumerate(model.esm.encoder.layer):
        query, key = (part.bias.view(heads, width) for part in (layer.attention.self.query, layer.attention.self.key))
        for head in range(heads):
            angles = frequencies * _OFFSETS[(number * heads + head) % len(_OFFSETS)]
            key[head, first] = norm
            query[head, first], query[head, first + width // 2] = norm * angles.cos(), norm * angles.sin()


def open_source(source: str) -> Esm2 | MultimodalEsm:
    """Open the model that ``warmup.source`` names (other than ``scratch``).

    Parameters
    ----------
    source
        A folder or hub id of an ESM-2 or DPLM model or of a model of this package; a fair-esm name or ``.pt`` file.

    Returns
    -------
    Esm2 or MultimodalEsm
        The latter for a multimodal model of this package.

    Raises
    ------
    DPLM2Error
        If the source is none of these.
    """
    if source.endswith(".pt"):
        return _from_fair_esm(read_pickled(source), source)
    if _FAIR_ESM.fullmatch(source) and not Path(source).is_dir():
        return _from_fair_esm(_download(source), source)
    folder = model_folder(source)
    config = read_config(folder)
    description = config.get("dplm2")
    if description and description["codebook_size"]:
        return MultimodalEsm.from_pretrained(folder)
    if config.get("dplm_type") in {kind.official.kind for kind in heads.HEADS.values() if kind.official}:
        raise DPLM2Error(
            f"{source}: an official multimodal model ({config['dplm_type']}); convert it with `dplm2 import model`"
        )
    found = config.get("vocab_size"), config.get("position_embedding_type", "absolute")
    if found != (SEQUENCE_IDS, "rotary"):
        raise DPLM2Error(
            f"{source}: {found[0]} ids, {found[1]} positions; an ESM-2 or DPLM model has {SEQUENCE_IDS} ids and rotary "
            "positions (convert an official DPLM-2 model with `dplm2 import model`)"
        )
    model = load_masked_lm(folder)
    if description:
        model.config.token_dropout = description["embedding_scaling"] != "none"
    return model


def _download(name: str) -> dict:
    url = _FAIR_ESM_URL.format(name)
    path = Path(torch.hub.get_dir()) / "checkpoints" / f"{name}.pt"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(url, str(path), progress=False)
        except OSError as error:
            raise DPLM2Error(f"{name}: cannot be downloaded from {url} ({error})") from error
    return read_pickled(path)


def _from_fair_esm(content: dict, source: str) -> Esm2:
    """The network of a fair-esm ESM-2 checkpoint."""
    try:
        described, weights = content["cfg"]["model"], content["model"]
        sizes = described.encoder_embed_dim, described.encoder_layers, described.encoder_attention_heads
        token_dropout = bool(described.token_dropout)
        renamed = {new: value for name, value in weights.items() if (new := _fair_esm_name(name)) is not None}
        renamed.setdefault("lm_head.decoder.weight", renamed["esm.embeddings.word_embeddings.weight"].clone())
    except (KeyError, TypeError, AttributeError) as error:
        raise DPLM2Error(f"{source}: not an ESM-2 checkpoint of fair-esm (no {error})") from error
    if _fair_esm_tokens()[4:-1] != Vocabulary().tokens[4 : SEQUENCE_IDS - 1]:
        raise DPLM2Error("the alphabet of the installed fair-esm is not ESM-2's with 33 ids")
    model = Esm2(Esm2Config(SEQUENCE_IDS, *sizes, 4 * sizes[0], token_dropout=token_dropout))
    mismatched = model.load_state_dict({name: value.float() for name, value in renamed.items()}, strict=False)
    missing = [name for name in mismatched.missing_keys if "contact_head" not in name and "inv_freq" not in name]
    if missing or mismatched.unexpected_keys:
        raise DPLM2Error(
            f"{source}: weights do not fit ESM-2 (missing {missing[:5]}, unknown {mismatched.unexpected_keys[:5]})"
        )
    return model


def _fair_esm_tokens() -> tuple[str, ...]:
    """ESM-2's tokens in the order of their ids, from fair-esm."""
    try:
        from esm.data import Alphabet
    except ImportError as error:
        found = "is EvolutionaryScale's; uninstall it (pip uninstall esm) and" if find_spec("esm") else "is missing;"
        raise DPLM2Error(
            f"fair-esm checkpoints need fair-esm, but the package 'esm' {found} pip install fair-esm"
        ) from error
    return tuple(Alphabet.from_architecture("ESM-1b").all_toks)


def _fair_esm_name(name: str) -> str | None:
    """Our name of a weight; None for rotary frequencies, which are computed."""
    name = re.sub(r"^encoder\.(sentence_encoder\.)?", "", name)
    if name.endswith("rot_emb.inv_freq"):
        return None
    if name == "lm_head.weight":
        return "lm_head.decoder.weight"
    if match := re.match(r"layers\.(\d+)\.(.*)", name):
        for old, new in _FAIR_ESM_LAYER_PARTS.items():
            if match[2].startswith(old):
                return f"esm.encoder.layer.{match[1]}.{new}{match[2].removeprefix(old)}"
    for old, new in _FAIR_ESM_PARTS.items():
        if name.startswith(old):
            return new + name.removeprefix(old)
    return name


def resolve_scaling(model: Esm2, scaling: str) -> str:
    """Resolve ``embedding_scaling: auto``: ESM-2's scaling if the source has it, otherwise none."""
    if scaling != "auto":
        return scaling
    return "once" if model.config.token_dropout else "none"


@torch.no_grad()
def prepare(model: Esm2, scaling: str, dropout: float) -> None:
    """Prepare a sequence model for `MultimodalEsm` in place: set scaling and dropout.

    Without scaling (``none``), a source's scale of unmasked input (0.88) is folded into its embeddings, and that of
    the mask, which it zeroes, is set to 0: unmasked sequences have the source's logits.
    """
    config, table = model.config, model.esm.embeddings.word_embeddings
    if scaling == "none" and config.token_dropout:
        table.weight.mul_(_SCALE_WITHOUT_MASKS)
        table.weight[Vocabulary.mask_sequence] = 0.0
    config.token_dropout = False
    set_dropout(model, dropout)


def set_dropout(model: Esm2, dropout: float) -> None:
    """Set the dropout on the outputs of attention and feed-forward layers."""
    model.config.hidden_dropout_prob = dropout
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = dropout


def add_structure_tokens(
    model: Esm2,
    vocabulary: Vocabulary,
    seed: int,
    code_values_CV: Tensor | None = None,
    head: str = heads.DEFAULT,
    layout: Sequence[int] = (),
) -> heads.StructureHead:
    """Add the structure track to a sequence model; the tables of the model are extended in place if the head needs it.

    Parameters
    ----------
    model
        A network with 33 ids.
    vocabulary
        Vocabulary with structure tokens.
    seed
        Seed of the new weights.
    code_values_CV
        Quantized values of each code. If given, codes with similar values have similar initial weights, so that
        training on a code also improves its neighbours from the first step.
    head
        Name of the structure head.
    layout
        Bits of each of the tokenizer's values.

    Returns
    -------
    StructureHead
        The head, initialized by `StructureHead.start`.
    """
    structure_head = heads.make(head, vocabulary, model.config.hidden_size, layout)
    structure_head.start(model, seed, code_values_CV)
    return structure_head


def relative_to(folder: str | os.PathLike, target: str | os.PathLike) -> str:
    """Path of ``target`` relative to ``folder``, so that a results folder can be moved; hub ids are unchanged."""
    return str(target) if is_hub_id(target) else os.path.relpath(Path(target).resolve(), Path(folder).resolve())


def check_network(source: str, network: NetworkSettings | None) -> None:
    """Check that a network size is given if, and only if, the source is ``scratch``.

    Raises
    ------
    ConfigError
        If it has no effect, or is missing.
    """
    if (source == "scratch") != (network is not None):
        rule = "requires" if source == "scratch" else "determines the network and takes no"
        raise ConfigError(f"network: warmup.source {source} {rule} `network`")

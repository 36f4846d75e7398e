"""The start of a multimodal model: a sequence model's network with the structure tokens added. Paper section 3.1."""

import math
import os
import re
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import EsmForMaskedLM

from dplm2.core.errors import ConfigError, DPLM2Error
from dplm2.core.hub import is_hub_id
from dplm2.core.weights import read_pickled
from dplm2.language import heads
from dplm2.language.model_folder import esm_config, load_masked_lm, model_folder, read_config
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
# Where heads look that start near, one after the other through all layers, and how far above distant residues.
_OFFSETS = (0, -1, 1, -2, 2, -4, 4, -3, 3)
_ADVANTAGE = 8.0
_SLOWEST_TURN = 0.125  # radians per residue; slower rotary channels do not tell neighbours apart


def random_model(settings: NetworkSettings, seed: int) -> EsmForMaskedLM:
    """A sequence model with random weights."""
    config = esm_config(SEQUENCE_IDS, settings.hidden_size, settings.layers, settings.heads, settings.intermediate_size)
    # Xavier's spread for square matrices; the library's 0.02 suits widths of a thousand and more.
    config.initializer_range = settings.hidden_size**-0.5
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = EsmForMaskedLM(config)
    if settings.attention == "near":
        _start_near(model)
    return model


@torch.no_grad()
def _start_near(model: EsmForMaskedLM) -> None:
    """Let every head begin by looking at one place nearby, in both tracks alike; weights learn freely from there.

    Rotary positions turn the channels j of a query and a key by ``t_j`` per residue. With a bias of length b on some
    channels of both, that of the query turned by ``offset * t_j``, the logit at distance d gets
    ``b^2 / sqrt(width) * sum_j cos((d - offset) t_j)``: highest at the offset.
    """
    width, heads = model.config.hidden_size // model.config.num_attention_heads, model.config.num_attention_heads
    turns = 10000.0 ** (-torch.arange(0, width, 2) / width)
    turns = turns[turns >= _SLOWEST_TURN]
    length = math.sqrt(_ADVANTAGE * math.sqrt(width) / len(turns))
    first = torch.arange(len(turns))
    for number, layer in enumerate(model.esm.encoder.layer):
        query, key = (part.bias.view(heads, width) for part in (layer.attention.self.query, layer.attention.self.key))
        for head in range(heads):
            angles = turns * _OFFSETS[(number * heads + head) % len(_OFFSETS)]
            key[head, first] = length
            query[head, first], query[head, first + width // 2] = length * angles.cos(), length * angles.sin()


def open_source(source: str) -> EsmForMaskedLM | MultimodalEsm:
    """Open what ``warmup.source`` names, other than scratch.

    Parameters
    ----------
    source
        A folder or hub id of an ESM-2 or DPLM model or of a model of this package; a fair-esm name or ``.pt`` file.

    Returns
    -------
    EsmForMaskedLM or MultimodalEsm
        The latter if it is a multimodal model of this package.

    Raises
    ------
    DPLM2Error
        If it is none of these.
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
    model = load_masked_lm(folder)
    if model.config.vocab_size != SEQUENCE_IDS or model.config.position_embedding_type != "rotary":
        raise DPLM2Error(
            f"{source}: {model.config.vocab_size} ids, {model.config.position_embedding_type} positions; "
            f"an ESM-2 or DPLM model has {SEQUENCE_IDS} ids and rotary positions "
            "(convert an official DPLM-2 model with `dplm2 import model`)"
        )
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


def _from_fair_esm(content: dict, source: str) -> EsmForMaskedLM:
    """The network of a fair-esm ESM-2 checkpoint under transformers' names."""
    try:
        described, weights = content["cfg"]["model"], content["model"]
        sizes = described.encoder_embed_dim, described.encoder_layers, described.encoder_attention_heads
    except (KeyError, TypeError, AttributeError) as error:
        raise DPLM2Error(f"{source}: not an ESM-2 checkpoint of fair-esm (no {error})") from error
    if _fair_esm_tokens()[4:-1] != Vocabulary().tokens[4 : SEQUENCE_IDS - 1]:
        raise DPLM2Error("the installed fair-esm has another alphabet than ESM-2's 33 ids")
    config = esm_config(SEQUENCE_IDS, *sizes, 4 * sizes[0])
    config.token_dropout = bool(described.token_dropout)
    model = EsmForMaskedLM(config)
    renamed = {new: value for name, value in weights.items() if (new := _fair_esm_name(name)) is not None}
    renamed.setdefault("lm_head.decoder.weight", renamed["esm.embeddings.word_embeddings.weight"].clone())
    left_over = model.load_state_dict({name: value.float() for name, value in renamed.items()}, strict=False)
    missing = [name for name in left_over.missing_keys if "contact_head" not in name and "inv_freq" not in name]
    if missing or left_over.unexpected_keys:
        raise DPLM2Error(
            f"{source}: weights do not fit ESM-2 (missing {missing[:5]}, unknown {left_over.unexpected_keys[:5]})"
        )
    return model


def _fair_esm_tokens() -> tuple[str, ...]:
    """ESM-2's tokens in the order of their ids, as fair-esm has them."""
    try:
        from esm.data import Alphabet
    except ImportError as error:
        found = "is EvolutionaryScale's; uninstall it (pip uninstall esm) and" if find_spec("esm") else "is missing;"
        raise DPLM2Error(
            f"fair-esm checkpoints need fair-esm, but the package 'esm' {found} pip install fair-esm"
        ) from error
    return tuple(Alphabet.from_architecture("ESM-1b").all_toks)


def _fair_esm_name(name: str) -> str | None:
    """transformers' name of a weight; None for what is computed there (rotary frequencies)."""
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


def resolve_scaling(model: EsmForMaskedLM, scaling: str) -> str:
    """What ``embedding_scaling: auto`` means for a source: ESM-2's own scaling where the source has it."""
    if scaling != "auto":
        return scaling
    return "once" if model.config.token_dropout else "none"


@torch.no_grad()
def prepare(model: EsmForMaskedLM, scaling: str, dropout: float) -> None:
    """Make a sequence model ready to be wrapped, in place: head untied, scaling and dropout as configured.

    Without scaling (``none``), the 0.88 with which a source with scaling multiplies unmasked input goes into the
    embeddings, and masks begin as the zeros that they are there: unmasked sequences give the source's logits.
    """
    config, table = model.config, model.esm.embeddings.word_embeddings
    head = model.lm_head.decoder
    if head.weight is table.weight:
        head.weight = nn.Parameter(head.weight.detach().clone())
    if scaling == "none" and config.token_dropout:
        table.weight.mul_(_SCALE_WITHOUT_MASKS)
        table.weight[Vocabulary.mask_sequence] = 0.0
    config.tie_word_embeddings = False
    # transformers' own scaling knows nothing of two tracks; the wrapper does it.
    config.token_dropout = model.esm.embeddings.token_dropout = False
    set_dropout(model, dropout)


def set_dropout(model: EsmForMaskedLM, dropout: float) -> None:
    """Set the dropout on the outputs of attention and feed-forward layers."""
    model.config.hidden_dropout_prob = dropout
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = dropout


def add_structure_tokens(
    model: EsmForMaskedLM,
    vocabulary: Vocabulary,
    seed: int,
    code_values_CV: Tensor | None = None,
    head: str = heads.DEFAULT,
    layout: Sequence[int] = (),
) -> heads.StructureHead:
    """Give a sequence model the structure track; the model changes in place where the head lives in its tables.

    Parameters
    ----------
    model
        A network of 33 ids.
    vocabulary
        The ids that it is to have.
    seed
        Of what is drawn.
    code_values_CV
        The values that each code stands for. If given, what belongs to near codes begins alike, so that what is learnt
        of a code holds for its neighbours from the first step.
    head
        Name of the structure head.
    layout
        Bits of each of the tokenizer's values.

    Returns
    -------
    StructureHead
        The head, its weights drawn as `StructureHead.start` says.
    """
    made = heads.make(head, vocabulary, model.config.hidden_size, layout)
    made.start(model, seed, code_values_CV)
    return made


def relative_to(folder: str | os.PathLike, target: str | os.PathLike) -> str:
    """Path of ``target`` as seen from ``folder``: so a results folder can be moved as a whole; a hub id as it is."""
    return str(target) if is_hub_id(target) else os.path.relpath(Path(target).resolve(), Path(folder).resolve())


def check_network(source: str, network: NetworkSettings | None) -> None:
    """Refuse a size where it has no effect, and its absence where it is needed.

    Raises
    ------
    ConfigError
        Says which.
    """
    if (source == "scratch") != (network is not None):
        need = "needs" if source == "scratch" else "brings its own network and takes no"
        raise ConfigError(f"network: warmup.source {source} {need} `network`")

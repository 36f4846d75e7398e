"""Import and export of the authors' DPLM-2, DPLM-2 Bit and DPLM models; fails unless every weight is mapped.

Their network has ESM-2's weight names, as ours. Differences: prefixes of their training program, the structure
tokenizer contained in some checkpoints, unmerged LoRA weights, copies of layers made by peft, one table of rotary
frequencies per layer instead of one in total, and an unused table of absolute positions (stored with the model, so that
an export restores it). DPLM-2 and DPLM-2 Bit are distinguished by the weights of their structure heads, which must
agree with the source's ``config.json``.
"""

import re
from collections.abc import Mapping
from itertools import chain
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from dplm2.core import artifacts
from dplm2.core.artifacts import RunRecord, sha256_of_file
from dplm2.core.errors import DPLM2Error
from dplm2.core.tensors import save_tensors
from dplm2.core.unfilled import unfilled
from dplm2.core.weights import read_weights, weight_files
from dplm2.language import heads
from dplm2.language.cards import write_model_card
from dplm2.language.esm import FREQUENCIES, MISFITS, Esm2, Esm2Config, misfitting, rotary_frequencies, with_unread
from dplm2.language.model_folder import CONFIG_FILE, WEIGHTS_FILE
from dplm2.language.network import EmbeddingScaling, MultimodalEsm
from dplm2.language.vocabulary import SEQUENCE_IDS, Vocabulary

_LORA_ALPHA = 32  # hard-coded by the authors; the rank follows from the shapes
_HEAD_NAMES = [theirs for kind in heads.HEADS.values() if kind.official for theirs in kind.official.names.values()]
_PREFIX = re.compile(
    r"^(?:(?:module|model|net|base_model)\.)*(?=esm\.|lm_head\.|" + "|".join(map(re.escape, _HEAD_NAMES)) + ")"
)
_TOKENIZER = re.compile(r"(?:^|\.)_struct_tokenizer\.")  # contained in Lightning checkpoints
_LORA = re.compile(r"(.*)\.lora_([AB])\.(?:\w+\.)?weight")
_POSITIONS = "esm.embeddings.position_embeddings.weight"
# transformers 5 writes the layers' common table with a star, and normalisations under their former names.
_FREQUENCIES = re.compile(r"esm\.encoder\.layer\.(\d+|\*)\.attention\.self\.rotary_embeddings\.inv_freq")
_FORMER_NAMES = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}
_UNREAD_FILE = "unread.safetensors"
_FREQUENCY_TOLERANCE = 1e-3  # relative; they may have been saved in half precision


def import_model(
    source: Path,
    destination: Path,
    *,
    tokenizer: str | None = None,
    tokenizer_fingerprint: str | None = None,
    embedding_scaling: EmbeddingScaling | None = None,
    structure_head: str | None = None,
    **origin: str | None,
) -> MultimodalEsm:
    """Convert an official DPLM-2, DPLM-2 Bit or DPLM model to a folder in this package's format.

    Parameters
    ----------
    source
        Hugging Face folder, or Lightning checkpoint; LoRA merged or not.
    destination
        Folder to write.
    tokenizer, tokenizer_fingerprint
        Path of its structure tokenizer relative to ``destination`` (or a hub id), and the tokenizer's fingerprint. A
        DPLM model has none.
    embedding_scaling
        By default according to ``token_dropout`` in the source's ``config.json`` (true if absent, as in the released
        models): ``released`` for DPLM-2, ``released_bit`` for DPLM-2 Bit, ``once`` for DPLM; ``none`` if false.
    structure_head
        The head that the source must have: ``codes`` (DPLM-2) or ``bits`` (DPLM-2 Bit); either by default.
    **origin
        ``licence`` and ``origin`` for the model card.

    Raises
    ------
    DPLM2Error
        If weights are unknown, missing or of wrong shape, or the model has a different head; the message names them.
    """
    files = weight_files(source) if source.is_dir() else [source]
    record = RunRecord(
        "import model",
        {"embedding_scaling": embedding_scaling, "structure_head": structure_head},
        {file.name: sha256_of_file(file) for file in files},
    )
    weights = plain_weights(read_weights(source))
    config = artifacts.read_json_object(source / CONFIG_FILE) if (source / CONFIG_FILE).is_file() else {}
    unread = {name: weights.pop(name) for name in (_POSITIONS,) if name in weights}
    kind = _head_kind(weights, config, structure_head, str(source))
    model = _model_without_storage(weights, config, str(source))
    head_weights = _pop_head(weights, kind)
    _load_network(model, weights, str(source))
    head = _load_head(kind, head_weights, model, str(source))
    if embedding_scaling is None:
        scaling = kind.official.scaling if model.config.vocab_size == head.table_rows else "once"
        embedding_scaling = scaling if config.get("token_dropout", True) else "none"
    network = MultimodalEsm(model, head.vocabulary, embedding_scaling, tokenizer, tokenizer_fingerprint, head)
    if network.is_sequence_model:
        network.tokenizer = network.tokenizer_fingerprint = None
    record.supersede(destination)
    network.save_pretrained(destination)
    if unread:
        save_tensors(destination / _UNREAD_FILE, unread)
    record.write(destination)
    write_model_card(destination, network, **origin)
    return network


def plain_weights(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights under the plain network's names: prefixes removed, LoRA merged, peft's copies resolved.

    Raises
    ------
    DPLM2Error
        If a low-rank update is incomplete.
    """
    plain: dict[str, Tensor] = {}
    updates: dict[str, dict[str, Tensor]] = {}
    for name, value in weights.items():
        if _TOKENIZER.search(name):
            continue
        short = _PREFIX.sub("", name)
        if match := _LORA.fullmatch(short):
            updates.setdefault(f"{match[1]}.weight", {})[match[2]] = value
        elif ".original_module." not in short:  # peft's copy from before training
            short = short.replace(".base_layer.", ".").replace(".modules_to_save.default.", ".")
            for old, new in _FORMER_NAMES.items():
                short = short.replace(old, new)
            plain[short] = value
    for name, parts in updates.items():
        if set(parts) != {"A", "B"} or name not in plain:
            raise DPLM2Error(f"{name}: its low-rank update is incomplete")
        rank = len(parts["A"])
        update = parts["B"].double() @ parts["A"].double() * (_LORA_ALPHA / rank)
        plain[name] = (plain[name].double() + update).to(plain[name].dtype)
    return plain


def _head_kind(
    weights: Mapping[str, Tensor], config: Mapping, required: str | None, source: str
) -> type[heads.StructureHead]:
    """The head to which the weights belong; must agree with ``config.json`` and with ``required``, if given."""
    official = [kind for kind in heads.HEADS.values() if kind.official is not None]
    own = [kind for kind in official if any(name.startswith(tuple(kind.official.names.values())) for name in weights)]
    found = own[0] if own else heads.HEADS[heads.DEFAULT]
    declared = next((kind for kind in official if kind.official.kind == config.get("dplm_type")), None)
    if declared not in (None, found):
        raise DPLM2Error(
            f"{source}: not imported, {CONFIG_FILE} says {declared.official.architecture} "
            f"(structure_head {declared.name}), "
            f"but the weights are those of {found.official.architecture} (structure_head {found.name})"
        )
    if required not in (None, found.name):
        raise DPLM2Error(
            f"{source}: not imported, a model of structure_head {required} is required, "
            f"but this is {found.official.architecture} (structure_head {found.name})"
        )
    return found


def _pop_head(weights: dict[str, Tensor], kind: type[heads.StructureHead]) -> dict[str, Tensor]:
    """Remove the head's own weights from ``weights``; returns them under our names."""
    own = {}
    for ours, theirs in kind.official.names.items():
        for name in [name for name in weights if name.startswith(theirs)]:
            own[ours + name.removeprefix(theirs)] = weights.pop(name).float().contiguous()
    return own


def _load_head(
    kind: type[heads.StructureHead], own: Mapping[str, Tensor], model: Esm2, source: str
) -> heads.StructureHead:
    """A head with its own weights, whose shapes determine the codebook size."""
    rows = model.config.vocab_size
    if own:
        vocabulary = Vocabulary(kind.official.codes_of(own))
        if rows != SEQUENCE_IDS:
            raise DPLM2Error(
                f"{source}: {rows} ids in its embeddings, but structure_head {kind.name} requires {SEQUENCE_IDS}"
            )
    else:
        vocabulary = Vocabulary() if rows == SEQUENCE_IDS else _vocabulary_of(rows, source)
    head = heads.make(kind.name, vocabulary, model.config.hidden_size)
    if misfits := sorted(chain.from_iterable(misfitting(head, own).values())):
        raise DPLM2Error(
            f"{source}: not imported, since weights of the structure head {kind.name} are missing, "
            f"unknown or of wrong shape: {misfits[:5]}"
        )
    head.load_state_dict(own)
    return head


def _vocabulary_of(size: int, source: str) -> Vocabulary:
    try:
        return Vocabulary.of_size(size)
    except DPLM2Error as error:
        raise DPLM2Error(f"{source}: {size} ids are neither DPLM's {SEQUENCE_IDS} nor DPLM-2's 8229") from error


def _model_without_storage(weights: Mapping[str, Tensor], config: Mapping, source: str) -> Esm2:
    """A network of the weights' size; the number of attention heads is from the rotary frequencies or the config."""
    try:
        vocabulary_size, width = weights["esm.embeddings.word_embeddings.weight"].shape
        intermediate = len(weights["esm.encoder.layer.0.intermediate.dense.bias"])
    except KeyError as error:
        raise DPLM2Error(f"{source}: no weight {error}: not a DPLM or DPLM-2 model") from error
    numbers = [int(match[1]) for name in weights if (match := re.match(r"esm\.encoder\.layer\.(\d+)\.", name))]
    frequencies = next((value for name, value in weights.items() if _FREQUENCIES.fullmatch(name)), None)
    if frequencies is not None:
        attention_heads = width // (2 * len(frequencies))
    elif "num_attention_heads" in config:
        attention_heads = config["num_attention_heads"]
    else:
        raise DPLM2Error(
            f"{source}: neither rotary frequencies nor a config.json determine the number of attention heads"
        )
    try:
        with unfilled():
            return Esm2(Esm2Config(vocabulary_size, width, max(numbers) + 1, attention_heads, intermediate))
    except DPLM2Error as error:
        raise DPLM2Error(f"{source}: {error}") from error


def _load_network(model: Esm2, weights: dict[str, Tensor], source: str) -> None:
    """Load all weights into a network without storage; none may be unknown or missing."""
    frequencies = rotary_frequencies(model.config)
    state = {}
    for name, value in weights.items():
        if not _FREQUENCIES.fullmatch(name):
            state[name] = value.float().contiguous()
        elif value.shape != frequencies.shape or not torch.allclose(
            value.float(), frequencies, rtol=_FREQUENCY_TOLERANCE
        ):
            raise DPLM2Error(f"{source}: {name} is not ESM-2's table of rotary frequencies")
    state = with_unread(model, {**state, FREQUENCIES: frequencies})
    if misfits := misfitting(model, state):
        missing, unknown, shapes = (misfits.get(kind, [])[:5] for kind in MISFITS)
        raise DPLM2Error(
            f"{source}: not imported, since weights are unknown {unknown}, missing {missing} or of wrong shape {shapes}"
        )
    model.load_state_dict(state, assign=True)


def export_model(folder: Path, destination: Path) -> None:
    """Write a model as a Hugging Face folder in the authors' format, under their weight names.

    Raises
    ------
    DPLM2Error
        If their network has no equivalent of the model's structure head or embedding scaling (``once`` with structure
        tokens).
    """
    network = MultimodalEsm.from_pretrained(folder)
    official = network.head.official
    if official is None:
        raise DPLM2Error(f"{folder}: the authors' program has no structure_head {network.head.name}")
    scaling = "once" if network.is_sequence_model else official.scaling
    if network.embedding_scaling not in ("none", scaling):
        raise DPLM2Error(
            f"{folder}: embedding_scaling {network.embedding_scaling} has no counterpart in the authors' program, "
            f"which supports {scaling} and none"
        )
    model = network.model
    weights = {name: value.contiguous() for name, value in model.state_dict().items()}
    weights |= _official_names(network.head)
    frequencies = weights.pop(FREQUENCIES)
    for layer in range(model.config.num_hidden_layers):
        # Copies, because safetensors does not store shared tensors.
        weights[f"esm.encoder.layer.{layer}.attention.self.rotary_embeddings.inv_freq"] = frequencies.clone()
    unread = folder / _UNREAD_FILE
    rows = model.config.max_position_embeddings, model.config.hidden_size
    weights[_POSITIONS] = load_file(unread)[_POSITIONS] if unread.is_file() else torch.zeros(rows)
    save_tensors(destination / WEIGHTS_FILE, weights)
    config = model.config.to_dict() | {
        "token_dropout": network.embedding_scaling != "none",
        "dplm_type": "dplm_esm" if network.is_sequence_model else official.kind,
        "architectures": ["EsmForDPLM" if network.is_sequence_model else official.architecture],
    }
    artifacts.write_json(destination / CONFIG_FILE, config)
    tokens = network.vocabulary.tokens[: SEQUENCE_IDS if network.is_sequence_model else None]
    artifacts.write_text(destination / "vocab.txt", "\n".join(tokens) + "\n")


def _official_names(head: heads.StructureHead) -> dict[str, Tensor]:
    """The head's own weights under the authors' names."""
    named = {}
    for name, value in head.state_dict().items():
        ours = next(ours for ours in head.official.names if name.startswith(ours))
        named[head.official.names[ours] + name.removeprefix(ours)] = value.contiguous()
    return named

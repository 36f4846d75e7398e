"""The folder of a model: its ``config.json``, its weights in transformers' format, and what they describe."""

import contextlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import EsmConfig, EsmForMaskedLM
from transformers.utils import logging

from dplm2.core.artifacts import read_json_object, write_json, write_text
from dplm2.core.errors import DPLM2Error
from dplm2.core.folders import Conversion, local_folder
from dplm2.core.released import TOKENIZER
from dplm2.core.tensors import check_layers, check_tensors
from dplm2.language import heads
from dplm2.language.vocabulary import Vocabulary

CONFIG_FILE, WEIGHTS_FILE, VOCABULARY_FILE = "config.json", "model.safetensors", "vocab.txt"
_LONGEST = 1026  # ESM-2's max_position_embeddings; rotary positions set no limit
# Without these names transformers adds tokens of its own, whose ids are beyond the network's rows.
_TOKENIZER_CONFIG = {
    "tokenizer_class": "EsmTokenizer",
    "cls_token": "<cls_aa>",
    "pad_token": "<pad>",
    "eos_token": "<eos_aa>",
    "unk_token": "<unk_aa>",
    "mask_token": "<mask_aa>",
    "clean_up_tokenization_spaces": False,
}
OWN_TYPE = "dplm2"  # model_type of what transformers' ESM classes could open only in part
OWN_CLASS = "MultimodalEsm"
HEAD = "structure_head."  # before the names of the head's own weights


def model_folder(source: str | os.PathLike) -> Path:
    """A model's folder, given as such or as a hub id; official repositories are converted (`local_folder`)."""
    return local_folder(source, Conversion("model", is_official, _convert))


def is_official(folder: Path) -> bool:
    """Whether a folder is a DPLM or DPLM-2 model in the authors' layout: not another ESM-2, and none of ours."""
    config = read_json_object(folder / CONFIG_FILE)
    theirs = "dplm_type" in config or "DPLM" in str(config.get("architectures"))
    return "dplm2" not in config and (theirs or config.get("vocab_size") == len(Vocabulary()))


def _convert(downloaded: Path, folder: Path, **origin: str | None) -> None:
    from dplm2.language.importing import import_model

    import_model(downloaded, folder, tokenizer=TOKENIZER, **origin)


def esm_config(vocabulary_size: int, hidden_size: int, layers: int, heads: int, intermediate_size: int) -> EsmConfig:
    """The configuration of an ESM-2 network of any size, as transformers knows it.

    Raises
    ------
    DPLM2Error
        If the width does not divide into heads of even width (rotary positions turn pairs of channels).
    """
    if hidden_size % (2 * heads):
        raise DPLM2Error(f"hidden_size {hidden_size} does not divide into {heads} heads of even width")
    return EsmConfig(
        vocab_size=vocabulary_size,
        mask_token_id=Vocabulary.mask_sequence,
        pad_token_id=Vocabulary.pad,
        hidden_size=hidden_size,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=intermediate_size,
        hidden_dropout_prob=0.1,
        attention_probs_dropout_prob=0.0,
        max_position_embeddings=_LONGEST,
        layer_norm_eps=1e-5,
        position_embedding_type="rotary",
        emb_layer_norm_before=False,
        token_dropout=False,
        tie_word_embeddings=False,
    )


def read_config(folder: Path) -> dict[str, Any]:
    """The ``config.json`` of a model's folder.

    Raises
    ------
    DPLM2Error
        If there is none, or it is of another kind of model.
    """
    config = read_json_object(folder / CONFIG_FILE)
    if config.get("model_type") not in ("esm", OWN_TYPE):
        raise DPLM2Error(f"{folder}: its model_type is {config.get('model_type')!r}; an 'esm' model is needed")
    return config


@contextlib.contextmanager
def _without_progress_bars() -> Iterator[None]:
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def load_masked_lm(folder: Path, head: heads.StructureHead | None = None) -> EsmForMaskedLM:
    """Open an ``EsmForMaskedLM`` folder in fp32, every weight in its place; those of a structure head go to ``head``.

    Raises
    ------
    DPLM2Error
        Names the weights that are missing or left over.
    """
    config = read_config(folder)
    if (folder / WEIGHTS_FILE).is_file():
        check_tensors(folder / WEIGHTS_FILE)
        check_layers(folder / WEIGHTS_FILE, config.get("num_hidden_layers", 0))
    opened: dict[str, Any] = {"output_loading_info": True, "dtype": torch.float32}
    try:
        with _without_progress_bars():
            if config["model_type"] == OWN_TYPE:
                own = {key: value for key, value in config.items() if key not in ("model_type", "architectures")}
                weights = _load_head(folder, head)
                model, loaded = EsmForMaskedLM.from_pretrained(
                    None, config=EsmConfig(**own), state_dict=weights, **opened
                )
            else:
                model, loaded = EsmForMaskedLM.from_pretrained(folder, **opened)
    except DPLM2Error:
        raise
    except Exception as error:  # transformers checks little of what a config.json says
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise DPLM2Error(f"{folder}: cannot be opened, {_suspect(folder)} ({reason})") from error
    wrong = {
        kind: sorted(str(key) for key in loaded[kind])
        for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")
        if loaded[kind]
    }
    # Contacts are not predicted here, and rotary frequencies are computed: a sequence model may come without either.
    spare = ("contact_head", "inv_freq")
    wrong = {kind: keys for kind, keys in wrong.items() if any(not any(s in key for s in spare) for key in keys)}
    if wrong:
        raise DPLM2Error(f"{folder}: weights do not fit: {json.dumps({k: v[:5] for k, v in wrong.items()})}")
    return model


def write_vocabulary(folder: Path, tokens: Sequence[str]) -> None:
    """Write the texts of the ids, and what transformers' ``AutoTokenizer`` needs to give these ids and no others."""
    write_text(folder / VOCABULARY_FILE, "\n".join(tokens) + "\n")
    write_json(folder / "tokenizer_config.json", _TOKENIZER_CONFIG)


def vocabulary_and_head(folder: Path, config: Mapping[str, Any]) -> tuple[Vocabulary, heads.StructureHead]:
    """Vocabulary and structure head that a ``config.json`` of ours describes."""
    try:
        described = config["dplm2"]
        # A sequence model never meets an id of the structure track: any codebook will do.
        vocabulary = Vocabulary(described["codebook_size"]) if described["codebook_size"] else Vocabulary()
        return vocabulary, heads.of_description(described, vocabulary, config["hidden_size"])
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError, OverflowError, MemoryError) as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        raise DPLM2Error(f"{folder / CONFIG_FILE}: not the configuration of a model ({reason})") from error


def _suspect(folder: Path) -> str:
    """What is likely to be wrong with a folder that does not open."""
    sizes = [(path, path.stat().st_size) for path in sorted(folder.glob("*.safetensors"))]
    empty = [path.name for path, size in sizes if size == 0]
    if not sizes and not list(folder.glob("*.bin")):
        return f"there is no {WEIGHTS_FILE}"
    return f"{empty[0]} is empty" if empty else f"its {CONFIG_FILE} or its weights are damaged or cut short"


def _load_head(folder: Path, head: heads.StructureHead | None) -> dict[str, Tensor]:
    """Fill ``head`` from a folder of ours; returns the weights that are not a head's."""
    if head is None:
        raise DPLM2Error(f"{folder}: its structure head is no part of an ESM-2; open it with {OWN_CLASS}")
    weights = load_file(folder / WEIGHTS_FILE)
    own = {name.removeprefix(HEAD): weights.pop(name) for name in list(weights) if name.startswith(HEAD)}
    head.load_state_dict(own)
    return weights

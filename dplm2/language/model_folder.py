"""The folder of a model: ``config.json``, and weights and vocabulary in transformers' format."""

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
_MAX_POSITIONS = 1026  # ESM-2's max_position_embeddings; rotary positions have no limit
# Without these names transformers adds its own tokens, with ids beyond the network's rows.
_TOKENIZER_CONFIG = {
    "tokenizer_class": "EsmTokenizer",
    "cls_token": "<cls_aa>",
    "pad_token": "<pad>",
    "eos_token": "<eos_aa>",
    "unk_token": "<unk_aa>",
    "mask_token": "<mask_aa>",
    "clean_up_tokenization_spaces": False,
}
OWN_TYPE = "dplm2"  # model_type if transformers' ESM classes would omit a part of the model
OWN_CLASS = "MultimodalEsm"
HEAD = "structure_head."  # prefix of the head's own weights


def model_folder(source: str | os.PathLike) -> Path:
    """A model's local folder, from a path or hub id; official repositories are converted (`local_folder`)."""
    return local_folder(source, Conversion("model", is_official, _convert))


def is_official(folder: Path) -> bool:
    """Whether a folder is a DPLM or DPLM-2 model in the authors' layout; False for other ESM-2 models and ours."""
    config = read_json_object(folder / CONFIG_FILE)
    theirs = "dplm_type" in config or "DPLM" in str(config.get("architectures"))
    return "dplm2" not in config and (theirs or config.get("vocab_size") == len(Vocabulary()))


def _convert(downloaded: Path, folder: Path, **origin: str | None) -> None:
    from dplm2.language.importing import import_model

    import_model(downloaded, folder, tokenizer=TOKENIZER, **origin)


def esm_config(vocabulary_size: int, hidden_size: int, layers: int, heads: int, intermediate_size: int) -> EsmConfig:
    """transformers' configuration of an ESM-2 network of any size.

    Raises
    ------
    DPLM2Error
        If the width does not divide into heads of even width (rotary positions rotate pairs of channels).
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
        max_position_embeddings=_MAX_POSITIONS,
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
        If there is none, or it describes another kind of model.
    """
    config = read_json_object(folder / CONFIG_FILE)
    if config.get("model_type") not in ("esm", OWN_TYPE):
        raise DPLM2Error(f"{folder}: its model_type is {config.get('model_type')!r}; an 'esm' model is required")
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
    """Open an ``EsmForMaskedLM`` folder in fp32; weights of a structure head are loaded into ``head``.

    Raises
    ------
    DPLM2Error
        If weights are missing, unknown or of wrong shape; the message names them.
    """
    config = read_config(folder)
    if (folder / WEIGHTS_FILE).is_file():
        check_tensors(folder / WEIGHTS_FILE)
        check_layers(folder / WEIGHTS_FILE, config.get("num_hidden_layers", 0))
    options: dict[str, Any] = {"output_loading_info": True, "dtype": torch.float32}
    try:
        with _without_progress_bars():
            if config["model_type"] == OWN_TYPE:
                own = {key: value for key, value in config.items() if key not in ("model_type", "architectures")}
                weights = _load_head(folder, head)
                model, loaded = EsmForMaskedLM.from_pretrained(
                    None, config=EsmConfig(**own), state_dict=weights, **options
                )
            else:
                model, loaded = EsmForMaskedLM.from_pretrained(folder, **options)
    except DPLM2Error:
        raise
    except Exception as error:  # transformers hardly validates config.json: any error is possible
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise DPLM2Error(f"{folder}: cannot be opened, {_probable_cause(folder)} ({reason})") from error
    wrong = {
        kind: sorted(str(key) for key in loaded[kind])
        for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")
        if loaded[kind]
    }
    # The contact head is not used, and rotary frequencies are computed: a checkpoint may lack both.
    optional = ("contact_head", "inv_freq")
    wrong = {kind: keys for kind, keys in wrong.items() if any(not any(s in key for s in optional) for key in keys)}
    if wrong:
        raise DPLM2Error(f"{folder}: weights do not fit: {json.dumps({k: v[:5] for k, v in wrong.items()})}")
    return model


def write_vocabulary(folder: Path, tokens: Sequence[str]) -> None:
    """Write the tokens in the order of their ids, and the configuration of transformers' ``AutoTokenizer``."""
    write_text(folder / VOCABULARY_FILE, "\n".join(tokens) + "\n")
    write_json(folder / "tokenizer_config.json", _TOKENIZER_CONFIG)


def vocabulary_and_head(folder: Path, config: Mapping[str, Any]) -> tuple[Vocabulary, heads.StructureHead]:
    """Vocabulary and structure head according to a model's ``config.json``."""
    try:
        described = config["dplm2"]
        # A sequence model has no ids of the structure track: the codebook size does not matter.
        vocabulary = Vocabulary(described["codebook_size"]) if described["codebook_size"] else Vocabulary()
        return vocabulary, heads.of_description(described, vocabulary, config["hidden_size"])
    except DPLM2Error as error:
        raise DPLM2Error(f"{folder / CONFIG_FILE}: {error}") from error
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError, OverflowError, MemoryError) as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        raise DPLM2Error(f"{folder / CONFIG_FILE}: not the configuration of a model ({reason})") from error


def _probable_cause(folder: Path) -> str:
    """Probable reason why a folder cannot be opened."""
    sizes = [(path, path.stat().st_size) for path in sorted(folder.glob("*.safetensors"))]
    empty = [path.name for path, size in sizes if size == 0]
    if not sizes and not list(folder.glob("*.bin")):
        return f"there is no {WEIGHTS_FILE}"
    return f"{empty[0]} is empty" if empty else f"its {CONFIG_FILE} or its weights are damaged or truncated"


def _load_head(folder: Path, head: heads.StructureHead | None) -> dict[str, Tensor]:
    """Load the weights of ``head`` from a model's folder; returns the other weights."""
    if head is None:
        raise DPLM2Error(f"{folder}: its structure head is not part of an ESM-2; open it with {OWN_CLASS}")
    weights = load_file(folder / WEIGHTS_FILE)
    own = {name.removeprefix(HEAD): weights.pop(name) for name in list(weights) if name.startswith(HEAD)}
    head.load_state_dict(own)
    return weights

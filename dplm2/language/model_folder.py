"""The folder of a model: ``config.json``, and weights and vocabulary in transformers' format."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from dplm2.core.artifacts import read_json_object, write_json, write_text
from dplm2.core.errors import DPLM2Error
from dplm2.core.folders import Conversion, local_folder
from dplm2.core.released import TOKENIZER
from dplm2.core.tensors import check_layers, check_tensors
from dplm2.core.unfilled import unfilled
from dplm2.language import heads
from dplm2.language.esm import CONTACT_HEAD, KIND, MISFITS, Esm2, Esm2Config, misfitting, with_unread
from dplm2.language.vocabulary import Vocabulary

CONFIG_FILE, WEIGHTS_FILE, VOCABULARY_FILE = "config.json", "model.safetensors", "vocab.txt"
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


def load_masked_lm(folder: Path, head: heads.StructureHead | None = None) -> Esm2:
    """Open a network in fp32; weights of a structure head are loaded into ``head``.

    A folder in another form than ours (several files, other names, tied weights) is opened with transformers.

    Raises
    ------
    DPLM2Error
        If weights are missing, unknown or of wrong shape; the message names them.
    """
    config = read_config(folder)
    path = folder / WEIGHTS_FILE
    is_own = config["model_type"] == OWN_TYPE
    if is_own and head is None:
        raise DPLM2Error(f"{folder}: its structure head is not part of an ESM-2; open it with {OWN_CLASS}")
    if is_own or path.is_file():
        check_tensors(path)
        check_layers(path, config.get("num_hidden_layers", 0))
    if not is_own and not (path.is_file() and config.items() >= KIND.items()):
        return _opened_by_transformers(folder)
    try:
        with unfilled():
            network = Esm2(Esm2Config.of_dict(config))
    except DPLM2Error as error:
        raise DPLM2Error(f"{folder / CONFIG_FILE}: {error}") from error
    weights = load_file(path)
    of_head = {name.removeprefix(HEAD): weights.pop(name) for name in list(weights) if is_own and name.startswith(HEAD)}
    weights = with_unread(network, weights)
    misfits = misfitting(network, weights)
    if not is_own and misfits.keys() - {"mismatched_keys"}:  # other names
        return _opened_by_transformers(folder)
    _refuse(folder, misfits)
    network.load_state_dict({name: value.float() for name, value in weights.items()}, assign=True)
    if is_own:
        _refuse(folder, misfitting(head, of_head))
        head.load_state_dict(of_head)
    return network


def _opened_by_transformers(folder: Path) -> Esm2:
    from transformers import EsmForMaskedLM  # takes longer than opening a folder of ours
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        model, loaded = EsmForMaskedLM.from_pretrained(folder, output_loading_info=True, dtype=torch.float32)
    except Exception as error:  # transformers hardly validates config.json: any error is possible
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise DPLM2Error(f"{folder}: cannot be opened, {_probable_cause(folder)} ({reason})") from error
    finally:
        if shown:
            logging.enable_progress_bar()
    optional = (CONTACT_HEAD, "inv_freq")
    wrong = {kind: sorted(str(key) for key in loaded[kind]) for kind in MISFITS}
    wrong = {
        kind: keys for kind, keys in wrong.items() if any(not any(part in key for part in optional) for key in keys)
    }
    _refuse(folder, wrong)
    try:
        return Esm2.of_transformers(model)
    except DPLM2Error as error:
        raise DPLM2Error(f"{folder}: {error}") from error


def _refuse(folder: Path, misfits: Mapping[str, Sequence[str]]) -> None:
    if misfits:
        raise DPLM2Error(f"{folder}: weights do not fit: {json.dumps({k: v[:5] for k, v in misfits.items()})}")


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

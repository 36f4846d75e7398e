"""Reading weights of other programs as plain tensors; nothing in a file is executed."""

import argparse
import os
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from dplm2.core import artifacts
from dplm2.core.errors import DPLM2Error
from dplm2.core.tensors import check_tensors

_INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
_SINGLE = ("model.safetensors", "pytorch_model.bin")


class _Ignored:
    """Empty placeholder for an object of an unknown class (such as a training script's settings)."""

    def __init__(self, *_args, **_named) -> None:
        pass

    def __setstate__(self, _state) -> None:
        pass

    def __setitem__(self, _key, _value) -> None:
        pass

    def append(self, _value) -> None:
        """Ignore all arguments."""

    extend = update = append


def read_pickled(path: str | os.PathLike) -> dict:
    """Read a file of ``torch.save``: tensors and plain containers; any other object becomes an empty placeholder.

    Raises
    ------
    DPLM2Error
        If that is not possible.
    """
    try:
        unknown = torch.serialization.get_unsafe_globals_in_checkpoint(path)
        # Each name is bound to its own class: torch rejects two names for one class.
        stand_ins = [
            (argparse.Namespace if name == "argparse.Namespace" else type("Ignored", (_Ignored,), {}), name)
            for name in unknown
        ]
        with torch.serialization.safe_globals(stand_ins):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # what unpickling raises depends on the content of a damaged file
        lines = str(error).splitlines() or [""]
        reason = next((line.strip() for line in lines if "GLOBAL" in line), lines[0])
        raise DPLM2Error(
            f"{path}: not a weight file that can be read without executing its content ({reason})"
        ) from error


def read_weights(source: Path) -> dict[str, Tensor]:
    """The tensors of a Hugging Face folder (one file or several) or of a checkpoint file, under their own names.

    Parameters
    ----------
    source
        Folder or file; `weight_files` says which files of a folder are read.

    Raises
    ------
    DPLM2Error
        If there are none, or a file cannot be read.
    """
    if not source.is_dir():
        content = read_pickled(source) if source.suffix != ".safetensors" else _read_safetensors(source)
        for key in ("state_dict", "model"):
            if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
                content = content[key]
        weights = content if isinstance(content, Mapping) else {}
    else:
        weights = {}
        for part in weight_files(source):
            weights |= _read_safetensors(part) if part.suffix == ".safetensors" else read_pickled(part)
    weights = {str(name): value for name, value in weights.items() if isinstance(value, Tensor)}
    if not weights:
        raise DPLM2Error(f"{source}: contains no weights")
    return weights


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    check_tensors(path)
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise DPLM2Error(f"{path}: not a weight file ({error})") from error


def weight_files(folder: Path) -> list[Path]:
    """The files of weights of a Hugging Face folder.

    Raises
    ------
    DPLM2Error
        If there are none.
    """
    for name in _SINGLE:
        if (folder / name).is_file():
            return [folder / name]
    for name in _INDEXES:
        if (folder / name).is_file():
            listed = artifacts.read_json_object(folder / name).get("weight_map")
            if not isinstance(listed, dict) or not all(isinstance(part, str) for part in listed.values()):
                raise DPLM2Error(f"{folder / name}: damaged, its weight_map names no files")
            return [folder / Path(part).name for part in dict.fromkeys(listed.values())]
    raise DPLM2Error(f"{folder}: contains none of {', '.join(_SINGLE + _INDEXES)}")

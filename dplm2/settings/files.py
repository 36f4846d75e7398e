"""Models and tokenizers by name, relevant files of a folder, and how to obtain missing ones."""

import os
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator

from dplm2.core.released import Kind, bundled_folder


def _found(kind: Kind) -> AfterValidator:
    """Replace the name of a model or tokenizer that comes with the package by its folder, whose content decides."""

    def folder_of(name: str) -> str:
        bundled = bundled_folder(name, kind)
        if bundled is None:
            return name
        here = Path.cwd()
        return os.path.relpath(bundled, here) if bundled.is_relative_to(here) else str(bundled)

    return AfterValidator(folder_of)


Model = Annotated[str, _found("model")]
Tokenizer = Annotated[str, _found("tokenizer")]

WEIGHTS = ("*.safetensors", "*.bin", "*.pt", "*.ckpt", "config.json", "*.index.json")

OBTAIN_STRUCTURES = "put structure files there, or use 'fetch' with a list of downloads instead of 'files'"
OBTAIN_LIST = "a text file with one name per line; config/test_sets contains those of the paper"
OBTAIN_TOKENIZER = "name another folder, small, or a hub id such as airkingbd/struct_tokenizer"
OBTAIN_MODEL = "name another folder, small, or a hub id such as airkingbd/dplm2_650m"
OBTAIN_ESMFOLD = "download facebook/esmfold_v1 from the Hugging Face hub into that folder, or name the hub id"
OBTAIN_ESMFOLD2 = "download biohub/ESMFold2 from the Hugging Face hub into that folder, or name the hub id"
OBTAIN_FOLDSEEK = "a Foldseek database or a folder of structures, for example of the PDB"
OBTAIN_PROBLEMS = "motif problems are YAML files; config/motifs contains the paper's"
OBTAIN_ESM_IF1 = "download esm_if1_gvp4_t16_142M_UR50.pt, the ESM-IF1 weights of fair-esm, to that place"

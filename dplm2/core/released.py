"""Models and tokenizers that can be given by name."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Kind = Literal["model", "tokenizer"]
TOKENIZER = "airkingbd/struct_tokenizer"
_ASSETS = Path(__file__).parents[1] / "assets"


@dataclass(frozen=True)
class Released:
    """A model or tokenizer with a name.

    Attributes
    ----------
    kind
        Which of the two.
    meaning
        What it is, for help and messages.
    tokenizer
        Name of the structure tokenizer whose tokens a model has learned.
    """

    kind: Kind
    meaning: str
    tokenizer: str | None = None


# The authors' repositories on the Hugging Face hub.
NAMES: Mapping[str, Released] = {
    TOKENIZER: Released("tokenizer", "structure tokenizer of DPLM-2 and DPLM-2 Bit"),
    "airkingbd/dplm2_150m": Released("model", "DPLM-2, 150M", TOKENIZER),
    "airkingbd/dplm2_650m": Released("model", "DPLM-2, 650M", TOKENIZER),
    "airkingbd/dplm2_3b": Released("model", "DPLM-2, 3B", TOKENIZER),
    "airkingbd/dplm2_bit_650m": Released("model", "DPLM-2 Bit, 650M", TOKENIZER),
    "airkingbd/dplm_150m": Released("model", "DPLM (sequences alone), 150M"),
    "airkingbd/dplm_650m": Released("model", "DPLM (sequences alone), 650M"),
    "airkingbd/dplm_3b": Released("model", "DPLM (sequences alone), 3B"),
}


# What comes with the package: name and folder.
BUNDLED: Mapping[Kind, Mapping[str, Path]] = {
    "model": {"small": _ASSETS / "small"},
    "tokenizer": {"small": _ASSETS / "small_tokenizer"},
}


def names_of(kind: Kind) -> str:
    """What a model or tokenizer can be given as, for messages."""
    on_hub = [name for name, released in NAMES.items() if released.kind == kind]
    return f"a folder, {', '.join(BUNDLED[kind])}, or a hub id such as {', '.join(on_hub[:3])}"


def bundled_folder(name: str | os.PathLike, kind: Kind) -> Path | None:
    """The folder of a model or tokenizer of this name that comes with the package; None if there is none.

    A folder of that name in the current directory takes precedence, as it does over hub ids.
    """
    return None if Path(name).is_dir() else BUNDLED[kind].get(str(name))

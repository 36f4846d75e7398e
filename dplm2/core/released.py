"""Models and tokenizers that can be given by name."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Kind = Literal["model", "tokenizer"]
TOKENIZER = "airkingbd/struct_tokenizer"


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


def names_of(kind: Kind) -> list[str]:
    """The names of all models or tokenizers."""
    return [name for name, released in NAMES.items() if released.kind == kind]

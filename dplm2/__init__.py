"""DPLM-2: a multimodal diffusion protein language model, its structure tokenizer, and the stages around them."""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

# Imported on first use, so that `dplm2 --help` and the workflow do not wait for torch.
_PUBLIC = {"StructureTokenizer": "dplm2.tokenizer.model", "DPLM2": "dplm2.api"}
__all__ = ["DPLM2", "StructureTokenizer", "__version__"]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'dplm2' has no attribute {name!r}")

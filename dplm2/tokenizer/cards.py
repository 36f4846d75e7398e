"""The model card of a structure tokenizer."""

import os
from typing import TYPE_CHECKING, Any

from dplm2.core.cards import REPOSITORY, write_card

if TYPE_CHECKING:
    from dplm2.tokenizer.model import StructureTokenizer


def write_tokenizer_card(folder: str | os.PathLike, tokenizer: "StructureTokenizer", **origin: Any) -> None:
    """Write the card of a structure tokenizer; ``origin``: see `dplm2.core.cards.write_card`."""
    facts = {
        "weights": f"{sum(value.numel() for value in tokenizer.parameters()):,}",
        "structure tokens": tokenizer.codebook_size,
        "confidence (pLDDT)": "trained" if tokenizer.confidence_trained else "not trained; none is reported",
        "fingerprint": tokenizer.fingerprint,
    }
    usage = [
        "from dplm2 import StructureTokenizer",
        "",
        f'tokenizer = StructureTokenizer.from_pretrained("{REPOSITORY}")',
        "tokens = tokenizer.encode(backbone)  # (L, 3 or 4, 3) angstrom, NaN where missing",
        "backbone, plddt = tokenizer.decode(tokens)",
    ]
    write_card(folder, "A structure tokenizer (DPLM-2)", facts, usage, **origin)

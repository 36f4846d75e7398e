"""The model card of a language model."""

import os
from typing import TYPE_CHECKING, Any

from dplm2.core.cards import REPOSITORY, write_card

if TYPE_CHECKING:
    from dplm2.language.network import MultimodalEsm


def write_model_card(folder: str | os.PathLike, network: "MultimodalEsm", **origin: Any) -> None:
    """Write the card of a language model; ``origin``: see `dplm2.core.cards.write_card`."""
    config = network.model.config
    facts = {
        "weights": f"{sum(value.numel() for value in network.parameters()):,}",
        "layers, width, heads": f"{config.num_hidden_layers}, {config.hidden_size}, {config.num_attention_heads}",
        "embedding scaling": network.embedding_scaling,
    }
    usage = ["from dplm2 import DPLM2", "", f'model = DPLM2.from_pretrained("{REPOSITORY}")']
    if network.is_sequence_model:
        title = "A protein language model of sequences (DPLM)"
        usage += ['protein = model.generate("sequence", lengths=[100], samples=1)[0]', "print(protein.sequence)"]
    else:
        title = "A protein language model of sequence and structure (DPLM-2)"
        fingerprint = network.tokenizer_fingerprint or "unknown"
        facts |= {"structure tokens": network.vocabulary.codebook_size, "structure head": network.head.name}
        facts |= {"structure tokenizer": f"{network.tokenizer} (fingerprint {fingerprint})"}
        usage += ['protein = model.generate("co-generation", lengths=[100], samples=1)[0]']
        usage += ['protein.write("protein.pdb")']
    if network.opens_as_esm:
        usage += ["", "# One track at a time, with transformers only:"]
        usage += ["from transformers import AutoModelForMaskedLM, AutoTokenizer", ""]
        usage += [f'{name} = Auto{kind}.from_pretrained("{REPOSITORY}")' for name, kind in _OF_TRANSFORMERS]
    write_card(folder, title, facts, usage, **origin)


_OF_TRANSFORMERS = (("network", "ModelForMaskedLM"), ("tokenizer", "Tokenizer"))

"""Folders of a model and a tokenizer with random weights, and some real chains."""

from pathlib import Path

import pytest
import torch

from dplm2.generation.model import DPLM2
from dplm2.language.esm import Esm2, Esm2Config
from dplm2.language.network import MultimodalEsm
from dplm2.language.vocabulary import Vocabulary
from dplm2.settings.tokenizer import TokenizerSettings
from dplm2.tokenizer.model import StructureTokenizer

DEMO = Path(__file__).parents[2] / "data" / "demo"
ENCODER = {"width": 32, "layers": 1, "heads": 2, "feedforward_width": 32, "gvp_layers": 1, "node_scalars": 16}
ENCODER |= {"node_vectors": 4, "edge_scalars": 8, "neighbours": 8}
DECODER = {"sequence_dim": 32, "pair_dim": 16, "blocks": 1, "sequence_head_width": 16, "pairwise_head_width": 16}
DECODER |= {
    "structure_blocks": 1,
    "ipa_heads": 2,
    "post_quant_layers": 1,
    "post_quant_heads": 2,
    "confidence_hidden": 8,
}


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    """Folders ``tokenizer`` and ``model``; the model refers to the tokenizer."""
    folder = tmp_path_factory.mktemp("tiny")
    torch.manual_seed(0)
    settings = TokenizerSettings.make(encoder=ENCODER, quantizer={"bits": 4}, decoder=DECODER)
    tokenizer = StructureTokenizer(settings).eval()
    tokenizer.save_pretrained(folder / "tokenizer")
    vocabulary = Vocabulary(tokenizer.codebook_size)
    esm = Esm2(Esm2Config(len(vocabulary), 16, 2, 2, 32))
    for parameter in esm.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    network = MultimodalEsm(
        esm, vocabulary, tokenizer="../tokenizer", tokenizer_fingerprint=tokenizer.codes_fingerprint
    )
    network.save_pretrained(folder / "model")
    return folder


@pytest.fixture(scope="session")
def model(folders):
    return DPLM2.from_pretrained(folders / "model")


@pytest.fixture(scope="session")
def ubiquitin():
    """1UBQ, 76 residues, none missing."""
    return DEMO / "motifs" / "1ubq_A.bcif.gz"

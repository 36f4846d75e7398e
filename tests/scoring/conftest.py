"""The tiny model and chain of the generation tests, with each structure head."""

import numpy as np
import pytest
import torch

from dplm2.generation.model import DPLM2
from dplm2.generation.task import Target
from dplm2.language import heads
from dplm2.language.esm import Esm2, Esm2Config
from dplm2.language.network import MultimodalEsm
from dplm2.language.vocabulary import Vocabulary
from dplm2.tokenizer.model import StructureTokenizer
from tests.generation.conftest import folders, model, ubiquitin  # noqa: F401

LETTERS = "ACDEFGHIKLMNPQRSTVWY"


def with_head(tokenizer: StructureTokenizer, name: str) -> DPLM2:
    torch.manual_seed(0)
    vocabulary = Vocabulary(tokenizer.codebook_size)
    head = heads.make(name, vocabulary, 16, tokenizer.settings.quantizer.layout)
    network = MultimodalEsm(Esm2(Esm2Config(head.table_rows, 16, 2, 2, 32)), vocabulary, head=head)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return DPLM2(network, tokenizer)


@pytest.fixture(scope="session", params=list(heads.HEADS))
def any_model(request, folders):  # noqa: F811
    """A model with random weights and each structure head."""
    return with_head(StructureTokenizer.from_pretrained(folders / "tokenizer"), request.param)


@pytest.fixture(scope="session")
def proteins():
    """Random proteins of several lengths, with some residues unknown on either track."""
    random = np.random.default_rng(0)
    targets = []
    for number, length in enumerate((9, 5, 14, 9)):
        sequence = "".join(random.choice(list(LETTERS), length))
        tokens = random.integers(0, 16, length)
        targets.append(Target(f"p{number}", sequence, tokens))
    unknown = targets[2].structure_tokens.copy()
    unknown[[3, 4]] = -1
    targets[2] = Target("p2", f"{targets[2].sequence[:6]}X?{targets[2].sequence[8:]}", unknown)
    return targets

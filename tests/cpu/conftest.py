"""Fixtures of the language model's tests."""

import pytest
import torch

from dplm2.language.esm import Esm2, Esm2Config
from dplm2.language.network import MultimodalEsm
from dplm2.language.vocabulary import Vocabulary


@pytest.fixture
def small_network() -> MultimodalEsm:
    """A network of random weights with 20 structure codes."""
    torch.manual_seed(0)
    vocabulary = Vocabulary(20)
    return MultimodalEsm(Esm2(Esm2Config(vocabulary.size, 32, 2, 4, 64)), vocabulary).eval()

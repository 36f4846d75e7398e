"""Small networks and recorded values of the authors' implementation."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import EsmForMaskedLM

from dplm2.language.network import MultimodalEsm, esm_config
from dplm2.language.vocabulary import Vocabulary


@pytest.fixture(scope="session")
def recorded(fixtures_folder: Path) -> Path:
    """Recorded values of the language model at tiny random weights."""
    return fixtures_folder / "lm_tiny"


@pytest.fixture
def released_network(recorded: Path) -> MultimodalEsm:
    """The network of the recorded values."""
    model = EsmForMaskedLM(esm_config(8229, 64, 4, 4, 256))
    model.load_state_dict(load_file(recorded / "weights.safetensors"), strict=False)
    return MultimodalEsm(model, Vocabulary(), "released").eval()


@pytest.fixture
def small_network() -> MultimodalEsm:
    """A network of random weights with 20 structure codes."""
    torch.manual_seed(0)
    vocabulary = Vocabulary(20)
    return MultimodalEsm(EsmForMaskedLM(esm_config(vocabulary.size, 32, 2, 4, 64)), vocabulary).eval()

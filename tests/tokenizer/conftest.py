"""Chains and tokenizers shared by several tests."""

import json

import numpy as np
import pytest
import torch
import yaml

from dplm2.settings.tokenizer import TokenizerSettings
from dplm2.tokenizer.importing import import_tokenizer
from dplm2.tokenizer.model import StructureTokenizer
from tests.tokenizer.synthetic import SMALL, chain


@pytest.fixture(scope="session")
def chains() -> list[np.ndarray]:
    """Chains of several lengths, some with missing residues, one shorter than the number of neighbours."""
    return [chain(61, 0), chain(40, 1, (0, 7, 8, 39)), chain(95, 2, (50,)), chain(12, 3), chain(40, 4)]


@pytest.fixture(scope="session")
def small_tokenizer() -> StructureTokenizer:
    """A small tokenizer with random weights, biases included."""
    torch.manual_seed(0)
    tokenizer = StructureTokenizer(TokenizerSettings.make(**SMALL)).eval()
    with torch.no_grad():
        for parameter in tokenizer.encoder.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return tokenizer


@pytest.fixture(scope="session")
def tiny_yaml(recorded, tmp_path_factory):
    """The recorded part of the YAML of the authors' tiny tokenizer."""
    meta = json.loads(recorded("structok_tiny/meta.json").read_text())
    path = tmp_path_factory.mktemp("tiny") / "config.yaml"
    path.write_text(yaml.safe_dump({"model": {**meta["config"], "if1_args": meta["if1_args"]}}))
    return path


@pytest.fixture(scope="session")
def released(recorded, tiny_yaml):
    """The authors' tiny tokenizer, imported and loaded."""
    folder = tiny_yaml.parent / "imported"
    import_tokenizer(recorded("structok_tiny/weights.safetensors"), folder, tiny_yaml)
    return StructureTokenizer.from_pretrained(folder)

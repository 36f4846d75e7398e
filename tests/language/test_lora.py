"""Low-rank adaptation: initially the plain model, trains the right weights, merges exactly."""

import copy
import json

import pytest
import torch
from torch import nn

from dplm2.core.errors import DPLM2Error
from dplm2.language import lora
from dplm2.language.esm import Esm2, Esm2Config
from dplm2.settings.model import LoraSettings

IDS = torch.tensor([[33, 40, 41, 42, 34, 0, 5, 6, 7, 2]])


def disturb(network):
    """Set the updates to random values, as training would."""
    torch.manual_seed(1)
    for name, parameter in network.model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.2)


def test_updates_are_initially_zero_and_merge_exactly(small_network):
    with torch.no_grad():
        plain = small_network(IDS)
        names = set(small_network.model.state_dict())
        lora.add(small_network.model, LoraSettings.make(enabled=True, rank=4), seed=0)
        assert torch.equal(small_network(IDS), plain)
        disturb(small_network)
        updated = small_network(IDS)
        assert not torch.allclose(updated, plain, atol=1e-2)
        with pytest.raises(DPLM2Error, match="merge"):
            small_network.save_pretrained("nowhere")
        lora.merge(small_network.model)
        assert set(small_network.model.state_dict()) == names
        assert torch.allclose(small_network(IDS), updated, atol=1e-5)


def test_updates_are_drawn_by_their_seed_alone(small_network):
    def drawn(seed: int, elsewhere: int) -> dict[str, torch.Tensor]:
        model = copy.deepcopy(small_network.model)
        torch.manual_seed(elsewhere)
        before = torch.get_rng_state()
        lora.add(model, LoraSettings.make(enabled=True, rank=4), seed)
        assert torch.equal(torch.get_rng_state(), before)
        return {name: value for name, value in model.named_parameters() if "lora_A" in name}

    first, same, other = drawn(0, 1), drawn(0, 2), drawn(3, 1)
    assert first and all(torch.equal(value, same[name]) for name, value in first.items())
    assert not any(torch.equal(value, other[name]) for name, value in first.items())


def test_trained_parameters_are_those_of_the_authors(recorded):
    """Names and numbers of the trained and of all parameters at 150M."""

    keys = json.loads(recorded("keys_dplm2_150m_lora.json").read_text())
    with torch.device("meta"):
        model = Esm2(Esm2Config(8229, 640, 30, 20, 2560))
    lora.add(model, LoraSettings.make(enabled=True), seed=0)
    ours = {name: list(p.shape) for name, p in model.named_parameters() if p.requires_grad}
    theirs = {}
    for name in keys["trainable"]:
        shape = keys["state_dict"][name][0]
        theirs[name.removeprefix("base_model.model.").replace("modules_to_save.default.", "")] = shape
    unread = {name for name in theirs if "position_embeddings" in name}
    assert ours == {name: shape for name, shape in theirs.items() if name not in unread}

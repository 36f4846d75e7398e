"""Low-rank adaptation: begins as the plain model, trains what it should, merges exactly; leaner dropout."""

import json

import pytest
import torch
from torch import nn

from dplm2.errors import DPLM2Error
from dplm2.language import attention, lora
from dplm2.language.network import esm_config
from dplm2.language.settings import lora_settings

IDS = torch.tensor([[33, 40, 41, 42, 34, 0, 5, 6, 7, 2]])


def disturb(network):
    """Give the updates values, as training would."""
    torch.manual_seed(1)
    for name, parameter in network.model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.2)


def test_updates_begin_at_nothing_and_merge_exactly(small_network):
    with torch.no_grad():
        plain = small_network(IDS)
        names = set(small_network.model.state_dict())
        lora.add(small_network.model, lora_settings(rank=4))
        assert torch.equal(small_network(IDS), plain)
        disturb(small_network)
        updated = small_network(IDS)
        assert not torch.allclose(updated, plain, atol=1e-2)
        with pytest.raises(DPLM2Error, match="merge"):
            small_network.save_pretrained("nowhere")
        lora.merge(small_network.model)
        assert set(small_network.model.state_dict()) == names
        assert torch.allclose(small_network(IDS), updated, atol=1e-5)


def test_trained_parameters_are_those_of_the_authors(fixtures_folder):
    """The number of trained and of all parameters at 150M, and which they are."""
    from transformers import EsmForMaskedLM

    recorded = json.loads((fixtures_folder / "keys_dplm2_150m_lora.json").read_text())
    with torch.device("meta"):
        model = EsmForMaskedLM(esm_config(8229, 640, 30, 20, 2560))
    lora.add(model, lora_settings())
    ours = {name: list(p.shape) for name, p in model.named_parameters() if p.requires_grad}
    theirs = {}
    for name in recorded["trainable"]:
        shape = recorded["state_dict"][name][0]
        theirs[name.removeprefix("base_model.model.").replace("modules_to_save.default.", "")] = shape
    unread = {name for name in theirs if "position_embeddings" in name}
    assert ours == {name: shape for name, shape in theirs.items() if name not in unread}


@pytest.mark.parametrize("rank", [2, 16])
def test_leaner_layer_gives_peft_gradients(small_network, rank):
    """Without dropout, output and gradients of our low-rank layer are those of the plain expression."""
    lora.add(small_network.model, lora_settings(rank=rank, dropout=0.0))
    disturb(small_network)
    layer = small_network.model.esm.encoder.layer[0].intermediate.dense
    x = torch.randn(3, 5, 32, requires_grad=True)
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    expected = layer.base_layer(x) + 32 / rank * (x @ a.T @ b.T)
    direction = torch.randn_like(expected)
    wanted = torch.autograd.grad((expected * direction).sum(), (x, a, b))
    got = torch.autograd.grad((layer(x) * direction).sum(), (x, a, b))
    assert torch.allclose(layer(x), expected, atol=1e-5)
    for ours, theirs in zip(got, wanted, strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def test_low_rank_gradient_with_dropout_is_the_derivative():
    """With the same random numbers the layer is linear in x: its gradient is that of the same masks."""
    a, b = torch.randn(2, 6), torch.randn(4, 2)
    x = torch.randn(5, 6, requires_grad=True)

    def outcome(value):
        torch.manual_seed(3)
        return lora._LowRank.apply(value, a, b, 2.0, 0.3)

    direction = torch.randn(5, 4)
    (gradient,) = torch.autograd.grad((outcome(x) * direction).sum(), x)
    step = torch.randn_like(x)
    difference = ((outcome(x + step) - outcome(x)) * direction).sum()
    assert torch.allclose((gradient * step).sum(), difference, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("probability", [0.1, 0.5])
def test_dropout_keeps_the_share_and_the_mean(probability):
    torch.manual_seed(0)
    dropout = attention.Dropout(probability)
    x = torch.ones(400, 999, requires_grad=True)
    y = dropout(x)
    assert (y == 0).float().mean().item() == pytest.approx(probability, abs=0.003)
    assert y.mean().item() == pytest.approx(1.0, abs=0.01)
    y.sum().backward()
    assert torch.equal(x.grad, y.detach())
    torch.manual_seed(0)
    assert torch.equal(dropout(x), y)
    assert torch.equal(dropout.eval()(x), x)

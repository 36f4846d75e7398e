"""Fast products and the layer norm that is put into the layers behind it, against PyTorch's own."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from dplm2.tokenizer.products import Linear, derived, laid_out, linear
from dplm2.tokenizer.transition import Transition, behind, normalized

ACTIVATIONS = {None: lambda values: values, "relu": F.relu, "sigmoid": torch.sigmoid}


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("with_added", [False, True])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
def test_products_are_pytorchs(activation, with_added, dtype, tolerance):
    generator = torch.Generator().manual_seed(0)
    values, weight, bias, added = (
        torch.randn(*shape, generator=generator).to(dtype) for shape in ((5, 7, 33), (19, 33), (19,), (5, 7, 19))
    )
    values = values.transpose(0, 1).contiguous().transpose(0, 1)  # not contiguous
    expected = F.linear(values.float(), weight.float(), bias.float()) + (added.float() if with_added else 0.0)
    expected = ACTIVATIONS[activation](expected)
    with torch.no_grad():
        for kind in (weight, laid_out(weight)):
            ours = linear(values, kind, bias, added if with_added else None, activation)
            torch.testing.assert_close(ours.float(), expected, rtol=tolerance, atol=5 * tolerance)
            assert linear(values[:0], kind, bias, activation=activation).shape == (0, 7, 19)
    with_gradient = linear(values, weight.requires_grad_(), bias, added if with_added else None, activation)
    torch.testing.assert_close(with_gradient.float(), expected, rtol=tolerance, atol=5 * tolerance)
    assert torch.autograd.grad(with_gradient.sum(), weight)[0].isfinite().all()


def test_what_is_derived_from_weights_follows_them():
    layer, made = nn.Linear(6, 4), []

    def make():
        made.append(layer.weight.sum().item())
        return made[-1]

    with torch.no_grad():
        assert derived(layer, torch.float32, make) == derived(layer, torch.float32, make) == made[0]
        layer.weight += 1.0
        assert derived(layer, torch.float32, make) == pytest.approx(made[0] + 24)
        assert len(made) == 2
    derived(layer, torch.float32, make)
    assert len(made) == 3  # with gradients, each time


def test_a_layer_follows_its_weights():
    layer, values = Linear(6, 4), torch.randn(3, 6)
    with torch.no_grad():
        before = layer(values)
        layer.weight += 1.0
        after = layer(values)
    torch.testing.assert_close(after - before, values.sum(-1, keepdim=True).expand(-1, 4), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("with_gradient", [False, True])
def test_a_norm_put_into_the_layers_behind_it_is_the_same(with_gradient):
    torch.manual_seed(0)
    norm, first, second = nn.LayerNorm(32), nn.Linear(32, 5), nn.Linear(32, 3, bias=False)
    for parameter in norm.parameters():
        nn.init.normal_(parameter)
    values = (torch.randn(4, 9, 32) * 7 + 50).transpose(0, 1)  # far from zero, not contiguous
    with torch.set_grad_enabled(with_gradient):
        ours = F.linear(normalized(values), *behind(norm, first, second))
        theirs = torch.cat([first(norm(values)), second(norm(values))], -1)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("with_gradient", [False, True])
def test_transition_is_its_definition(with_gradient):
    torch.manual_seed(0)
    transition, values = Transition(16, 64), torch.randn(2, 5, 16)
    for parameter in transition.parameters():
        nn.init.normal_(parameter)
    plain = transition.contract(F.relu(transition.expand(transition.norm(values))))
    with torch.set_grad_enabled(with_gradient):
        torch.testing.assert_close(transition(values), plain, rtol=1e-4, atol=1e-3)

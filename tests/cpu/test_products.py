"""Products by both libraries, and cached weights, against torch's own."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from dplm2.cpu import products
from dplm2.cpu.caching import cached_from_weights
from dplm2.cpu.products import Linear, linear, prepacked
from dplm2.tokenizer.transition import Transition


@pytest.fixture(params=["onednn", "torch", "untried release", "plain"])
def routine(request, monkeypatch):
    """Each library for products."""
    monkeypatch.setattr(products, "MIN_WORK", dict.fromkeys(products.MIN_WORK, 0))
    if request.param == "plain":
        monkeypatch.setenv("DPLM2_CPU", "plain")
    elif request.param == "untried release":
        monkeypatch.setattr(torch, "__version__", "99.0")
    else:
        monkeypatch.setenv("DPLM2_PRODUCTS", request.param)
    return request.param


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
def test_products_equal_torchs(routine, dtype, tolerance):
    generator = torch.Generator().manual_seed(0)
    values, weight, bias = (
        torch.randn(*shape, generator=generator).to(dtype) for shape in ((5, 7, 33), (19, 33), (19,))
    )
    values = values.transpose(0, 1).contiguous().transpose(0, 1)  # not contiguous
    expected = F.linear(values.float(), weight.float(), bias.float())
    with torch.no_grad():
        packed = prepacked(weight)
        assert packed.is_mkldnn == (routine == "onednn")
        for kind in (weight, weight.t().contiguous().t(), packed):
            ours = linear(values, kind, bias)
            assert ours.dtype == dtype
            torch.testing.assert_close(ours.float(), expected, rtol=tolerance, atol=5 * tolerance)
            assert linear(values[:0], kind, bias).shape == (0, 7, 19)
    with_gradient = linear(values, weight.requires_grad_(), bias)
    torch.testing.assert_close(with_gradient.float(), expected, rtol=tolerance, atol=5 * tolerance)
    assert torch.autograd.grad(with_gradient.sum(), weight)[0].isfinite().all()


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
def test_weight_gradients_and_batched_products_equal_torchs(routine, dtype, tolerance):
    """Also of operands that are not contiguous."""
    generator = torch.Generator().manual_seed(0)
    gradient, values, a, b = (
        torch.randn(*shape, generator=generator).to(dtype) for shape in ((33, 5), (33, 7), (2, 3, 11, 9), (2, 3, 13, 9))
    )
    for layout in (lambda tensor: tensor, lambda tensor: tensor.mT.contiguous().mT):
        operands = [layout(tensor) for tensor in (gradient, values, a, b)]
        expected = gradient.double().T @ values.double(), a.double() @ b.double().mT
        for tracked in (False, True):
            used = [tensor.detach().requires_grad_(tracked) for tensor in operands]
            with torch.set_grad_enabled(tracked):
                found = products.weight_gradient(*used[:2]), products.batched(*used[2:])
            for ours, exact in zip(found, expected, strict=True):
                assert ours.dtype == dtype and ours.requires_grad == tracked
                torch.testing.assert_close(ours.double(), exact, rtol=tolerance, atol=10 * tolerance)


def test_cached_values_follow_changes_of_weights():
    layer, made = nn.Linear(6, 4), []

    def make():
        made.append(layer.weight.sum().item())
        return made[-1]

    with torch.no_grad():
        assert (
            cached_from_weights(layer, torch.float32, make)
            == cached_from_weights(layer, torch.float32, make)
            == made[0]
        )
        layer.weight += 1.0
        assert cached_from_weights(layer, torch.float32, make) == pytest.approx(made[0] + 24)
        assert len(made) == 2
    cached_from_weights(layer, torch.float32, make)
    assert len(made) == 3  # with gradients, each time


def test_layer_follows_changes_of_its_weights():
    layer, values = Linear(6, 4), torch.randn(3, 6)
    with torch.no_grad():
        before = layer(values)
        layer.weight += 1.0
        after = layer(values)
    torch.testing.assert_close(after - before, values.sum(-1, keepdim=True).expand(-1, 4), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("with_gradient", [False, True])
def test_transition_equals_its_definition(with_gradient):
    torch.manual_seed(0)
    transition, values = Transition(16, 64), torch.randn(2, 5, 16)
    for parameter in transition.parameters():
        nn.init.normal_(parameter)
    plain = transition.contract(F.relu(transition.expand(transition.norm(values))))
    with torch.set_grad_enabled(with_gradient):
        torch.testing.assert_close(transition(values), plain, rtol=1e-4, atol=1e-3)

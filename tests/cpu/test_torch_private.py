"""Private functions of torch against their plain forms, and the guard that chooses between them."""

import re
from pathlib import Path

import pytest
import torch

import dplm2
from dplm2.cpu import attention, torch_private

RELEASES = {"2.6.0": True, "2.13.0+cpu": True, "2.5.1": False, "2.14.0": False, "3.0.0a0+git1": False, "1.13": False}


@pytest.mark.parametrize("version", RELEASES)
def test_private_functions_are_used_only_in_tested_releases(version, monkeypatch):
    monkeypatch.setattr(torch, "__version__", version)
    assert torch_private.is_tested() == RELEASES[version]
    if not RELEASES[version]:
        assert not torch_private.has_one_dnn(torch.float32)
        assert torch_private.changes(torch.zeros(1)) is None


@pytest.fixture(params=["2.13.0", "99.0"], ids=["tried release", "untried release"])
def release(request, monkeypatch):
    monkeypatch.setattr(torch, "__version__", request.param)


def test_softmax_backward_equals_autograd(release):
    inputs = torch.randn(3, 5, 7, dtype=torch.float64, requires_grad=True)
    probabilities, gradient = inputs.softmax(-1), torch.randn(3, 5, 7, dtype=torch.float64)
    (expected,) = torch.autograd.grad(probabilities, inputs, gradient)
    torch.testing.assert_close(torch_private.softmax_backward(gradient, probabilities.detach()), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gelu_backward_equals_autograd_in_place(release, dtype):
    inputs, gradient = torch.randn(5, 37, dtype=dtype, requires_grad=True), torch.randn(5, 37, dtype=dtype)
    (expected,) = torch.autograd.grad(torch.nn.functional.gelu(inputs), inputs, gradient)
    torch_private.gelu_backward_into(gradient, inputs.detach())
    assert torch.equal(gradient, expected)


def test_glu_writes_into_the_output(release):
    values, out = torch.randn(2, 6, 9), torch.zeros(2, 3, 20)
    torch_private.glu_into(out[:, :, 4:13], values)
    torch.testing.assert_close(out[:, :, 4:13], values[:, :3] * values[:, 3:].sigmoid())
    assert out[:, :, :4].count_nonzero() == out[:, :, 13:].count_nonzero() == 0


def test_in_place_changes_are_counted():
    tensor = torch.zeros(3)
    before = torch_private.changes(tensor)
    tensor.add_(1)
    assert torch_private.changes(tensor) != before
    with torch.inference_mode():
        assert torch_private.changes(torch.zeros(3)) is None


def test_bfloat16_attention_gradients_follow_float32(release):
    tensors = [torch.randn(11, 3, 8).bfloat16().requires_grad_() for _ in range(3)]
    exact = [tensor.detach().float().requires_grad_() for tensor in tensors]
    direction = torch.randn(11, 3, 8)
    gradients = []
    for inputs in (tensors, exact):
        found = torch.cat(attention.parts_within_segments(*inputs, [4, 4, 3], scaling=0.35))
        gradients.append(torch.autograd.grad((found.float() * direction).sum(), inputs))
    for ours, expected in zip(*gradients, strict=True):
        assert torch.allclose(ours.float(), expected, atol=0.05)


def test_private_functions_of_torch_are_used_in_one_file():
    private = re.compile(r"\btorch(\.\w+)*\.(_[a-z]\w*|ops\b)|\._version\b")
    package = Path(dplm2.__file__).parent
    found = {path.name for path in package.rglob("*.py") if private.search(path.read_text(encoding="utf-8"))}
    assert found == {"torch_private.py"}

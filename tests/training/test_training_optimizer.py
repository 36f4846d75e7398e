"""Schedule, decay and moving average against torch's own schedulers and closed forms."""

import pytest
import torch
from tiny_task import Network
from torch import nn

from dplm2.errors import DPLM2Error
from dplm2.training.optimizer import MovingAverage, learning_rate, make_optimizer, trained_parameters
from dplm2.training.settings import TrainingSettings


@pytest.mark.parametrize("power", [1.0, 2.0])
def test_schedule_equals_torchs_schedulers(power):
    settings = TrainingSettings.make(
        steps=200,
        warmup_steps=20,
        learning_rate=1e-3,
        initial_learning_rate=1e-5,
        final_learning_rate=0.0,
        decay_power=power,
    )
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1e-3)
    scheduler = torch.optim.lr_scheduler.SequentialLR(
        optimizer,
        [
            torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=0.01, total_iters=20),
            torch.optim.lr_scheduler.PolynomialLR(optimizer, total_iters=180, power=power),
        ],
        milestones=[20],
    )
    for step in range(200):
        assert learning_rate(step, settings) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-6, abs=1e-12)
        optimizer.step()
        scheduler.step()


def test_schedule_at_the_papers_corners():
    settings = TrainingSettings.make()
    rates = [learning_rate(step, settings) for step in (0, 1000, 2000, 51_000, 100_000)]
    assert rates == pytest.approx([1e-7, (1e-7 + 1e-4) / 2, 1e-4, (1e-4 + 1e-5) / 2, 1e-5])
    constant = TrainingSettings.make(schedule="constant")
    assert learning_rate(99_999, constant) == 1e-4


@pytest.mark.parametrize("decay_all", [True, False])
def test_which_weights_decay(decay_all):
    network = Network()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.fill_(1.0)
            parameter.grad = torch.zeros_like(parameter)
    make_optimizer(network, TrainingSettings.make(learning_rate=0.1, weight_decay=0.5, decay_all=decay_all)).step()
    # With no gradient, all that AdamW does is to multiply by 1 - learning rate x decay.
    shrunk = {name for name, p in network.named_parameters() if torch.allclose(p, torch.tensor(0.95))}
    kept = {name for name, p in network.named_parameters() if torch.equal(p, torch.ones_like(p))}
    matrices = {"layers.0.1.weight", "layers.1.1.weight", "head.weight"}
    assert shrunk == (set(dict(network.named_parameters())) if decay_all else matrices)
    assert shrunk | kept == set(dict(network.named_parameters()))


def test_frozen_weights_are_not_the_optimizers():
    network = Network()
    network.layers.requires_grad_(False)
    owned = {id(p) for group in make_optimizer(network, TrainingSettings.make()).param_groups for p in group["params"]}
    assert owned == {id(p) for p in trained_parameters(network).values()}
    network.requires_grad_(False)
    with pytest.raises(DPLM2Error, match="frozen"):
        trained_parameters(network)


def test_moving_average_equals_its_sum():
    weight = nn.Parameter(torch.tensor([1.0, -2.0]))
    average = MovingAverage({"w": weight}, decay=0.5)
    expected = weight.detach().double().clone()
    for step in range(20):
        with torch.no_grad():
            weight += step
        average.update(step)
        factor = min(0.5, (1 + step) / (10 + step))
        expected = factor * expected + (1 - factor) * weight.detach().double()
    assert torch.allclose(average.weights["w"].double(), expected, rtol=1e-6)
    trained = weight.detach().clone()
    with average.in_place():
        assert torch.allclose(weight.detach().double(), expected, rtol=1e-6)
    assert torch.equal(weight.detach(), trained)

"""Schedule, decay and moving average against torch's own schedulers and closed forms."""

import pytest
import torch
from tiny_task import Network
from torch import nn

from dplm2.core.errors import DPLM2Error
from dplm2.settings.training import TrainingSettings
from dplm2.training.optimizer import (
    MovingAverage,
    Muon,
    allocate_moments,
    learning_rate,
    make_optimizer,
    orthogonalised,
    trained_parameters,
)


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


def test_schedule_has_the_papers_values():
    settings = TrainingSettings.make()
    rates = [learning_rate(step, settings) for step in (0, 1000, 2000, 51_000, 100_000)]
    assert rates == pytest.approx([1e-7, (1e-7 + 1e-4) / 2, 1e-4, (1e-4 + 1e-5) / 2, 1e-5])
    constant = TrainingSettings.make(schedule="constant")
    assert learning_rate(99_999, constant) == 1e-4


@pytest.mark.parametrize("decay_all", [True, False])
def test_weight_decay_applies_to_the_configured_weights(decay_all):
    network = Network()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.fill_(1.0)
            parameter.grad = torch.zeros_like(parameter)
    make_optimizer(network, TrainingSettings.make(learning_rate=0.1, weight_decay=0.5, decay_all=decay_all)).step()
    # Without gradient, AdamW only multiplies by 1 - learning rate x decay.
    shrunk = {name for name, p in network.named_parameters() if torch.allclose(p, torch.tensor(0.95))}
    kept = {name for name, p in network.named_parameters() if torch.equal(p, torch.ones_like(p))}
    matrices = {"layers.0.1.weight", "layers.1.1.weight", "head.weight"}
    assert shrunk == (set(dict(network.named_parameters())) if decay_all else matrices)
    assert shrunk | kept == set(dict(network.named_parameters()))


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch.optim.Muon comes with torch 2.9")
@pytest.mark.parametrize("shape", [(6, 20), (20, 6), (16, 16)])
def test_muon_updates_equal_torchs(shape):
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(shape, generator=generator)
    ours, torchs = nn.Parameter(weight.clone()), nn.Parameter(weight.clone())
    group = {"params": [ours], "orthogonal": True}
    mine = Muon([group], lr=0.01, weight_decay=0.1)
    other = torch.optim.Muon(
        [torchs], lr=0.01, weight_decay=0.1, momentum=0.95, nesterov=True, adjust_lr_fn="match_rms_adamw"
    )
    for _ in range(5):
        gradient = torch.randn(shape, generator=generator)
        ours.grad, torchs.grad = gradient.clone(), gradient.clone()
        mine.step()
        other.step()
    # Torch's works in bfloat16.
    moved, expected = ours.detach() - weight, torchs.detach() - weight
    assert (moved - expected).norm() < 0.02 * expected.norm()


def test_orthogonalised_keeps_directions_and_equalises_magnitudes():
    matrix = torch.randn(12, 30, generator=torch.Generator().manual_seed(0))
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    turned = left.T @ orthogonalised(matrix) @ right.T  # diagonal: the singular vectors are unit vectors
    torch.testing.assert_close(turned, turned.diagonal().diag(), rtol=0, atol=1e-4)
    assert turned.diagonal().min() > 0.65 and turned.diagonal().max() < 1.25
    assert torch.equal(orthogonalised(matrix.T), orthogonalised(matrix).T)
    assert torch.equal(orthogonalised(torch.zeros(3, 4)), torch.zeros(3, 4))


def test_half_precision_muon_updates_differ_only_by_rounding():
    torch.manual_seed(0)
    start, gradient = torch.randn(6, 16), torch.randn(6, 16)
    moved = {}
    for precision in ("fp32", "bf16"):
        module = nn.Linear(16, 6, bias=False)
        module.weight.data.copy_(start)
        module.weight.grad = gradient.clone()
        make_optimizer(module, TrainingSettings.make(optimizer="muon", precision=precision, learning_rate=0.1)).step()
        assert module.weight.dtype == torch.float32
        moved[precision] = module.weight.detach() - start
    difference = (moved["fp32"] - moved["bf16"]).norm() / moved["fp32"].norm()
    assert 1e-4 < difference < 0.05  # bfloat16 has 8 binary digits, and five rounds add up


def test_muon_updates_other_weights_with_adamw():
    torch.manual_seed(0)
    networks = Network(), Network()
    networks[1].load_state_dict(networks[0].state_dict())
    for network, kind in zip(networks, ("adamw", "muon"), strict=True):
        optimizer = make_optimizer(network, TrainingSettings.make(learning_rate=0.01, optimizer=kind))
        for _ in range(3):
            for number, parameter in enumerate(network.parameters()):
                parameter.grad = torch.full_like(parameter, 1.0 + number)
            optimizer.step()
    plain, turned = (dict(network.named_parameters()) for network in networks)
    same = {name for name in plain if torch.equal(plain[name], turned[name])}
    assert set(plain) - same == {"layers.0.1.weight", "layers.1.1.weight"}


def test_muon_excludes_embeddings_and_the_head():
    network = nn.ModuleDict({"tokens": nn.Embedding(9, 4), "inner": nn.Linear(4, 4), "head": nn.Linear(4, 9)})
    groups = make_optimizer(network, TrainingSettings.make(optimizer="muon")).param_groups
    (orthogonal,) = (group["params"] for group in groups if group["orthogonal"])
    assert len(orthogonal) == 1 and orthogonal[0] is network["inner"].weight


def test_optimizer_excludes_frozen_weights():
    network = Network()
    network.layers.requires_grad_(False)
    owned = {id(p) for group in make_optimizer(network, TrainingSettings.make()).param_groups for p in group["params"]}
    assert owned == {id(p) for p in trained_parameters(network).values()}
    network.requires_grad_(False)
    with pytest.raises(DPLM2Error, match="frozen"):
        trained_parameters(network)


def test_moving_average_equals_the_explicit_sum():
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


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_allocated_moments_are_those_of_the_first_update(kind):
    """Same names, types and values afterwards, and the same weights."""
    results = []
    for allocated in (False, True):
        torch.manual_seed(0)
        network = Network()
        optimizer = make_optimizer(network, TrainingSettings.make(optimizer=kind))
        if allocated:
            allocate_moments(optimizer)
        before = {id(moment) for state in optimizer.state.values() for moment in state.values()}
        for parameter in network.parameters():
            parameter.grad = torch.randn_like(parameter)
        optimizer.step()
        states = [optimizer.state[parameter] for parameter in network.parameters()]
        assert not allocated or before == {id(moment) for state in states for moment in state.values()}
        results.append([{"weight": p.detach(), **state} for p, state in zip(network.parameters(), states, strict=True)])
    for plain, early in zip(*results, strict=True):
        assert plain.keys() == early.keys()
        assert all(torch.equal(plain[name], early[name]) and plain[name].dtype == early[name].dtype for name in plain)

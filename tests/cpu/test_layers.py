"""The optimised layer against transformers', and its derivatives against finite differences."""

import numpy as np
import peft
import pytest
import torch
from torch import nn

from dplm2.cpu import attention, layers, products, routine
from dplm2.language import diffusion, layout, lora
from dplm2.language.diffusion import TASKS, DiffusionObjective
from dplm2.language.esm import Esm2, Esm2Config
from dplm2.language.network import MultimodalEsm
from dplm2.language.vocabulary import Vocabulary
from dplm2.settings.model import DiffusionSettings, LoraSettings
from dplm2.training import checkpointing
from dplm2.training.devices import COMPILES_ON_CPU, blocks

WIDTH, HEADS, INNER, RANK = 32, 4, 64, 3


def disturb(network):
    """Change all weights, as training would; low-rank updates are initially zero."""
    torch.manual_seed(1)
    for parameter in network.model.parameters():
        nn.init.normal_(parameter, std=0.2)


def batch_of(network, lengths=(7, 4, 4, 9)):
    """Samples of different lengths, one of each task."""
    vocabulary, settings, rng = network.vocabulary, DiffusionSettings.make(), np.random.default_rng(0)
    structures = [rng.integers(vocabulary.first_code, vocabulary.mask_structure, length) for length in lengths]
    sequences = [rng.integers(4, 24, length) for length in lengths]
    target = layout.join(vocabulary, structures, sequences)
    tasks = torch.tensor([TASKS.index(task) for task in ("single_modality", "folding", "inverse_folding", "joint")])
    generator = torch.Generator().manual_seed(0)
    times = diffusion.draw_times(tasks, settings.steps, generator)
    return diffusion.add_noise(vocabulary, target, tasks, times, settings, generator).batch()


def loss_and_gradients(network, packing):
    network.packing = packing
    network.zero_grad()
    loss, _ = DiffusionObjective(network, DiffusionSettings.make())(batch_of(network))
    loss.backward()
    return loss.item(), {name: p.grad for name, p in network.named_parameters() if p.grad is not None}


def without_dropout(network):
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return network.train()


@pytest.mark.parametrize("library", ["onednn", "torch"])
@pytest.mark.parametrize("adapted", [False, True], ids=["full", "low rank"])
def test_loss_and_gradients_equal_those_of_transformers(small_network: MultimodalEsm, adapted, library, monkeypatch):
    monkeypatch.setattr(products, "MIN_WORK", dict.fromkeys(products.MIN_WORK, 0))
    monkeypatch.setenv(routine.VARIABLE, library)
    if adapted:
        lora.add(small_network.model, LoraSettings.make(enabled=True, rank=3, dropout=0.0), seed=0)
    disturb(small_network)
    plain_loss, plain = loss_and_gradients(without_dropout(small_network), packing=False)
    loss, found = loss_and_gradients(small_network, packing=True)
    assert loss == pytest.approx(plain_loss, rel=1e-5)
    assert found.keys() == plain.keys()
    assert any("lora_A" in name for name in found) == adapted
    for name, gradient in plain.items():
        # A common shift of all keys does not change attention: the gradient of their bias is only rounding.
        tolerance = 1e-4 * float(gradient.abs().max()) + 1e-6
        assert torch.allclose(found[name], gradient, rtol=1e-4, atol=tolerance), name


@pytest.mark.parametrize("adapted", [False, True], ids=["full", "low rank"])
def test_bfloat16_follows_float32(small_network, adapted):
    if adapted:
        lora.add(small_network.model, LoraSettings.make(enabled=True, rank=3, dropout=0.0), seed=0)
    without_dropout(small_network)
    loss, found = loss_and_gradients(small_network, packing=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half_loss, half = loss_and_gradients(small_network, packing=True)
    assert half_loss == pytest.approx(loss, rel=0.01) and half_loss != loss
    for name, gradient in found.items():
        assert half[name].dtype == torch.float32
        if "key.bias" not in name and gradient.norm() > 0:
            assert torch.cosine_similarity(gradient.flatten(), half[name].flatten(), dim=0) > 0.99, name


@pytest.mark.parametrize("half", [False, True], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("adapted", [False, True], ids=["full", "low rank"])
def test_activation_checkpointing_changes_no_bit(small_network, adapted, half):
    """With dropout, which draws the same numbers again."""
    if adapted:
        lora.add(small_network.model, LoraSettings.make(enabled=True, rank=3), seed=0)
    disturb(small_network)
    small_network.train()
    found = []
    for recomputed in ([], blocks(small_network)):
        torch.manual_seed(5)
        with checkpointing.enabled(recomputed), torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
            found.append(loss_and_gradients(small_network, packing=True))
    (loss, gradients), (again, recomputed) = found
    assert loss == again and gradients.keys() == recomputed.keys()
    assert all(torch.equal(gradient, recomputed[name]) for name, gradient in gradients.items())


def parts_of_a_layer(low_rank):
    """A norm and three matrices in double precision, with or without peft's update."""
    modules = nn.ModuleDict(
        {"norm": nn.LayerNorm(6), "first": nn.Linear(6, 5), "second": nn.Linear(6, 5), "last": nn.Linear(5, 6)}
    )
    if low_rank is not None:
        names = ["first", "second", "last"]
        config = peft.LoraConfig(r=2, lora_alpha=3, lora_dropout=low_rank, target_modules=names)
        peft.inject_adapter_in_model(config, modules)
        for name in names:
            nn.init.normal_(modules[name].lora_B["default"].weight)
    return modules.double().requires_grad_()


@pytest.mark.parametrize("low_rank", [None, 0.0, 0.4], ids=["plain", "low rank", "low rank with dropout"])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_derivatives_equal_finite_differences(low_rank, dropout):
    """With dropout: for a given seed, the layer is a smooth function."""
    torch.manual_seed(0)
    modules, dropping = parts_of_a_layer(low_rank), nn.Dropout(dropout)
    names = [name for name, _ in modules.named_parameters()]

    def outcome(x, *values):
        torch.manual_seed(3)
        for name, value in zip(names, values, strict=True):
            owner, _, leaf = name.rpartition(".")
            part = modules.get_submodule(owner)
            part._parameters.pop(leaf, None)
            setattr(part, leaf, value)
        one, two = layers.project(x, modules["norm"], [modules["first"], modules["second"]])
        with_gelu = layers.add_projected(x, one.split([1, 3]), modules["last"], dropping, gelu=True)
        return layers.add_projected(with_gelu, [two], modules["last"], dropping, gelu=False)

    values = [parameter.detach().clone().requires_grad_() for parameter in modules.parameters()]
    x = torch.randn(4, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(outcome, (x, *values), fast_mode=True)


def test_attention_in_bfloat16_equals_torchs(monkeypatch):
    """Also when only a few heads are computed at a time."""
    torch.manual_seed(0)
    tensors = [torch.randn(11, 3, 8).bfloat16().requires_grad_() for _ in range(3)]
    exact = [tensor.detach().float().requires_grad_() for tensor in tensors]
    for at_once in (1 << 22, 30):
        monkeypatch.setattr(attention, "_SCORES_PER_CHUNK", at_once)
        found, expected = (
            torch.cat(attention.parts_within_segments(*inputs, [4, 4, 3], scaling=0.35)) for inputs in (tensors, exact)
        )
        assert found.dtype == torch.bfloat16 and torch.allclose(found.float(), expected, atol=0.02)
        direction = torch.randn_like(expected)
        gradients = torch.autograd.grad((found.float() * direction).sum(), tensors)
        for ours, theirs in zip(gradients, torch.autograd.grad((expected * direction).sum(), exact), strict=True):
            assert torch.allclose(ours.float(), theirs, atol=0.05)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_attention_uses_the_given_scaling(dtype):
    torch.manual_seed(0)
    query, key, value = (torch.randn(7, 2, 16).to(dtype) for _ in range(3))
    for scaling in (1.0, 0.05):
        (found,) = attention.parts_within_segments(query, key, value, [7], scaling=scaling)
        q, k, v = (track.double().transpose(0, 1) for track in (query, key, value))
        expected = ((q @ k.mT * scaling).softmax(-1) @ v).transpose(0, 1)
        assert torch.allclose(found.double(), expected, atol=1e-5 if dtype == torch.float32 else 0.03)


@pytest.mark.parametrize("probability", [0.1, 0.5])
def test_dropout_has_the_given_probability_and_keeps_the_mean(probability):
    torch.manual_seed(0)
    mask = layers.DropoutMask.drawn(probability)
    kept = mask.kept(torch.Size([400, 999]))
    assert 1 - kept.float().mean().item() == pytest.approx(probability, abs=0.003)
    assert mask.rescaling == pytest.approx(1 / (1 - probability), rel=1e-4)
    # Neighbours must be independent: four of them come from one 64-bit number.
    pairs = (kept[:, :-1] & kept[:, 1:]).float().mean().item()
    assert pairs == pytest.approx((1 - probability) ** 2, abs=0.005)
    torch.manual_seed(0)
    assert torch.equal(layers.DropoutMask.drawn(probability).kept(kept.shape), kept)
    assert not torch.equal(layers.DropoutMask.drawn(probability).kept(kept.shape), kept)


def test_no_gradients_are_computed_for_frozen_weights(small_network):
    lora.add(small_network.model, LoraSettings.make(enabled=True, rank=3), seed=0)
    _, found = loss_and_gradients(small_network.train(), packing=True)
    assert found and not any(".base_layer." in name or "LayerNorm" in name for name in found)


def saved_bytes(depth, adapted, half):
    """Bytes saved for the backward pass of a network with this many layers, except weights."""
    torch.manual_seed(0)
    vocabulary = Vocabulary(20)
    model = Esm2(Esm2Config(vocabulary.size, WIDTH, depth, HEADS, INNER))
    network = MultimodalEsm(model, vocabulary).train()
    if adapted:
        lora.add(model, LoraSettings.make(enabled=True, rank=RANK), seed=0)
    saved, weights = {}, {weight.untyped_storage().data_ptr() for weight in network.parameters()}

    def note(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    batch = batch_of(network)
    hooks = torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor)
    with hooks, torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
        loss, _ = DiffusionObjective(network, DiffusionSettings.make())(batch)
    tokens = int((batch["input_ids"] != vocabulary.pad).sum())
    assert loss.requires_grad  # the graph, and what it saved, exists until here
    return sum(saved.values()), tokens


@pytest.mark.parametrize("half", [False, True], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("adapted", [False, True], ids=["full", "low rank"])
def test_a_layer_saves_only_what_is_costly_to_compute_again(adapted, half):
    """With dropout; torch's attention in float32 also saves a number per token and head."""
    (one, tokens), (three, _) = (saved_bytes(depth, adapted, half) for depth in (1, 3))
    size = 2 if half else 4
    expected = 2 * WIDTH * 4 + (4 * WIDTH + INNER + 6 * RANK * adapted) * size + (0 if half else HEADS * 4)
    assert (three - one) / 2 / tokens == expected


@pytest.mark.skipif(torch.__version__ < COMPILES_ON_CPU, reason="older torch cannot trace all of it")
def test_compiled_objective_has_the_same_loss_and_gradients(small_network):
    """Traced for the forward and backward pass as by torch.compile, but not compiled to machine code."""
    lora.add(small_network.model, LoraSettings.make(enabled=True, rank=3, dropout=0.0), seed=0)
    disturb(small_network)
    loss, eager = loss_and_gradients(without_dropout(small_network), packing=True)
    small_network.packing = None
    small_network.zero_grad()
    compiled = torch.compile(
        DiffusionObjective(small_network, DiffusionSettings.make()), dynamic=True, backend="aot_eager"
    )
    compiled_loss, _ = compiled(batch_of(small_network))
    compiled_loss.backward()
    assert compiled_loss.item() == pytest.approx(loss, rel=1e-5)
    found = {name: p.grad for name, p in small_network.named_parameters() if p.grad is not None}
    assert found.keys() == eager.keys()
    for name, gradient in eager.items():
        assert torch.allclose(found[name], gradient, rtol=1e-4, atol=1e-4 * float(gradient.abs().max()) + 1e-6), name

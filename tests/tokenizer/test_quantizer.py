"""The quantizer against the authors' recorded values, and its entropies against sums over all codes."""

import math

import pytest
import torch

from dplm2.core.errors import ConfigError
from dplm2.settings.tokenizer import TokenizerSettings
from dplm2.tokenizer.quantizer import (
    Quantizer,
    code_entropies,
    distance_to_uniform,
    indices_to_codes,
    levels_of,
    uniform_values,
)


def quantizer(**settings) -> Quantizer:
    return Quantizer(TokenizerSettings.make(quantizer=settings).quantizer)


def entropies_over_all_codes(values_NQ, temperature):
    """Entropies by enumeration of all codes: softmax of 2 x.c / T, entropies of the rows and of their mean."""
    bits = values_NQ.shape[1]
    codes = indices_to_codes(torch.arange(2**bits), bits).to(values_NQ.dtype)
    log_probability = torch.log_softmax(2 * values_NQ @ codes.T / temperature, -1)
    probability = log_probability.exp()
    mean = probability.mean(0)
    return -(probability * log_probability).sum(-1).mean(), -(mean * torch.log(mean + 1e-5)).sum()


def test_indices_and_entropies_equal_the_recorded_ones(recorded_tensors):
    recorded = recorded_tensors("lfq_unit")
    values = recorded["x"].clone().requires_grad_()
    result = quantizer()(values, recorded["mask"])
    result.loss.backward()
    assert torch.equal(result.indices_BL[recorded["mask"]], recorded["indices"][recorded["mask"]])
    for name, ours in [
        ("commit", result.commitment),
        ("sample_entropy", result.sample_entropy),
        ("codebook_entropy", result.codebook_entropy),
        ("loss", result.loss),
    ]:
        torch.testing.assert_close(ours, recorded[name].squeeze(), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(
        result.codes_BLQ[recorded["mask"]], recorded["quantized"][recorded["mask"]], rtol=0, atol=1e-6
    )


def test_first_bit_is_most_significant(recorded_tensors):
    recorded = recorded_tensors("lfq_unit")
    codes = indices_to_codes(torch.tensor([[0, 5, 4097]]), 13)
    assert torch.equal(codes, recorded["bits_of_index_0_5_4097"])


@pytest.mark.parametrize("name", ["single_missing", "batch_padded", "single_full"])
def test_losses_and_gradient_equal_the_recorded_ones(recorded_tensors, name):
    recorded = recorded_tensors(f"structok_tiny/{name}")
    values = recorded["pre_quant"].clone().requires_grad_()
    mask = recorded["res_mask"].bool()
    result = quantizer()(values, mask)
    assert torch.equal(result.indices_BL, recorded["tokens"])
    torch.testing.assert_close(result.codes_BLQ[mask], recorded["lfq_quantized"][mask], rtol=0, atol=1e-6)
    for ours, theirs in [
        (result.loss, "lfq_loss"),
        (result.commitment, "lfq_commit"),
        (result.sample_entropy, "lfq_sample_entropy"),
        (result.codebook_entropy, "lfq_codebook_entropy"),
    ]:
        torch.testing.assert_close(ours, recorded[theirs].squeeze(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("bits", [1, 2, 5, 8, 11])
@pytest.mark.parametrize("temperature", [0.01, 0.5, 2.0])
def test_entropies_equal_the_sum_over_all_codes(bits, temperature):
    values = torch.randn(40, bits, dtype=torch.float64, generator=torch.Generator().manual_seed(bits)) * 0.3
    ours, theirs = values.clone().requires_grad_(), values.clone().requires_grad_()
    for own, full in zip(code_entropies(ours, temperature), entropies_over_all_codes(theirs, temperature), strict=True):
        torch.testing.assert_close(own, full, rtol=1e-7, atol=1e-9)
    (code_entropies(ours, temperature)[0] - code_entropies(ours, temperature)[1]).backward()
    full = entropies_over_all_codes(theirs, temperature)
    (full[0] - full[1]).backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-6, atol=1e-9)


def test_gradient_is_finite_where_the_distribution_saturates():
    values = torch.tensor([[50.0, -50.0, 0.0, 1e-30]], requires_grad=True)
    sample, codebook = code_entropies(values, 0.01)
    (sample - codebook).backward()
    assert torch.isfinite(values.grad).all()
    assert math.isclose(float(sample.detach()), 2 * math.log(2), rel_tol=1e-6)  # two bits undecided


def test_bounds_keep_signs_and_disabled_bits_pass_through():
    values = torch.randn(2, 7, 6, generator=torch.Generator().manual_seed(0)) * 3
    mask = torch.ones(2, 7, dtype=torch.bool)
    plain = quantizer(bits=6)(values, mask)
    for bound in ("tanh", "normalize"):
        bounded = quantizer(bits=6, bound=bound)
        assert torch.equal(bounded(values, mask).indices_BL, plain.indices_BL)
        bounded.bits_on = 2.0
        codes = bounded(values, mask).codes_BLQ
        torch.testing.assert_close(codes[..., :2], plain.codes_BLQ[..., :2])
        torch.testing.assert_close(codes[..., 2:], bounded.bound(values)[..., 2:])


def test_gradient_is_straight_through():
    values = torch.randn(1, 5, 4, generator=torch.Generator().manual_seed(1), requires_grad=True)
    weights = torch.arange(20.0).view(1, 5, 4)
    (quantizer(bits=4)(values, torch.ones(1, 5, dtype=torch.bool)).codes_BLQ * weights).sum().backward()
    assert torch.equal(values.grad, weights)


def test_memory_of_the_entropy_does_not_grow_with_residues_times_codes():
    values = torch.randn(20_000, 13, generator=torch.Generator().manual_seed(0))
    largest = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            if isinstance(result, torch.Tensor):
                largest.append(result.numel())
            return result

    with Watch():
        code_entropies(values, 0.01)
    assert max(largest) <= 20_000 * 128  # half of the bits at a time; all codes would need 20,000 x 8,192


def test_several_bits_of_a_value_give_the_nearest_of_evenly_spaced_levels():
    layout = (4, 3, 1)
    settings = TokenizerSettings.make(quantizer={"bits": 8, "bits_per_value": layout, "bound": "tanh"}).quantizer
    values = torch.randn(2, 50, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
    mask = torch.ones(2, 50, dtype=torch.bool)
    result = Quantizer(settings)(values, mask)
    levels = levels_of(result.codes_BLQ, settings)
    for index, bits in enumerate(layout):
        grid = torch.linspace(-1, 1, 2**bits)
        bounded = values[..., index].tanh().detach()
        nearest = grid[(bounded[..., None] - grid).abs().argmin(-1)]
        torch.testing.assert_close(levels[..., index].detach(), nearest, rtol=0, atol=1e-6)
    assert torch.equal(result.indices_BL, Quantizer(settings).indices(values, mask))
    assert torch.equal(indices_to_codes(result.indices_BL, 8), result.codes_BLQ.round())
    # The gradient is that of the bounded values.
    levels.sum().backward()
    torch.testing.assert_close(values.grad, 1 - values.detach().tanh().square(), rtol=1e-5, atol=1e-6)


def test_one_bit_of_each_value_is_the_sign():
    values = torch.randn(3, 20, 5, generator=torch.Generator().manual_seed(0))
    mask = torch.rand(3, 20, generator=torch.Generator().manual_seed(1)) > 0.2
    plain = quantizer(bits=5, bound="tanh")(values, mask)
    listed = quantizer(bits=5, bound="tanh", bits_per_value=[1] * 5)(values, mask)
    for ours, other in zip(listed, plain, strict=True):
        assert torch.equal(ours, other)


def test_outside_the_mask_every_layout_gives_index_0():
    values, mask = torch.zeros(1, 4, 2), torch.tensor([[True, False, True, False]])
    module = quantizer(bits=6, bits_per_value=[3, 3], bound="tanh")
    assert module.indices(values, mask)[0, 1] == module.indices(values, mask)[0, 3] == 0
    assert torch.equal(module(values, mask).indices_BL, module.indices(values, mask))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bits": 7}, "adds up to 6, bits is 7"),
        ({"bound": "normalize"}, "bound must be tanh"),
        ({"gradual_steps": 5}, "set gradual_steps: 0"),
    ],
)
def test_bits_per_value_that_do_not_fit_are_refused(change, message):
    with pytest.raises(ConfigError, match=f"quantizer.bits_per_value: .*{message}"):
        quantizer(**({"bits": 6, "bits_per_value": [4, 2], "bound": "tanh"} | change))


def test_uniform_values_use_all_codes_equally():
    layout = (3, 2, 1)
    module = quantizer(bits=6, bits_per_value=list(layout), bound="tanh")
    values = uniform_values(64 * 64, layout)
    assert values.abs().max() <= 1
    counts = torch.bincount(
        module.indices(torch.atanh(values.clamp(-1 + 1e-6, 1 - 1e-6))[None], torch.ones(1, 4096) > 0)[0]
    )
    assert counts.min() > 0.9 * 64
    assert counts.max() < 1.1 * 64
    # Each value is uniformly distributed, except for the outermost levels, whose outer half cells are reflected.
    inner = values[:, 0].abs() < 6 / 7
    torch.testing.assert_close(inner.float().mean(), torch.tensor(6 / 8), rtol=0.01, atol=0)
    torch.testing.assert_close(values[inner, 0].square().mean(), torch.tensor((6 / 7) ** 2 / 3), rtol=0.01, atol=0)


def test_distance_to_the_uniform_distribution_has_closed_forms():
    layout = (4, 3)
    even = uniform_values(2048, layout)
    order = torch.randperm(2048, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(distance_to_uniform(even[order], layout), torch.tensor(0.0), rtol=0, atol=1e-10)
    # For a constant: the mean over directions of the mean square of the other sample's projections around it, whose
    # expectation is the same along random directions.
    with torch.random.fork_rng():
        torch.manual_seed(0)
        at_the_centre = distance_to_uniform(torch.zeros(2048, 2), layout)
    torch.testing.assert_close(at_the_centre, even.square().mean(), rtol=0.03, atol=0)


def test_distance_detects_correlated_values():
    """Each value is uniform, but together they use 16 of 256 codes: only oblique directions detect it."""
    layout = (4, 4)
    even = uniform_values(2048, layout)
    together = even[:, :1].expand(-1, 2)
    # In 2,000 draws of directions, the smallest distance was 0.018 here, and the largest 0.0004 below.
    assert distance_to_uniform(together, layout) > 0.01
    independent = torch.stack([even[:, 0], even[torch.randperm(2048), 1]], 1)
    assert distance_to_uniform(independent, layout) < 0.001


def test_uniformity_term_spreads_values_over_all_codes():
    """Four hundred points on a line in a plane, optimised by this term only, fill all codes of the plane."""
    torch.manual_seed(0)
    line = torch.linspace(-0.5, 0.5, 400)[:, None] * torch.tensor([1.0, 0.8]) + 0.01 * torch.randn(400, 2)
    values = line.clone().requires_grad_()
    module = quantizer(bits=4, bits_per_value=[2, 2], bound="tanh", uniformity_weight=1.0, entropy_weight=0.0,
                       commitment_weight=0.0)  # fmt: skip
    mask = torch.ones(1, 400, dtype=torch.bool)
    optimizer = torch.optim.Adam([values], lr=0.02)
    before = len(module.indices(values[None], mask).unique())
    for _ in range(200):
        optimizer.zero_grad()
        module(values[None], mask).loss.backward()
        optimizer.step()
    counts = torch.bincount(module.indices(values[None], mask)[0], minlength=16)
    assert before <= 8
    assert counts.min() >= 10


def test_uniformity_counts_only_residues_of_the_mask():
    values = torch.randn(2, 30, 2, generator=torch.Generator().manual_seed(0))
    mask = torch.ones(2, 30, dtype=torch.bool)
    mask[1, 20:] = False
    settings = {"bits": 4, "bits_per_value": [2, 2], "bound": "tanh", "uniformity_weight": 1.0}
    losses = []
    for beyond in (values[1, 20:].clone(), 1e3):
        values[1, 20:] = beyond
        torch.manual_seed(0)  # of the directions
        losses.append(quantizer(**settings)(values, mask).loss)
    torch.testing.assert_close(*losses)

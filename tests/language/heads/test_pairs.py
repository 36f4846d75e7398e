"""The head of levels and pairs of levels against explicit rows of all codes and closed forms."""

import itertools

import pytest
import torch
from torch.nn import functional

from dplm2.core.errors import ConfigError, DPLM2Error
from dplm2.language import heads, warmup
from dplm2.language.esm import features
from dplm2.language.heads.pairs import Pairs, groups_of, log_total
from dplm2.language.vocabulary import Vocabulary
from dplm2.settings.model import DiffusionSettings, NetworkSettings
from dplm2.settings.tokenizer import TokenizerSettings
from dplm2.tokenizer.quantizer import Quantizer

LAYOUTS = [(5, 4, 4), (2, 2, 2), (3, 1), (4,), (2, 1, 2, 1, 2), (1,) * 6, (1, 1)]
WIDTH = 16


def made(layout, width=WIDTH, spread=0.5):
    head = Pairs(Vocabulary(2 ** sum(layout)), width, layout)
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter, std=spread)
    return head.double()


def rows_of_codes(head, rows_RD):
    """Rows (C, ...) of all codes: sums of the rows of their levels and pairs of levels, one code at a time."""
    sizes = [2**bits for bits in head.groups]
    singles, pairs, first = [], {}, 0
    for size in sizes:
        singles.append(rows_RD[first : first + size])
        first += size
    for i, j in itertools.combinations(range(len(sizes)), 2):
        pairs[i, j] = rows_RD[first : first + sizes[i] * sizes[j]].unflatten(0, (sizes[i], sizes[j]))
        first += sizes[i] * sizes[j]
    assert first == len(rows_RD)
    codes = []
    for levels in itertools.product(*map(range, sizes)):
        row = sum(single[level] for single, level in zip(singles, levels, strict=True))
        codes.append(row + sum(pair[levels[i], levels[j]] for (i, j), pair in pairs.items()))
    return torch.stack(codes)


def test_head_has_a_row_per_level_and_pair():
    head = Pairs(Vocabulary(), WIDTH, (5, 4, 4))
    assert head.leave.decoder.weight.shape == head.enter.weight.shape == (64 + 1280, WIDTH)


def test_single_bits_are_divided_into_groups():
    assert groups_of((1,) * 13) == (5, 4, 4)
    assert groups_of((1,) * 16) == (4, 4, 4, 4)
    assert groups_of((1,) * 4) == (2, 1, 1) and groups_of((1,)) == (1,)
    assert groups_of((6, 1)) == (6, 1)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_pairs_head_equals_a_softmax_over_the_rows_of_all_codes(layout):
    """Values, normalisation and all gradients of logits and loss."""
    head = made(layout)
    hidden_ND = torch.randn(6, WIDTH, dtype=torch.float64, requires_grad=True)
    codes_N = torch.randint(2 ** sum(layout), (6,))
    weight_CD = rows_of_codes(head, head.leave.decoder.weight)
    bias_C = rows_of_codes(head, head.leave.bias.unsqueeze(-1))[:, 0]
    free_NC = functional.linear(features(head.leave, hidden_ND), weight_CD, bias_C)
    assert torch.allclose(head.logits(None, hidden_ND).double(), free_NC, atol=1e-5)
    nll_N = head.nll(None, hidden_ND, codes_N + head.classes.start)
    assert torch.allclose(nll_N.double(), functional.cross_entropy(free_NC, codes_N, reduction="none"), atol=1e-5)
    inputs = [hidden_ND, *head.leave.parameters()]
    weights_N = torch.rand(6)
    ours = torch.autograd.grad((nll_N * weights_N).sum(), inputs)
    theirs = torch.autograd.grad(
        (functional.cross_entropy(free_NC, codes_N, reduction="none") * weights_N).sum(), inputs
    )
    for one, other in zip(ours, theirs, strict=True):
        assert torch.allclose(one, other, atol=1e-5)


def test_smallest_codebook_has_two_codes():
    assert made((1,)).logits(None, torch.zeros(1, WIDTH, dtype=torch.float64)).shape == (1, 2)
    with pytest.raises(DPLM2Error, match="1 codes are not the combinations"):
        Pairs(Vocabulary(1), WIDTH)


@pytest.mark.parametrize("layout", LAYOUTS)
@torch.no_grad()
def test_probabilities_of_all_codes_sum_to_one(layout):
    head, codes = made(layout), torch.arange(2 ** sum(layout))
    hidden_ND = torch.randn(1, WIDTH, dtype=torch.float64).expand(len(codes), -1)
    total = head.nll(None, hidden_ND, codes + head.classes.start).neg().exp().sum()
    assert total.item() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("spread", [1.0, 10.0])
def test_the_sum_over_codes_is_exact_for_large_logits(spread):
    ab, ac, bc = (spread * torch.randn(50, *shape) for shape in ((32, 16), (32, 16), (16, 16)))
    plain = (ab[:, :, :, None] + ac[:, :, None, :] + bc[:, None, :, :]).double().flatten(1).logsumexp(-1)
    assert torch.allclose(log_total(ab, ac, bc).double(), plain, rtol=1e-6, atol=1e-5)


def test_extreme_logits_give_no_nan():
    tables = [torch.full(shape, -1e4) for shape in ((1, 2, 2), (1, 2, 2), (1, 2, 2))]
    for table, place in zip(tables, ((0, 0, 0), (0, 0, 1), (0, 1, 0)), strict=True):
        table[place] = 1e4
        table.requires_grad_()
    total = log_total(*tables)
    total.sum().backward()
    assert torch.isfinite(total).all() and all(torch.isfinite(table.grad).all() for table in tables)


@pytest.mark.parametrize("layout", LAYOUTS)
@torch.no_grad()
def test_embeddings_of_codes_are_sums_over_levels(layout):
    head = made(layout)
    table = torch.nn.Embedding(33, WIDTH).double()
    vocabulary = head.vocabulary
    entered = head.embed(table, torch.arange(vocabulary.size)[None])[0]
    assert torch.equal(entered[:33], table.weight)
    assert torch.equal(entered[[33, 34, 35, vocabulary.mask_structure]], head.special.weight)
    assert torch.allclose(entered[36:-1], rows_of_codes(head, head.enter.weight))


def test_levels_follow_the_tokenizers_values():
    """With bits_per_value the level of a group increases with the quantized value of the tokenizer's code."""
    quantizer = Quantizer(
        TokenizerSettings.make(quantizer={"bits": 13, "bits_per_value": [5, 4, 4], "bound": "tanh"}).quantizer
    )
    levels, values = Pairs(Vocabulary(), WIDTH, (5, 4, 4)).levels(), quantizer.code_values()
    for group, steps in enumerate((31, 15, 15)):
        assert torch.allclose(levels[:, group] / steps * 2 - 1, values[:, group], atol=1e-6)


@pytest.mark.parametrize("code", [False, True])
@pytest.mark.parametrize("settings", [{"bits_per_value": [5, 4, 4], "bound": "tanh"}, {}])
def test_initial_rows_have_the_sources_spread_and_similar_neighbours(settings, code):
    quantizer = Quantizer(TokenizerSettings.make(quantizer={"bits": 13, **settings}).quantizer)
    model = warmup.random_model(NetworkSettings.make(hidden_size=256, layers=1, heads=4, intermediate_size=64), seed=0)
    values = quantizer.code_values() if code else None
    head = warmup.add_structure_tokens(model, Vocabulary(), 0, values, "pairs", quantizer.settings.layout)
    assert head.groups == (5, 4, 4)
    table = model.esm.embeddings.word_embeddings.weight
    with torch.no_grad():
        entered = head.embed(model.esm.embeddings.word_embeddings, torch.arange(36, 8228)[None])[0]
        logits = head.logits(None, torch.randn(4, 256))
    assert entered.std(0).mean().item() == pytest.approx(table.std(0).mean().item(), rel=0.05)
    assert torch.allclose(entered.mean(0), table.mean(0), atol=1e-5)
    # N(0, 0.02^2) rows times features of variance 1, as with a row per code.
    assert logits.std(1).mean().item() == pytest.approx(0.02 * 16, rel=0.35)
    # Two codes that differ in their last bit share the rows of three of six terms; similar values add similarity.
    for rows, tolerance in ((entered, 0.02), (logits.T, 0.1)):
        neighbours, apart = rows[0::2] - rows[1::2], rows[:4096] - rows[4096:].flip(0)
        likeness = (neighbours.norm(dim=1).mean() / apart.norm(dim=1).mean()).item()
        if not code:
            assert likeness == pytest.approx(0.5**0.5, abs=tolerance)
        else:
            assert likeness < (0.35 if settings else 0.65)


def test_unsupported_settings_of_the_head_are_refused():
    head = heads.make("pairs", Vocabulary(16), 8, (2, 2))
    with pytest.raises(ConfigError, match=r"diffusion.classes: .*use track"):
        head.check(DiffusionSettings.make(classes="all"))
    with pytest.raises(DPLM2Error, match="20 codes are not the combinations"):
        heads.make("pairs", Vocabulary(20), 8)
    with pytest.raises(DPLM2Error, match="32 codes are not the combinations"):
        heads.make("pairs", Vocabulary(32), 8, (2, 2))
    with pytest.raises(DPLM2Error, match="'rows' is unknown; available: codes, bits, pairs"):
        heads.make("rows", Vocabulary(32), 8)

"""The sampler against closed forms, and its invariances."""

import itertools
import logging
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from torch.utils._python_dispatch import TorchDispatchMode

from dplm2.core.errors import ConfigError, DPLM2Error
from dplm2.core.output import progress_bar
from dplm2.language import sampling
from dplm2.language.conditioning import Conditioning, sample_seed
from dplm2.language.denoising import Denoiser
from dplm2.language.esm import Esm2, Esm2Config
from dplm2.language.filtering import draw, draw_gumbel, nucleus_threshold
from dplm2.language.guidance import composition, token_bias
from dplm2.language.network import MultimodalEsm
from dplm2.language.sampling import batches, cost, sample
from dplm2.language.schedule import SamplerSettings, Strategy, Unmasking, masked_count
from dplm2.language.vocabulary import TRACKS, Vocabulary

VOCABULARY = Vocabulary(codebook_size=8)
DEFAULT = SamplerSettings.of("annealing@2.0:1.0", "stochastic@1.0")
GREEDY = SamplerSettings.of("argmax", "deterministic")


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    model = Esm2(Esm2Config(len(VOCABULARY), 16, 2, 2, 32))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return MultimodalEsm(model, VOCABULARY).eval()


def unknown(sample_id, length, steps=4, tracks=TRACKS):
    tokens = {track: np.full(length, VOCABULARY.mask(track)) for track in tracks}
    return Conditioning(sample_id, tokens, {track: np.zeros(length, bool) for track in tracks}, steps)


def half_given(sample_id, length, steps=4):
    """Random tokens fixed at random positions of both tracks."""
    random = np.random.default_rng(length)
    tokens, fixed = {}, {}
    for track in TRACKS:
        allowed = VOCABULARY.generated(track)
        fixed[track] = random.random(length) < 0.5
        known = random.integers(allowed.start, allowed.stop, length)
        tokens[track] = np.where(fixed[track], known, VOCABULARY.mask(track))
    return Conditioning(sample_id, tokens, fixed, steps)


def tokens_of(results):
    return [{track: ids.tolist() for track, ids in result.tokens.items()} for result in results]


class Small:
    """The network on a machine with memory for 3 samples."""

    def __init__(self, network, limit=3):
        self.network, self.limit, self.sizes = network, limit, []

    def __getattr__(self, name):
        return getattr(self.network, name)

    def hidden(self, ids_BT):
        self.sizes.append(len(ids_BT))
        if len(ids_BT) > self.limit:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return self.network.hidden(ids_BT)


# The distribution ---------------------------------------------------------------------------------------------------


def nucleus_by_hand(probabilities, mass):
    kept, total = [], 0.0
    for index in np.argsort(-probabilities):
        kept.append(index)
        total += probabilities[index]
        if total > mass:
            break
    filtered = np.zeros_like(probabilities)
    filtered[kept] = probabilities[kept]
    return filtered


def distribution_by_hand(network, tokens, position, temperature):
    """Distribution over the 20 amino acids at a position: nucleus 0.95 first, then temperature."""
    ids = torch.tensor([[0, *tokens, 2]])
    with torch.no_grad():
        logits = network(ids)[0, position + 1].double().numpy()
    amino_acids = np.exp(logits[4:24])
    tempered = nucleus_by_hand(amino_acids / amino_acids.sum(), 0.95) ** (1 / temperature)
    return tempered / tempered.sum()


def pairs_by_hand(network):
    """Probability of each pair of amino acids: two residues, two steps, annealing 2 to 1, stochastic unmasking.

    The difference of two Gumbel variables is logistic, so that the choice of the position to mask has a closed form.
    """
    mask = VOCABULARY.mask_sequence
    first, second = (distribution_by_hand(network, [mask, mask], position, 2.0) for position in (0, 1))
    after_first = [distribution_by_hand(network, [4 + a, mask], 1, 1.5) for a in range(20)]
    after_second = [distribution_by_hand(network, [mask, 4 + b], 0, 1.5) for b in range(20)]
    expected = np.zeros((20, 20))
    for a, b in itertools.product(range(20), range(20)):
        if first[a] * second[b]:
            noise_scale = 1.0 * (1 - 1 / 2)
            first_is_masked = 1 / (1 + np.exp(-(np.log(second[b]) - np.log(first[a])) / noise_scale))
            expected[:, b] += first[a] * second[b] * first_is_masked * after_second[b]
            expected[a, :] += first[a] * second[b] * (1 - first_is_masked) * after_first[a]
    return expected


def assert_drawn_from(counts, expected):
    """Chi-square test of counts against probabilities; cells with expectations below 5 are pooled."""
    expected = expected.ravel() * counts.sum()
    rare = expected < 5
    observed = np.append(counts.ravel()[~rare], counts.ravel()[rare].sum())
    wanted = np.append(expected[~rare], expected[rare].sum())
    observed, wanted = observed[wanted > 0], wanted[wanted > 0]
    assert len(wanted) > 5
    assert chisquare(observed, wanted * observed.sum() / wanted.sum()).pvalue > 1e-3


def test_20000_samples_follow_the_exact_distribution(network):
    conditionings = [unknown(str(number), 2, steps=2, tracks=("sequence",)) for number in range(20_000)]
    results = sample(network, conditionings, DEFAULT, seed=1, token_budget=20_000)
    pairs = np.array([result.tokens["sequence"] - 4 for result in results])
    expected = pairs_by_hand(network)
    assert expected.sum() == pytest.approx(1)
    counts = np.zeros((20, 20))
    np.add.at(counts, (pairs[:, 0], pairs[:, 1]), 1)
    assert counts[expected == 0].sum() == 0  # outside the nucleus
    assert_drawn_from(counts, expected)


@pytest.mark.parametrize("classes", [20, 2000])  # numpy sorts long rows, torch short ones
def test_a_draw_follows_the_filtered_tempered_distribution(classes):
    random = np.random.default_rng(0)
    logits = random.normal(size=classes) * 2
    probabilities = nucleus_by_hand(np.exp(logits) / np.exp(logits).sum(), 0.9)
    expected = probabilities ** (1 / 1.3) / (probabilities ** (1 / 1.3)).sum()
    draws = 20_000 if classes == 20 else 5_000
    rows = torch.from_numpy(logits.astype(np.float32)).expand(draws, -1)
    uniform = torch.from_numpy(random.random(draws, dtype=np.float32))
    index, score, _ = draw(rows, torch.full((draws,), 1.3), 0.9, uniform)
    assert_drawn_from(np.bincount(index.numpy(), minlength=classes), expected)
    np.testing.assert_allclose(score.exp(), expected[index], rtol=2e-4)


def test_gumbel_argmax_at_temperature_1_is_a_draw_from_the_nucleus():
    random = np.random.default_rng(0)
    logits = random.normal(size=30) * 2
    expected = nucleus_by_hand(np.exp(logits) / np.exp(logits).sum(), 0.9)
    rows = torch.from_numpy(np.tile(logits.astype(np.float32), (20_000, 1)))
    uniform = torch.from_numpy(random.random((20_000, 30), dtype=np.float32))
    index, score, _ = draw_gumbel(rows, torch.ones(20_000), 0.9, uniform)
    assert_drawn_from(np.bincount(index.numpy(), minlength=30), expected / expected.sum())
    # The best of n values of a log-softmax is at least -log n, with n the number of classes in the nucleus.
    assert score.max() <= 0 and score.min() >= -np.log(np.count_nonzero(expected)) - 1e-5


def test_draws_at_the_ends_of_the_unit_interval_are_classes_of_the_nucleus():
    logits = torch.tensor([[-50.0, 1.0, 2.0, -50.0]]).repeat(2, 1)
    index, score, _ = draw(logits, torch.ones(2), 0.95, torch.tensor([0.0, 1 - 2.0**-24]))
    assert index.tolist() == [1, 2] and torch.isfinite(score).all()


def test_nucleus_of_mass_1_and_0():
    probabilities = torch.tensor([[0.1, 0.6, 0.3]])
    assert (probabilities >= nucleus_threshold(probabilities, 1.0)).all()
    assert (probabilities >= nucleus_threshold(probabilities, 0.0)).tolist() == [[False, True, False]]


@pytest.mark.parametrize("length", [4, 300])  # numpy sorts long rows, torch short ones
def test_nucleus_includes_the_class_that_exceeds_the_mass(length):
    """As with the authors, the nucleus ends with the class that exceeds the mass, not the one that reaches it."""
    probabilities = torch.zeros(1, length)
    probabilities[0, :4] = torch.tensor([0.1875, 0.5, 0.0625, 0.25])  # sums without rounding
    for mass, kept in ((0.499, [1]), (0.5, [1, 3]), (0.749, [1, 3]), (0.75, [0, 1, 3]), (0.9375, [0, 1, 2, 3])):
        inside = probabilities[0] >= nucleus_threshold(probabilities, mass)[0]
        assert inside.nonzero().flatten().tolist() == kept


def test_guidance_moves_logits_away_from_unconditional_ones(network):
    """Scores of one greedy step against ``l + (g - 1) (l - l0)``, with l0 without the given tokens."""
    given = half_given("a", 9, steps=1)
    ids = {track: torch.from_numpy(given.tokens[track]) for track in TRACKS}
    nothing = {track: torch.full_like(ids[track], VOCABULARY.mask(track)) for track in TRACKS}
    edges = {"structure": (33, 34), "sequence": (0, 2)}

    def logits_of(tokens):
        parts = [torch.tensor([edges[t][0], *tokens[t], edges[t][1]]) for t in TRACKS]
        with torch.no_grad():
            halves = network(torch.cat(parts)[None])[0].chunk(2)
        return {track: half[1:-1] for track, half in zip(TRACKS, halves, strict=True)}

    given_logits, free_logits = logits_of(ids), logits_of(nothing)
    for guidance in (1.0, 1.5, 3.0):
        (found,) = sample(network, [given], SamplerSettings.of("argmax", "deterministic", guidance=guidance), 0)
        for track in TRACKS:
            mixed = given_logits[track] + (guidance - 1) * (given_logits[track] - free_logits[track])
            classes = VOCABULARY.generated(track)
            best = mixed.log_softmax(-1)[:, classes.start : classes.stop].max(-1)
            generated = ~given.fixed[track]
            expected = best.values.numpy()[generated]
            np.testing.assert_allclose(found.scores[track][generated], expected, atol=1e-4)
            assert np.array_equal(found.tokens[track][generated], best.indices.numpy()[generated] + classes.start)


def test_guided_sample_does_not_depend_on_its_batch(network):
    """What shorter samples are padded with is not masked for the unconditional logits."""
    settings = SamplerSettings.of("argmax", "deterministic", guidance=2.0)
    conditionings = [half_given("a", 5, steps=1), half_given("b", 12, steps=1)]
    for given, together in zip(conditionings, sample(network, conditionings, settings, 0), strict=True):
        (alone,) = sample(network, [given], settings, 0)
        for track in TRACKS:
            assert np.array_equal(alone.tokens[track], together.tokens[track])
            np.testing.assert_allclose(alone.scores[track], together.scores[track], atol=1e-4)


# The schedule -------------------------------------------------------------------------------------------------------


def test_number_of_masks_by_schedule():
    assert [masked_count(10, step, 5, "linear") for step in range(6)] == [10, 8, 6, 4, 2, 0]
    assert masked_count(10, 9, 10, "linear") == 1
    assert [masked_count(10, step, 4, "cosine") for step in range(5)] == [10, 9, 7, 3, 0]
    falling = [masked_count(7, step, 500, "cosine") for step in range(501)]
    assert falling == sorted(falling, reverse=True) and falling[0] == 7 and falling[-1] == 0


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
@pytest.mark.parametrize("remasking", ["fresh", "kept", "never"])
@pytest.mark.parametrize("strategy", ["argmax", "gumbel_argmax", "annealing@2.0:0.0", "temperature@0.7"])
def test_number_of_masks_follows_the_schedule_down_to_zero(network, schedule, remasking, strategy):
    settings = SamplerSettings.of(strategy, "stochastic@1.0", schedule=schedule, remasking=remasking)
    conditionings = [unknown("a", 11, steps=5), half_given("b", 7, steps=5)]
    denoiser = Denoiser(
        network, conditionings, [sample_seed(0, c.sample_id) for c in conditionings], settings, trajectory=1
    )
    shown = [track.ids_BL.clone() for track in denoiser.tracks]
    for step in range(1, 6):
        denoiser.advance()
        for number, track in enumerate(denoiser.tracks):
            masked = (track.ids_BL == track.mask).sum(1).tolist()
            # With tied scores fewer positions may remain masked, but never more.
            assert all(m <= masked_count(n, step, 5, schedule) for m, n in zip(masked, track.n_open, strict=True))
            if remasking == "never":
                known = shown[number] != track.mask
                assert torch.equal(track.ids_BL[known], shown[number][known])
            shown[number] = track.ids_BL.clone()
    assert all((ids != VOCABULARY.mask(track)).all() for r in denoiser.run() for track, ids in r.tokens.items())


def test_decoded_tokens_may_be_masked_again_unless_disabled(network):
    def masked_again(remasking):
        settings = SamplerSettings.of("temperature@1.0", "stochastic@5.0", remasking=remasking)
        denoiser = Denoiser(network, [unknown("a", 30, steps=10)], [sample_seed(0, "a")], settings)
        count, before = 0, denoiser.tracks[0].ids_BL.clone()
        for _ in range(9):
            denoiser.advance()
            now = denoiser.tracks[0].ids_BL
            count += int(((before != VOCABULARY.mask_structure) & (now == VOCABULARY.mask_structure)).sum())
            before = now.clone()
        return count

    assert masked_again("fresh") > 0 and masked_again("kept") > 0 and masked_again("never") == 0


def test_sampling_stops_when_no_later_step_can_change_the_sample(network):
    full = Denoiser(network, [unknown("a", 5, steps=100)], [sample_seed(0, "a")], DEFAULT)
    for _ in range(100):
        full.advance()
    early = Denoiser(network, [unknown("a", 5, steps=100)], [sample_seed(0, "a")], DEFAULT)
    (result,) = early.run()
    assert result.steps == 81  # floor(5 * (1 - 81/100)) is the first 0
    assert tokens_of([result]) == [{track.track: track.ids_BL[0].tolist() for track in full.tracks}]


# Promises -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [DEFAULT, GREEDY, SamplerSettings.of("gumbel_argmax", "stochastic", guidance=2.0)])
def test_given_positions_are_kept_and_tracks_have_valid_ids(network, settings):
    conditionings = [half_given(str(length), length) for length in (1, 5, 12, 30)]
    for given, result in zip(conditionings, sample(network, conditionings, settings, seed=0), strict=True):
        for track in TRACKS:
            fixed, ids = given.fixed[track], result.tokens[track]
            assert np.array_equal(ids[fixed], given.tokens[track][fixed])
            assert np.isin(ids, VOCABULARY.generated(track)).all()
            assert np.array_equal(np.isnan(result.scores[track]), fixed)


def test_proteins_of_length_1_and_fully_given_ones_are_handled(network):
    given = half_given("given", 6)
    known = {track: np.array([VOCABULARY.generated(track).start] * 6) for track in TRACKS}
    given = Conditioning("given", known, {track: np.ones(6, bool) for track in TRACKS}, 4)
    one, all_given = sample(network, [unknown("one", 1), given], DEFAULT, seed=0)
    assert all(np.isin(one.tokens[track], VOCABULARY.generated(track)).all() for track in TRACKS)
    assert all_given.steps == 0 and tokens_of([all_given]) == tokens_of([given])


@pytest.mark.parametrize("tracks", [("sequence",), ("structure",)])
def test_only_one_track_is_generated(network, tracks):
    (result,) = sample(network, [unknown("a", 9, tracks=tracks)], DEFAULT, seed=0)
    assert tuple(result.tokens) == tracks
    assert np.isin(result.tokens[tracks[0]], VOCABULARY.generated(tracks[0])).all()


def test_only_standard_amino_acids_by_default(network):
    conditionings = [unknown(str(number), 40) for number in range(20)]
    hot = {"strategy": "temperature@50", "unmasking": "deterministic", "nucleus": 1.0}
    standard, official = (
        np.concatenate(
            [
                r.tokens["sequence"]
                for r in sample(network, conditionings, SamplerSettings.of(**hot, amino_acids=which), 0)
            ]
        )
        for which in ("standard", "official")
    )
    assert set(standard) == set(range(4, 24))
    assert set(official) == {*range(4, 24), 29, 30, 31}  # '.', '-' and <null_1>


def test_sample_does_not_depend_on_its_batch(network):
    conditionings = [half_given(str(length), length) for length in (3, 8, 8, 17, 30, 31)]
    conditionings[2] = unknown("other", 8)
    together = sample(network, conditionings, DEFAULT, seed=5, token_budget=10_000)
    alone = sample(network, conditionings, DEFAULT, seed=5, token_budget=1)
    backwards = sample(network, conditionings[::-1], DEFAULT, seed=5, token_budget=100)[::-1]
    assert tokens_of(together) == tokens_of(alone) == tokens_of(backwards)
    assert tokens_of(sample(network, conditionings, DEFAULT, seed=6)) != tokens_of(together)


def test_samples_do_not_depend_on_the_slice_size(network, monkeypatch):
    settings = SamplerSettings.of("gumbel_argmax@0.8", "stochastic")
    whole = sample(network, [unknown(str(n), n) for n in (5, 9)], settings, seed=0)
    monkeypatch.setattr("dplm2.language.denoising._LOGITS_PER_SLICE_CPU", 60)
    assert tokens_of(sample(network, [unknown(str(n), n) for n in (5, 9)], settings, seed=0)) == tokens_of(whole)


def without_skipping(network, conditionings, settings):
    """Samples by every step of the schedule, with the sampler's own results."""
    denoiser = Denoiser(network, conditionings, [sample_seed(0, c.sample_id) for c in conditionings], settings)
    denoiser._skip = lambda unchanged: None
    return {result.sample_id: result for result in denoiser.run()}


@pytest.mark.parametrize("remasking", ["never", "fresh", "kept"])
@pytest.mark.parametrize("strategy", ["argmax", "annealing@2.0:0.1"])
@pytest.mark.parametrize("unmasking", ["deterministic", "stochastic@1.0"])
def test_steps_that_change_nothing_are_skipped_exactly(network, remasking, strategy, unmasking):
    settings = SamplerSettings.of(strategy, unmasking, remasking=remasking)
    conditionings = [unknown("a", 5, steps=60), half_given("b", 9, steps=40), unknown("c", 30, steps=20)]
    calls = []
    small = Small(network, limit=9)
    results = sample(small, conditionings, settings, seed=0, before_step=lambda: calls.append(1))
    expected = without_skipping(network, conditionings, settings)
    for result in results:
        slow = expected[result.sample_id]
        assert tokens_of([result]) == tokens_of([slow])
        for track in TRACKS:
            np.testing.assert_allclose(result.scores[track], slow.scores[track], atol=1e-5)
    draws = strategy != "argmax" or unmasking != "deterministic"
    if remasking == "never":
        assert len(calls) <= 20  # one forward pass for each mask less, of the sample with the most
    elif draws:
        assert len(calls) == max(result.steps for result in expected.values())
    else:
        assert len(calls) <= max(result.steps for result in expected.values())


class Unmoved(Small):
    """The network with the same output whatever its input."""

    def hidden(self, ids_BT):
        self.sizes.append(len(ids_BT))
        torch.manual_seed(0)
        return torch.randn(*ids_BT.shape, 16)


@pytest.mark.parametrize("remasking", ["fresh", "kept"])
def test_a_settled_sample_waits_for_the_schedule_without_forward_passes(network, remasking):
    settings = SamplerSettings.of("argmax", "deterministic", remasking=remasking)
    unmoved = Unmoved(network)
    (result,) = sample(unmoved, [unknown("a", 5, steps=100)], settings, seed=0)
    assert result.steps == 81
    assert len(unmoved.sizes) == 9  # one that changes it and one that does not for 4, 3, 2 and 1 masks; the last
    expected = without_skipping(unmoved, [unknown("a", 5, steps=100)], settings)["a"]
    assert tokens_of([result]) == tokens_of([expected]) and len(unmoved.sizes) == 9 + 81


class Watched(TorchDispatchMode):
    """Refuses operations that wait for a device."""

    WAITING = ("_local_scalar_dense", "nonzero", "masked_select", "_unique2", "is_nonzero", "equal")

    def __torch_dispatch__(self, operation, types, arguments=(), named=None):
        name = operation.overloadpacket.__name__
        by_mask = name.startswith(("index.", "index_put")) or name == "index"
        by_mask = by_mask and any(index is not None and index.dtype == torch.bool for index in arguments[1])
        assert not by_mask and name not in self.WAITING, name
        return operation(*arguments, **(named or {}))


@pytest.mark.parametrize("remasking", ["never", "fresh", "kept"])
@pytest.mark.parametrize("strategy", ["argmax", "annealing@2.0:0.1", "gumbel_argmax"])
def test_a_step_does_not_wait_for_the_device(network, monkeypatch, remasking, strategy):
    """As on a GPU: without the packing and the sort of processors, and without reading back."""
    settings = SamplerSettings.of(strategy, "stochastic@1.0", remasking=remasking, guidance=1.5)
    conditionings = [unknown("a", 11, steps=5), unknown("b", 12, steps=5)]
    denoiser = Denoiser(network, conditionings, [1, 2], settings)
    monkeypatch.setattr(denoiser, "reads_back", False)
    monkeypatch.setattr(network, "packing", False)
    for name in ("tensor", "from_numpy"):  # made on the host
        monkeypatch.setattr(torch, name, None)
    with Watched():
        for _ in range(5):
            denoiser.advance()
    monkeypatch.undo()
    found = {result.sample_id: result for result in denoiser.run()}
    expected = {r.sample_id: r for r in Denoiser(network, conditionings, [1, 2], settings).run()}
    assert all(tokens_of([found[name]]) == tokens_of([expected[name]]) for name in ("a", "b"))


def test_samples_of_different_numbers_of_steps_share_a_batch(network):
    conditionings = [unknown("short", 6, steps=2), unknown("long", 6, steps=9)]
    together = sample(network, conditionings, DEFAULT, seed=0)
    assert [result.steps for result in together] == [2, 8]
    assert tokens_of(together) == tokens_of(sample(network, conditionings, DEFAULT, seed=0, token_budget=1))


def test_sampling_continues_from_a_partly_noised_sample(network, monkeypatch):
    bars = []
    monkeypatch.setattr(sampling, "progress_bar", lambda *words: bars.append(progress_bar(*words)) or bars[-1])
    given = half_given("a", 20, steps=10)
    start = Conditioning("a", given.tokens, {track: np.zeros(20, bool) for track in TRACKS}, 10, first_step=5)
    (result,) = sample(network, [start], GREEDY, seed=0)
    assert result.steps == bars[0].total == bars[0].n == 5
    assert all(np.isin(result.tokens[track], VOCABULARY.generated(track)).all() for track in TRACKS)


def test_a_start_without_masks_left_by_the_schedule_still_predicts(network):
    """Of a single residue the schedule leaves no mask after its first step."""
    start = replace(unknown("a", 1, steps=10), first_step=5)
    (result,) = sample(network, [start], GREEDY, seed=0)
    assert all(np.isin(result.tokens[track], VOCABULARY.generated(track)).all() for track in TRACKS)


# Batches and memory -------------------------------------------------------------------------------------------------


def test_every_sample_is_in_one_batch_within_the_budget():
    conditionings = [unknown(str(n), n) for n in (3, 50, 7, 20, 20, 400)]
    conditionings += [unknown("s" + str(n), n, tracks=("sequence",)) for n in (5, 6)]
    cut = list(batches(conditionings, 200))
    assert sorted(itertools.chain(*cut)) == list(range(8))
    for batch in cut:
        assert len(batch) == 1 or max(cost(conditionings[i]) for i in batch) * len(batch) <= 200
        assert len({conditionings[i].tracks for i in batch}) == 1


def test_out_of_memory_halves_the_batch_without_losses(network, caplog):
    conditionings = [unknown(str(number), 10 + number % 2) for number in range(10)]
    small = Small(network)
    with caplog.at_level(logging.WARNING):
        results = sample(small, conditionings, DEFAULT, seed=0)
    assert tokens_of(results) == tokens_of(sample(network, conditionings, DEFAULT, seed=0))
    assert "out of memory with 10 samples of up to 11 residues: continuing with 5" in caplog.text
    with pytest.raises(DPLM2Error, match="7: not enough memory for one sample of 11 residues"):
        sample(Small(network, limit=0), [conditionings[7]], DEFAULT, seed=0)


def test_other_errors_are_not_mistaken_for_out_of_memory(network):
    def broken(ids_BT):
        raise RuntimeError("shapes do not fit")

    wrong = Small(network)
    wrong.hidden = broken
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        sample(wrong, [unknown("a", 3)], DEFAULT, seed=0)


def test_logits_are_computed_in_slices(network, monkeypatch):
    monkeypatch.setattr("dplm2.language.denoising._LOGITS_PER_SLICE_CPU", 400)
    sizes = []
    for name in ("track_logits", "logits"):
        whole = getattr(network, name)

        def watched(hidden_ND, *track, whole=whole):
            result = whole(hidden_ND, *track)
            sizes.append(result.numel())
            return result

        monkeypatch.setattr(network, name, watched)
    monkeypatch.setattr(network, "forward", None)
    sample(network, [unknown(str(n), 30) for n in range(8)], DEFAULT, seed=0)
    sample(network, [unknown(str(n), 30) for n in range(8)], GREEDY, seed=0)
    assert max(sizes) <= 1000 < 8 * 64 * len(VOCABULARY)


# Guidance, callbacks, trajectories ----------------------------------------------------------------------------------


def test_guidance_combines_conditional_and_unconditional_logits(network):
    given = half_given("a", 12, steps=1)
    settings = SamplerSettings.of("argmax", "deterministic", guidance=3.0)
    (result,) = sample(network, [given], settings, seed=0)
    structure, sequence = given.tokens["structure"], given.tokens["sequence"]
    with torch.no_grad():
        with_given = network(torch.tensor([[33, *structure, 34, 0, *sequence, 2]]))[0]
        masks = [[mask] * 12 for mask in (VOCABULARY.mask_structure, VOCABULARY.mask_sequence)]
        without = network(torch.tensor([[33, *masks[0], 34, 0, *masks[1], 2]]))[0]
    mixed = without + 3 * (with_given - without)
    for track, offset in (("structure", 1), ("sequence", 15)):
        allowed = VOCABULARY.generated(track)
        best = mixed[offset : offset + 12, allowed.start : allowed.stop].argmax(-1).numpy() + allowed.start
        open_ = ~given.fixed[track]
        assert np.array_equal(result.tokens[track][open_], best[open_])


def test_composition_callback_moves_the_composition_towards_its_target(network):
    conditionings = [unknown(str(number), 40, steps=20) for number in range(10)]

    def share_of_lysine(adjust):
        results = sample(network, conditionings, DEFAULT, seed=0, adjust=adjust)
        return np.mean([(r.tokens["sequence"] == VOCABULARY.encode_sequence("K")[0]).mean() for r in results])

    free, weak, strong = (share_of_lysine(g) for g in (None, composition({"K": 0.4}), composition({"K": 0.4}, 8.0)))
    assert free < 0.1 and free < weak < strong and abs(strong - 0.4) < 0.1
    with pytest.raises(DPLM2Error, match="'B': 0.1 is not a fraction"):
        composition({"B": 0.1})


def test_token_bias_forbids_and_favours_structure_tokens(network):
    bias = np.zeros(8)
    bias[3], bias[:2] = 50, -np.inf
    conditionings = [unknown("a", 20)]
    (result,) = sample(network, conditionings, DEFAULT, seed=0, adjust=token_bias("structure", bias, VOCABULARY))
    assert set(result.tokens["structure"]) == {VOCABULARY.first_code + 3}
    with pytest.raises(DPLM2Error, match="3 values for the 8 tokens"):
        token_bias("structure", np.zeros(3), VOCABULARY)


def test_trajectory_has_complete_predictions_and_ends_with_the_sample(network):
    (result,) = sample(network, [half_given("a", 10, steps=10)], DEFAULT, seed=0, trajectory=2)
    steps = [step for step, _ in result.trajectory]
    assert steps == list(range(2, result.steps + 1, 2))
    for _, tokens in result.trajectory:
        assert all(np.isin(tokens[track], VOCABULARY.generated(track)).all() for track in TRACKS)


# Wrong use ----------------------------------------------------------------------------------------------------------


def test_invalid_strategies_and_inputs_are_refused(network):
    for text in ("annealing", "annealing@2", "argmax@1", "hot", "temperature@-1"):
        with pytest.raises(ConfigError, match="strategy"):
            Strategy.parse(text)
    with pytest.raises(ConfigError, match="unmasking"):
        Unmasking.parse("stochastic1.0")
    with pytest.raises(DPLM2Error, match="1 of 2 sample ids occur more than once"):
        sample(network, [unknown("a", 3), unknown("a", 4)], DEFAULT, seed=0)
    foreign = unknown("a", 3)
    foreign.tokens["sequence"][1] = VOCABULARY.first_code
    with pytest.raises(DPLM2Error, match="id 36 does not belong on the sequence track"):
        sample(network, [foreign], DEFAULT, seed=0)
    mask_fixed = unknown("a", 3)
    mask_fixed.fixed["structure"][0] = True
    with pytest.raises(DPLM2Error, match="fixed but not given"):
        sample(network, [mask_fixed], DEFAULT, seed=0)


def test_sample_seed_has_63_bits_and_differs_between_ids():
    seeds = {sampling.sample_seed(seed, sample_id) for seed in (0, 1) for sample_id in ("a", "b")}
    assert len(seeds) == 4 and all(0 <= seed < 2**63 for seed in seeds)

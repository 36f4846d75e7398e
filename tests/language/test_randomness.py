"""The sampler's random numbers against published ones, plain integers and their distribution."""

import numpy as np
import torch
from scipy.stats import chisquare, kstest, pearsonr

from dplm2.language.randomness import DRAW, ORDER, Words, class_uniforms, uniform, use_of, words

# The first numbers of SplitMix64 with seed 1234567, as listed for the reference implementation (Vigna, 2015).
KNOWN = (
    6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431, 16408922859458223821,
)  # fmt: skip


def splitmix64(seed, count):
    """The first numbers of the generator, by the reference implementation's steps."""
    state, numbers = seed, []
    for _ in range(count):
        state = (state + 0x9E3779B97F4A7C15) % 2**64
        z = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ z >> 27) * 0x94D049BB133111EB % 2**64
        numbers.append(z ^ z >> 31)
    return numbers


def unsigned(words):
    return [int(word) % 2**64 for word in words.flatten()]


def test_words_are_the_published_numbers():
    assert unsigned(words(torch.tensor([1234567]), torch.arange(5))) == list(KNOWN)
    for seed in (0, 1, 2**63 - 1, 2**63, 2**64 - 1):
        signed = seed - 2**64 if seed >= 2**63 else seed
        assert unsigned(words(torch.tensor([signed]), torch.arange(100))) == splitmix64(seed, 100)


def test_words_of_a_step_are_numbers_of_generators_of_generators():
    seeds, steps = [5, 2**63 - 7], [0, 499]
    found = Words(seeds, torch.device("cpu")).of_step(torch.tensor(steps), 7)
    assert found.shape == (2, 7, 4)
    for row, (seed, step) in enumerate(zip(seeds, steps, strict=True)):
        assert unsigned(found[row]) == splitmix64(splitmix64(seed, step + 1)[step], 28)


def test_numbers_do_not_depend_on_the_other_samples_or_on_padding():
    seeds, steps = list(range(6)), torch.tensor([3, 1, 4, 1, 5, 9])
    together = Words(seeds, torch.device("cpu"))
    whole = together.of_step(steps, 30)
    for row, seed in enumerate(seeds):
        alone = Words([seed], torch.device("cpu")).of_step(steps[row : row + 1], 12)
        assert torch.equal(whole[row, :12], alone[0])
    rows = torch.tensor([4, 2])
    together.keep(rows)
    assert torch.equal(together.of_step(steps[rows], 30), whole[rows])
    uniforms = class_uniforms(whole[:, :, 0].flatten(), 21)
    assert torch.equal(class_uniforms(whole[2, :, 0], 20), uniforms[60:90, :20])


def test_uniform_numbers_are_24_bits_of_a_word():
    ends = torch.tensor([0, -1, 1 << 40, 1 << 16])
    assert uniform(ends).tolist() == [0, 1 - 2**-24, 2**-24, 0]
    assert uniform(ends, 24).tolist() == [0, 1 - 2**-24, 0, 2**-24]
    assert uniform(ends).dtype == torch.float32


def test_numbers_are_uniform_and_uncorrelated():
    """A million numbers for what a run uses: seeds of samples, consecutive steps, positions and uses."""
    seeds = [2654435761 * number % 2**63 for number in range(20)]
    source = Words(seeds, torch.device("cpu"))
    numbers = torch.stack([uniform(source.of_step(torch.full((20,), step), 125)) for step in range(100)]).numpy()
    assert kstest(numbers.ravel(), "uniform").pvalue > 1e-3
    assert chisquare(np.bincount((numbers.ravel() * 4096).astype(int), minlength=4096)).pvalue > 1e-3
    assert len(np.unique(numbers)) > 0.96 * numbers.size  # 2**24 values: 3 % of a million coincide
    for axis in range(4):  # step, sample, position, use: the next along each
        values = np.moveaxis(numbers, axis, 0)
        pairs = values[:-1].ravel(), values[1:].ravel()
        assert pearsonr(*pairs).pvalue > 1e-3
        counts = np.histogram2d(*pairs, bins=32, range=[[0, 1]] * 2)[0]
        assert chisquare(counts.ravel()).pvalue > 1e-3


def test_numbers_of_classes_are_uniform_and_uncorrelated():
    positions = Words([7], torch.device("cpu")).of_step(torch.tensor([0]), 100)[0, :, use_of("structure", DRAW)]
    numbers = class_uniforms(positions, 8191).numpy()
    assert numbers.shape == (100, 8191)
    assert kstest(numbers.ravel(), "uniform").pvalue > 1e-3
    for pairs in ((numbers[:, :-1], numbers[:, 1:]), (numbers[:-1], numbers[1:])):
        counts = np.histogram2d(*(each.ravel() for each in pairs), bins=32, range=[[0, 1]] * 2)[0]
        assert chisquare(counts.ravel()).pvalue > 1e-3


def test_every_use_has_numbers_of_its_own():
    uses = {use_of(track, use) for track in ("structure", "sequence") for use in (DRAW, ORDER)}
    assert uses == {0, 1, 2, 3}

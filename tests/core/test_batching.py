"""Batches of items of similar length: every item once, within the budgets."""

import numpy as np

from dplm2.core.batching import by_length


def test_every_item_is_in_one_group_within_the_budgets():
    lengths = np.random.default_rng(0).integers(1, 300, 200).tolist()
    groups = list(by_length(lengths, 1000))
    assert sorted(sum(groups, [])) == list(range(200))
    assert all(len(group) * max(lengths[index] for index in group) <= 1000 for group in groups)
    padding = sum(len(group) * max(lengths[index] for index in group) for group in groups) / sum(lengths)
    assert padding < 1.1
    assert list(by_length([50, 5000], 1000)) == [[1], [0]]
    by_pairs = list(by_length(lengths, 1000, 40_000))
    assert sorted(sum(by_pairs, [])) == list(range(200))
    longest = [max(lengths[index] for index in group) for group in by_pairs]
    assert all(len(group) * length <= 1000 for group, length in zip(by_pairs, longest, strict=True))
    pairs = [len(group) * length**2 for group, length in zip(by_pairs, longest, strict=True)]
    assert all(count <= 40_000 or len(group) == 1 for group, count in zip(by_pairs, pairs, strict=True))


def test_groups_are_ordered_and_of_one_kind():
    lengths, kinds = [5, 3, 9, 1], ["b", "a", "a", "b"]
    assert list(by_length(lengths, 20)) == [[2, 0], [1, 3]]
    assert list(by_length(lengths, 20, longest_first=False)) == [[3, 1, 0], [2]]
    assert list(by_length(lengths, 100, kinds=kinds)) == [[2, 1], [0, 3]]
    assert list(by_length([], 20)) == []


def test_a_group_may_fill_its_budgets_exactly():
    assert list(by_length([5, 5, 5, 5], 10)) == [[0, 1], [2, 3]]
    assert list(by_length([2, 2, 2, 2], 100, 8)) == [[0, 1], [2, 3]]
    assert list(by_length([1, 2, 3, 4], 8, 32)) == [[3, 2], [1, 0]]

"""The comparison of warm-ups over seeds."""

import pytest
from scipy.stats import ttest_rel

from benchmarks.warmup import MEASURES, cells, compared


def test_differences_are_between_networks_of_one_seed():
    """The interval of the differences is that of a paired t-test by SciPy."""
    shift = {0: 0.1, 1: 0.3, 2: 0.15}
    runs = [
        {"sequences_first": first, "few_structures": few, "seed": seed}
        | dict.fromkeys(MEASURES, 7.0 + seed - first * shift[seed])
        for first, few, seed in cells([0, 1, 2])
    ]
    rows = compared(runs)
    assert len(rows) == 2 * len(MEASURES)
    expected = ttest_rel([7.0 + seed - shift[seed] for seed in range(3)], [7.0, 8.0, 9.0]).confidence_interval(0.95)
    for row in rows:
        assert row["none"]["mean"] == 8.0 and row["difference"]["n"] == 3
        low, high = (row["difference"]["mean"] + sign * row["difference"]["half_width"] for sign in (-1, 1))
        assert (low, high) == pytest.approx(tuple(expected), abs=2e-4)


def test_a_single_seed_has_no_interval():
    runs = [
        {"sequences_first": first, "few_structures": few, "seed": 0} | dict.fromkeys(MEASURES, 1.0)
        for first, few, _ in cells([0])
    ]
    assert {row["difference"]["half_width"] for row in compared(runs)} == {None}

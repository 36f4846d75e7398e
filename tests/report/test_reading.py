"""Curves in words."""

import numpy as np
import pytest

from dplm2.report.reading import reading

STEPS = np.arange(0, 1000, 10.0)


def told(values, better="lower", held_out=True):
    return reading(np.linspace(0, 1000, len(values)), np.asarray(values, dtype=float), better, held_out)


def test_a_rise_of_what_should_fall_is_overfitting():
    assert told([11.3, 12.0, 13.4]) == "rose from 11.3 to 13.4: overfitting"
    assert told(np.linspace(11.3, 13.4, 9), held_out=False) == "rose from 11.3 to 13.4: training became worse"
    assert told([0.9, 0.5], better="higher") == "fell from 0.9 to 0.5: overfitting"


def test_a_turn_is_told_with_its_step():
    assert told([5, 4, 3, 3.5, 4.5]) == "fell from 5 to 3 at step 500, then rose to 4.5: overfitting"


def test_progress_that_lasts_asks_for_more_steps():
    assert told(5 - STEPS / 250).endswith("was still improving: more steps should help")
    assert told(2 + 3 * np.exp(-STEPS / 60)).endswith("has levelled off")
    assert told(STEPS / 250, better="higher").startswith("rose from")


def test_two_rows_are_not_judged():
    assert told([1.93, 1.82]) == "fell from 1.93 to 1.82"
    assert told([1.61, 1.71], held_out=False) == "rose from 1.61 to 1.71"


def test_noise_is_no_overfitting():
    noise = np.random.default_rng(0).normal(0, 0.02, len(STEPS))
    assert told(2 + 3 * np.exp(-STEPS / 60) + noise).endswith("has levelled off")


@pytest.mark.parametrize(("values", "words"), [([2.0], "one value: 2"), ([2.0, 2.0, 2.0], "level at 2")])
def test_short_and_level_curves(values, words):
    assert told(values) == words


def test_a_quantity_without_direction_is_only_described():
    assert told([1.0, 3.0], better=None) == "rose from 1 to 3"

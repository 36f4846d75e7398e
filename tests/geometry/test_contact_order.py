"""Relative contact order: closed forms, a plain loop, and invariances."""

import numpy as np
import pytest

from dplm2.geometry.contact_order import contact_order


def by_definition(alpha):
    separations = [
        j - i for i in range(len(alpha)) for j in range(i + 4, len(alpha)) if np.linalg.norm(alpha[i] - alpha[j]) < 8.0
    ]
    return np.mean(separations) / len(alpha) if separations else np.nan


def test_a_straight_chain_has_no_contacts_and_a_hairpin_long_ones():
    straight = np.arange(20)[:, None] * np.array([3.8, 0, 0])
    assert np.isnan(contact_order(straight))
    # Two strands 7.9 angstrom apart: residue i touches only its partner 19 - i.
    hairpin = np.concatenate([straight[:10], straight[:10][::-1] + [0, 7.9, 0]])
    separations = [19 - 2 * i for i in range(10) if 19 - 2 * i >= 4]
    assert contact_order(hairpin) == pytest.approx(np.mean(separations) / 20)


@pytest.mark.parametrize("seed", range(3))
def test_equals_the_definition_and_is_invariant(seed):
    random = np.random.default_rng(seed)
    alpha = np.cumsum(random.normal(scale=2.2, size=(60, 3)), axis=0)
    found = contact_order(alpha)
    assert found == pytest.approx(by_definition(alpha)) and 0 < found < 1
    rotation = np.linalg.qr(random.normal(size=(3, 3)))[0]
    assert contact_order(alpha @ rotation + 5) == pytest.approx(found)
    assert contact_order(alpha[::-1]) == pytest.approx(found)
    alpha[[3, 40]] = np.nan
    assert contact_order(alpha) == pytest.approx(by_definition(alpha))

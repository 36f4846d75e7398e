"""Bridges over gaps: ideal bonds, unchanged ends, equivariance."""

import numpy as np
import pytest

from dplm2.settings.tokenizer import TokenizerSettings
from dplm2.tokenizer.bridging import PEPTIDE_BOND, bridge_gaps
from dplm2.tokenizer.model import StructureTokenizer
from tests.tokenizer.synthetic import SMALL, rotation
from tests.tokenizer.test_losses import chain_of_torsions


def protein(length: int = 60, seed: int = 0) -> np.ndarray:
    """A chain of helices, strands and turns."""
    generator = np.random.default_rng(seed)
    helix = np.repeat(generator.random(length // 8 + 1) < 0.5, 8)[:length]
    torsions = np.where(helix[:, None], [-57.0, -47.0], [-120.0, 130.0]) + generator.normal(0, 15, (length, 2))
    return chain_of_torsions(torsions)


def without(backbone: np.ndarray, *gaps: slice) -> np.ndarray:
    cut = backbone.copy()
    for gap in gaps:
        cut[gap] = np.nan
    return cut


@pytest.mark.parametrize("size", [3, 5, 12, 30])
def test_bridge_has_ideal_bonds(size):
    for seed in range(4):
        gap = slice(20, 20 + size)
        cut = without(protein(seed=seed), gap, slice(0, 3), slice(57, 60))
        bridged = bridge_gaps(cut)
        kept = np.isfinite(cut).all((1, 2))
        np.testing.assert_array_equal(bridged[kept], cut[kept])
        assert np.isnan(bridged[:3]).all()
        assert np.isnan(bridged[57:]).all()
        nitrogen, alpha, carbon = bridged[:, 0], bridged[:, 1], bridged[:, 2]
        around = slice(19, 20 + size)
        bonds = np.linalg.norm(nitrogen[20 : 21 + size] - carbon[around], axis=1)
        np.testing.assert_allclose(bonds, PEPTIDE_BOND, atol=0.1)
        np.testing.assert_allclose(np.linalg.norm(np.diff(alpha, axis=0)[around], axis=1), 3.8, atol=0.1)
        lengths = np.linalg.norm(alpha - nitrogen, axis=1)[gap], np.linalg.norm(carbon - alpha, axis=1)[gap]
        np.testing.assert_allclose(lengths[0], 1.46, atol=0.01)
        np.testing.assert_allclose(lengths[1], 1.526, atol=0.01)


def test_bridges_are_equivariant():
    cut = without(protein(), slice(10, 16), slice(30, 41))
    turn, shift = rotation(1), np.array([5.0, -70.0, 200.0])
    moved = bridge_gaps((cut @ turn + shift).astype(np.float32))
    np.testing.assert_allclose(moved, bridge_gaps(cut) @ turn + shift, atol=0.02)


def test_gaps_too_wide_to_close_are_bridged_partly():
    torn = without(protein(), slice(30, 32))
    torn[32:] += 500.0
    assert np.isfinite(bridge_gaps(torn)[:, :3]).all()
    one = without(protein(), slice(30, 31))
    assert np.isfinite(bridge_gaps(one)[:, :3]).all()


def test_chains_without_gaps_are_unchanged():
    whole, nothing = protein(), np.full((7, 4, 3), np.nan, np.float32)
    assert bridge_gaps(whole) is whole
    assert np.isnan(bridge_gaps(nothing)).all()
    lone = without(whole, slice(0, 30), slice(31, 60))
    assert bridge_gaps(lone) is lone


def test_gaps_but_not_ends_get_tokens_of_bridges():
    encoder = {key: size for key, size in SMALL["encoder"].items() if key not in ("heads", "feedforward_width")}
    sizes = SMALL | {"encoder": encoder | {"bridge_gaps": True, "layers": 0}}
    tokenizer = StructureTokenizer(TokenizerSettings.make(**sizes))
    cut = without(protein(), slice(0, 2), slice(20, 28))
    tokens, filled = tokenizer.encode(cut), tokenizer.encode(bridge_gaps(cut))
    np.testing.assert_array_equal(tokens, filled)
    assert (tokens[:2] == 0).all()
    assert (tokens[20:28] != 0).any()

"""Superposition, RMSD and lDDT against closed forms: weights, missing points, distances on a bound."""

import numpy as np
import pytest
import torch

from dplm2.geometry import pairs
from dplm2.geometry.lddt import lddt_ca, lddt_ca_scores
from dplm2.geometry.pairs import all_pairs_tm_score
from dplm2.geometry.superposition import move, pad, rmsd, rmsds, superpose, superposed
from dplm2.geometry.tm_score import QUICK_SEARCH, tm_scores


def points(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_weight_two_equals_a_repeated_point():
    mobile, target = points(1, 8), points(1, 8, seed=1)
    weights = torch.tensor([[1, 2, 1, 3, 1, 1, 2, 1]])
    index = torch.repeat_interleave(torch.arange(8), weights[0])
    weighted, repeated = superpose(mobile, target, weights), superpose(mobile[:, index], target[:, index])
    for one, other in zip(weighted, repeated, strict=True):
        assert torch.allclose(one, other)
    assert torch.allclose(rmsd(mobile, target, weights), rmsd(mobile[:, index], target[:, index]))


def test_points_of_weight_zero_are_ignored():
    mobile, target = points(2, 8), points(2, 8, seed=1)
    there = torch.tensor([[True] * 5 + [False] * 3] * 2)
    mobile[:, 5:], target[:, 6:] = torch.nan, 1e6
    assert torch.allclose(rmsd(mobile, target, there), rmsd(mobile[:, :5], target[:, :5]))
    rotation, translation = superpose(mobile, target, there)
    alone = superpose(mobile[:, :5], target[:, :5])
    assert torch.allclose(rotation, alone[0]) and torch.allclose(translation, alone[1])
    assert rmsd(mobile, target, torch.zeros(2, 8, dtype=torch.bool)).isnan().all()


def test_backbones_are_superposed_over_the_atoms_that_both_have_without_oxygen():
    target = points(9, 4).numpy()
    rotation, translation = superpose(points(1, 4), points(1, 4, seed=1))
    mobile = (target - translation.numpy()) @ rotation[0].numpy().T
    mobile[:, 3] += 10
    mobile[2, :3], mobile[5, 1] = np.nan, np.nan
    found = superposed(mobile, target)
    there = np.isfinite(mobile[:, :3])
    np.testing.assert_allclose(found[:, :3][there], target[:, :3][there], atol=1e-5)
    assert np.abs(found[:, 3] - target[:, 3]).min() > 1


def test_rmsd_of_a_displaced_point_has_the_closed_form():
    """By symmetry the superposition of a stretched cross is the identity, so that the stretch is the deviation."""
    cross = torch.tensor([[[1.0, 0, 0], [-1, 0, 0], [0, 2, 0], [0, -2, 0], [0, 0, 3], [0, 0, -3]]])
    assert rmsd(1.5 * cross, cross).item() == pytest.approx(0.5 * (2 * (1 + 4 + 9) / 6) ** 0.5)
    moved = move(cross, torch.eye(3)[None], torch.tensor([[1.0, 2, 3]]))
    assert torch.equal(moved, cross + torch.tensor([1.0, 2, 3]))


def test_batched_rmsds_equal_single_ones(monkeypatch):
    monkeypatch.setattr("dplm2.geometry.superposition.POINTS_AT_ONCE", 25)
    models, natives = ([points(n, seed=n + s).numpy().astype(np.float32) for n in (4, 9, 12, 30)] for s in (0, 50))
    models[1][3] = natives[2][5] = np.nan
    for found, model, native in zip(rmsds(models, natives), models, natives, strict=True):
        both = np.isfinite(model).all(-1) & np.isfinite(native).all(-1)
        alone = rmsd(torch.from_numpy(model[both])[None], torch.from_numpy(native[both])[None])
        assert found == pytest.approx(alone.item(), abs=1e-6)
    stacked, there = pad(models)
    assert stacked.shape == (4, 30, 3) and there.sum(1).tolist() == [4, 8, 12, 30]
    assert not stacked[~there].any()


def line(*places: float) -> torch.Tensor:
    return torch.tensor([[[place, 0.0, 0.0] for place in places]])


def test_lddt_includes_distances_up_to_15_angstrom():
    for far, counted in ((15.0, 3), (15.0001, 2)):
        native, model = line(0, 5, far), line(0, 5, far + 50)
        assert lddt_ca(model, native).item() == pytest.approx(1 / counted)  # only 0 to 5 is kept


@pytest.mark.parametrize(("error", "kept"), [(0.25, 4), (0.5, 3), (0.75, 3), (1.0, 2), (2.0, 1), (3.5, 1), (4.0, 0)])
def test_a_distance_is_kept_if_it_differs_by_less_than_the_tolerance(error, kept):
    for signed in (error, -error):
        assert lddt_ca(line(0, 8 + signed), line(0, 8)).item() == kept / 4


def test_unequal_numbers_of_models_and_natives_are_refused():
    traces = [points(9).numpy() for _ in range(3)]
    for models, natives in ((traces, traces[:2]), (traces[:2], traces)):
        with pytest.raises(ValueError, match="zip"):
            lddt_ca_scores(models, natives)


def test_lddt_ignores_missing_residues():
    models, natives = ([points(n, seed=n + s).numpy() * 6 for n in (6, 11)] for s in (0, 50))
    models[0][2] = natives[1][4] = np.nan
    for found, model, native in zip(lddt_ca_scores(models, natives), models, natives, strict=True):
        both = np.isfinite(model).all(-1) & np.isfinite(native).all(-1)
        alone = lddt_ca(torch.from_numpy(model[both])[None], torch.from_numpy(native[both])[None])
        assert found == pytest.approx(alone.item(), abs=1e-6)
    assert np.isnan(lddt_ca_scores([np.zeros((3, 3))], [np.full((3, 3), np.nan)])[0])


def test_all_pairs_do_not_depend_on_the_chunk_size(monkeypatch):
    traces = [np.cumsum(points(n, seed=seed).numpy() * 2, 0) for seed, n in enumerate((20, 24, 20, 20, 24, 20))]
    traces[2][3:5] = np.nan
    whole = all_pairs_tm_score(traces)
    monkeypatch.setattr(pairs, "RESIDUES_AT_ONCE", 45)
    np.testing.assert_allclose(all_pairs_tm_score(traces), whole, atol=1e-6)
    assert (whole.diagonal() == 1).all()
    for one, other in ((0, 3), (0, 5), (1, 4)):
        found = tm_scores([traces[one]], [traces[other]], QUICK_SEARCH)[0]
        assert whole[one, other] == whole[other, one] == pytest.approx(found, abs=1e-6)
    assert np.isnan(whole[0, 1]) and np.isnan(whole[4, 2])

"""Metrics of structures against other programs, closed forms and invariances."""

import csv
import shutil
from pathlib import Path

import biotite.structure as structure
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from dplm2.core.errors import DPLM2Error
from dplm2.evaluation.backends import tm_align
from dplm2.evaluation.backends.command import read_backbone
from dplm2.evaluation.backends.tm_align import aligner, read_tm_align, trace_as_pdb
from dplm2.evaluation.comparison import compare
from dplm2.geometry.chemistry import backbone_geometry
from dplm2.geometry.lddt import lddt_ca, lddt_per_residue
from dplm2.geometry.pairs import all_pairs_tm_score
from dplm2.geometry.quaternion import best_rotation
from dplm2.geometry.secondary_structure import fractions
from dplm2.geometry.superposition import move, pad, rmsd, superpose
from dplm2.geometry.tm_score import QUICK_SEARCH, d0_of, tm_score, tm_scores
from tests.geometry.test_secondary_structure import by_biotite

DEMO = Path(__file__).parents[2] / "data" / "demo" / "test"
# Ubiquitin (1ubq) plus default_rng(7).normal(scale=s) on every backbone atom. TM-score: tmtools 0.3.0 (TM-align; its
# alignment is the identity up to s = 1, above it may gain by shifting); RMSDs and lDDT: biotite 1.6.0.
RECORDED = {
    0.25: {"tm_score": 0.983816, "ca_rmsd": 0.397179, "bb_rmsd": 0.409415, "lddt_ca": 0.968397},
    0.5: {"tm_score": 0.939809, "ca_rmsd": 0.794365, "bb_rmsd": 0.818840, "lddt_ca": 0.852401},
    1.0: {"tm_score": 0.808898, "ca_rmsd": 1.588763, "bb_rmsd": 1.637715, "lddt_ca": 0.677613},
    2.0: {"ca_rmsd": 3.177660, "bb_rmsd": 3.275576, "lddt_ca": 0.478637},
}


@pytest.fixture(scope="module")
def ubiquitin() -> np.ndarray:
    return read_backbone(DEMO.parent / "motifs" / "1ubq_A.bcif.gz")[0]


@pytest.fixture(scope="module")
def demo_backbones() -> list[np.ndarray]:
    return [read_backbone(path)[0] for path in sorted(DEMO.glob("*.bcif.gz"))]


def rotated(points: np.ndarray, seed: int) -> np.ndarray:
    """Rotated randomly and moved far away."""
    random = np.random.default_rng(seed)
    turn, _ = np.linalg.qr(random.normal(size=(3, 3)))
    turn[:, 0] *= np.sign(np.linalg.det(turn))
    return (points @ turn + random.normal(scale=100, size=3)).astype(np.float32)


@pytest.fixture(scope="module")
def recorded_pairs(recorded):
    arrays = load_file(recorded("tmscore/pairs.safetensors"))
    rows = list(csv.DictReader(recorded("tmscore/pairs.csv").open()))
    models, natives = ([arrays[f"{row['pair']}.{kind}"] for row in rows] for kind in ("model", "native"))
    names = ("tm_score", "rmsd", "tm_align")
    return models, natives, {name: np.array([float(row[name]) for row in rows]) for name in names}


def test_tm_score_equals_the_tm_score_programs(recorded_pairs):
    models, natives, recorded = recorded_pairs
    difference = tm_scores(models, natives) - recorded["tm_score"]
    assert difference.min() > -0.002
    assert np.abs(difference).mean() < 0.005


def test_tm_score_does_not_depend_on_the_place_in_space(recorded_pairs):
    models, natives, _ = recorded_pairs
    far = [native + np.array([3e4, -2e4, 1e4]) for native in natives]
    np.testing.assert_allclose(tm_scores(models, far), tm_scores(models, natives), atol=1e-4)


def test_fast_search_is_close_to_the_tm_score_program(recorded_pairs):
    models, natives, recorded = recorded_pairs
    difference = tm_scores(models, natives, QUICK_SEARCH) - recorded["tm_score"]
    assert difference.min() > -0.03
    assert np.abs(difference).mean() < 0.002


def test_rmsd_equals_the_tm_score_programs(recorded_pairs):
    models, natives, recorded = recorded_pairs
    (model, there), (native, _) = pad(models), pad(natives)
    np.testing.assert_allclose(rmsd(model, native, there), recorded["rmsd"], atol=6e-4)  # it prints three digits


def test_natives_as_predictions_are_perfect(demo_backbones):
    values = compare([rotated(x, seed) for seed, x in enumerate(demo_backbones)], demo_backbones)
    np.testing.assert_allclose(values["ca_rmsd"], 0, atol=2e-4)
    np.testing.assert_allclose(values["bb_rmsd"], 0, atol=2e-4)
    np.testing.assert_allclose(values["tm_score"], 1, atol=1e-6)
    np.testing.assert_allclose(values["lddt_ca"], 1, atol=1e-6)
    np.testing.assert_array_equal(values["secondary_structure"], 1)


def test_secondary_structure_agrees_as_by_another_program(demo_backbones):
    """P-SEA by biotite, which knows no missing residues: these are compared without any."""
    generator = np.random.default_rng(0)
    natives = [backbone for backbone in demo_backbones if np.isfinite(backbone[:, 1]).all()]
    moved = [backbone + generator.normal(0, 0.4, backbone.shape) for backbone in natives]
    for native, model, found in zip(natives, moved, compare(moved, natives)["secondary_structure"], strict=True):
        states = [by_biotite(backbone[:, 1]) for backbone in (native, model)]
        assert found == pytest.approx((states[0] == states[1]).mean())


def test_missing_residues_have_no_secondary_structure_to_agree_with(demo_backbones):
    native = next(backbone for backbone in demo_backbones if np.isfinite(backbone[:, 1]).all())
    gapped = native.copy()
    gapped[10:20] = np.nan
    assert compare([gapped], [gapped])["secondary_structure"][0] == 1  # missing in the reference: left out
    wrong = compare([gapped], [native])["secondary_structure"][0]
    assert wrong <= 1 - 10 / len(native)  # missing in the prediction: not right


@pytest.mark.parametrize("scale", RECORDED)
def test_noisy_structures_have_the_values_of_other_programs(ubiquitin, scale):
    noise = np.random.default_rng(7).normal(scale=scale, size=ubiquitin.shape).astype(np.float32)
    values = compare([rotated(ubiquitin + noise, 3)], [ubiquitin])
    for name, expected in RECORDED[scale].items():
        assert values[name][0] == pytest.approx(expected, abs=5e-4), name


def test_superposition_equals_biotites(demo_backbones):
    for seed, backbone in enumerate(demo_backbones):
        native = backbone[:, 1]
        model = rotated(native + np.random.default_rng(seed).normal(size=native.shape), seed)
        rotation, translation = superpose(torch.from_numpy(model)[None], torch.from_numpy(native)[None])
        fitted, _ = structure.superimpose(native, model)
        ours = move(torch.from_numpy(model)[None], rotation, translation)[0].numpy()
        np.testing.assert_allclose(ours, fitted, atol=5e-3)


def test_a_mirror_image_is_not_superposed_by_a_reflection(ubiquitin):
    mirrored = torch.from_numpy(ubiquitin[:, 1] * np.array([1, 1, -1], dtype=np.float32))[None]
    native = torch.from_numpy(ubiquitin[:, 1])[None]
    rotation, _ = superpose(mirrored, native)
    assert torch.linalg.det(rotation).item() == pytest.approx(1)
    assert rmsd(mirrored, native).item() > 5


def test_closed_form_rotation_is_exact():
    generator = torch.Generator().manual_seed(0)
    mobile, target = torch.randn(2, 200, 12, 3, generator=generator, dtype=torch.float64)
    target[:100] = mobile[:100] @ torch.linalg.qr(torch.randn(3, 3, generator=generator, dtype=torch.float64))[0]
    mobile, target = mobile - mobile.mean(1, keepdim=True), target - target.mean(1, keepdim=True)
    spread = (mobile.square() + target.square()).sum((1, 2)) / 12
    ours = best_rotation(mobile.mT @ target / 12, spread)
    exact, _ = superpose(mobile, target)
    gained = ((mobile @ ours - target).square() - (mobile @ exact - target).square()).sum((1, 2))
    assert gained.abs().max() < 1e-8


def test_missing_residues_and_padding_are_ignored(ubiquitin):
    native = ubiquitin[:, 1]
    model = native + np.random.default_rng(0).normal(scale=1.5, size=native.shape).astype(np.float32)
    kept = np.r_[0:20, 30:76]
    with_gap = native.copy()
    with_gap[20:30] = np.nan
    longer = np.concatenate([model, model])
    alone = [compare([np.repeat(model[kept][:, None], 4, 1)], [np.repeat(native[kept][:, None], 4, 1)])]
    gapped = [compare([np.repeat(model[:, None], 4, 1)], [np.repeat(with_gap[:, None], 4, 1)])]
    for name in ("ca_rmsd", "tm_score", "lddt_ca"):
        assert gapped[0][name] == pytest.approx(alone[0][name], abs=1e-4), name
    batch = tm_scores([model, longer], [native, longer])
    assert batch[0] == pytest.approx(tm_scores([model], [native])[0], abs=1e-5)


def test_residues_missing_in_the_prediction_lower_the_score(ubiquitin):
    """If the other residues fit perfectly, the score is the fraction of the native's residues that the model has."""
    native, model = ubiquitin[:, 1].copy(), rotated(ubiquitin[:, 1], 5)
    model[20:30] = np.nan
    assert tm_scores([model], [native])[0] == pytest.approx(66 / 76, abs=1e-5)
    native[50:56] = np.nan
    assert tm_scores([model], [native])[0] == pytest.approx(60 / 70, abs=1e-5)
    native[20:30] = np.nan
    assert tm_scores([model], [native])[0] == pytest.approx(1, abs=1e-5)


def test_scale_of_a_model_with_gaps_is_that_of_the_native(ubiquitin):
    """Five residues 5 angstrom away from where they belong hardly turn the other 61 of 66; the native has 76."""
    native, model = ubiquitin[:, 1], ubiquitin[:, 1].copy()
    model[20:30] = np.nan
    for place, axis, sign in ((3, 0, 5), (40, 0, -5), (50, 1, 5), (60, 1, -5), (70, 2, 5)):
        model[place, axis] += sign
    scale = 1.24 * (76 - 15) ** (1 / 3) - 1.8
    expected = (61 + 5 / (1 + (5 / scale) ** 2)) / 76
    assert tm_scores([rotated(model, 5)], [native])[0] == pytest.approx(expected, abs=5e-4)


def test_tm_score_scale_depends_on_length():
    assert d0_of(100).item() == pytest.approx(1.24 * 85 ** (1 / 3) - 1.8)
    assert d0_of(10).item() == 0.5
    two = torch.zeros(1, 2, 3)
    assert tm_score(two, two).isnan().all()
    three = torch.tensor([[[0.0, 0, 0], [3.8, 0, 0], [3.8, 3.8, 0]]])
    assert tm_score(three, three).item() == pytest.approx(1)


def test_lddt_counts_preserved_distances():
    native = torch.tensor([[[0.0, 0, 0], [3.8, 0, 0], [7.6, 0, 0], [30, 0, 0]]])
    moved = native.clone()
    moved[0, 2, 0] += 0.7  # distances 1-3 and 2-3 change by 0.7: kept at 1, 2 and 4 angstrom, not at 0.5
    assert lddt_ca(moved, native).item() == pytest.approx((4 + 2 * 3) / 12)


def test_lddt_at_its_bounds():
    """Distances up to 15 angstrom count (per residue, as AlphaFold: below 15); an error of 0.5 is not below 0.5."""
    for length, whole, each in ((15.0, 3 / 4, 1.0), (14.0, 3 / 4, 3 / 4)):
        native = torch.tensor([[[0.0, 0, 0], [length, 0, 0]]])
        moved = native + torch.tensor([[0.0, 0, 0], [0.5, 0, 0]])
        assert lddt_ca(moved, native).item() == pytest.approx(whole)
        mask = torch.ones(1, 2, dtype=torch.bool)
        assert lddt_per_residue(moved, native, mask)[0].tolist() == pytest.approx([each, each])


def test_fast_search_of_all_pairs_is_close_to_the_full_one(demo_backbones):
    trace = demo_backbones[0][:60, 1]
    random = np.random.default_rng(0)
    traces = [trace + random.normal(scale=s, size=trace.shape).astype(np.float32) for s in (0.3, 1, 2, 4)]
    traces.append(demo_backbones[1][:50, 1])
    quick = all_pairs_tm_score(traces, QUICK_SEARCH)
    full = tm_scores([traces[0]] * 3, traces[1:4])
    np.testing.assert_allclose(quick[0, 1:4], full, atol=0.02)
    assert np.isnan(quick[0, 4])
    np.testing.assert_array_equal(quick[:4, :4], quick[:4, :4].T)


def ideal_helix(length: int) -> np.ndarray:
    """C-alpha helix of 3.6 residues per turn, with the other atoms at fixed offsets."""
    turn = np.radians(100) * np.arange(length)
    trace = np.stack([2.3 * np.cos(turn), 2.3 * np.sin(turn), 1.5 * np.arange(length)], axis=1)
    return np.repeat(trace[:, None], 4, axis=1).astype(np.float32)


def test_ideal_helix_is_recognised():
    found = fractions(ideal_helix(30)[:, 1])
    assert found["helix"] > 0.8
    assert sum(found.values()) == pytest.approx(1)


def test_geometry_distinguishes_experimental_from_broken_backbones(demo_backbones):
    for backbone in demo_backbones:
        values = backbone_geometry(backbone)
        assert values["clashes_per_100_residues"] == 0
        assert values["broken_bonds"] == 0
        assert values["bond_deviation"] < 0.03
    backbone = demo_backbones[0].copy()
    backbone[20:] += np.array([8.0, 0, 0], dtype=np.float32)
    assert backbone_geometry(backbone)["broken_bonds"] == pytest.approx(1 / (len(backbone) - 1))
    backbone[40] = backbone[5]
    assert backbone_geometry(backbone)["clashes_per_100_residues"] > 0


def test_released_score_uses_only_the_first_third(ubiquitin):
    pytest.importorskip("tmtools")
    model = ubiquitin.copy()
    model[30:] += np.random.default_rng(0).normal(scale=30, size=model[30:].shape).astype(np.float32)
    values = compare([model], [ubiquitin], released=True)
    assert values["tm_score_released"][0] == pytest.approx(1, abs=1e-3)
    assert values["tm_score"][0] < 0.6


def test_tm_align_equals_the_programs(recorded_pairs):
    pytest.importorskip("tmtools")
    models, natives, recorded = recorded_pairs
    chosen = range(0, len(models), len(models) // 10)
    ours = np.array([aligner()(models[i], natives[i])[1] for i in chosen])
    # A different release of the same heuristic algorithm.
    np.testing.assert_allclose(ours, recorded["tm_align"][chosen], atol=0.02)


@pytest.mark.parametrize("program", tm_align.PROGRAMS)
def test_tm_align_program_replaces_missing_tmtools(program, recorded_pairs, monkeypatch):
    path = shutil.which(program)
    if path is None:
        pytest.skip(f"{program} is not on PATH")
    monkeypatch.setattr(tm_align, "find_spec", lambda name: None)
    monkeypatch.setattr(tm_align.shutil, "which", {program: path}.get)
    models, natives, recorded = recorded_pairs
    for i in range(0, len(models), len(models) // 5):
        # Recorded from TMalign 20190822; later releases (tmtools 0.3.0) find the same on these pairs.
        assert aligner()(models[i], natives[i])[0] == pytest.approx(recorded["tm_align"][i], abs=1e-3)
    whole, piece = natives[0], natives[0][:100]
    assert aligner()(whole, piece) == pytest.approx((len(piece) / len(whole), 1), abs=1e-3)


def test_error_for_missing_tm_align_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr(tm_align, "find_spec", lambda name: None)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(DPLM2Error, match="TMalign on PATH"):
        aligner()


def test_tm_align_output_is_parsed():
    text = """Name of Chain_1: a.pdb (to be superimposed onto Chain_2)
TM-score= 0.52285 (if normalized by length of Chain_1, i.e., LN=162, d0=4.81)
TM-score= 0.51001 (if normalized by length of Chain_2, i.e., LN=170, d0=4.91)
"""
    assert read_tm_align(text) == (0.52285, 0.51001)
    assert len(trace_as_pdb(np.zeros((2, 3))).splitlines()[0]) == 78

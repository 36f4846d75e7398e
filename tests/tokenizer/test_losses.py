"""The terms of the loss against recorded values of the authors' implementation and closed forms."""

import dataclasses
import json
import math

import numpy as np
import pytest
import torch

from dplm2.geometry.frames import frames_from_backbone, ideal_atoms, place_oxygens, rotations_of
from dplm2.settings.tokenizer import TokenizerSettings
from dplm2.tokenizer import decoder_names, losses
from dplm2.tokenizer.decoder import Decoder
from dplm2.tokenizer.losses import Targets
from dplm2.tokenizer.violation import violations
from tests.tokenizer.test_decoder import tiny_settings

CLOSE = {"rel_tol": 1e-4}


@pytest.fixture(params=["single", "batch"])
def case(request, recorded, recorded_tensors):
    """The recorded training batch with its outputs, logged losses, and decoder internals."""
    logged = json.loads(recorded("structok_tiny/meta.json").read_text())[f"loss_{request.param}"]["logging"]
    internals = {"single": "single_missing", "batch": "batch_padded"}[request.param]
    return (
        recorded_tensors(f"structok_tiny/loss_{request.param}"),
        logged,
        recorded_tensors(f"structok_tiny/{internals}"),
    )


def recorded_targets(theirs):
    """The recorded batch as targets; as in the authors' code, amino acids have a loss everywhere, even at padding."""
    frames = theirs["batch.backbone_rigid_tensor"]
    index = theirs["batch.residue_index"]
    return Targets(
        rotations=frames[..., :3, :3],
        origins=frames[..., :3, 3],
        beta=theirs["batch.pseudo_beta"],
        residues=theirs["batch.aatype"].long(),
        observed=theirs["batch.backbone_rigid_mask"].bool(),
        placed=theirs["batch.backbone_rigid_mask"].bool(),
        sequence_mask=torch.ones_like(index, dtype=torch.bool),
        violation_mask=theirs["batch.atom14_atom_exists"][..., 1].bool(),
        bonded=torch.nn.functional.pad(index[:, 1:] - index[:, :-1] == 1, (0, 1)),
        lengths=theirs["batch.seq_length"],
    )


def recorded_errors(theirs):
    quaternions, origins = theirs["frames"].split((4, 3), -1)
    return losses.aligned_errors(rotations_of(quaternions), origins, recorded_targets(theirs))


def test_frames_and_masks_equal_the_recorded_ones(case):
    theirs, _, _ = case
    expected = recorded_targets(theirs)
    index = theirs["batch.residue_index"]
    ours = losses.targets_of(
        theirs["batch.all_atom_positions"][:, :, :3], expected.observed, index > 0, expected.residues, expected.bonded
    )
    known = expected.observed
    assert torch.allclose(ours.rotations[known], expected.rotations[known], atol=1e-5)
    assert torch.equal(ours.origins[known], expected.origins[known])
    assert torch.equal(ours.lengths, expected.lengths)
    # ours is the ideal C-beta, theirs that of the file
    assert (ours.beta - expected.beta)[known].norm(dim=-1).mean() < 0.1


def test_fape_equals_the_recorded_one(case):
    theirs, logged, _ = case
    assert math.isclose(
        losses.fape(recorded_errors(theirs), recorded_targets(theirs), 10.0), logged["rec/fape"], **CLOSE
    )


def test_sequence_loss_equals_the_recorded_one(case):
    theirs, logged, _ = case
    targets = recorded_targets(theirs)
    ours = losses.sequence_cross_entropy(theirs["lm_logits"], targets.residues, targets.sequence_mask)
    assert math.isclose(ours, logged["rec/lm_loss"], **CLOSE)


def test_distogram_loss_equals_the_recorded_one(case, recorded_tensors):
    theirs, logged, internals = case
    settings = tiny_settings()
    official = recorded_tensors("structok_tiny/weights")
    decoder = Decoder(settings, TokenizerSettings.make().quantizer).eval()
    parts = {name: tensor for name, tensor in official.items() if name.startswith(("post_quant.", "decoder."))}
    decoder.load_state_dict(decoder_names.from_official(parts, settings))
    targets = recorded_targets(theirs)
    with torch.no_grad():
        output = decoder(internals["lfq_quantized"], targets.observed)
    ours = losses.distogram_cross_entropy(output.distogram_logits, targets.beta, targets.observed)
    assert math.isclose(ours, logged["rec/distogram"], **CLOSE)
    ours = losses.fape(losses.aligned_errors(output.passes.rotations, output.passes.origins, targets), targets, 10.0)
    assert math.isclose(ours, logged["rec/fape"], **CLOSE)


def test_violations_equal_the_recorded_ones(case):
    theirs, logged, _ = case
    targets = recorded_targets(theirs)
    ours = violations(
        theirs["positions"][-1][..., :5, :],
        targets.violation_mask,
        targets.bonded,
        targets.residues == losses.PROLINE,
        targets.residues == losses.GLYCINE,
    )
    between = "viol.between_residues."
    assert torch.allclose(ours.bond, theirs[between + "bonds_c_n_loss_mean"], rtol=1e-4)
    assert torch.allclose(ours.angle_ca_c_n, theirs[between + "angles_ca_c_n_loss_mean"], rtol=1e-4)
    assert torch.allclose(ours.angle_c_n_ca, theirs[between + "angles_c_n_ca_loss_mean"], rtol=1e-4)
    assert theirs["viol.within_residues.per_atom_loss_sum"].abs().max() == 0  # the term that ours omits
    per_atom = theirs[between + "clashes_per_atom_loss_sum"].sum() / theirs["batch.atom14_atom_exists"].sum()
    assert math.isclose(ours.clash, per_atom, **CLOSE)
    assert math.isclose(ours.total.mean(), logged["rec/violation"], **CLOSE)


def test_scale_and_weights_add_up_to_the_recorded_loss(case):
    theirs, logged, _ = case
    settings = TokenizerSettings.make(datasets=["any"]).loss
    scale = losses.scale_of(theirs["batch.seq_length"], settings, crop=512)
    assert math.isclose(scale, logged["rec/loss_scale"], **CLOSE)
    terms = {"fape": "fape", "distogram": "distogram", "sequence": "lm_loss", "violation": "violation"}
    total = sum(getattr(settings, ours) * logged[f"rec/{name}"] for ours, name in terms.items())
    total += settings.codebook * logged["codebook_loss"]
    assert math.isclose(scale * total, logged["loss"], **CLOSE)


def backbone_targets(length=30, seed=0):
    """Targets on a random walk of frames, all residues observed."""
    generator = torch.Generator().manual_seed(seed)
    quaternions = torch.nn.functional.normalize(torch.randn(1, length, 4, generator=generator), dim=-1)
    origins = torch.randn(1, length, 3, generator=generator).cumsum(1) * 3
    every = torch.ones(1, length, dtype=torch.bool)
    rotations = rotations_of(quaternions)
    residues = torch.zeros(1, length, dtype=torch.long)
    return Targets(rotations, origins, origins, residues, every, every, every, every, every, every.sum(-1))


def moved(targets):
    turn = rotations_of(torch.nn.functional.normalize(torch.tensor([0.3, -0.5, 0.2, 0.7]), dim=0))
    return (turn @ targets.rotations)[None], (targets.origins @ turn.T + torch.tensor([5.0, -80.0, 3.0]))[None]


def test_fape_is_zero_for_moved_copies_but_not_mirror_images():
    targets = backbone_targets()
    rotations, origins = moved(targets)
    floor = losses.FAPE_EPSILON**0.5 / losses.FAPE_UNIT  # the root of the term under the root
    assert math.isclose(
        losses.fape(losses.aligned_errors(rotations, origins, targets), targets, 1e9), floor, rel_tol=0.02
    )
    assert math.isclose(
        losses.local_fape(losses.aligned_errors(rotations, origins, targets), targets, 5), floor, rel_tol=0.02
    )
    assert losses.distance_error(origins, targets.origins, targets.observed) < 1e-3
    mirror = origins * torch.tensor([1.0, 1.0, -1.0])
    assert losses.fape(losses.aligned_errors(rotations, mirror, targets), targets, 1e9) > 10 * floor


def test_fape_of_a_displaced_point_has_the_closed_form():
    targets = backbone_targets(length=10)
    origins = targets.origins.clone()
    origins[0, 4] += torch.tensor([0.0, 30.0, 0.0])
    # One of 10 points is shifted by 30 angstrom relative to 9 frames, and the 9 others relative to the shifted frame.
    errors = losses.aligned_errors(targets.rotations[None], origins[None], targets)
    clamped = losses.fape(errors, targets, 10.0)
    assert math.isclose(clamped, (18 * 1.0 + 82 * 1e-3) / 100, rel_tol=1e-3)
    mixed = losses.fape(errors, targets, 10.0, unclamped=0.5)
    assert math.isclose(mixed, (18 * 2.0 + 82 * 1e-3) / 100, rel_tol=1e-3)


def test_distance_error_is_relative_to_the_distance_and_ten_angstrom():
    """Points at 0, 10 and 30 angstrom; the last is predicted at 34, and a fourth is not observed."""
    true = torch.tensor([[[0.0, 0, 0], [10, 0, 0], [30, 0, 0], [5, 5, 5]]])
    observed = torch.tensor([[True, True, True, False]])
    predicted = true.clone()
    predicted[0, 2, 0], predicted[0, 3] = 34, 1000.0
    expected = 2 * (4 / (30 + 10) + 4 / (20 + 10)) / 9
    assert losses.distance_error(predicted[None], true, observed).item() == pytest.approx(expected, abs=1e-4)


def test_the_loss_is_scaled_by_the_root_of_the_mean_length_or_crop():
    lengths, settings = torch.tensor([100, 44]), TokenizerSettings.make().loss
    assert losses.scale_of(lengths, settings, crop=512).item() == pytest.approx(72**0.5)
    assert losses.scale_of(lengths, settings, crop=None).item() == pytest.approx(72**0.5)
    assert losses.scale_of(lengths, settings, crop=64).item() == pytest.approx(8)
    unscaled = TokenizerSettings.make(loss={"length_scaling": False}).loss
    assert losses.scale_of(lengths, unscaled, crop=64).item() == 1


@pytest.mark.parametrize("distance", [0, 4, 5, 6])
def test_local_fape_includes_the_last_residue_of_the_window(distance):
    """Errors of 10 angstrom only between residues at one distance: up to 5 they count, 6 does not."""
    length, window = 20, 5
    targets = backbone_targets(length)
    index = torch.arange(length)
    error = ((index[:, None] - index).abs() == distance).float()[None, None] * losses.FAPE_UNIT
    wrong = length if distance == 0 else 2 * (length - distance)
    seen = length * (2 * window + 1) - window * (window + 1)
    expected = wrong / seen if distance <= window else 0.0
    assert math.isclose(losses.local_fape(error, targets, window), expected, rel_tol=1e-4)


def test_ideal_peptides_have_no_violations():
    """A helix built only from bond lengths and angles."""
    length = 12
    positions = helix(length)
    every = torch.ones(1, length, dtype=torch.bool)
    ours = violations(positions, every, every, ~every, ~every)
    assert ours.total.item() < 1e-5
    torn = positions.clone()
    torn[:, 6:] += 1.0
    shift = violations(torn, every, every, ~every, ~every)
    assert shift.bond.item() > 0.01
    parted = every.clone()
    parted[0, 5] = False
    assert violations(torn, every, parted, ~every, ~every).bond.item() < 1e-5


def test_stretched_bond_is_penalised_beyond_twelve_deviations():
    """Peptides of 1.329 +- 0.014 angstrom, before proline 1.341 +- 0.016; one of eleven is stretched."""
    length, at = 12, 5
    positions, every = helix(length), torch.ones(1, 12, dtype=torch.bool)
    bond = positions[0, at + 1, 0] - positions[0, at, 2]
    proline = ~every
    proline[0, at + 1] = True
    for is_proline, ideal, spread in ((~every, 1.329, 0.014), (proline, 1.341, 0.016)):
        for stretched in (1.329 + 0.5, 1.329 + 0.19, 1.329 + 0.15, 1.329 - 0.4):
            pulled = positions.clone()
            pulled[:, at + 1 :] += bond * (stretched / bond.norm() - 1)
            found = violations(pulled, every, every, is_proline, ~every).bond.item()
            expected = max(0.0, abs(stretched - ideal) - 12 * spread) / (length - 1)
            assert found == pytest.approx(expected, abs=2e-6)


def test_clash_penalty_is_the_overlap_of_both_atoms():
    """Two C-beta of radius 1.7 may be 1.9 angstrom apart; glycines have none."""
    positions, every = helix(12) * 40, torch.ones(1, 12, dtype=torch.bool)  # so large that no other atoms meet
    positions[0, 9, 4] = positions[0, 2, 4] + torch.tensor([0.0, 1.2, 0.0])
    found = violations(positions, every, every, ~every, ~every).clash.item()
    assert found == pytest.approx(2 * (3.4 - 1.5 - 1.2) / 60, rel=1e-5)
    glycine = ~every
    glycine[0, 2] = True
    assert violations(positions, every, every, ~every, glycine).clash.item() == 0
    counted = every.clone()
    counted[0, 9] = False
    assert violations(positions, counted, every, ~every, ~every).clash.item() == 0


def helix(length):
    """An ideal helix with O and CB."""
    backbone = torch.from_numpy(chain_of_torsions(np.tile([-57.0, -47.0], (length, 1))))[None, :, :3]
    full = ideal_atoms(*frames_from_backbone(backbone))
    full[:, :, :3] = backbone
    return place_oxygens(full)


def chain_of_torsions(torsions):
    """N, CA, C, O (L, 4, 3) of a chain of ideal bonds with torsion angles phi and psi (L, 2) in degrees."""
    bonds = {"N": (1.329, 116.6), "CA": (1.458, 121.4), "C": (1.526, 111.0)}
    atoms = [torch.tensor([0.0, 0.0, 0.0]), torch.tensor([1.458, 0.0, 0.0]), torch.tensor([2.005, 1.425, 0.0])]
    for index in range(3, 3 * len(torsions)):
        residue, kind = index // 3, ("N", "CA", "C")[index % 3]
        turn = {"N": torsions[residue - 1][1], "CA": 180.0, "C": torsions[residue][0]}[kind]
        bond, angle = bonds[kind]
        atoms.append(next_atom(*atoms[-3:], bond, math.radians(angle), math.radians(turn)))
    backbone = torch.stack(atoms).view(len(torsions), 3, 3)
    oxygens = ideal_atoms(*frames_from_backbone(backbone))[:, 3:4]
    return place_oxygens(torch.cat((backbone, oxygens), 1)).float().numpy()


def next_atom(a, b, c, bond, angle, torsion):
    axis = torch.nn.functional.normalize(c - b, dim=0)
    normal = torch.nn.functional.normalize(torch.linalg.cross(b - a, axis), dim=0)
    across = torch.linalg.cross(normal, axis)
    return c + bond * (
        -math.cos(angle) * axis + math.sin(angle) * (math.cos(torsion) * across + math.sin(torsion) * normal)
    )


def test_confidence_in_the_right_bin_has_no_loss():
    targets = backbone_targets()
    logits = torch.full((1, 30, 50), -30.0)
    logits[..., 49] = 30.0  # lDDT of a perfect copy is in the last bin
    assert losses.confidence_cross_entropy(logits, moved(targets)[1][0], targets) < 1e-6
    assert losses.confidence_cross_entropy(logits, torch.zeros(1, 30, 3), targets) > 10
    uniform = losses.confidence_cross_entropy(torch.zeros(1, 30, 50), moved(targets)[1][0], targets)
    assert uniform.item() == pytest.approx(math.log(50), rel=1e-4)


def test_loss_ignores_missing_residues():
    targets = backbone_targets()
    observed = targets.observed.clone()
    observed[0, 7] = False
    targets = dataclasses.replace(targets, observed=observed)
    rotations, origins = moved(targets)
    spoilt = origins.clone()
    spoilt[:, :, 7] += 100
    seen, unseen = (losses.aligned_errors(rotations, points, targets) for points in (origins, spoilt))
    for term in (losses.fape, losses.local_fape):
        assert torch.equal(term(seen, targets, 10), term(unseen, targets, 10))


def test_total_loss_and_gradients_equal_the_recorded_ones(case, recorded, recorded_tensors):
    """From codes to loss: every term, and the gradient norms of all decoder weights."""
    theirs, logged, internals = case
    case_name = "loss_single" if len(internals["res_mask"]) == 1 else "loss_batch"
    norms = json.loads(recorded("structok_tiny/meta.json").read_text())[case_name]["grad_norms"]
    targets = recorded_targets(theirs)
    settings, weights = tiny_settings(), TokenizerSettings.make(datasets=["any"], loss={"confidence": 0.0}).loss
    decoder = Decoder(settings, TokenizerSettings.make().quantizer).eval()
    parts = recorded_tensors("structok_tiny/weights")
    parts = {name: tensor for name, tensor in parts.items() if name.startswith(("post_quant.", "decoder."))}
    decoder.load_state_dict(decoder_names.from_official(parts, settings))
    output = decoder(internals["lfq_quantized"], targets.observed)
    total, terms = losses.reconstruction_loss(output, targets, weights)
    assert set(terms) == {name for name in terms if getattr(weights, name) > 0}
    logged_names = {"fape": "fape", "distogram": "distogram", "sequence": "lm_loss", "violation": "violation"}
    for ours, name in logged_names.items():
        assert math.isclose(terms[ours].item(), logged[f"rec/{name}"], **CLOSE), ours
    loss = losses.scale_of(targets.lengths, weights, crop=512) * total
    assert math.isclose(loss.item(), logged["rec_loss"], **CLOSE)
    loss.backward()
    gradients = {name: parameter.grad for name, parameter in decoder.named_parameters()}
    compared = 0
    for ours, names in decoder_names.official_names(settings).items():
        norm = math.hypot(*(norms.get(name, 0.0) for name in names))
        # the authors add -1e9 to the logits of masked rows in float32, which leaves only noise in their biases
        if norm > 1e-2 and not ours.endswith(("attend_starting.bias.weight", "attend_ending.bias.weight")):
            assert math.isclose(gradients[ours].norm().item(), norm, rel_tol=1e-2), ours
            compared += 1
    assert compared > 150


def test_error_along_the_chain_composes_the_steps_of_each_stride():
    generator = torch.Generator().manual_seed(0)
    length, reach = 11, 4
    quaternions = torch.nn.functional.normalize(torch.randn(2, length, 4, generator=generator), dim=-1)
    turns, shifts = rotations_of(quaternions), torch.randn(2, length, 3, generator=generator)
    coords = torch.randn(2, length, 3, 3, generator=generator) * 2
    observed = torch.ones(2, length, dtype=torch.bool)
    observed[1, 6] = False
    bonded = torch.ones(2, length, dtype=torch.bool)
    bonded[0, 3] = False
    whole = torch.ones(2, length, dtype=torch.bool)
    targets = losses.targets_of(coords, observed, whole, torch.zeros(2, length, dtype=torch.long), bonded)
    strides = []
    for stride in (1, 2, 4):
        errors = []
        for row in range(2):
            for start in range(length - stride):
                ends = observed[row, start : start + stride + 1].all() and bonded[row, start : start + stride].all()
                if not ends:
                    continue
                turn, shift = torch.eye(3), torch.zeros(3)
                for step in range(start, start + stride):
                    shift = shift + turn @ shifts[row, step]
                    turn = turn @ turns[row, step]
                inverse = targets.rotations[row, start].T
                true_shift = inverse @ (targets.origins[row, start + stride] - targets.origins[row, start])
                of_turn = (turn - inverse @ targets.rotations[row, start + stride]).square().sum()
                errors.append((of_turn + (shift - true_shift).square().sum() + losses.FAPE_EPSILON).sqrt() / stride)
        strides.append(torch.stack(errors).mean())
    ours = losses.chain_error(turns, shifts, targets, reach)
    torch.testing.assert_close(ours, torch.stack(strides).mean(), rtol=1e-5, atol=1e-6)


def test_error_along_chains_shorter_than_the_reach_is_finite():
    targets = losses.targets_of(
        torch.randn(1, 3, 3, 3), *(torch.ones(1, 3, dtype=torch.bool),) * 2, torch.zeros(1, 3, dtype=torch.long),
        torch.ones(1, 3, dtype=torch.bool),
    )  # fmt: skip
    steps = torch.eye(3).expand(1, 3, 3, 3), torch.zeros(1, 3, 3)
    assert torch.isfinite(losses.chain_error(*steps, targets, 16))
    single = losses.targets_of(
        torch.randn(1, 1, 3, 3), *(torch.ones(1, 1, dtype=torch.bool),) * 2, torch.zeros(1, 1, dtype=torch.long),
        torch.ones(1, 1, dtype=torch.bool),
    )  # fmt: skip
    assert losses.chain_error(steps[0][:, :1], steps[1][:, :1], single, 16) == 0


def test_outlier_loss_is_quadratic_then_linear():
    targets = backbone_targets()
    inverse = targets.rotations[:, :-1].transpose(-1, -2)
    turns = torch.cat([inverse @ targets.rotations[:, 1:], torch.eye(3)[None, None]], 1)
    shifts = (inverse @ (targets.origins[:, 1:] - targets.origins[:, :-1]).unsqueeze(-1)).squeeze(-1)
    shifts = torch.cat([shifts, torch.zeros(1, 1, 3)], 1)
    assert losses.chain_outliers(turns, shifts, targets) < 1e-6
    steps = shifts.shape[1] - 1
    for size, expected in ((0.5, 0.25), (3.0, 9.0), (10.0, 4.0 * (2 * 10.0 - 4.0))):
        off = shifts.clone()
        off[0, 4, 1] += size
        assert losses.chain_outliers(turns, off, targets).item() == pytest.approx(expected / steps, rel=1e-3)
    gap = dataclasses.replace(targets, placed=targets.placed.clone())
    gap.placed[0, 5] = False
    assert losses.chain_outliers(turns, off, gap) < 1e-6

"""The objective against recorded values of the authors' implementation, and the noise against closed forms."""

import json

import pytest
import torch

from dplm2.core.errors import ConfigError
from dplm2.language import diffusion
from dplm2.language.diffusion import TASKS, DiffusionObjective
from dplm2.language.vocabulary import TRACKS, Vocabulary
from dplm2.settings.model import DiffusionSettings

RECORDED = {
    "loss_linear": {"weighting": "linear"},
    "loss_constant": {"weighting": "constant"},
    "loss_selfmixup_linear": {"weighting": "linear", "self_mixup": "released"},
}
TOLERANCE = 1e-4


def recorded_batch(values, settings):
    """A recorded batch in the objective's format."""

    def joined(name):
        return torch.cat([values[f"struct_{name}"], values[f"aatype_{name}"]], 1)

    weights = [
        diffusion.loss_weight(values[f"{track}_t"], settings)[:, None].expand(-1, 12) for track in ("struct", "aatype")
    ]
    target_ids_BT = joined("target")
    return {
        "input_ids": joined("x_t"),
        "target_ids": target_ids_BT,
        "learnable": ~Vocabulary().is_edge(target_ids_BT),
        "noised": joined("noise_mask"),
        "weight": torch.cat(weights, 1),
        "single_modality": values["single_modality"],
    }


@pytest.mark.parametrize("name", RECORDED)
def test_loss_and_gradients_equal_the_recorded_ones(recorded, recorded_tensors, released_network, name):
    settings = DiffusionSettings.make(classes="all", **RECORDED[name])
    values = recorded_tensors(f"lm_tiny/{name}")
    batch = recorded_batch(values, settings)
    objective = DiffusionObjective(released_network, settings)
    loss, metrics = objective(batch)
    loss.backward()
    noted = json.loads(recorded("lm_tiny/meta.json").read_text())[name]
    assert loss.item() == pytest.approx(values["loss"].item(), rel=TOLERANCE)
    for track, theirs in (("structure", "struct"), ("sequence", "aatype")):
        assert metrics[f"loss_{track}"].item() == pytest.approx(
            noted["logging"][f"{theirs}/weight_diff_loss"], rel=TOLERANCE
        )
        assert metrics[f"cross_entropy_{track}"].item() == pytest.approx(
            noted["logging"][f"{theirs}/constant_diff_loss"], rel=TOLERANCE
        )
    parameters = dict(released_network.model.named_parameters())
    for parameter, norm in noted["grad_norms"].items():
        assert parameters[parameter].grad.norm().item() == pytest.approx(norm, rel=TOLERANCE, abs=1e-6)
    for entry, gradient in values.items():
        if entry.startswith("grad."):
            ours = parameters[entry.removeprefix("grad.")].grad
            assert torch.allclose(ours, gradient, atol=TOLERANCE * float(gradient.abs().max()))


def test_self_mixup_reproduces_the_recorded_second_input(recorded_tensors, released_network):
    settings = DiffusionSettings.make(classes="all", self_mixup="released")
    values = recorded_tensors("lm_tiny/loss_selfmixup_linear")
    batch = recorded_batch(values, settings)
    mixed_BT, chosen_BT = DiffusionObjective(released_network, settings).mixed_up(batch)
    assert torch.equal(mixed_BT, values["mixup_x_t"])
    assert torch.equal(chosen_BT, values["mixup_loss_mask"])


def noised_batch(vocabulary, settings, task, samples=4, residues=12, seed=0):
    generator = torch.Generator().manual_seed(seed)
    structure = torch.randint(36, vocabulary.mask_structure, (samples, residues), generator=generator)
    sequence = torch.randint(4, 24, (samples, residues), generator=generator)
    edge = torch.ones(samples, 1, dtype=torch.long)
    target = torch.cat([edge * 33, structure, edge * 34, edge * 0, sequence, edge * 2], 1)
    tasks = torch.full((samples,), TASKS.index(task))
    times = diffusion.draw_times(tasks, settings.steps, generator)
    return diffusion.add_noise(vocabulary, target, tasks, times, settings, generator), times


@pytest.mark.parametrize("task", TASKS)
def test_each_task_noises_its_tracks(task):
    vocabulary, settings = Vocabulary(20), DiffusionSettings.make()
    noised, times = noised_batch(vocabulary, settings, task, samples=64)
    half = noised.target_ids_BT.shape[1] // 2
    by_track = {"structure": noised.noised_BT[:, :half], "sequence": noised.noised_BT[:, half:]}
    for track in TRACKS:
        asked = track in diffusion.NOISED_TRACKS[task]
        assert bool(by_track[track].any()) == asked
        assert bool((times[track] > 0).all()) == asked == bool((times[track] != 0).any())
    if task == "joint":
        assert torch.equal(times["structure"], times["sequence"])
    assert bool(noised.single_modality_B.all()) == (task == "single_modality")
    shown = noised.input_ids_BT
    assert torch.equal(shown[~noised.noised_BT], noised.target_ids_BT[~noised.noised_BT])
    assert set(shown[:, :half][by_track["structure"]].tolist()) <= {vocabulary.mask_structure}
    assert set(shown[:, half:][by_track["sequence"]].tolist()) <= {vocabulary.mask_sequence}
    edges = vocabulary.is_edge(noised.target_ids_BT)
    assert not (noised.noised_BT & edges).any()


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_fraction_of_masks_follows_the_schedule(schedule):
    vocabulary, settings = Vocabulary(20), DiffusionSettings.make(schedule=schedule)
    target = torch.full((1, 100_000), 40)
    for time, expected in ((125, {"linear": 0.25, "cosine": 0.0761}), (500, {"linear": 1.0, "cosine": 1.0})):
        times = {"structure": torch.tensor([time]), "sequence": torch.tensor([0])}
        tasks = torch.tensor([TASKS.index("folding")])
        noised = diffusion.add_noise(vocabulary, target, tasks, times, settings, torch.Generator().manual_seed(0))
        assert noised.noised_BT.float().mean().item() == pytest.approx(expected[schedule], abs=0.01)


def test_loss_weight_follows_the_time():
    times = torch.tensor([1, 251, 500])
    linear = diffusion.loss_weight(times, DiffusionSettings.make(weighting="linear"))
    assert linear.tolist() == pytest.approx([1.0, 0.5, 0.002], rel=1e-4)
    assert diffusion.loss_weight(times, DiffusionSettings.make(weighting="constant")).tolist() == [1, 1, 1]


def test_split_assignment_is_the_authors_and_draw_follows_the_ratios():
    ratios, generator = DiffusionSettings.make().task_ratios, torch.Generator().manual_seed(0)
    joint, quarter = TASKS.index("joint"), len(TASKS)
    assert diffusion.assign_tasks(3, ratios, "split", generator).tolist() == [joint] * 3
    seven = diffusion.assign_tasks(7, ratios, "split", generator).bincount(minlength=quarter)
    assert seven.tolist() == [1, 1, 1, 0, 4]
    many = diffusion.assign_tasks(40_000, ratios, "draw", generator).bincount(minlength=quarter) / 40_000
    assert many.tolist() == pytest.approx([0.25, 0.25, 0.25, 0.0, 0.25], abs=0.01)


def test_ratios_that_do_not_sum_to_one_are_refused():
    with pytest.raises(ConfigError, match="sum to 1.25"):
        DiffusionSettings.make(task_ratios={"joint": 0.5})


@pytest.mark.parametrize("shown", ["mask", "unknown", "learn"])
def test_unobserved_residues_are_not_learned(shown):
    vocabulary = Vocabulary(20)
    settings = DiffusionSettings.make(unobserved_structure=shown)
    target = torch.tensor([[33, 40, vocabulary.unknown_structure, 34, 0, 5, vocabulary.unknown_residue, 2]])
    tasks, everything = torch.tensor([TASKS.index("joint")]), torch.tensor([settings.steps])
    times = dict.fromkeys(TRACKS, everything)
    noised = diffusion.add_noise(vocabulary, target, tasks, times, settings, torch.Generator().manual_seed(0))
    assert noised.noised_BT[0].tolist() == [False, True, shown == "learn", False, False, True, False, False]
    seen = {"mask": vocabulary.mask_structure, "unknown": vocabulary.unknown_structure}
    assert noised.input_ids_BT[0, 2] == seen.get(shown, vocabulary.mask_structure)
    assert noised.input_ids_BT[0, 6] == vocabulary.unknown_residue


def test_track_softmax_is_the_conditional_of_the_full_softmax(small_network):
    """The softmax of a track is the renormalised one of the whole vocabulary: same order, smaller loss."""
    noised, _ = noised_batch(small_network.vocabulary, DiffusionSettings.make(), "joint")
    batch = noised.batch()
    hidden_BTD = small_network.hidden(batch["input_ids"])
    for track in TRACKS:
        own, _ = DiffusionObjective(small_network, DiffusionSettings.make()).track_nll(
            hidden_BTD, batch, batch["noised"], track
        )
        logits = small_network(batch["input_ids"]).log_softmax(-1)
        classes = small_network.vocabulary.classes(track)
        structure = batch["target_ids"] >= 33
        chosen = batch["noised"] & (structure if track == "structure" else ~structure)
        mass = logits[chosen][:, classes.start : classes.stop].logsumexp(-1)
        joint = logits[chosen].gather(1, batch["target_ids"][chosen][:, None])[:, 0]
        assert torch.allclose(own, mass - joint, atol=1e-5)


def test_clean_self_mixup_keeps_given_tokens(small_network):
    settings = DiffusionSettings.make(self_mixup="clean")
    for task in ("folding", "inverse_folding", "joint"):
        noised, _ = noised_batch(small_network.vocabulary, settings, task)
        mixed_BT, chosen_BT = DiffusionObjective(small_network, settings).mixed_up(noised.batch())
        vocabulary, structure_BT = small_network.vocabulary, noised.target_ids_BT >= 33
        for track in TRACKS:
            of_track = structure_BT if track == "structure" else ~structure_BT
            if track not in diffusion.NOISED_TRACKS[task]:
                assert torch.equal(mixed_BT[of_track], noised.target_ids_BT[of_track])
                assert not chosen_BT[of_track].any()
                continue
            predicted = mixed_BT[of_track & noised.noised_BT]
            allowed = vocabulary.generated(track)
            assert ((predicted >= allowed.start) & (predicted < allowed.stop)).all()
            swapped = of_track & noised.learnable_BT & ~noised.noised_BT
            assert (mixed_BT[swapped] == vocabulary.mask(track)).all()


def test_first_pass_of_clean_self_mixup_has_no_dropout(small_network):
    noised, _ = noised_batch(small_network.vocabulary, DiffusionSettings.make(self_mixup="clean"), "joint")
    expected, _ = DiffusionObjective(small_network, DiffusionSettings.make(self_mixup="clean")).mixed_up(noised.batch())
    for module in small_network.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.9
    small_network.train()
    mixed = {}
    for kind in ("clean", "released"):
        objective = DiffusionObjective(small_network, DiffusionSettings.make(self_mixup=kind))
        mixed[kind] = [objective.mixed_up(noised.batch())[0] for _ in range(2)]
        assert all(module.training for module in small_network.modules())
    assert torch.equal(mixed["clean"][0], expected) and torch.equal(mixed["clean"][1], expected)
    # The authors' first pass has dropout.
    assert not torch.equal(*mixed["released"])

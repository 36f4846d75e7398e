"""The sampler against recorded runs of the authors' program (random weights, fp32; see goldens/README.md)."""

import json

import pytest
import torch

from dplm2.language.conditioning import Conditioning
from dplm2.language.denoising import Denoiser
from dplm2.language.esm import FREQUENCIES, Esm2, Esm2Config
from dplm2.language.filtering import draw, nucleus_threshold
from dplm2.language.network import MultimodalEsm
from dplm2.language.randomness import ORDER, uniform, use_of
from dplm2.language.schedule import SamplerSettings, Strategy
from dplm2.language.unmasking import lowest
from dplm2.language.vocabulary import Vocabulary

VOCABULARY = Vocabulary()


class Recorded:
    """The uniform numbers of a recorded run as random words, instead of those of a seed."""

    def __init__(self, run):
        half = run["input_tokens"].shape[1] // 2
        self.of_track = {
            track: run[f"steps.unmask_uniform_{name}"][:, :, offset + 1 :]
            for track, name, offset in (("structure", "struct", 0), ("sequence", "aa", half))
            if f"steps.unmask_uniform_{name}" in run
        }

    def of_step(self, step_B, length):
        (step,) = set(step_B.tolist())
        words_BLU = torch.zeros(len(step_B), length, 4, dtype=torch.int64)
        for track, numbers in self.of_track.items():
            words_BLU[:, :, use_of(track, ORDER)] = (numbers[step, :, :length] * 2**24).to(torch.int64) << 40
            assert torch.equal(uniform(words_BLU[:, :, use_of(track, ORDER)]), numbers[step, :, :length])
        return words_BLU


def denoiser_of(run, samples, network, sampler):
    """A sampler that gets its numbers from a recorded run, and runs every step."""
    denoiser = Denoiser(network, samples, [0] * len(samples), sampler, trajectory=1)
    denoiser.words = Recorded(run)
    return denoiser


@pytest.fixture(scope="module")
def network(recorded_tensors):
    model = Esm2(Esm2Config(len(VOCABULARY), 64, 4, 4, 256))
    missing = model.load_state_dict(recorded_tensors("lm_tiny/weights"), strict=False).missing_keys
    assert missing == [FREQUENCIES]  # theirs are per layer
    return MultimodalEsm(model, VOCABULARY, embedding_scaling="released").eval()


def conditionings_of(run, steps):
    """The samples of a recorded batch."""
    first = run["steps.in_tokens"][0]
    fixed = run.get("partial_masks", torch.zeros_like(first, dtype=torch.bool))
    samples = []
    for number in range(len(first)):
        tokens, held = {}, {}
        for track in ("structure", "sequence"):
            begin = (first[number] == VOCABULARY.cls(track)).nonzero()
            if len(begin):
                residues = slice(int(begin) + 1, int((first[number] == VOCABULARY.eos(track)).nonzero()))
                tokens[track] = first[number, residues].numpy()
                held[track] = fixed[number, residues].numpy()
        samples.append(Conditioning(str(number), tokens, held, steps))
    return samples


def follow(run, settings, network, **options):
    """Compare every token, score and mask of every step with a recorded run."""
    unmasking = settings["unmasking_strategy"].replace("stochastic", "stochastic@")
    samples = conditionings_of(run, settings["max_iter"])
    denoiser = denoiser_of(
        run, samples, network, SamplerSettings.of(settings["sampling_strategy"], unmasking, **options)
    )
    for step in range(settings["max_iter"]):
        assert torch.equal(denoiser.ids_BT, run["steps.in_tokens"][step])
        denoiser.advance()
        for track in denoiser.tracks:
            columns = slice(track.offset, track.offset + track.width)
            ours, theirs = track.scores_BL, run["steps.out_scores"][step][:, columns]
            decoded = ~ours.isnan()
            torch.testing.assert_close(ours[decoded], theirs[decoded], atol=2e-5, rtol=0)
            # Their program marks masked positions; ours must lack a score exactly there.
            assert torch.equal(decoded, track.open_BL & ~run["steps.out_masks"][step][:, columns])
    assert torch.equal(denoiser.ids_BT, run["output_tokens"])


@pytest.mark.parametrize(
    "name",
    [
        "cogen_argmax_det",
        "folding_argmax_det",
        "folding_padded_argmax_det",
        "invfold_argmax_det",
        "motif_argmax_det",
        "aa_only_argmax_det",
        "cogen_argmax_stochastic1.0",
    ],
)
def test_tokens_of_every_step_equal_the_authors(name, recorded, recorded_tensors, network):
    run = recorded_tensors(f"lm_tiny/generate_{name}")
    settings = json.loads(recorded("lm_tiny/meta.json").read_text())[f"generate_{name}"]
    follow(run, settings, network, amino_acids="official")


def test_scores_of_annealed_draws_equal_the_authors(recorded_tensors, network):
    run = recorded_tensors("lm_tiny/generate_cogen_default_seed3")
    strategy, steps = Strategy.parse("annealing@2.2:1.0"), len(run["steps.in_tokens"])
    classes = {
        "structure": torch.tensor(list(VOCABULARY.generated("structure"))),
        "sequence": torch.tensor([*VOCABULARY.generated("sequence"), 29, 30, 31]),
    }
    samples = conditionings_of(run, steps)
    for step in range(steps):
        with torch.no_grad():
            logits = network(run["steps.in_tokens"][step])
        for track, offset in (("structure", 0), ("sequence", logits.shape[1] // 2)):
            for number, sample in enumerate(samples):
                residues = slice(offset + 1, offset + 1 + sample.length)
                drawn = run["steps.cur_tokens"][step, number, residues]
                temperature = strategy.temperature(torch.full((sample.length,), step / steps))
                chosen = torch.searchsorted(classes[track], drawn)
                own = logits[number, residues][:, classes[track]]
                _, _, score = draw(own, temperature, 0.95, torch.zeros(sample.length), chosen)
                expected = run["steps.cur_scores"][step, number, residues]
                # The last class of a nucleus of thousands, included or not by rounding, has a probability up to 3e-4.
                torch.testing.assert_close(score, expected, atol=5e-4, rtol=0)


def test_annealed_run_with_the_authors_draws_is_theirs(recorded_tensors, network, monkeypatch):
    run = recorded_tensors("lm_tiny/generate_cogen_default_seed3")
    steps = len(run["steps.in_tokens"])
    samples = conditionings_of(run, steps)
    sampler = SamplerSettings.of("annealing@2.2:1.0", "stochastic@1.0", amino_acids="official")
    denoiser = denoiser_of(run, samples, network, sampler)

    def choose(track, rows, positions, *others):
        at = (denoiser.step[0], rows, positions + track.offset)
        drawn, scores = run["steps.cur_tokens"][at], run["steps.cur_scores"][at]
        return torch.searchsorted(denoiser.classes[track.track], drawn), scores, None

    monkeypatch.setattr(denoiser, "_choose", choose)
    for step in range(steps):
        assert torch.equal(denoiser.ids_BT, run["steps.in_tokens"][step])
        denoiser.advance()
    assert torch.equal(denoiser.ids_BT, run["output_tokens"])


def test_nucleus_equals_the_authors_filter(recorded_tensors, network):
    unit = recorded_tensors("top_p_unit")
    probabilities = unit["logits"].softmax(-1)
    assert torch.equal(probabilities >= nucleus_threshold(probabilities, 0.95), unit["filtered"].isfinite())

    run = recorded_tensors("lm_tiny/filter_step0")
    with torch.no_grad():
        logits = network(run["x"])
    for track, offset, extra in (("structure", 0, []), ("sequence", 12, [29, 30, 31])):
        classes = [*VOCABULARY.generated(track), *extra]
        probabilities = logits[:, offset + 1 : offset + 11, classes].softmax(-1).flatten(0, 1)
        kept = (probabilities >= nucleus_threshold(probabilities, 0.95)).sum(-1)
        residues = run["x"][:, offset + 1 : offset + 11].flatten()
        inside = residues == VOCABULARY.mask(track)
        assert inside.sum() >= 20
        assert torch.equal(kept[inside], run["n_kept"][:, offset + 1 : offset + 11].flatten()[inside])


def test_remasked_positions_equal_the_authors(recorded_tensors):
    unit = recorded_tensors("lm_tiny/topk_masking")
    chosen = lowest(unit["scores"], torch.ones_like(unit["scores"], dtype=torch.bool), unit["cutoff_len"][:, 0])
    assert torch.equal(chosen, unit["mask"].bool())

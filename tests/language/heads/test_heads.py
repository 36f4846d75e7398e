"""Requirements on every structure head, since the rest of the package does not depend on the head."""

import csv
import json
import os
import subprocess
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from head_networks import network_with
from safetensors.torch import load_file, save_file
from small_run import CODES, TRAINING, configuration, run
from test_sampling import assert_drawn_from
from test_training_options import TORCHRUN
from test_warmup import sequence_model
from transformers import AutoModelForMaskedLM, EsmForMaskedLM

from dplm2.cli import main
from dplm2.core.errors import DPLM2Error
from dplm2.generation.selection import log_likelihoods
from dplm2.language import diffusion, heads, layout, likelihood, lora
from dplm2.language.chains import TokenizedChains
from dplm2.language.conditioning import Conditioning
from dplm2.language.network import MultimodalEsm
from dplm2.language.sampling import sample
from dplm2.language.schedule import SamplerSettings
from dplm2.language.stages import splits_of
from dplm2.language.vocabulary import TRACKS
from dplm2.settings.model import DiffusionSettings, LoraSettings
from dplm2.training.devices import SHARDS_ON_CPU

OWN_WEIGHTS = [name for name in heads.HEADS if name != heads.DEFAULT]


def ids_of(network, length, seed=0):
    """Ids of both tracks, a third of each masked."""
    random = np.random.default_rng(seed)
    tracks = []
    for track in TRACKS:
        allowed = network.vocabulary.generated(track)
        ids = random.integers(allowed.start, allowed.stop, length)
        ids[random.random(length) < 0.3] = network.vocabulary.mask(track)
        tracks.append(ids)
    return tracks


def unknown(network, sample_id, length, steps=4, tracks=TRACKS):
    tokens = {track: np.full(length, network.vocabulary.mask(track)) for track in tracks}
    return Conditioning(sample_id, tokens, {track: np.zeros(length, bool) for track in tracks}, steps)


# The distribution ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("track", TRACKS)
def test_loss_is_the_cross_entropy_of_the_logits(network, track):
    """In value and gradient, for every code."""
    classes = network.vocabulary.generated(track)
    targets = torch.arange(classes.start, classes.stop)
    hidden_ND = torch.randn(len(targets), 32, requires_grad=True)
    logits_NC = network.track_logits(hidden_ND, track)
    expected = torch.nn.functional.cross_entropy(logits_NC, targets - network.classes(track).start, reduction="none")
    found = network.nll(hidden_ND, targets, track)
    assert torch.allclose(found, expected, atol=1e-4)
    weight = torch.rand(len(targets))
    gradients = [
        torch.autograd.grad((each * weight).sum(), hidden_ND, retain_graph=True)[0] for each in (found, expected)
    ]
    assert torch.allclose(*gradients, atol=1e-4)


@torch.no_grad()
def test_sample_does_not_depend_on_its_batch(network):
    """Samples of both tracks, of one, and of single modality, packed and with a mask."""
    pairs = [ids_of(network, length, length) for length in (7, 4, 9, 5)]
    tracks = [pairs[0], (pairs[1][0], None), (None, pairs[2][1]), pairs[3]]
    single_B = torch.tensor([False, False, False, True])
    ids_BT = layout.join(network.vocabulary, [s for s, _ in tracks], [a for _, a in tracks])
    for packing in (True, False):
        network.packing = packing
        hidden_BTD = network.hidden(ids_BT, single_B)
        for row, (structure, sequence) in enumerate(tracks):
            alone_1T = layout.join(network.vocabulary, [structure], [sequence])
            alone_1TD = network.hidden(alone_1T, single_B[row : row + 1])
            assert torch.allclose(hidden_BTD[row][ids_BT[row] != 1], alone_1TD[0], atol=1e-4)


@torch.no_grad()
def test_structure_tokens_have_distinct_embeddings(network):
    """Except for ``<unk_struct>``, which DPLM-2 Bit embeds as its last code."""
    vocabulary = network.vocabulary
    ids = [index for index in range(vocabulary.size) if index != vocabulary.unknown_structure]
    entered = network.head.embed(network.model.esm.embeddings.word_embeddings, torch.tensor([ids]))[0]
    apart = torch.cdist(entered, entered) + torch.eye(len(ids))
    assert apart.min() > 1e-3


@torch.no_grad()
def test_half_precision_is_close_to_float32(network):
    ids_BT = layout.join(network.vocabulary, *([track] for track in ids_of(network, 9)))
    structure = ids_BT[0] >= 36
    full = network.track_logits(network.hidden(ids_BT)[0, structure], "structure")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        hidden_ND = network.hidden(ids_BT)[0, structure]
        half = network.track_logits(hidden_ND, "structure").float()
        nll_N = network.nll(
            hidden_ND, ids_BT[0, structure].clamp(max=network.vocabulary.mask_structure - 1), "structure"
        )
    assert nll_N.dtype == torch.float32
    assert (full - half).abs().max() < 0.05 * full.abs().max()


def test_every_noised_position_is_scored_with_any_loss_settings(network):
    """Every noised position with one of the head's classes has a finite loss and gradient."""
    settings = DiffusionSettings.make()
    target = layout.join(network.vocabulary, *([track] for track in ids_of(network, 40)))
    target[target == network.vocabulary.mask_structure] = 40
    target[target == network.vocabulary.mask_sequence] = 5
    tasks = torch.tensor([diffusion.TASKS.index("joint")])
    times = dict.fromkeys(TRACKS, torch.tensor([400]))
    noised = diffusion.add_noise(network.vocabulary, target, tasks, times, settings, torch.Generator().manual_seed(0))
    objective = diffusion.DiffusionObjective(network, settings)
    loss, metrics = objective(noised.batch())
    loss.backward()
    gradients = [parameter.grad for parameter in network.head.parameters()]
    assert all(gradient is not None and torch.isfinite(gradient).all() and gradient.any() for gradient in gradients)
    hidden_BTD = network.hidden(noised.input_ids_BT)
    counts = [len(objective.track_nll(hidden_BTD, noised.batch(), noised.noised_BT, track)[0]) for track in TRACKS]
    assert sum(counts) == int(noised.noised_BT.sum()) and all(counts)


@pytest.mark.parametrize("mode", ["clean", "released"])
def test_self_mixup_predicts_the_most_probable_tokens(network, mode):
    settings = DiffusionSettings.make(self_mixup=mode)
    target = layout.join(
        network.vocabulary,
        *(
            [np.where(t == network.vocabulary.mask(k), network.vocabulary.generated(k).start, t)]
            for t, k in zip(ids_of(network, 600), TRACKS, strict=True)
        ),
    )
    tasks = torch.tensor([diffusion.TASKS.index("joint")])
    times = dict.fromkeys(TRACKS, torch.tensor([499]))
    noised = diffusion.add_noise(network.vocabulary, target, tasks, times, settings, torch.Generator().manual_seed(0))
    mixed_BT, _ = diffusion.DiffusionObjective(network, settings).mixed_up(noised.batch())
    with torch.no_grad():
        hidden_BTD = network.hidden(noised.input_ids_BT)
    for track in TRACKS:
        chosen = noised.noised_BT & network.is_scored(target, track)
        classes = network.vocabulary.generated(track) if mode == "clean" else network.competing(track)
        with torch.no_grad():
            logits = network.logits(hidden_BTD[chosen], track)
        first = network.competing(track).start
        expected = logits[:, classes.start - first : classes.stop - first].argmax(-1) + classes.start
        assert torch.equal(mixed_BT[chosen], expected)


# The sampler --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", ["temperature@1.3", "gumbel_argmax"])
def test_4000_draws_follow_the_distribution_of_the_head(network, strategy):
    """One residue, one step, no nucleus."""
    conditionings = [unknown(network, str(number), 1, steps=1, tracks=("structure",)) for number in range(4000)]
    settings = SamplerSettings.of(strategy, "deterministic", nucleus=1.0)
    codes = [r.tokens["structure"][0] - 36 for r in sample(network, conditionings, settings, 3, token_budget=12_000)]
    ids = layout.join(network.vocabulary, [conditionings[0].tokens["structure"]], [None])
    with torch.no_grad():
        logits = network.track_logits(network.hidden(ids)[0, 1:2], "structure")[0]
    first = network.vocabulary.first_code - network.classes("structure").start
    temperature = 1.3 if strategy == "temperature@1.3" else 1.0
    expected = (logits[first : first + 64].double() / temperature).softmax(-1).numpy()
    assert_drawn_from(np.bincount(codes, minlength=64), expected)


@pytest.mark.parametrize("remasking", ["fresh", "kept", "never"])
@pytest.mark.parametrize("strategy", ["argmax", "gumbel_argmax", "annealing@2.0:0.1"])
def test_all_masks_are_filled_and_given_positions_kept(network, strategy, remasking):
    settings = SamplerSettings.of(strategy, "stochastic@1.0", remasking=remasking, guidance=1.5)
    given = unknown(network, "given", 9)
    given.fixed["structure"][:4] = given.fixed["sequence"][3:] = True
    given.tokens["structure"][:4], given.tokens["sequence"][3:] = 40, 5
    conditionings = [given, unknown(network, "free", 6)]
    for conditioning, result in zip(conditionings, sample(network, conditionings, settings, 0), strict=True):
        for track in TRACKS:
            fixed, ids = conditioning.fixed[track], result.tokens[track]
            assert np.isin(ids, network.vocabulary.generated(track)).all()
            assert np.array_equal(ids[fixed], conditioning.tokens[track][fixed])
            assert (result.scores[track][~fixed] <= 1e-6).all()


def test_callback_receives_codes_and_can_forbid_them(network):
    def only_even(logits_NC, view):
        if view.track == "structure":
            assert view.classes.tolist() == list(network.vocabulary.generated("structure"))
            return logits_NC.masked_fill(view.classes % 2 == 1, -torch.inf)
        return logits_NC

    for strategy in ("argmax", "annealing@2.0:0.1"):
        settings = SamplerSettings.of(strategy, "stochastic@1.0")
        (result,) = sample(network, [unknown(network, "a", 20)], settings, 0, adjust=only_even)
        assert (result.tokens["structure"] % 2 == 0).all() and np.isfinite(result.scores["structure"]).all()


def test_likelihood_is_the_mean_log_probability_of_tokens(network):
    """Four parts are masked in turn; here each consists of one residue on one track."""
    given = unknown(network, "a", 4, tracks=("structure",))
    (made,) = sample(network, [given], SamplerSettings.of("annealing@2.0:0.1", "stochastic@1.0"), 0)
    (found,) = log_likelihoods(network, [given], [made], 0, 8192)
    scores, first = [], network.classes("structure").start
    for place in range(4):
        ids = made.tokens["structure"].copy()
        ids[place] = network.vocabulary.mask_structure
        with torch.no_grad():
            hidden = network.hidden(layout.join(network.vocabulary, [ids], [None]))[0, place + 1 : place + 2]
            log_probabilities = network.track_logits(hidden, "structure").log_softmax(-1)[0]
        scores.append(log_probabilities[made.tokens["structure"][place] - first].item())
    assert found == pytest.approx(np.mean(scores), rel=1e-4)


# Files --------------------------------------------------------------------------------------------------------------


def test_saved_model_opens_here_and_in_transformers_if_complete(network, tmp_path):
    network.tokenizer, network.tokenizer_fingerprint = "../tokenizer", "abc"
    network.save_pretrained(tmp_path)
    again = MultimodalEsm.from_pretrained(tmp_path)
    assert again.description == network.description and not again.is_sequence_model
    ids_BT = layout.join(network.vocabulary, *([track] for track in ids_of(network, 9)))
    with torch.no_grad():
        assert torch.equal(again(ids_BT), network(ids_BT))
    assert (tmp_path / "vocab.txt").read_text().splitlines() == list(network.vocabulary.tokens)
    if network.opens_as_esm:
        theirs = AutoModelForMaskedLM.from_pretrained(tmp_path)
        assert all(torch.equal(value, theirs.state_dict()[name]) for name, value in network.model.state_dict().items())
    else:
        with pytest.raises(ValueError, match="model type `dplm2`"):
            AutoModelForMaskedLM.from_pretrained(tmp_path)


@pytest.mark.parametrize("head", OWN_WEIGHTS)
def test_a_folder_that_lacks_a_weight_of_the_head_is_refused(head, tmp_path):
    network_with(head).save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    for name in ("structure_head.leave.bias", "lm_head.bias"):
        save_file({key: value for key, value in weights.items() if key != name}, tmp_path / "model.safetensors")
        with pytest.raises(DPLM2Error, match="weights do not fit|cannot be opened"):
            MultimodalEsm.from_pretrained(tmp_path)


@pytest.mark.parametrize(("error", "said"), [(KeyError(), "KeyError"), (ValueError("a  reason"), "a reason")])
def test_an_error_of_the_library_is_named(tmp_path, monkeypatch, error, said):
    def fails(*arguments, **options):
        raise error

    network_with("codes").save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "model-00001-of-00001.safetensors")
    monkeypatch.setattr(EsmForMaskedLM, "from_pretrained", fails)
    with pytest.raises(DPLM2Error, match=rf"cannot be opened, .* \({said}\)$"):
        MultimodalEsm.from_pretrained(tmp_path)


def test_lora_trains_the_head_fully_and_merges_exactly(network, tmp_path):
    ids_BT = layout.join(network.vocabulary, *([track] for track in ids_of(network, 9)))
    names = set(network.state_dict())
    lora.add(network.model, LoraSettings.make(enabled=True, rank=4), seed=0)
    trained = {name for name, parameter in network.named_parameters() if parameter.requires_grad}
    assert {f"head.{name}" for name, _ in network.head.named_parameters()} <= trained
    assert {name for name, _ in network.named_parameters() if "lm_head" in name or "word_embeddings" in name} <= trained
    for name, parameter in network.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    with torch.no_grad():
        updated = network(ids_BT)
        lora.merge(network.model)
        assert set(network.state_dict()) == names
        assert torch.allclose(network(ids_BT), updated, atol=1e-3)
    network.save_pretrained(tmp_path)
    with torch.no_grad():
        assert torch.equal(MultimodalEsm.from_pretrained(tmp_path)(ids_BT), network(ids_BT))


# Training -----------------------------------------------------------------------------------------------------------


def section_of(head, **model):
    whole = json.loads(configuration(**model))
    section = whole["models"]["m"]
    section["structure_head"] = head
    for name in [name for name, value in section.items() if value is None]:
        del section[name]
    return json.dumps(whole)


@pytest.fixture(scope="module", params=OWN_WEIGHTS)
def trained(request, tmp_path_factory, tokenizer_folder, tokens_folder):
    """A model from random weights after warm-up (without the sequence stage) and training."""
    folder = tmp_path_factory.mktemp(request.param)
    text = section_of(request.param, warmup={"sequence_stage": "never", "dropout": 0.0})
    common = ["--tokens", tokens_folder, "--state", folder / "state", "--config", text]
    run("model", "warmup", "--tokenizer", tokenizer_folder, "--out", folder / "m/initial", *common)
    run("model", "train", "--initial", folder / "m/initial", "--out", folder / "m", *common)
    return request.param, folder / "m"


def test_training_learns_both_tracks(trained, tokens_folder):
    head, folder = trained
    network = MultimodalEsm.from_pretrained(folder)
    assert (network.head.name, network.vocabulary.codebook_size) == (head, CODES)
    part = splits_of(pq.read_table(tokens_folder))["validation"]
    chains = TokenizedChains(part, network.vocabulary, DiffusionSettings.make())
    unigram = likelihood.unigram_baseline(chains)
    for track, (value, _) in likelihood.pooled(likelihood.masked_cross_entropies(network, chains)).items():
        assert value < 0.9 * unigram[track][0]


def test_second_stage_with_lora_keeps_the_head_of_its_source(
    trained, tokens_folder, tokenizer_folder, tmp_path, capsys
):
    head, folder = trained
    options = {
        "network": None,
        "warmup": {"source": str(folder)},
        "lora": {"enabled": True, "rank": 4},
        "diffusion": {"self_mixup": "clean", "crop_min_length": 10},
        "training": {"steps": 4, **TRAINING, "warmup_steps": 0},
    }
    common = ["--tokens", tokens_folder, "--state", tmp_path / "state", "--config", section_of(None, **options)]
    run("model", "warmup", "--tokenizer", tokenizer_folder, "--out", tmp_path / "initial", *common)
    run("model", "train", "--initial", tmp_path / "initial", "--out", tmp_path / "m", *common)
    before, started, after = (
        load_file(f / "model.safetensors") for f in (folder, tmp_path / "initial", tmp_path / "m")
    )
    assert all(torch.equal(before[name], started[name]) for name in before) and set(after) == set(before)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert {name for name in before if name.startswith("structure_head.leave.")} <= changed
    assert "esm.encoder.layer.0.attention.self.query.bias" not in changed
    wrong = section_of("codes", **options)
    arguments = ["model", "warmup", "--tokenizer", tokenizer_folder, "--out", tmp_path / "x", *common[:-1], wrong]
    assert main([str(argument) for argument in arguments]) == 2
    assert f"has the head {head}" in capsys.readouterr().err


@pytest.mark.parametrize("low_rank", [False, True], ids=["full", "low rank"])
def test_resumes_bit_for_bit(trained, tokens_folder, tmp_path, low_rank):
    """Repeatedly stopped by the time limit, in the middle of an epoch."""
    head, folder = trained
    training = {"steps": 4, "token_budget": 200, "learning_rate": 5e-3, "warmup_steps": 1, "save_every": 1}

    def arguments(out, **options):
        text = section_of(head, training=training | options, lora={"enabled": True} if low_rank else {})
        common = ["--initial", folder / "initial", "--tokens", tokens_folder, "--state", tmp_path / out / "state"]
        return [str(a) for a in ["model", "train", *common, "--out", tmp_path / out / "m", "--config", text]]

    assert main(arguments("straight")) == 0
    assert [main(arguments("stopped", time_limit_minutes=1e-6)) for _ in range(4)] == [75, 75, 75, 0]
    expected = load_file(tmp_path / "straight/m/model.safetensors")
    found = load_file(tmp_path / "stopped/m/model.safetensors")
    assert expected.keys() == found.keys() and all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("head", heads.HEADS)
def test_warm_up_from_a_sequence_model_keeps_its_logits(head, tokens_folder, tokenizer_folder, tmp_path):
    """Before training, the logits of sequences are those of the source (by transformers, with its scaling)."""
    source = sequence_model()
    source.save_pretrained(tmp_path / "source")
    text = section_of(head, network=None, warmup={"source": str(tmp_path / "source")})
    common = ["--tokens", tokens_folder, "--state", tmp_path / "state", "--config", text]
    run("model", "warmup", "--tokenizer", tokenizer_folder, "--out", tmp_path / "m", *common)
    network = MultimodalEsm.from_pretrained(tmp_path / "m")
    assert network.head.name == head
    ids = torch.tensor([[0, 5, 6, 32, 8, 9, 2, 1, 1], [0, 10, 11, 12, 13, 14, 32, 15, 2]])
    real_BT = ids != 1
    with torch.no_grad():
        expected, ours = source(ids, attention_mask=real_BT.long()).logits[real_BT], network(ids)[..., :33][real_BT]
    assert (ours - expected).abs().max() < 1e-4 * expected.abs().max()


def test_unsupported_objective_is_refused_before_training(trained, tokens_folder, tmp_path, capsys):
    head, folder = trained
    text = section_of(head, diffusion={"classes": "all"})
    arguments = ["model", "train", "--initial", folder / "initial", "--tokens", tokens_folder]
    arguments += ["--state", tmp_path / "state", "--out", tmp_path / "m", "--config"]
    assert main([str(argument) for argument in [*arguments, text]]) == 2
    assert f"models.m.diffusion.classes: all: with structure_head {head}" in capsys.readouterr().err
    # If the configuration does not name the head, the initial model's head raises the error.
    left = json.loads(text)
    del left["models"]["m"]["structure_head"]
    assert main([str(argument) for argument in [*arguments, json.dumps(left)]]) == 2
    assert f"dplm2: diffusion.classes: all: with structure_head {head}" in capsys.readouterr().err


def test_metrics_cover_every_track_and_task(trained):
    with (trained[1] / "metrics.csv").open() as stream:
        row = list(csv.DictReader(stream))[-1]
    for name in ("structure", "sequence", "structure_folding", "sequence_inverse_folding", "structure_joint"):
        assert float(row[f"validation_cross_entropy_{name}"]) > 0


@pytest.mark.skipif(torch.__version__ < SHARDS_ON_CPU, reason="older torch does not average sharded gradients on CPUs")
def test_two_processes_equal_one_with_accumulation(trained, tokens_folder, tmp_path):
    """Data-parallel with low-rank updates, and sharded with all weights trained."""
    head, folder = trained

    def arguments(out, low_rank, **options):
        training = {"steps": 4, "token_budget": 200, "learning_rate": 5e-3, "warmup_steps": 1, "log_every": 1}
        text = section_of(head, training=training | options, lora={"enabled": True} if low_rank else {})
        common = ["--initial", folder / "initial", "--tokens", tokens_folder, "--state", tmp_path / out / "state"]
        return [str(a) for a in ["model", "train", *common, "--out", tmp_path / out / "m", "--config", text]]

    runs = [arguments("ddp", True, accumulate=2), arguments("fsdp", False, accumulate=2, strategy="fsdp")]
    (tmp_path / "runs.py").write_text(
        "import json, sys; from dplm2.cli import main; [main(a) for a in json.loads(sys.argv[1])]"
    )
    command = [sys.executable, *TORCHRUN, tmp_path / "runs.py", json.dumps(runs)]
    finished = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr

    def losses(metrics):
        with metrics.open() as stream:
            return [float(row["loss"]) for row in csv.DictReader(stream)]

    for name, low_rank in (("ddp", True), ("fsdp", False)):
        assert main(arguments(f"one-{name}", low_rank, accumulate=2)) == 0
        found, expected = (losses(tmp_path / out / "m/metrics.csv") for out in (name, f"one-{name}"))
        assert len(found) == 4 and found == pytest.approx(expected, rel=1e-5)

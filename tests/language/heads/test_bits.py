"""DPLM-2 Bit against recorded values of the authors' implementation, import and export."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_diffusion import recorded_batch
from test_language_importing import scaled_shapes, weights_of
from test_sampling_trace import conditionings_of, denoiser_of, follow
from transformers import AutoModelForMaskedLM, EsmConfig
from transformers.models.esm.modeling_esm import EsmEmbeddings

from dplm2.cli import main
from dplm2.core.errors import ConfigError, DPLM2Error
from dplm2.language import heads, importing, layout, warmup
from dplm2.language.diffusion import DiffusionObjective
from dplm2.language.esm import Esm2Config
from dplm2.language.filtering import draw
from dplm2.language.heads.bits import Bits
from dplm2.language.network import MultimodalEsm
from dplm2.language.schedule import SamplerSettings, Strategy
from dplm2.language.vocabulary import TRACKS, Vocabulary
from dplm2.settings.model import DiffusionSettings, NetworkSettings
from dplm2.settings.tokenizer import TokenizerSettings
from dplm2.tokenizer.quantizer import Quantizer, bits_to_indices

TOLERANCE = 1e-4
VOCABULARY = Vocabulary()
FORWARD = ["cogen", "folding", "inverse_folding", "all_masked", "padded", "single_modality", "unk_struct"]
UNSCALED = ["cogen_no_token_dropout", "padded_no_token_dropout"]
SAMPLER = {"nucleus": dict(Bits.sampling.nucleus)}


@pytest.fixture(scope="session")
def recorded_bit(recorded_tensors):
    """Values recorded from DPLM-2 Bit at tiny random weights, by the name of the recording."""
    return lambda name: recorded_tensors(f"lm_bit_tiny/{name}")


@pytest.fixture(scope="session")
def recorded_settings(recorded):
    """Settings of each recording."""
    return json.loads(recorded("lm_bit_tiny/meta.json").read_text())


@pytest.fixture
def released_bit(recorded, tmp_path):
    """The authors' folder in the hub's layout."""
    folder = tmp_path / "released"
    folder.mkdir()
    shutil.copy(recorded("lm_bit_tiny/weights.safetensors"), folder / "model.safetensors")
    shutil.copy(recorded("lm_bit_tiny/config.json"), folder / "config.json")
    return folder


@pytest.fixture
def bit_network(released_bit, tmp_path):
    """The imported network, opened from our folder."""
    importing.import_model(released_bit, tmp_path / "ours")
    network = MultimodalEsm.from_pretrained(tmp_path / "ours")
    assert (network.head.name, network.embedding_scaling) == ("bits", "released_bit")
    return network


def largest_relative(ours, recorded, where):
    return float((ours - recorded)[where].abs().max() / recorded[where].abs().max())


def test_bits_of_all_codes_equal_the_quantizers():
    """A code's bits are the signs of its values in the tokenizer's quantizer."""
    quantizer = Quantizer(TokenizerSettings.make().quantizer)
    head = Bits(VOCABULARY, 13)
    with torch.no_grad():
        head.enter.weight.copy_(torch.eye(13))
        head.enter.bias.zero_()
        signs_1CQ = head.embed(torch.nn.Embedding(33, 13), torch.arange(36, 8228)[None])
    assert torch.equal(signs_1CQ[0], quantizer.code_values())
    assert torch.equal(quantizer.indices(signs_1CQ, torch.ones(1, 8192, dtype=torch.bool))[0], torch.arange(8192))
    assert torch.equal(bits_to_indices(signs_1CQ[0] > 0), torch.arange(8192))


@pytest.mark.parametrize("name", FORWARD + UNSCALED)
@torch.no_grad()
def test_network_reproduces_the_recorded_values(recorded_bit, bit_network, name):
    values = recorded_bit(f"forward_{name}")
    network, ids_BT, half = bit_network, values["input_ids"], values["input_ids"].shape[1] // 2
    network.embedding_scaling = "none" if name in UNSCALED else "released_bit"
    hidden_BTD = network.hidden(ids_BT, values.get("single_modality"))
    real_BT = ids_BT != VOCABULARY.pad
    assert largest_relative(network.embeddings(ids_BT), values["embeddings"], real_BT) < TOLERANCE
    assert largest_relative(hidden_BTD, values["last_hidden_state"], real_BT) < TOLERANCE
    bits_BLQ2 = network.head.bit_logits(hidden_BTD[:, :half])
    expected = values["struct_logits"].unflatten(-1, (13, 2))
    assert largest_relative(bits_BLQ2, expected, real_BT[:, :half]) < TOLERANCE
    logits_BTV = network(ids_BT, values.get("single_modality"))
    assert largest_relative(logits_BTV[:, half:, :33], values["aatype_logits"], real_BT[:, half:]) < TOLERANCE
    codes_BLC = logits_BTV[:, :half, 36:8228].argmax(-1)
    assert torch.equal(codes_BLC[real_BT[:, :half]], bits_to_indices(expected.argmax(-1))[real_BT[:, :half]])


def test_scaling_equals_transformers_embeddings_applied_twice(bit_network):
    """The authors call ``esm.embeddings`` first on the amino acids, then on both halves."""
    config = Esm2Config(33, 64, 1, 4, 64, token_dropout=True)
    theirs = EsmEmbeddings(EsmConfig.from_dict(config.to_dict())).eval()
    theirs.word_embeddings = bit_network.model.esm.embeddings.word_embeddings
    generator = torch.Generator().manual_seed(0)
    structures = [torch.randint(36, 8228, (n,), generator=generator).numpy() for n in (6, 9)]
    sequences = [torch.randint(4, 24, (n,), generator=generator).numpy() for n in (6, 9)]
    sequences[0][:2] = sequences[1][[0, 3, 4, 7]] = VOCABULARY.mask_sequence
    ids_BT = layout.join(VOCABULARY, structures, sequences)
    half = ids_BT.shape[1] // 2
    mask_BT = (ids_BT != VOCABULARY.pad).long()
    with torch.no_grad():
        once_BLD = theirs(input_ids=ids_BT[:, half:], attention_mask=mask_BT[:, half:])
        plain_BTD = bit_network.head.embed(theirs.word_embeddings, ids_BT)
        joined_BTD = torch.cat([plain_BTD[:, :half], once_BLD], 1)
        # Structure ids above 32 are used only to find masks.
        twice_BTD = theirs(input_ids=ids_BT, inputs_embeds=joined_BTD, attention_mask=mask_BT)
        ours = bit_network.embeddings(ids_BT)
    assert torch.allclose(ours, twice_BTD, atol=1e-6)


def parameters_of(network):
    """The parameters under the authors' names."""
    named = dict(network.model.named_parameters())
    for name, parameter in network.head.named_parameters():
        ours = next(ours for ours in Bits.official.names if name.startswith(ours))
        named[Bits.official.names[ours] + name.removeprefix(ours)] = parameter
    return named


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("loss_linear", {"weighting": "linear"}),
        ("loss_constant", {"weighting": "constant"}),
        ("loss_selfmixup_linear", {"weighting": "linear", "self_mixup": "released"}),
    ],
)
def test_loss_and_gradients_equal_the_recorded_ones(recorded_bit, recorded_settings, bit_network, name, options):
    settings = DiffusionSettings.make(**options)
    values = recorded_bit(name)
    batch = recorded_batch(values, settings)
    loss, metrics = DiffusionObjective(bit_network, settings)(batch)
    loss.backward()
    assert loss.item() == pytest.approx(values["loss"].item(), rel=TOLERANCE)
    for track, theirs in (("structure", "struct"), ("sequence", "aatype")):
        assert metrics[f"loss_{track}"].item() == pytest.approx(values[f"loss_{theirs}"].item(), rel=TOLERANCE)
        plain = values[f"{theirs}_nll_per_token"][values[f"{theirs}_mask"]].mean().item()
        assert metrics[f"cross_entropy_{track}"].item() == pytest.approx(plain, rel=TOLERANCE)
    parameters = parameters_of(bit_network)
    norms = recorded_settings[name]["grad_norms"]
    for parameter, norm in norms.items():
        assert parameters[parameter].grad.norm().item() == pytest.approx(norm, rel=TOLERANCE, abs=1e-6)
    for entry, gradient in values.items():
        if entry.startswith("grad."):
            ours = parameters[entry.removeprefix("grad.")].grad
            assert torch.allclose(ours, gradient, atol=TOLERANCE * float(gradient.abs().max()))


def test_self_mixup_reproduces_the_recorded_second_input(recorded_bit, bit_network):
    settings = DiffusionSettings.make(self_mixup="released")
    values = recorded_bit("loss_selfmixup_linear")
    batch = recorded_batch(values, settings)
    mixed_BT, chosen_BT = DiffusionObjective(bit_network, settings).mixed_up(batch)
    assert torch.equal(mixed_BT, values["mixup_x_t"])
    assert torch.equal(chosen_BT, values["mixup_loss_mask"])


def test_unknown_structure_is_excluded_from_the_loss(recorded_bit, bit_network):
    """The authors train ``<unk_struct>`` as the code with all bits set; the loss of other positions equals theirs."""
    settings = DiffusionSettings.make(unobserved_structure="learn")
    values = recorded_bit("loss_unk_struct")
    batch = recorded_batch(values, settings)
    unknown_BL = values["struct_target"] == VOCABULARY.unknown_structure
    kept_BL = values["struct_mask"] & ~unknown_BL
    assert (values["struct_mask"] & unknown_BL).any()
    _, metrics = DiffusionObjective(bit_network, settings)(batch)
    nll_N, weight_N = values["struct_nll_per_token"][kept_BL], values["struct_weight"][kept_BL]
    assert metrics["loss_structure"].item() == pytest.approx((nll_N * weight_N).mean().item(), rel=TOLERANCE)
    assert metrics["loss_sequence"].item() == pytest.approx(values["loss_aatype"].item(), rel=TOLERANCE)


def test_every_target_bit_has_a_gradient_unlike_in_the_released_loss(recorded_bit, bit_network):
    """Their loss ignores targets equal to 1, the id of padding, and thereby every set bit."""
    values = recorded_bit("loss_linear")
    batch = recorded_batch(values, DiffusionSettings.make())
    set_BLQ, chosen_BL = values["struct_target_bits"], values["struct_mask"]
    released_BLQ = values["struct_nll_per_bit"].masked_fill(set_BLQ, 0.0)
    assert torch.equal(released_BLQ, values["struct_nll_per_bit_released"])
    weighted = (released_BLQ.sum(-1) * values["struct_weight"])[chosen_BL].mean()
    assert weighted.item() == pytest.approx(values["loss_released_struct"].item(), rel=TOLERANCE)
    hidden_ND = torch.randn(int(chosen_BL.sum()), 64)
    bits_NQ2 = bit_network.head.bit_logits(hidden_ND).detach().requires_grad_()
    bit_network.head.bit_logits = lambda _: bits_NQ2
    bit_network.nll(hidden_ND, batch["target_ids"][:, :12][chosen_BL], "structure").sum().backward()
    assert (bits_NQ2.grad != 0).all()


@torch.no_grad()
def test_loss_at_zero_logits_is_log_8192(bit_network):
    for parameter in bit_network.head.leave.parameters():
        parameter.zero_()
    nll = bit_network.nll(torch.randn(5, 64), torch.tensor([36, 37, 5000, 8226, 8227]), "structure")
    assert torch.allclose(nll, torch.tensor(8192.0).log(), atol=1e-5)


# The sampler --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "cogen_argmax_det",
        "folding_argmax_det",
        "folding_padded_argmax_det",
        "invfold_argmax_det",
        "cogen_argmax_stochastic1.0",
    ],
)
def test_tokens_of_every_step_equal_the_authors(name, recorded_bit, recorded_settings, bit_network):
    follow(recorded_bit(f"generate_{name}"), recorded_settings[f"generate_{name}"], bit_network, **SAMPLER)


def test_annealed_run_with_the_authors_random_numbers_is_theirs(recorded_bit, bit_network, monkeypatch):
    """Amino acids and bits are drawn from our distributions with their random numbers; scores are ours."""
    recorded = recorded_bit("generate_cogen_annealing1.1_0.1")
    steps = len(recorded["steps.in_tokens"])
    samples = conditionings_of(recorded, steps)
    sampler = SamplerSettings.of(Bits.sampling.strategy, "stochastic@1.0", **SAMPLER)
    denoiser = denoiser_of(recorded, samples, bit_network, sampler)
    places = torch.arange(12, -1, -1)

    def choose(track, rows, positions, logits_NC, log_total_N, progress_N, words_N):
        step, temperature_N = denoiser.step[0], Strategy.parse(Bits.sampling.strategy).temperature(progress_N)
        if track.track == "structure":
            # The distribution over 8192 codes is a product: a bit's marginal is a sum over the codes with this bit set.
            shares_NC = (logits_NC / temperature_N[:, None]).softmax(-1)
            has_CQ = (torch.arange(8192)[:, None] >> places & 1).float()
            on_NQ = shares_NC @ has_CQ
            odds_NQ2 = torch.stack([1 - on_NQ, on_NQ], -1)
            drawn = (odds_NQ2 / recorded["steps.exponential_struct"][step, rows, positions + 1]).argmax(-1)
            index_N = (drawn << places).sum(-1)
        else:
            noise_NC = recorded["steps.exponential_aatype"][step, rows, positions + 1, 4:24]
            allowed_NC = [
                draw(logits_NC, temperature_N, 0.95, torch.zeros(len(rows)), torch.full((len(rows),), c))[2]
                for c in range(20)
            ]
            index_N = (torch.stack(allowed_NC, 1).exp() / noise_NC).argmax(-1)
        nucleus = sampler.nucleus_of(track.track)
        score_N = draw(logits_NC, temperature_N, nucleus, torch.zeros(len(rows)), index_N)[2]
        columns = positions + track.offset
        assert torch.equal(denoiser.classes[track.track][index_N], recorded["steps.cur_tokens"][step, rows, columns])
        torch.testing.assert_close(score_N, recorded["steps.cur_scores"][step, rows, columns], atol=1e-4, rtol=0)
        return index_N, score_N, None

    monkeypatch.setattr(denoiser, "_choose", choose)
    for step in range(steps):
        assert torch.equal(denoiser.ids_BT, recorded["steps.in_tokens"][step])
        denoiser.advance()
    assert torch.equal(denoiser.ids_BT, recorded["output_tokens"])


# Files --------------------------------------------------------------------------------------------------------------


def test_export_of_an_import_is_identical(released_bit, bit_network, tmp_path):
    assert main(["export", str(tmp_path / "ours"), str(tmp_path / "back"), "--format", "official"]) == 0
    before, after = load_file(released_bit / "model.safetensors"), load_file(tmp_path / "back/model.safetensors")
    assert set(before) == set(after)
    assert all(torch.equal(before[name], after[name]) for name in before)
    config = json.loads((tmp_path / "back/config.json").read_text())
    assert (config["dplm_type"], config["architectures"]) == ("dplm2_bit_esm", ["EsmForDPLM2Bit"])
    assert (config["token_dropout"], config["vocab_size"], config["model_type"]) == (True, 33, "esm")
    assert (tmp_path / "back/vocab.txt").read_text().splitlines() == list(VOCABULARY.tokens)
    again = importing.import_model(tmp_path / "back", tmp_path / "again")
    assert again.embedding_scaling == "released_bit"


def test_every_key_of_the_released_model_is_mapped(recorded, tmp_path):
    """The released keys at a small width, as a folder and as a Lightning checkpoint with the structure tokenizer."""
    listed = json.loads(recorded("keys_dplm2_bit_650m.json").read_text())
    shapes = scaled_shapes(listed["state_dict"], 1280, 20)
    weights = weights_of(shapes)
    (tmp_path / "source").mkdir()
    save_file(weights, tmp_path / "source/model.safetensors")
    carried = {name: torch.zeros(1) for name in listed["lightning"] if not name.startswith("model.net.")}
    assert len(carried) == 869
    content = carried | {f"model.net.{name}": value for name, value in weights.items()}
    assert set(content) == set(listed["lightning"])
    torch.save({"state_dict": content, "epoch": 1}, tmp_path / "last.ckpt")
    for source in ("source", "last.ckpt"):
        network = importing.import_model(tmp_path / source, tmp_path / "ours")
        assert (network.head.bits, network.embedding_scaling) == (13, "released_bit")
        importing.export_model(tmp_path / "ours", tmp_path / "back")
        back = load_file(tmp_path / "back/model.safetensors")
        assert {name: value.shape for name, value in back.items()} == {name: w.shape for name, w in weights.items()}
    for file in [*tmp_path.rglob("*.safetensors"), tmp_path / "last.ckpt"]:
        file.unlink()


def test_index_and_bit_models_are_distinguished(recorded, released_bit, tmp_path, capsys):
    index = tmp_path / "index"
    index.mkdir()
    shutil.copy(recorded("lm_tiny/weights.safetensors"), index / "model.safetensors")
    shutil.copy(recorded("lm_tiny/config.json"), index / "config.json")
    assert importing.import_model(index, tmp_path / "1", structure_head="codes").head.name == "codes"
    assert importing.import_model(released_bit, tmp_path / "2", structure_head="bits").head.name == "bits"
    for source, wanted, found in ((index, "bits", "EsmForDPLM2"), (released_bit, "codes", "EsmForDPLM2Bit")):
        arguments = ["import", "model", str(source), str(tmp_path / "3"), "--structure-head", wanted]
        assert main(arguments) == 1
        assert f"structure_head {wanted} is required, but this is {found} " in capsys.readouterr().err
    # A folder with the other model's config.json, which the authors' classes refuse, too.
    (index / "config.json").write_bytes((released_bit / "config.json").read_bytes())
    with pytest.raises(DPLM2Error, match=r"says EsmForDPLM2Bit .*but the weights are those of EsmForDPLM2 "):
        importing.import_model(index, tmp_path / "3")
    assert not (tmp_path / "3").exists()
    with pytest.raises(DPLM2Error, match="official multimodal model .*import model"):
        warmup.open_source(str(released_bit))
    with pytest.raises(DPLM2Error, match="no entry 'dplm2'"):
        MultimodalEsm.from_pretrained(released_bit)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("lm_head_struct.bias"), r"missing.*\['leave.bias'\]"),
        (lambda w: w.update({"quant2emb.extra": torch.zeros(1)}), "unknown.*enter.extra"),
        (lambda w: w.update({"struct_eos_emb": torch.zeros(7)}), "wrong shape.*end"),
        (lambda w: w.pop("lm_head.bias"), "missing .*lm_head.bias"),
        (lambda w: [w.pop(n) for n in list(w) if n.startswith("quant2emb")], "missing"),
    ],
)
def test_mismatched_weights_are_refused(released_bit, tmp_path, change, message):
    weights = load_file(released_bit / "model.safetensors")
    change(weights)
    save_file(weights, released_bit / "model.safetensors")
    with pytest.raises(DPLM2Error, match=message):
        importing.import_model(released_bit, tmp_path / "ours")
    assert not (tmp_path / "ours").exists()


def test_transformers_refuses_a_folder_with_a_structure_head(bit_network, tmp_path):
    with pytest.raises(ValueError, match="model type `dplm2`"):
        AutoModelForMaskedLM.from_pretrained(tmp_path / "ours")


# The start ----------------------------------------------------------------------------------------------------------


def test_initialization_from_a_sequence_model_follows_the_authors():
    """The sequence model does not change; new weights have the distributions of the authors' new models."""
    model = warmup.random_model(NetworkSettings(hidden_size=64, layers=1, heads=4, intermediate_size=64), seed=0)
    model.config.initializer_range = 0.02
    before = {name: value.clone() for name, value in model.state_dict().items()}
    head = warmup.add_structure_tokens(model, VOCABULARY, 0, None, "bits")
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    network = MultimodalEsm(model, VOCABULARY, head=head)
    assert not network.is_sequence_model
    spreads = {"leave.dense.weight": 0.02, "leave.decoder.weight": 0.02, "begin": 1.0, "masked": 1.0, "leave.bias": 0.0}
    spreads |= {"enter.weight": (1 / 39) ** 0.5, "leave.dense.bias": 0.0}
    for name, spread in spreads.items():
        assert head.get_parameter(name).square().mean().sqrt().item() == pytest.approx(spread, rel=0.3)
    assert (head.leave.layer_norm.weight == 1).all()
    again = warmup.add_structure_tokens(model, VOCABULARY, 0, None, "bits")
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in head.state_dict().items())


def test_unsupported_settings_of_the_head_are_refused():
    head = heads.make("bits", Vocabulary(16), 8)
    with pytest.raises(ConfigError, match=r"structure_tokens: code has no effect"):
        head.start(None, 0, torch.zeros(16, 4))
    with pytest.raises(ConfigError, match=r"diffusion.classes: .*use track"):
        head.check(DiffusionSettings.make(classes="all"))
    with pytest.raises(ConfigError, match="unobserved_structure: unknown"):
        head.check(DiffusionSettings.make(unobserved_structure="unknown"))
    with pytest.raises(DPLM2Error, match="must be a power of two, not 20"):
        heads.make("bits", Vocabulary(20), 8)


def test_single_track_equals_a_single_modality_sample(bit_network):
    """The authors' program does not support a single track; compare with one in a single-modality sample."""
    ids = torch.tensor([[33, 40, 8000, 8228, 34, 0, 5, 6, 7, 2]])
    bit_network.embedding_scaling = "none"
    with torch.no_grad():
        apart = bit_network(ids, torch.tensor([True]))
        alone = [bit_network(ids[:, :5]), bit_network(ids[:, 5:])]
    for track, part, whole in zip(TRACKS, alone, (apart[:, :5], apart[:, 5:]), strict=True):
        classes = bit_network.classes(track)
        columns = slice(classes.start, classes.stop)
        assert torch.allclose(part[..., columns], whole[..., columns], atol=1e-5)

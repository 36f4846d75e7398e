"""Warm-up: before training, the multimodal model has the logits of its source on sequences."""

import argparse
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import EsmConfig, EsmForMaskedLM

from dplm2.core.errors import ConfigError, DPLM2Error
from dplm2.language import importing, warmup
from dplm2.language.network import MultimodalEsm
from dplm2.language.vocabulary import Vocabulary
from dplm2.settings.model import NetworkSettings, WarmupSettings
from dplm2.settings.tokenizer import TokenizerSettings
from dplm2.tokenizer.quantizer import Quantizer
from tests.transformers_esm import of_transformers

TOLERANCE = 1e-4
SMALLEST = NetworkSettings.make(hidden_size=16, layers=1, heads=2, intermediate_size=32)
SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}
IDS = torch.tensor([[0, 5, 6, 32, 8, 9, 2, 1, 1], [0, 10, 11, 12, 13, 14, 32, 15, 2]])
UNMASKED = torch.tensor([[0, 5, 6, 7, 8, 9, 2, 1, 1], [0, 10, 11, 12, 13, 14, 16, 15, 2]])


def sequence_model(token_dropout=True, tied=True):
    torch.manual_seed(0)
    config = EsmConfig(
        vocab_size=33,
        mask_token_id=32,
        pad_token_id=1,
        position_embedding_type="rotary",
        token_dropout=token_dropout,
        tie_word_embeddings=tied,
        emb_layer_norm_before=False,
        layer_norm_eps=1e-5,
        max_position_embeddings=1026,
        **SIZES,
    )
    model = EsmForMaskedLM(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def warmed_up(source, scaling="auto", codebook_size=20):
    model = warmup.open_source(str(source))
    resolved = warmup.resolve_scaling(model, scaling)
    warmup.prepare(model, resolved, 0.1)
    vocabulary = Vocabulary(codebook_size)
    warmup.add_structure_tokens(model, vocabulary, seed=3)
    return MultimodalEsm(model, vocabulary, resolved).eval()


def assert_same_logits(network, source_logits, ids_BT):
    with torch.no_grad():
        ours = network(ids_BT)[..., :33]
    real_BT = ids_BT != 1
    error = (ours - source_logits)[real_BT].abs().max() / source_logits[real_BT].abs().max()
    assert error < TOLERANCE


@pytest.mark.parametrize("token_dropout", [True, False])
@pytest.mark.parametrize("tied", [True, False])
def test_hugging_face_folder_keeps_its_logits(tmp_path, token_dropout, tied):
    source = sequence_model(token_dropout, tied)
    source.save_pretrained(tmp_path)
    with torch.no_grad():
        expected = source(IDS, attention_mask=(IDS != 1).long()).logits
    network = warmed_up(tmp_path)
    assert network.embedding_scaling == ("once" if token_dropout else "none")
    assert_same_logits(network, expected, IDS)
    head, table = network.model.lm_head.decoder.weight, network.model.esm.embeddings.word_embeddings.weight
    assert head.data_ptr() != table.data_ptr()


def test_without_scaling_unmasked_sequences_have_the_same_logits(tmp_path):
    source = sequence_model(token_dropout=True)
    source.save_pretrained(tmp_path)
    with torch.no_grad():
        expected = source(UNMASKED, attention_mask=(UNMASKED != 1).long()).logits
    assert_same_logits(warmed_up(tmp_path, "none"), expected, UNMASKED)


def save_fair_esm(path):
    """Write a checkpoint in fair-esm's format, with settings in an argparse namespace; returns its network."""
    from esm.data import Alphabet
    from esm.model.esm2 import ESM2

    torch.manual_seed(0)
    model = ESM2(2, 32, 4, Alphabet.from_architecture("ESM-1b"), token_dropout=True).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    described = argparse.Namespace(
        encoder_layers=2, encoder_embed_dim=32, encoder_attention_heads=4, token_dropout=True
    )
    weights = {f"encoder.sentence_encoder.{name}": value for name, value in model.state_dict().items()}
    for name in list(weights):
        if ".lm_head." in name:
            weights[name.replace("sentence_encoder.", "")] = weights.pop(name)
    torch.save({"cfg": {"model": described}, "model": weights}, path)
    return model


def test_fair_esm_file_keeps_its_logits(tmp_path):
    path = tmp_path / "esm2_t2_tiny.pt"
    source = save_fair_esm(path)
    with torch.no_grad():
        expected = source(IDS)["logits"]
    assert_same_logits(warmed_up(path), expected, IDS)


@pytest.mark.parametrize(("installed", "message"), [(True, "EvolutionaryScale"), (False, "is missing")])
def test_error_names_another_package_imported_as_esm(tmp_path, monkeypatch, installed, message):
    """EvolutionaryScale's package has the same import name `esm`, but other modules."""
    path = tmp_path / "esm2_t2_tiny.pt"
    save_fair_esm(path)
    for name in [name for name in sys.modules if name.split(".")[0] == "esm"]:
        monkeypatch.delitem(sys.modules, name)
    if installed:
        (tmp_path / "site" / "esm").mkdir(parents=True)
        (tmp_path / "site" / "esm" / "__init__.py").write_text("")
        monkeypatch.syspath_prepend(tmp_path / "site")
    else:
        monkeypatch.setitem(sys.modules, "esm", None)
    with pytest.raises(DPLM2Error, match=f"{message}.*pip install fair-esm"):
        warmed_up(path)


@pytest.mark.parametrize("tables", ["older", "today's", "none"])
def test_dplm_folder_keeps_its_logits(tmp_path, tables):
    """DPLM has ESM-2's weight names, its own class name, and unused tables of an earlier transformers.

    Earlier releases wrote a table of positions and the rotary frequencies of each layer; current ones write the
    frequencies once, and since they are computed, a file may lack them.
    """
    source = sequence_model(token_dropout=True, tied=False)
    source.config.architectures, source.config.dplm_type = ["EsmForDPLM"], "dplm_esm"
    source.save_pretrained(tmp_path / "dplm")
    file = tmp_path / "dplm/model.safetensors"
    weights = load_file(file)
    frequencies = [weights.pop(name) for name in list(weights) if name.endswith("inv_freq")]
    assert len(frequencies) == 1
    if tables == "older":
        weights["esm.embeddings.position_embeddings.weight"] = torch.randn(1026, 32)
        for layer in range(2):
            name = f"esm.encoder.layer.{layer}.attention.self.rotary_embeddings.inv_freq"
            weights[name] = frequencies[0].clone()
    if tables != "today's":
        save_file(weights, file, {"format": "pt"})
    with torch.no_grad():
        expected = source(IDS, attention_mask=(IDS != 1).long()).logits
    assert_same_logits(warmed_up(tmp_path / "dplm"), expected, IDS)
    importing.import_model(tmp_path / "dplm", tmp_path / "imported")
    assert_same_logits(warmed_up(tmp_path / "imported"), expected, IDS)
    assert_same_logits(MultimodalEsm.from_pretrained(tmp_path / "imported"), expected, IDS)


def test_new_rows_are_drawn_as_in_the_paper():
    model = warmup.random_model(SMALLEST, seed=0)
    torch.nn.init.normal_(model.esm.embeddings.word_embeddings.weight, mean=2.0, std=0.5)
    old = model.esm.embeddings.word_embeddings.weight.detach().clone()
    old_head = model.lm_head.decoder.weight.detach().clone()
    warmup.prepare(model, "none", 0.1)
    warmup.add_structure_tokens(model, Vocabulary(8192), seed=0)
    table, head = model.esm.embeddings.word_embeddings.weight, model.lm_head
    assert torch.equal(table[:33], old) and torch.equal(head.decoder.weight[:33], old_head)
    assert torch.allclose(table[33:].mean(0), old.mean(0), atol=0.03)
    assert torch.allclose(table[33:].std(0), old.std(0), atol=0.03)
    assert head.decoder.weight[33:].std().item() == pytest.approx(0.02, rel=0.02)
    assert not head.bias[33:].any()
    assert head.decoder.weight.shape == (8229, 16) and head.bias.shape == (8229,)


@pytest.mark.parametrize(
    ("head", "like_codes"), [("codes", False), ("codes", True), ("bits", False), ("pairs", False), ("pairs", True)]
)
def test_new_weights_depend_only_on_the_seed(head, like_codes):
    """Independently of earlier draws; another seed gives other weights."""
    quantizer = Quantizer(
        TokenizerSettings.make(quantizer={"bits": 6, "bits_per_value": [2, 2, 2], "bound": "tanh"}).quantizer
    )
    values = quantizer.code_values() if like_codes else None
    weights = []
    for place, seed in enumerate((4, 4, 5)):
        model = warmup.random_model(SMALLEST, seed=0)
        old = list(model.parameters())  # kept alive, so that ids of new tensors differ from theirs
        torch.manual_seed(place)
        made = warmup.add_structure_tokens(model, Vocabulary(64), seed, values, head, (2, 2, 2))
        of_model = {name: weight for name, weight in model.named_parameters() if not any(weight is one for one in old)}
        weights.append({name: weight[33:] for name, weight in of_model.items()} | dict(made.named_parameters()))
    for name, first in weights[0].items():
        assert torch.equal(first, weights[1][name]), name
        if first.std() > 0:  # neither zeros nor ones
            assert not torch.isclose(first, weights[2][name]).all(-1).any(), name
            assert (first - weights[2][name]).abs().mean() > 0.5 * first.std(), name


def test_initial_rows_of_near_codes_are_similar():
    values_CV = Quantizer(
        TokenizerSettings.make(quantizer={"bits": 6, "bits_per_value": [3, 2, 1], "bound": "tanh"}).quantizer
    ).code_values()
    rows = {}
    for name, values in {"random": None, "code": values_CV}.items():
        model = warmup.random_model(SMALLEST.replaced(hidden_size=2048), seed=0)
        torch.nn.init.ones_(model.esm.embeddings.word_embeddings.weight[::2])
        warmup.prepare(model, "none", 0.1)
        warmup.add_structure_tokens(model, Vocabulary(64), 0, values)
        rows[name] = model.esm.embeddings.word_embeddings.weight[33:], model.lm_head.decoder.weight[33:] / 0.02
    old = model.esm.embeddings.word_embeddings.weight[:33]
    moments = [(old.mean(0), old.std(0)), (0.0, 1.0)]
    for table, other, (centre, spread) in zip(rows["code"], rows["random"], moments, strict=True):
        assert torch.equal(table[[0, 1, 2, -1]], other[[0, 1, 2, -1]])  # tokens that are no codes
        features_CD = (table[3:-1] - centre) / spread
        typical = (2 * values_CV.var(0, correction=0).sum()).sqrt()
        distance_CC = torch.cdist(values_CV, values_CV)
        expected_CC = sum((-0.5 * (distance_CC / (reach * typical)) ** 2).exp() for reach in (0.1, 0.2, 0.4, 0.8)) / 4
        assert (features_CD @ features_CD.T / 2048 - expected_CC).square().mean().sqrt() < 1.5 / 2048**0.5


def test_locally_initialized_heads_attend_to_their_offset():
    """With only the biases, attention is the softmax of the sum of cosines derived in the docstring."""
    model = warmup.random_model(
        NetworkSettings.make(hidden_size=64, layers=2, heads=4, intermediate_size=32, attention="near"), seed=0
    )
    for layer in model.esm.encoder.layer:
        for part in (layer.attention.self.query, layer.attention.self.key):
            torch.nn.init.zeros_(part.weight)
    with torch.no_grad():
        recorded = of_transformers(model, attention="eager")
        found = recorded.esm(torch.randint(4, 24, (1, 12)), output_attentions=True).attentions
    distance = torch.arange(12)[None, :] - torch.arange(12)[:, None]
    turns = 10000.0 ** (-torch.arange(0, 16, 2) / 16)
    turns = turns[turns > 0.125]
    for head, offset in enumerate((0, -1, 1, -2, 2, -4, 4, -3)):
        logits = 8 * ((distance - offset)[..., None] * turns).cos().mean(-1)
        assert torch.allclose(found[head // 4][0, head % 4], logits.softmax(-1), atol=1e-5)
        middle = found[head // 4][0, head % 4, 5]
        assert middle.argmax() == 5 + offset


def test_random_model_depends_only_on_its_seed():
    first, again, other = (warmup.random_model(SMALLEST, seed) for seed in (1, 1, 2))
    weights = [model.lm_head.dense.weight for model in (first, again, other)]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


def test_source_that_is_not_a_sequence_model_is_refused(tmp_path):
    torch.save({"something": 1}, tmp_path / "other.pt")
    with pytest.raises(DPLM2Error, match="not an ESM-2 checkpoint"):
        warmup.open_source(str(tmp_path / "other.pt"))
    sizes = {"encoder_embed_dim": 16, "encoder_layers": 1, "encoder_attention_heads": 2, "token_dropout": True}
    for part in ({"token_dropout": True}, sizes):  # sizes are missing, then the embedding
        torch.save({"cfg": {"model": argparse.Namespace(**part)}, "model": {}}, tmp_path / "other.pt")
        with pytest.raises(DPLM2Error, match="not an ESM-2 checkpoint"):
            warmup.open_source(str(tmp_path / "other.pt"))
    (tmp_path / "text.pt").write_text("no weights")
    with pytest.raises(DPLM2Error, match="not a weight file"):
        warmup.open_source(str(tmp_path / "text.pt"))


def test_network_size_without_effect_is_refused():
    with pytest.raises(ConfigError, match="determines the network"):
        warmup.check_network("folder", SMALLEST)
    with pytest.raises(ConfigError, match="requires"):
        warmup.check_network("scratch", None)


def test_sequence_stage_runs_by_default_only_for_scratch():
    assert WarmupSettings.make().trains_on_sequences
    assert not WarmupSettings.make(sequence_stage="never").trains_on_sequences
    assert not WarmupSettings.make(source="folder").trains_on_sequences
    assert WarmupSettings.make(source="folder", sequence_stage="always").trains_on_sequences

"""The network against transformers', whose names and settings it has."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import EsmConfig, EsmForMaskedLM

from dplm2.core.errors import DPLM2Error
from dplm2.cpu import switch
from dplm2.language import model_folder
from dplm2.language.esm import Esm2, Esm2Config
from dplm2.language.model_folder import load_masked_lm
from dplm2.language.network import MultimodalEsm
from dplm2.language.vocabulary import Vocabulary
from tests.transformers_esm import of_transformers

SIZES = (57, 32, 3, 4, 48)
LENGTHS = (9, 6)
STARTED_OFTEN = (
    "dplm2.generation.run",
    "dplm2.scoring.command",
    "dplm2.language.stages",
    "dplm2.representations.embedding",
    "dplm2.evaluation.command",
)


def network(**options) -> Esm2:
    """A network in which every weight matters."""
    torch.manual_seed(0)
    model = Esm2(Esm2Config(*SIZES, **options))
    for name, parameter in model.named_parameters():
        nn.init.normal_(parameter, float("LayerNorm.weight" in name or "layer_norm" in name), 0.2)
    return model.eval()


def padded_batch() -> dict[str, torch.Tensor]:
    """Embeddings, positions other than the columns, and a mask of the padding of the second sample."""
    generator = torch.Generator().manual_seed(1)
    hidden_BTD = torch.randn(2, max(LENGTHS), 32, generator=generator)
    mask_B11T = torch.zeros(2, 1, 1, max(LENGTHS))
    mask_B11T[1, ..., min(LENGTHS) :] = torch.finfo(torch.float32).min
    return {"hidden": hidden_BTD, "positions": torch.arange(max(LENGTHS)).roll(2).expand(2, -1), "mask": mask_B11T}


def real(values_BT: torch.Tensor) -> torch.Tensor:
    """Values of the samples' tokens, one after another."""
    return torch.cat([row[:length] for row, length in zip(values_BT, LENGTHS, strict=True)])


def ours(model: Esm2, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    return real(model.lm_head(model.esm(batch["hidden"], batch["positions"], mask=batch["mask"])))


def ours_packed(model: Esm2, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    hidden_1ND, positions_1N = (real(batch[name]).unsqueeze(0) for name in ("hidden", "positions"))
    return model.lm_head(model.esm(hidden_1ND, positions_1N, segments=LENGTHS))[0]


def theirs(model: EsmForMaskedLM, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    output = model(inputs_embeds=batch["hidden"], attention_mask=batch["mask"], position_ids=batch["positions"])
    return real(output.logits)


def gradients(model: nn.Module, logits: torch.Tensor) -> dict[str, torch.Tensor]:
    """Of a sum in which each logit counts differently."""
    (logits * torch.linspace(-1, 1, logits.numel()).view_as(logits)).sum().backward()
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}


@pytest.mark.parametrize("form", ["lean", "plain"])
@pytest.mark.parametrize("forward", [ours, ours_packed])
def test_logits_and_gradients_are_those_of_transformers(monkeypatch, form, forward):
    monkeypatch.setenv(switch.VARIABLE, form)
    model, batch = network(), padded_batch()
    copy = of_transformers(model)
    found, expected = forward(model, batch), theirs(copy, batch)
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-4)
    found, expected = gradients(model, found), gradients(copy, expected)
    assert found.keys() == expected.keys() and len(found) == 3 * 16 + 8
    for name, gradient in expected.items():
        # A common shift of all keys does not change attention: the gradient of their bias is only rounding.
        tolerance = 1e-4 * float(gradient.abs().max()) + (1e-3 if "key.bias" in name else 1e-5)
        assert torch.allclose(found[name], gradient, rtol=1e-3, atol=tolerance), name


def test_dropout_is_where_transformers_has_it():
    """The same random numbers drop the same values."""
    model, batch = network(hidden_dropout_prob=0.3).train(), padded_batch()
    copy = of_transformers(model)
    torch.manual_seed(2)
    found = ours(model, batch)
    torch.manual_seed(2)
    assert torch.allclose(found, theirs(copy, batch), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(found, ours(model, batch), rtol=0.1)


def test_random_weights_have_transformers_distributions():
    torch.manual_seed(0)
    model = Esm2(Esm2Config(*SIZES, initializer_range=0.5))
    copy = EsmForMaskedLM(of_transformers(model).config)
    for name, value in copy.named_parameters():
        own = model.get_parameter(name)
        if value.ndim == 1:  # biases and normalisations
            assert torch.equal(own, value), name
        elif value.numel() > 1000:  # all but the contact head
            assert float(own.std()) == pytest.approx(float(value.std()), rel=0.1), name
            assert float(own.mean()) == pytest.approx(0, abs=0.05), name
    assert not model.esm.embeddings.word_embeddings.weight[1].any()


def test_a_network_of_transformers_is_taken_over():
    """Also with rounded frequencies, as some checkpoints have them, and untied."""
    model = network(token_dropout=True)
    model.esm.rotary_embeddings.inv_freq.copy_(model.esm.rotary_embeddings.inv_freq.half())
    copy = of_transformers(model)
    copy.config.tie_word_embeddings = True
    again = Esm2.of_transformers(copy)
    assert again.config == model.config and not again.training
    for name, value in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name
    assert again.lm_head.decoder.weight.data_ptr() != copy.lm_head.decoder.weight.data_ptr()
    copy.esm.encoder.emb_layer_norm_after = nn.Identity()
    with pytest.raises(DPLM2Error, match="not an ESM-2.*missing.*emb_layer_norm_after"):
        Esm2.of_transformers(copy)


@pytest.mark.parametrize(
    "form",
    ["ours", "several files", "tied", "maybe tied", "former names", "half precision", "without what is not read"],
)
def test_folders_of_transformers_open(tmp_path, form):
    model = network()
    copy = of_transformers(model)
    if form == "tied":
        copy.config.tie_word_embeddings = True
        copy.tie_weights()
    if form == "half precision":
        model, copy = model.half().float(), copy.half()
    copy.save_pretrained(tmp_path, max_shard_size="20KB" if form == "several files" else "1GB")
    file = tmp_path / "model.safetensors"
    assert file.is_file() == (form != "several files")
    if form not in ("several files", "half precision"):
        weights = load_file(file)
        if form == "former names":
            weights = {name.replace("LayerNorm.weight", "LayerNorm.gamma"): value for name, value in weights.items()}
        if form.startswith("without"):
            weights = {name: value for name, value in weights.items() if "contact" not in name and "freq" not in name}
        save_file(weights, file, {"format": "pt"})
    if form == "maybe tied":  # as far as the configuration says; both tables are there
        change_config(tmp_path, tie_word_embeddings=None)
        model = Esm2.of_transformers(EsmForMaskedLM.from_pretrained(tmp_path))
    opened = load_masked_lm(tmp_path).eval()
    assert all(parameter.dtype == torch.float32 and parameter.requires_grad for parameter in opened.parameters())
    batch = padded_batch()
    if form == "tied":
        assert torch.equal(opened.lm_head.decoder.weight, opened.esm.embeddings.word_embeddings.weight)
        opened.lm_head.decoder.weight.data.copy_(model.lm_head.decoder.weight)
    assert torch.allclose(ours(opened, batch), ours(model, batch), rtol=1e-4, atol=1e-4)


def change_config(folder: Path, **changed: object) -> None:
    """Change entries of a ``config.json``; None removes one."""
    config = json.loads((folder / "config.json").read_text()) | changed
    (folder / "config.json").write_text(
        json.dumps({name: value for name, value in config.items() if value is not None})
    )


def test_our_folders_open_without_transformers(tmp_path, monkeypatch):
    vocabulary = Vocabulary(20)
    MultimodalEsm(network(), vocabulary).save_pretrained(tmp_path)
    monkeypatch.setattr(model_folder, "_opened_by_transformers", None)
    batch = padded_batch()
    assert torch.equal(ours(load_masked_lm(tmp_path).eval(), batch), ours(network(), batch))


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"tie_word_embeddings": True, "num_hidden_layers": 10**9}, "tensors, but .* says 1000000000 layers"),
        ({"hidden_size": 34}, "config.json: hidden_size 34 does not divide"),
        ({"hidden_size": None}, "config.json: no entry hidden_size"),
        ({"emb_layer_norm_before": True}, "weights do not fit: .*esm.embeddings.layer_norm"),
        ({"vocab_size": 58}, "weights do not fit: .*mismatched_keys.*word_embeddings"),
    ],
)
def test_folders_that_do_not_fit_are_refused(tmp_path, changed, said):
    MultimodalEsm(network(), Vocabulary(20)).save_pretrained(tmp_path)
    change_config(tmp_path, **changed)
    with pytest.raises(DPLM2Error, match=f"{tmp_path}.*{said}"):
        load_masked_lm(tmp_path)


def test_a_normalisation_before_the_layers_is_refused(tmp_path):
    config = EsmConfig.from_dict(Esm2Config(*SIZES).to_dict() | {"emb_layer_norm_before": True})
    EsmForMaskedLM(config).save_pretrained(tmp_path)
    with pytest.raises(DPLM2Error, match=f"{tmp_path}: not an ESM-2.*unexpected_keys.*embeddings.layer_norm"):
        load_masked_lm(tmp_path)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"hidden_size": 30}, "hidden_size 30 does not divide into 4 heads of even width"),
        ({"num_attention_heads": 0}, "num_attention_heads: '0' is not possible"),
        ({"num_hidden_layers": True}, "num_hidden_layers: 'True' is not possible"),
        ({"intermediate_size": "48"}, "intermediate_size: '48' is not possible"),
        ({"vocab_size": 1}, "vocab_size: '1' is not possible"),
        ({"hidden_dropout_prob": 1.5}, "hidden_dropout_prob: '1.5' is not possible"),
        ({"layer_norm_eps": None}, "layer_norm_eps: 'None' is not possible"),
        ({"token_dropout": 1}, "token_dropout: '1' is not possible"),
    ],
)
def test_impossible_configurations_are_refused(changed, said):
    described = Esm2Config(*SIZES).to_dict()
    assert Esm2Config.of_dict(described) == Esm2Config(*SIZES)
    with pytest.raises(DPLM2Error, match=said):
        Esm2Config.of_dict(described | changed)


def test_missing_entries_of_a_configuration_are_named():
    described = dataclasses.asdict(Esm2Config(*SIZES))
    del described["hidden_size"], described["vocab_size"], described["layer_norm_eps"]
    with pytest.raises(DPLM2Error, match="no entry vocab_size, hidden_size$"):
        Esm2Config.of_dict(described)


def test_what_is_slow_to_import_is_not_imported_by_what_starts_often():
    """transformers, peft and torch's compiler each take longer than a short generation; a GPU needs the last."""
    program = f"""
import sys, torch
slow = {{"transformers", "peft", "torch._dynamo"}} - set(sys.modules)
import dplm2, {", ".join(STARTED_OFTEN)}
model = dplm2.DPLM2.from_pretrained("small", device="cpu")
model.generate("co-generation", lengths=[8], samples=1, steps=1)[0].to_pdb()
print(sorted(slow & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr

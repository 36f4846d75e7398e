"""The lean and the plain form of whole networks agree."""

import numpy as np
import pytest
import torch

from dplm2.core.errors import ConfigError
from dplm2.cpu import products, routine, switch
from dplm2.language import layout, lora
from dplm2.language.diffusion import DiffusionObjective
from dplm2.language.esm import Esm2, Esm2Config
from dplm2.language.network import MultimodalEsm
from dplm2.language.vocabulary import Vocabulary
from dplm2.settings.model import DiffusionSettings, LoraSettings
from dplm2.settings.tokenizer import TokenizerSettings
from dplm2.tokenizer.model import StructureTokenizer

SMALL_TOKENIZER = {
    "encoder": {"width": 16, "layers": 1, "heads": 2, "feedforward_width": 16, "gvp_layers": 1, "node_scalars": 8,
                "node_vectors": 2, "edge_scalars": 8, "neighbours": 4},
    "quantizer": {"bits": 4},
    "decoder": {"blocks": 2, "structure_blocks": 1, "sequence_dim": 16, "pair_dim": 8, "sequence_head_width": 8,
                "pairwise_head_width": 8, "ipa_heads": 2, "post_quant_layers": 1, "post_quant_heads": 2,
                "confidence_hidden": 8},
}  # fmt: skip


def network_in(form: str, monkeypatch) -> MultimodalEsm:
    """The same network with random weights in both forms."""
    monkeypatch.setenv(switch.VARIABLE, form)
    torch.manual_seed(0)
    vocabulary = Vocabulary(20)
    return MultimodalEsm(Esm2(Esm2Config(vocabulary.size, 32, 2, 4, 64)), vocabulary).eval()


def batch_of(network: MultimodalEsm) -> dict[str, torch.Tensor]:
    """Two samples, of which the shorter one is single-modality."""
    rng, vocabulary = np.random.default_rng(0), network.vocabulary
    structures = [rng.integers(vocabulary.first_code, vocabulary.mask_structure, length) for length in (9, 6)]
    target_ids = layout.join(vocabulary, structures, [rng.integers(4, 24, length) for length in (9, 6)])
    noised = (torch.rand(target_ids.shape) < 0.5) & network.is_scored(target_ids, "sequence")
    return {
        "input_ids": target_ids.masked_fill(noised, vocabulary.mask_sequence),
        "target_ids": target_ids,
        "noised": noised,
        "weight": torch.ones(target_ids.shape),
        "single_modality": torch.tensor([False, True]),
    }


def test_only_the_lean_form_packs(monkeypatch):
    assert network_in("lean", monkeypatch).packs
    assert not network_in("plain", monkeypatch).packs


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_both_forms_have_the_same_logits(monkeypatch, dtype):
    found = []
    for form in ("lean", "plain"):
        network = network_in(form, monkeypatch)
        torch.manual_seed(1)
        batch = batch_of(network)
        with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
            logits_BTV = network(batch["input_ids"], batch["single_modality"])
        found.append(logits_BTV[batch["input_ids"] != network.vocabulary.pad].float())
    scale = float(found[1].abs().max())
    assert torch.allclose(*found, atol=(1e-5 if dtype == torch.float32 else 2e-2) * scale)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("adapted", [False, True], ids=["full", "low rank"])
@pytest.mark.parametrize("library", ["onednn", "torch"])
def test_inference_has_the_logits_of_the_plain_form(monkeypatch, library, adapted, dtype):
    """With prepacked weights, in the weights' own type, and again after a change of the weights."""
    monkeypatch.setattr(products, "MIN_WORK", dict.fromkeys(products.MIN_WORK, 0))
    monkeypatch.setenv(routine.VARIABLE, library)
    networks = {form: network_in(form, monkeypatch) for form in ("plain", "lean")}
    for network in networks.values():
        if adapted:
            lora.add(network.model, LoraSettings.make(enabled=True, rank=3), seed=0)
        network.eval().to(dtype)
    for seed in (1, 2):
        found = {}
        for form, network in networks.items():
            monkeypatch.setenv(switch.VARIABLE, form)
            torch.manual_seed(seed)
            for parameter in network.model.parameters():
                torch.nn.init.normal_(parameter, std=0.2)
            batch = batch_of(network)
            with torch.inference_mode():
                logits_BTV = network(batch["input_ids"], batch["single_modality"])
            found[form] = logits_BTV[batch["input_ids"] != network.vocabulary.pad].float()
        scale = float(found["plain"].abs().max())
        assert torch.allclose(*found.values(), atol=(1e-5 if dtype == torch.float32 else 5e-2) * scale)


def test_both_forms_have_the_same_loss_and_gradients(monkeypatch):
    found = []
    for form in ("lean", "plain"):
        network = network_in(form, monkeypatch)
        torch.manual_seed(1)
        loss, _ = DiffusionObjective(network, DiffusionSettings.make())(batch_of(network))
        loss.backward()
        found.append((loss, {name: p.grad for name, p in network.named_parameters() if p.grad is not None}))
    (lean_loss, lean), (plain_loss, plain) = found
    torch.testing.assert_close(lean_loss, plain_loss, rtol=1e-5, atol=0)
    assert lean.keys() == plain.keys()
    for name, gradient in plain.items():
        tolerance = 1e-4 * float(gradient.abs().max()) + 1e-6
        assert torch.allclose(lean[name], gradient, rtol=1e-4, atol=tolerance), name


@pytest.mark.parametrize("library", ["onednn", "torch"])
def test_tokens_and_backbones_are_the_same_in_both_forms(monkeypatch, library):
    monkeypatch.setattr(products, "MIN_WORK", dict.fromkeys(products.MIN_WORK, 0))
    torch.manual_seed(0)
    tokenizer = StructureTokenizer(TokenizerSettings.make(**SMALL_TOKENIZER)).eval()
    for parameter in tokenizer.decoder.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    rng = np.random.default_rng(0)
    backbone, tokens = np.cumsum(rng.normal(size=(30, 4, 3)), 0).astype(np.float32), rng.integers(0, 16, 30)
    monkeypatch.setenv(switch.VARIABLE, "plain")
    plain = tokenizer.encode(backbone), tokenizer.decode(tokens).backbone
    monkeypatch.setenv(switch.VARIABLE, "lean")
    monkeypatch.setenv(routine.VARIABLE, library)
    assert np.array_equal(tokenizer.encode(backbone), plain[0])
    assert np.allclose(tokenizer.decode(tokens).backbone, plain[1], atol=1e-3)


@pytest.mark.parametrize("variable", [switch.VARIABLE, routine.VARIABLE])
def test_an_unknown_form_is_refused(monkeypatch, variable):
    monkeypatch.setenv(variable, "fast")
    with pytest.raises(ConfigError, match=f"{variable}: 'fast' is not one of"):
        routine.routine(torch.float32)

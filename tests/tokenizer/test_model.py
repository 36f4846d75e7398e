"""The tokenizer's interface: invariances of tokens, batches, files, messages."""

import json

import numpy as np
import pytest
import torch

from dplm2.core.errors import DPLM2Error
from dplm2.settings.tokenizer import TokenizerSettings
from dplm2.tokenizer.model import StructureTokenizer
from tests.tokenizer.synthetic import SMALL, chain, rotation


def share_equal(first, second) -> float:
    return float(np.mean(np.concatenate(first) == np.concatenate(second)))


@pytest.mark.parametrize("name", ["single_missing", "single_full", "batch_padded"])
def test_tokens_equal_the_authors(recorded_tensors, released, name):
    record = recorded_tensors(f"structok_tiny/{name}")
    coords = record["bb_positions"].clone()
    coords[record["res_mask"] == 0] = torch.nan
    backbones = [row[:length].numpy() for row, length in zip(coords, record["seq_length"].tolist(), strict=True)]
    tokens = released.encode([backbone + np.float32(7.0) for backbone in backbones])
    assert np.array_equal(tokens[0], record["tokens"][0, : len(tokens[0])].numpy())
    decoded = released.decode(record["tokens"][0].numpy())
    expected = record["detok.atom37_positions"][0][:, :3].numpy()  # the authors place O afterwards
    np.testing.assert_allclose(decoded.backbone[:, :3], expected, atol=1e-3)
    assert decoded.plddt is None  # this head was never trained


def test_tokens_are_invariant_to_motion_padding_and_batch(small_tokenizer, chains):
    alone = [small_tokenizer.encode(backbone) for backbone in chains]
    assert len(np.unique(np.concatenate(alone))) > 20
    for budget in (1, 130, 10_000):
        assert share_equal(alone, small_tokenizer.encode(chains, token_budget=budget)) == 1
    assert share_equal(alone[::-1], small_tokenizer.encode(chains[::-1])) == 1
    moved = [(backbone @ rotation(3) - 11.0).astype(np.float32) for backbone in chains]
    assert share_equal(alone, small_tokenizer.encode(moved)) == 1
    mirrored = [backbone * np.float32([1, 1, -1]) for backbone in chains]
    assert share_equal(alone, small_tokenizer.encode(mirrored)) < 0.5
    assert (alone[1][[0, 7, 8, 39]] == 0).all()  # missing residues


@pytest.mark.parametrize(("channels", "expected"), [(40, torch.float32), (128, torch.bfloat16)])
def test_only_an_encoder_with_wide_products_uses_bfloat16(chains, channels, expected, monkeypatch):
    settings = TokenizerSettings.make(**SMALL | {"encoder": SMALL["encoder"] | {"node_scalars": channels}})
    tokenizer, used = StructureTokenizer(settings), []
    encode = tokenizer.encoder.forward
    monkeypatch.setattr(tokenizer.encoder, "forward", lambda *batch: used.append(batch[3]) or encode(*batch))
    tokenizer.encode(chains, precision="bfloat16")
    assert set(used) == {expected}


def test_oxygen_is_ignored(small_tokenizer, chains):
    without = [backbone[:, :3] for backbone in chains]
    assert share_equal(small_tokenizer.encode(chains), small_tokenizer.encode(without)) == 1


def test_short_and_empty_chains_are_encoded(small_tokenizer):
    for length in (1, 2, 3):
        assert small_tokenizer.encode(chain(length, 5)).shape == (length,)
        assert small_tokenizer.decode(np.arange(length)).backbone.shape == (length, 4, 3)
    nothing = np.full((6, 4, 3), np.nan, np.float32)
    assert (small_tokenizer.encode(nothing) == 0).all()
    assert small_tokenizer.encode([]) == []


def test_decoding_does_not_depend_on_the_batch(small_tokenizer, chains):
    tokens = small_tokenizer.encode(chains)
    together = small_tokenizer.decode(tokens)
    for row, decoded in zip(tokens, together, strict=True):
        np.testing.assert_allclose(decoded.backbone, small_tokenizer.decode(row).backbone, atol=1e-3)
        assert decoded.backbone.dtype == np.float32 and decoded.plddt is None


def test_confidence_is_reported_once_it_is_trained(small_tokenizer, chains):
    small_tokenizer.confidence_trained = True
    try:
        plddt = small_tokenizer.decode(small_tokenizer.encode(chains[0])).plddt
    finally:
        small_tokenizer.confidence_trained = False
    assert plddt.shape == (61,) and (plddt > 0).all() and (plddt < 100).all()


def test_saved_tokenizer_has_the_same_tokens_and_fingerprint(small_tokenizer, chains, tmp_path):
    small_tokenizer.save_pretrained(tmp_path)
    again = StructureTokenizer.from_pretrained(tmp_path)
    assert again.fingerprint == small_tokenizer.fingerprint
    assert json.loads((tmp_path / "config.json").read_text())["fingerprint"] == again.fingerprint
    assert again.fingerprint in (tmp_path / "README.md").read_text()
    assert share_equal(again.encode(chains), small_tokenizer.encode(chains)) == 1
    before = again.fingerprint
    with torch.no_grad():
        again.pre_quant[1].bias[0] += 1e-3
    assert again.fingerprint != before


def test_a_frozen_encoder_is_never_in_training_mode():
    settings = TokenizerSettings.make(**{**SMALL, "encoder": {**SMALL["encoder"], "frozen": True}})
    tokenizer = StructureTokenizer(settings).train()
    assert tokenizer.decoder.training and not any(part.training for part in tokenizer.encoder.modules())
    assert not any(parameter.requires_grad for parameter in tokenizer.encoder.parameters())


def test_tokens_and_backbones_of_a_tokenizer_in_training_are_without_dropout(chains):
    torch.manual_seed(0)
    sections = {name: {**SMALL[name], "dropout": 0.9} for name in ("encoder", "decoder")}
    tokenizer = StructureTokenizer(TokenizerSettings.make(**{**SMALL, **sections})).eval()
    tokens = tokenizer.encode(chains[0])
    expected = tokenizer.decode(tokens).backbone
    assert np.array_equal(tokenizer.train().encode(chains[0]), tokens)
    np.testing.assert_array_equal(tokenizer.train().decode(tokens).backbone, expected)


def test_invalid_input_is_named(small_tokenizer, tmp_path):
    with pytest.raises(DPLM2Error, match=r"\(residues, 3 or 4 atoms, 3\), not \(5, 2, 3\)"):
        small_tokenizer.encode(np.zeros((5, 2, 3)))
    with pytest.raises(DPLM2Error, match="8192 is not among the 8192"):
        small_tokenizer.decode(np.array([3, 8192]))
    with pytest.raises(DPLM2Error, match="row of integers"):
        small_tokenizer.decode(np.array([0.5]))
    with pytest.raises(DPLM2Error, match="no such folder"):
        StructureTokenizer.from_pretrained(tmp_path / "none")
    small_tokenizer.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["architecture"]["encoder"]["layers"] = 3
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(DPLM2Error, match="not the weights of this tokenizer"):
        StructureTokenizer.from_pretrained(tmp_path)

"""Import and export of the authors' checkpoints: by value at tiny size, by name and shape at full size."""

import json
import os
from collections import OrderedDict

import pytest
import torch
from safetensors.torch import load_file, save_file

from dplm2.cli import main
from dplm2.core.errors import DPLM2Error
from dplm2.core.weights import read_weights
from dplm2.language import importing
from dplm2.language.esm import Esm2, Esm2Config
from dplm2.language.model_folder import is_official
from dplm2.language.network import MultimodalEsm
from dplm2.language.vocabulary import Vocabulary
from tests.transformers_esm import of_transformers

TOLERANCE = 1e-4


@pytest.fixture
def released_folder(recorded, tmp_path):
    folder = tmp_path / "released"
    folder.mkdir()
    for name, target in (("weights.safetensors", "model.safetensors"), ("config.json", "config.json")):
        (folder / target).write_bytes(recorded(f"lm_tiny/{name}").read_bytes())
    return folder


def assert_gives_recorded_logits(recorded_tensors, folder):
    values = recorded_tensors("lm_tiny/forward_padded")
    network = MultimodalEsm.from_pretrained(folder)
    assert network.embedding_scaling == "released"
    with torch.no_grad():
        logits = network(values["input_ids"])[..., values.get("logit_columns", slice(None))]
    real_BT = values["input_ids"] != 1
    assert (logits - values["logits"])[real_BT].abs().max() < TOLERANCE * values["logits"][real_BT].abs().max()


def test_export_of_an_import_is_identical(recorded_tensors, released_folder, tmp_path):
    importing.import_model(released_folder, tmp_path / "ours")
    assert_gives_recorded_logits(recorded_tensors, tmp_path / "ours")
    importing.export_model(tmp_path / "ours", tmp_path / "back")
    before, after = load_file(released_folder / "model.safetensors"), load_file(tmp_path / "back/model.safetensors")
    assert set(before) == set(after)
    assert all(torch.equal(before[name], after[name]) for name in before)
    config = json.loads((tmp_path / "back/config.json").read_text())
    assert config["token_dropout"] is True and config["dplm_type"] == "dplm2_esm" and "dplm2" not in config
    importing.import_model(tmp_path / "back", tmp_path / "again")
    assert_gives_recorded_logits(recorded_tensors, tmp_path / "again")


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"dplm_type": "dplm2_esm"}, True),
        ({"architectures": ["EsmForDPLM2"]}, True),
        ({"architectures": ["EsmForMaskedLM"], "vocab_size": len(Vocabulary())}, True),
        ({"architectures": ["EsmForMaskedLM"], "vocab_size": 33}, False),
        ({"vocab_size": len(Vocabulary()), "dplm2": {}}, False),
    ],
)
def test_models_of_the_authors_are_told_by_their_configuration(tmp_path, config, expected):
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert is_official(tmp_path) == expected


def test_only_an_imported_multimodal_model_has_a_tokenizer(released_folder, tmp_path):
    sequence = Esm2(Esm2Config(33, 16, 1, 2, 16))
    of_transformers(sequence).save_pretrained(tmp_path / "sequence")
    for source, expected in ((released_folder, "T"), (tmp_path / "sequence", None)):
        network = importing.import_model(source, tmp_path / source.name, tokenizer="T", tokenizer_fingerprint="f")
        assert network.is_sequence_model == (expected is None)
        assert MultimodalEsm.from_pretrained(tmp_path / source.name).tokenizer == expected


@pytest.mark.parametrize("asked", [None, "none", "once", "released"])
@pytest.mark.parametrize("token_dropout", [True, False])
def test_embedding_scaling_follows_the_option_or_the_source(
    recorded_tensors, released_folder, tmp_path, asked, token_dropout
):
    described = json.loads((released_folder / "config.json").read_text()) | {"token_dropout": token_dropout}
    (released_folder / "config.json").write_text(json.dumps(described))
    option = ["--embedding-scaling", asked] if asked else []
    assert main(["import", "model", str(released_folder), str(tmp_path / "ours"), *option]) == 0
    network = MultimodalEsm.from_pretrained(tmp_path / "ours")
    scaling = asked or ("released" if token_dropout else "none")
    assert network.embedding_scaling == scaling
    # The authors' network was recorded as released, without scaling, and after the first of its two scalings.
    suffix = "_no_token_dropout" if scaling == "none" else ""
    values = recorded_tensors(f"lm_tiny/forward_padded{suffix}")
    ids_BT = values["input_ids"]
    expected = values["embeddings_once" if scaling == "once" else "embeddings_twice"]
    with torch.no_grad():
        embeddings = network.embeddings(ids_BT)
        logits = network(ids_BT)[..., values.get("logit_columns", slice(None))]
    real_BT = ids_BT != 1
    assert (embeddings - expected)[real_BT].abs().max() < TOLERANCE * expected[real_BT].abs().max()
    if scaling != "once":
        difference = (logits - values["logits"])[real_BT].abs().max()
        assert difference < TOLERANCE * values["logits"][real_BT].abs().max()
        importing.export_model(tmp_path / "ours", tmp_path / "back")
        again = importing.import_model(tmp_path / "back", tmp_path / "again")
        assert again.embedding_scaling == scaling


class Settings:
    """An object of another program in its checkpoint."""

    def __init__(self):
        self.value = OrderedDict(a=1)


class Evil:
    """Runs a command if unpickled by Python's own unpickler."""

    def __reduce__(self):
        return os.system, ("touch was-run",)


def test_lightning_checkpoint_with_foreign_objects_is_read(recorded_tensors, released_folder, tmp_path):
    weights = load_file(released_folder / "model.safetensors")
    content = {
        "state_dict": {f"model.net.{name}": value for name, value in weights.items()},
        "hyper_parameters": {"settings": Settings()},
        "epoch": 3,
    }
    torch.save(content, tmp_path / "last.ckpt")
    importing.import_model(tmp_path / "last.ckpt", tmp_path / "ours")
    assert_gives_recorded_logits(recorded_tensors, tmp_path / "ours")


def test_code_in_a_checkpoint_is_not_executed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": {"a": torch.zeros(1)}, "evil": Evil()}, tmp_path / "evil.ckpt")
    with pytest.raises(DPLM2Error, match="without executing"):
        read_weights(tmp_path / "evil.ckpt")
    assert not (tmp_path / "was-run").exists()


def scaled_shapes(recorded_shapes, hidden, heads):
    """The shapes of a key list with width 8 * heads instead of ``hidden``, all others in proportion."""
    narrow = 8 * heads
    replaced = {hidden: narrow, 4 * hidden: 4 * narrow, hidden // heads // 2: 4, 1026: 1026, 8229: 8229, 16: 16}
    return {name: [replaced.get(size, size) for size in shape] for name, (shape, _) in recorded_shapes.items()}


def weights_of(shapes):

    width = shapes["esm.embeddings.word_embeddings.weight"][1]
    frequencies = 1.0 / (10000 ** (torch.arange(0, 8, 2) / 8))
    assert Esm2Config(57, width, 1, width // 8, 4 * width)
    return {
        name: frequencies.clone() if name.endswith("inv_freq") else torch.full(shape, 0.01)
        for name, shape in shapes.items()
    }


def same_weights(one, other):
    ours, theirs = one.model.state_dict(), other.model.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize(("size", "hidden", "heads"), [("150m", 640, 20), ("650m", 1280, 20), ("3b", 2560, 40)])
def test_every_key_of_the_released_sizes_is_mapped(recorded, tmp_path, size, hidden, heads):
    """The released keys at a small width are all mapped, and restored by an export."""
    listed = json.loads(recorded(f"keys_dplm2_{size}.json").read_text())
    weights = weights_of(scaled_shapes(listed, hidden, heads))
    (tmp_path / "source").mkdir()
    save_file(weights, tmp_path / "source/model.safetensors")
    unscaled = importing.import_model(tmp_path / "source", tmp_path / "unscaled", embedding_scaling="none")
    assert MultimodalEsm.from_pretrained(tmp_path / "unscaled").embedding_scaling == "none"
    network = importing.import_model(tmp_path / "source", tmp_path / "ours")
    assert network.model.config.num_attention_heads == heads
    # The scaling does not follow from the weights: as released, unless none is requested.
    assert network.embedding_scaling == "released"
    assert same_weights(network, unscaled)
    importing.export_model(tmp_path / "ours", tmp_path / "back")
    back = load_file(tmp_path / "back/model.safetensors")
    assert {name: value.shape for name, value in back.items()} == {name: w.shape for name, w in weights.items()}
    for file in tmp_path.rglob("*.safetensors"):
        file.unlink()


@pytest.mark.parametrize(("size", "hidden", "heads"), [("150m", 640, 20), ("650m", 1280, 20)])
def test_unmerged_lora_keys_are_mapped(recorded, size, hidden, heads):
    listed = json.loads(recorded(f"keys_dplm2_{size}_lora.json").read_text())["state_dict"]
    plain = json.loads(recorded(f"keys_dplm2_{size}.json").read_text())
    weights = {f"model.net.{name}": torch.zeros(shape) for name, shape in scaled_shapes(listed, hidden, heads).items()}
    merged = importing.plain_weights(weights)
    expected = scaled_shapes(plain, hidden, heads)
    assert {name: list(value.shape) for name, value in merged.items()} == expected


def test_lora_is_merged_with_the_trained_copies(recorded_tensors):
    plain = recorded_tensors("lm_tiny/weights")
    query = "esm.encoder.layer.1.attention.self.query"
    a, b = torch.randn(16, 64), torch.randn(64, 16)
    prefix = "net.base_model.model."
    trained = {name: value for name, value in plain.items() if not name.startswith((query, "lm_head"))}
    weights = {prefix + name: value for name, value in trained.items()}
    weights |= {
        f"{prefix}{query}.base_layer.weight": plain[f"{query}.weight"],
        f"{prefix}{query}.base_layer.bias": plain[f"{query}.bias"],
        f"{prefix}{query}.lora_A.default.weight": a,
        f"{prefix}{query}.lora_B.default.weight": b,
    }
    for name in [name for name in plain if name.startswith("lm_head.")]:
        part = name.removeprefix("lm_head.")
        weights[f"{prefix}lm_head.original_module.{part}"] = torch.zeros_like(plain[name])
        weights[f"{prefix}lm_head.modules_to_save.default.{part}"] = plain[name]
    merged = importing.plain_weights(weights)
    assert set(merged) == set(plain)
    assert torch.allclose(merged[f"{query}.weight"], plain[f"{query}.weight"] + 2 * b @ a, atol=1e-5)
    assert all(torch.equal(merged[name], plain[name]) for name in plain if name != f"{query}.weight")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("lm_head.bias"), "missing .*lm_head.bias"),
        (lambda w: w.update({"esm.extra.weight": torch.zeros(1)}), "unknown .*esm.extra.weight"),
        (lambda w: w.update({"lm_head.bias": torch.zeros(7)}), "wrong shape .*lm_head.bias"),
        (lambda w: w.pop("esm.embeddings.word_embeddings.weight"), "not a DPLM"),
    ],
)
def test_mismatched_weights_are_refused(recorded_tensors, tmp_path, change, message):
    weights = recorded_tensors("lm_tiny/weights")
    change(weights)
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(DPLM2Error, match=message):
        importing.import_model(tmp_path, tmp_path / "ours")
    assert not (tmp_path / "ours").exists()


def test_settings_without_an_official_counterpart_are_not_exported(small_network, tmp_path):
    small_network.embedding_scaling = "once"
    small_network.save_pretrained(tmp_path / "ours")
    with pytest.raises(DPLM2Error, match="no counterpart"):
        importing.export_model(tmp_path / "ours", tmp_path / "theirs")


def test_a_folder_without_weights_is_refused(tmp_path):
    with pytest.raises(DPLM2Error, match="none of model.safetensors"):
        read_weights(tmp_path)
    assert Vocabulary.of_size(8229) == Vocabulary()

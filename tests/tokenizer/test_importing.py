"""Import of official checkpoints and of ESM-IF1: every key is mapped, known as unused, or an error."""

import argparse
import json
import math

import pytest
import torch
from safetensors.torch import save_file

from dplm2.cli import main
from dplm2.core.errors import DPLM2Error
from dplm2.core.weights import read_weights
from dplm2.settings.tokenizer import TokenizerSettings
from dplm2.tokenizer.decoder_names import is_unused
from dplm2.tokenizer.encoder import Encoder
from dplm2.tokenizer.exporting import official_weights
from dplm2.tokenizer.importing import (
    import_tokenizer,
    is_fully_used,
    load_encoder_weights,
    tokenizer_of,
)
from dplm2.tokenizer.model import StructureTokenizer
from dplm2.tokenizer.training import initial_tokenizer
from tests.tokenizer.synthetic import SMALL

# Partly used tensors: the first bin of the recycled distogram, psi of seven torsions, C-alpha of 37 atoms,
# and the row of the mask of the encoder's tokens.
USED_IN_PART = ("embed_tokens.weight", "recycle_disto.weight", "angle_resnet.linear_out", "lddt_head.3")


def dtype_of(name):
    return {"float32": torch.float32, "int64": torch.int64}[name.removeprefix("torch.")]


def test_every_key_of_the_released_size_is_mapped(recorded):
    keys = json.loads(recorded("keys_struct_tokenizer.json").read_text())
    # Each tensor is filled with a unique number, so that its destination can be identified.
    weights = {
        name: torch.full(shape, number, dtype=dtype_of(dtype))
        for number, (name, (shape, dtype)) in enumerate(keys.items(), 1)
    }
    tokenizer = tokenizer_of(weights, {})
    assert tokenizer.codebook_size == 8192 and tokenizer.settings.encoder.neighbours == 30
    assert tokenizer.settings == TokenizerSettings.make(encoder={"frozen": True})
    values = [value.flatten().unique_consecutive() for value in tokenizer.state_dict().values()]
    held = set(torch.cat(values).tolist())
    pair_start = weights["decoder.trunk.recycle_z_norm.bias"][0] + weights["decoder.trunk.recycle_disto.weight"][0, 0]
    assert float(pair_start) in held
    for number, name in enumerate(keys, 1):
        if name in ("decoder.trunk.recycle_z_norm.bias", "decoder.trunk.recycle_disto.weight"):
            continue
        dropped = is_unused(name) or name == "encoder.encoder.embed_positions._float_tensor"
        assert dropped != (number in held), name
    used = sum(math.prod(shape) for name, (shape, _) in keys.items() if not is_unused(name))
    partly = sum(math.prod(shape) for name, (shape, _) in keys.items() if any(part in name for part in USED_IN_PART))
    exported = official_weights(tokenizer)
    assert set(exported) < set(keys)
    assert {name for name in keys if not is_fully_used(name)} >= set(keys) - set(exported)
    for name, value in exported.items():
        assert value.shape == weights[name].shape, name
        assert not is_fully_used(name) or torch.equal(value, weights[name]), name
    assert used - partly <= sum(value.numel() for value in tokenizer.state_dict().values()) < used


def test_sizes_of_the_encoder_are_those_of_its_weights(small_tokenizer):
    encoder = tokenizer_of(official_weights(small_tokenizer), {}).settings.encoder
    sizes = {name: size for name, size in SMALL["encoder"].items() if name != "heads"}  # weights do not tell
    assert {name: getattr(encoder, name) for name in sizes} == sizes


def test_an_unknown_or_missing_key_is_refused(recorded_tensors, tiny_yaml, tmp_path):
    weights = recorded_tensors("structok_tiny/weights")
    for name in ("encoder.encoder.layers.0.extra.weight", "decoder.trunk.new.weight", "quantizer.codebook"):
        save_file({**weights, name: torch.zeros(3)}, tmp_path / "more.safetensors")
        with pytest.raises(DPLM2Error, match=name.removeprefix("encoder.encoder.").replace(".", r"\.")):
            import_tokenizer(tmp_path / "more.safetensors", tmp_path / "out", tiny_yaml)
    for name in ("encoder.encoder.layers.1.fc1.bias", "pre_quant.1.weight", "decoder.lm_head.bias"):
        save_file({key: value for key, value in weights.items() if key != name}, tmp_path / "less.safetensors")
        with pytest.raises(DPLM2Error):
            import_tokenizer(tmp_path / "less.safetensors", tmp_path / "out", tiny_yaml)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("suffix", ["ckpt", "pt", "safetensors"])
def test_checkpoint_formats_and_prefixes_are_read(recorded_tensors, released, tiny_yaml, tmp_path, suffix, capsys):
    weights = recorded_tensors("structok_tiny/weights")
    path = tmp_path / f"weights.{suffix}"
    if suffix == "ckpt":
        torch.save({"state_dict": {f"model.{name}": value for name, value in weights.items()}, "epoch": 3}, path)
    elif suffix == "pt":
        torch.save(dict(weights), path)
    else:
        save_file(weights, path)
    (tmp_path / ".hydra").mkdir()
    (tmp_path / ".hydra" / "config.yaml").write_bytes(tiny_yaml.read_bytes())
    assert main(["import", "tokenizer", str(tmp_path), str(tmp_path / "out")]) == 0
    assert released.fingerprint in capsys.readouterr().out
    assert StructureTokenizer.from_pretrained(tmp_path / "out").fingerprint == released.fingerprint
    run = json.loads((tmp_path / "out" / "run.json").read_text())
    assert run["command"] == "import tokenizer" and path.name in run["inputs"]


def test_code_in_a_checkpoint_never_runs(tmp_path, capsys):
    class Code:
        def __reduce__(self):
            return (print, ("this must never be printed",))

    torch.save({"state_dict": {"x": torch.zeros(1)}, "extra": Code()}, tmp_path / "bad.ckpt")
    assert list(read_weights(tmp_path / "bad.ckpt")) == ["x"]
    (tmp_path / "broken.pt").write_bytes(b"not a checkpoint")
    with pytest.raises(DPLM2Error, match=r"broken\.pt"):
        read_weights(tmp_path / "broken.pt")
    assert "never be printed" not in capsys.readouterr().out
    assert main(["import", "tokenizer", str(tmp_path / "none"), str(tmp_path / "out")]) == 1


def test_yaml_that_contradicts_the_weights_is_refused(recorded_tensors, tiny_yaml, tmp_path):
    (tmp_path / "wrong.yaml").write_text(tiny_yaml.read_text().replace("num_codes: 8192", "num_codes: 4096"))
    save_file(recorded_tensors("structok_tiny/weights"), tmp_path / "weights.safetensors")
    with pytest.raises(DPLM2Error, match="4096 codes"):
        import_tokenizer(tmp_path / "weights.safetensors", tmp_path / "out", tmp_path / "wrong.yaml")


def released_esm_if1(weights: dict[str, torch.Tensor], names: dict[str, str]) -> dict[str, torch.Tensor]:
    """A small ESM-IF1 weights file: the recorded encoder under the file's old names, and a key of the decoder."""
    encoder = {
        name.removeprefix("encoder."): value for name, value in weights.items() if name.startswith("encoder.encoder.")
    }
    state = {}
    for name, value in encoder.items():
        for new, old in names.items():
            name = name.replace(new, old)
        state[name] = value
    return {**state, "encoder.version": torch.tensor([3.0]), "decoder.layers.0.fc1.weight": torch.zeros(4, 4)}


@pytest.mark.parametrize("kind", ["released", "renamed"])
def test_esm_if1_is_loaded_into_a_frozen_encoder(recorded_tensors, released, tmp_path, kind):
    old = {
        "gvp_encoder.embed_graph.embed_node": "gvp_encoder.W_v",
        "gvp_encoder.embed_graph.embed_edge": "gvp_encoder.W_e",
        "gvp_encoder.embed_graph.embed_confidence.": "gvp_encoder.embed_score.",
        "encoder.embed_confidence": "encoder.embed_scores.0",
        "embed_dihedrals": "embed_ingraham_features",
        "embed_gvp_output": "embed_gvp_in_local_frame.0",
        "embed_gvp_input_features": "embed_features_in_local_frame.0",
    }
    state = released_esm_if1(recorded_tensors("structok_tiny/weights"), old if kind == "released" else {})
    torch.save({"args": argparse.Namespace(arch="vt_medium_with_invariant_gvp"), "model": state}, tmp_path / "if1.pt")
    sizes = {"width": 64, "layers": 2, "heads": 4, "feedforward_width": 128, "gvp_layers": 2, "node_scalars": 32}
    sizes |= {"node_vectors": 8, "neighbours": 12, "frozen": True, "weights": str(tmp_path / "if1.pt")}
    tokenizer = initial_tokenizer(TokenizerSettings.make(encoder=sizes, decoder=SMALL["decoder"]), 0)
    for name, value in tokenizer.encoder.state_dict().items():
        assert torch.equal(value, released.encoder.state_dict()[name]), name
    assert not any(parameter.requires_grad for parameter in tokenizer.encoder.parameters())
    assert "weights" not in json.dumps(tokenizer.config)  # the path of the file is not part of the tokenizer


def test_esm_if1_of_the_released_size_fits(recorded, tmp_path):
    keys = json.loads(recorded("keys_struct_tokenizer.json").read_text())
    encoder = {name: shape for name, (shape, _) in keys.items() if name.startswith("encoder.encoder.")}
    state = {name.removeprefix("encoder."): torch.zeros(shape) for name, shape in encoder.items()}
    save_file(state, tmp_path / "if1.safetensors")
    with torch.device("meta"):
        empty = Encoder(TokenizerSettings.make().encoder)
    load_encoder_weights(empty, tmp_path / "if1.safetensors")
    assert all(value.device.type == "cpu" and not value.any() for value in empty.state_dict().values())
    with pytest.raises(DPLM2Error, match="do not match"):
        load_encoder_weights(Encoder(TokenizerSettings.make(**SMALL).encoder), tmp_path / "if1.safetensors")


def test_training_can_start_from_another_tokenizer(small_tokenizer, tmp_path):
    small_tokenizer.save_pretrained(tmp_path)
    tokenizer = initial_tokenizer(TokenizerSettings.make(**SMALL, initial=str(tmp_path)), 0)
    assert tokenizer.fingerprint == small_tokenizer.fingerprint
    with pytest.raises(DPLM2Error, match="not the weights"):
        initial_tokenizer(TokenizerSettings.make(initial=str(tmp_path), encoder={**SMALL["encoder"], "layers": 1}), 0)

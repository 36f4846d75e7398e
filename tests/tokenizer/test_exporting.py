"""Export in the authors' layout: names and values are restored bit for bit, other settings are refused."""

import shutil

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from dplm2.cli import main
from dplm2.core.errors import DPLM2Error
from dplm2.settings.tokenizer import TokenizerSettings
from dplm2.tokenizer.exporting import export_tokenizer
from dplm2.tokenizer.importing import import_tokenizer
from dplm2.tokenizer.model import StructureTokenizer
from tests.tokenizer.synthetic import SMALL, chain

WEIGHTS = "dplm2_struct_tokenizer.ckpt"


@pytest.fixture
def imported(recorded, tiny_yaml, tmp_path):
    import_tokenizer(recorded("structok_tiny/weights.safetensors"), tmp_path / "ours", tiny_yaml)
    return tmp_path / "ours"


def test_export_of_an_imported_tokenizer_is_identical(recorded, imported, tiny_yaml, tmp_path, capsys):
    assert main(["export", str(imported), str(tmp_path / "back"), "--format", "official"]) == 0
    assert "can build only ESM-IF1's encoder" in capsys.readouterr().out
    before = load_file(recorded("structok_tiny/weights.safetensors"))
    after = torch.load(tmp_path / "back" / WEIGHTS, weights_only=True)
    assert set(before) == set(after)
    assert all(torch.equal(before[name], after[name]) and before[name].dtype == after[name].dtype for name in before)
    assert yaml.safe_load((tmp_path / "back/config.yaml").read_text()) == yaml.safe_load(tiny_yaml.read_text())["model"]
    import_tokenizer(tmp_path / "back", tmp_path / "again")
    again, first = (StructureTokenizer.from_pretrained(folder) for folder in (tmp_path / "again", imported))
    assert again.fingerprint == first.fingerprint


def test_trained_tokenizer_survives_export_and_import(tmp_path):
    torch.manual_seed(3)
    encoder = {**SMALL["encoder"], "neighbours": 7}  # does not follow from the weights
    tokenizer = StructureTokenizer(TokenizerSettings.make(**{**SMALL, "encoder": encoder})).eval()
    tokenizer.save_pretrained(tmp_path / "ours")
    assert not export_tokenizer(tmp_path / "ours", tmp_path / "theirs/.hydra")  # a small encoder
    again = import_tokenizer(tmp_path / "theirs", tmp_path / "again")
    backbone = chain(45, 0)
    tokens = tokenizer.encode(backbone)
    assert (again.encode(backbone) == tokens).all()
    assert (again.decode(tokens).backbone == tokenizer.decode(tokens).backbone).all()
    assert again.settings.encoder.neighbours == 7


@pytest.mark.parametrize(
    ("section", "values", "named"),
    [
        ("encoder", {"bridge_gaps": True}, "encoder.bridge_gaps: true"),
        ("decoder", {"start": "chain", "post_quant_window": 9}, 'decoder.start: "chain", decoder.post_quant_window: 9'),
        ("quantizer", {"hidden": 64}, "quantizer.hidden: 64"),
    ],
)
def test_settings_without_an_official_counterpart_are_refused(tmp_path, section, values, named):
    settings = {**SMALL, section: {**SMALL.get(section, {}), **values}}
    StructureTokenizer(TokenizerSettings.make(**settings)).save_pretrained(tmp_path / "ours")
    with pytest.raises(DPLM2Error, match="no counterpart of " + named):
        export_tokenizer(tmp_path / "ours", tmp_path / "theirs")
    assert not (tmp_path / "theirs").exists()


def test_unread_tensors_of_other_weights_are_detected(imported, tmp_path):
    shutil.copytree(imported, tmp_path / "mixed")
    unread = load_file(tmp_path / "mixed/unread.safetensors")
    unread["decoder.trunk.recycle_z_norm.bias"] += 1
    save_file(unread, tmp_path / "mixed/unread.safetensors")
    with pytest.raises(DPLM2Error, match="belongs to other weights"):
        export_tokenizer(tmp_path / "mixed", tmp_path / "theirs")

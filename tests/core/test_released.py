"""Models and tokenizers that are given by name."""

from pathlib import Path

import pytest

from dplm2.core.errors import DPLM2Error
from dplm2.core.released import BUNDLED, bundled_folder
from dplm2.settings.model import ModelSettings
from dplm2.settings.roles import deciding, files_named
from dplm2.settings.tokenizer import TokenizerSettings
from dplm2.tokenizer.model import StructureTokenizer

SMALL = BUNDLED["tokenizer"]["small"]


def test_bundled_models_exist():
    for folders in BUNDLED.values():
        for folder in folders.values():
            assert {"README.md", "config.json", "model.safetensors"} <= {path.name for path in folder.iterdir()}


def test_a_bundled_tokenizer_opens_by_name_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    by_name, by_path = (StructureTokenizer.from_pretrained(source) for source in ("small", SMALL))
    assert by_name.fingerprint == by_path.fingerprint


def test_a_folder_of_that_name_takes_precedence(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small").mkdir()
    assert bundled_folder("small", "tokenizer") is None
    with pytest.raises(DPLM2Error):
        StructureTokenizer.from_pretrained("small")


def test_error_for_an_unknown_name_lists_the_known_ones():
    with pytest.raises(DPLM2Error, match="^tiny: no such folder; give a folder, small, or a hub id such as airkingbd/"):
        StructureTokenizer.from_pretrained("tiny")


def test_configuration_depends_on_the_content_of_bundled_models(tmp_path, monkeypatch):
    """Its weights are inputs of the workflow: a new version of the package makes new results."""
    monkeypatch.chdir(tmp_path)
    tokenizer = TokenizerSettings.make(pretrained="small")
    assert [(Path(named.path), named.place) for named in files_named(tokenizer)] == [(SMALL, "pretrained")]
    assert "pretrained" not in deciding(tokenizer)
    model = ModelSettings.make(tokenizer="small", pretrained="small")
    assert model.pretrained == str(BUNDLED["model"]["small"])
    assert model.tokenizer == "small"  # the name of a section
    monkeypatch.chdir(SMALL.parents[2])  # so that a moved checkout has the same inputs
    assert TokenizerSettings.make(initial="small").initial == str(Path("dplm2", "assets", "small_tokenizer"))

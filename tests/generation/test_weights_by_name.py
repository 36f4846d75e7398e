"""The authors' models and tokenizer by hub id, from a local hub with tiny weights in their layout."""

import json

import pyarrow.parquet as pq
import pytest
import torch
from huggingface_hub import ModelCard

from dplm2.language.importing import import_model
from dplm2.language.network import MultimodalEsm
from dplm2.tokenizer.importing import import_tokenizer
from dplm2.tokenizer.model import StructureTokenizer
from tests import hub as local
from tests.hub import BIT, MODEL, TOKENIZER


@pytest.fixture(scope="module")
def official(recorded, tmp_path_factory):
    """The files of the three repositories, also as folders."""
    files = local.official_files(recorded)
    folder = tmp_path_factory.mktemp("official")
    for name, contents in files.items():
        for file, data in contents.items():
            (folder / name / file).parent.mkdir(parents=True, exist_ok=True)
            (folder / name / file).write_bytes(data)
    return folder, files


@pytest.fixture
def server(official):
    with local.running_hub() as running:
        for name, files in official[1].items():
            running.repositories[name] = local.Repository(files)
        yield running


def dplm2(server, folder, *arguments, **options):
    finished = server.run(folder / "home", "-m", "dplm2", *map(str, arguments), cwd=folder, **options)
    assert finished.returncode == 0, finished.stderr
    return finished


def test_generation_by_name_downloads_once_and_then_works_offline(server, official, tmp_path):
    generate = ["generate", "co-generation", "--model", MODEL, "--set", "lengths=[12]", "samples=1", "steps=3"]
    said = dplm2(server, tmp_path, *generate, "--out", "first").stderr
    assert f"{MODEL}, commit" in said and f"{TOKENIZER}, commit" in said and said.count("licence: apache-2.0") == 2
    server.stop()
    said = dplm2(server, tmp_path, *generate, "--out", "second", offline=True).stderr
    assert "download" not in said and "converting" not in said
    first, second = (json.loads((tmp_path / name / "run.json").read_text()) for name in ("first", "second"))
    commits = {name: server.repositories[name].head for name in (MODEL, TOKENIZER)}
    assert first["hub"] == second["hub"] == commits
    # The same as from imported folders.
    folder, _ = official
    import_tokenizer(folder / TOKENIZER, tmp_path / "tokenizer")
    assert first["inputs"]["tokenizer"] == StructureTokenizer.from_pretrained(tmp_path / "tokenizer").fingerprint
    import_model(folder / MODEL, tmp_path / "model", tokenizer="../tokenizer")
    dplm2(server, tmp_path, *generate[:3], tmp_path / "model", *generate[4:], "--out", "third", offline=True)
    rows = [pq.read_table(tmp_path / name / "samples.parquet").to_pylist()[0] for name in ("first", "second", "third")]
    assert rows[0]["model"] == "dplm2_650m" and rows[2]["model"] == "model"
    for key in ("sequence", "structure_tokens", "backbone"):
        assert rows[0][key] == rows[1][key] == rows[2][key]


def test_import_by_name(server, official, tmp_path):
    dplm2(server, tmp_path, "import", "model", BIT, "bit")
    config = json.loads((tmp_path / "bit/config.json").read_text())
    assert config["dplm2"]["tokenizer"] == TOKENIZER and config["dplm2"]["structure_head"] == "bits"
    ours = MultimodalEsm.from_pretrained(tmp_path / "bit")
    by_hand = import_model(official[0] / BIT, tmp_path / "by-hand")
    weights = by_hand.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in ours.state_dict().items())
    record = json.loads((tmp_path / "bit/run.json").read_text())
    commit = server.repositories[BIT].head
    assert record["hub"] == {BIT: commit}
    card = ModelCard.load(tmp_path / "bit/README.md")
    assert card.data.license == "apache-2.0" and f"Converted from `{BIT}`, commit `{commit}`" in card.text
    dplm2(server, tmp_path, "import", "tokenizer", TOKENIZER, "tokenizer")
    assert StructureTokenizer.from_pretrained(tmp_path / "tokenizer").codebook_size == 8192
    # A model's tokenizer, by its hub id.
    dplm2(server, tmp_path, "import", "model", MODEL, "model", "--tokenizer", f"{TOKENIZER}@main")
    described = json.loads((tmp_path / "model/config.json").read_text())["dplm2"]
    fingerprint = StructureTokenizer.from_pretrained(tmp_path / "tokenizer").codes_fingerprint
    assert described["tokenizer"] == f"{TOKENIZER}@main" and described["tokenizer_fingerprint"] == fingerprint

"""Every command and example of docs/scores.md is run on the tiny model."""

import gzip
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from dplm2.cli import main
from tests.representations.test_encoders import write_esmc

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "scores.md").read_text(encoding="utf-8")
COMMANDS = [line.strip() for line in PAGE.splitlines() if line.startswith("    dplm2 ")]


@pytest.fixture
def folder(folders, ubiquitin, tmp_path, monkeypatch):
    """A folder with the inputs of the page's commands."""
    shutil.copytree(folders, tmp_path / "results" / "models")
    (tmp_path / "results" / "models" / "model").rename(tmp_path / "results" / "models" / "demo")
    (tmp_path / "1ubq.pdb").write_bytes(gzip.decompress(ubiquitin.read_bytes()))  # recognised by the content
    (tmp_path / "structures").mkdir()
    shutil.copy(ubiquitin, tmp_path / "structures")
    (tmp_path / "proteins.fasta").write_text(">a\nMKTAYIAKQR\n>b\nACDEFGH\n")
    (tmp_path / "mutations.csv").write_text("protein,mutant\na,K2A\nb,A1G:C2D\n")
    write_esmc(tmp_path / "biohub" / "ESMC-600M")
    _write_tasks(tmp_path)
    (tmp_path / "DMS_ProteinGym_substitutions").mkdir()
    (tmp_path / "DMS_ProteinGym_substitutions" / "x.csv").write_text("mutant,DMS_score\nM1A,0.2\nK2A,0.1\nT3C,0.5\n")
    (tmp_path / "DMS_substitutions.csv").write_text("DMS_id,DMS_filename,target_seq\nx,x.csv,MKTAYIAKQR\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _write_tasks(folder):
    """Labels of proteins that the page's embeddings have, and of residues."""
    random = np.random.default_rng(0)
    rows = [(f"p{n}", "".join(random.choice(list("ACDEFGHIKLMNPQRSTVWY"), 9)), n) for n in range(12)]
    splits = ["train", "validation", "test"]
    with (folder / "proteins.fasta").open("a") as stream:
        stream.writelines(f">{name}\n{sequence}\n" for name, sequence, _ in rows)
    text = "".join(f"{name},{n % 5}.5,{splits[n % 3]}\n" for name, _, n in rows)
    (folder / "labels.csv").write_text("id,label,split\n" + text)
    text = "".join(f"{name},{sequence},HHEE?CCHE,{splits[n % 3]}\n" for name, sequence, n in rows)
    (folder / "residues.csv").write_text("id,sequence,label,split\n" + text)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_runs(folder, command):
    if "--embeddings" in command:
        pytest.importorskip("sklearn")
        (earlier,) = [one for one in COMMANDS if "--out embeddings/table" in one]
        assert main(shlex.split(earlier)[1:]) == 0
    assert main([*shlex.split(command)[1:], "--device", "cpu"]) == 0


def test_python_example_gives_the_score_of_the_command(folder):
    (example,) = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    names: dict = {}
    exec(compile(example, "scores.md", "exec"), names)
    (command,) = [command for command in COMMANDS if "K6A:I44V" in command]
    assert main(shlex.split(command)[1:]) == 0
    table = pd.read_csv(folder / "scores" / "chosen" / "mutations.csv").set_index("mutant")
    np.testing.assert_allclose(names["scores"], table["score"]["K6A:I44V"], atol=2e-5)

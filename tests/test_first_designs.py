"""The first hour of a user: every command of docs/first-designs.md, by hub id too, and the notebook."""

import csv
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from biotite.structure.io import pdb

from dplm2.core.fasta import read_fasta
from dplm2.shared_start import OWNER
from tests import hub

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/first-designs.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^    dplm2 (.+)$", PAGE, flags=re.MULTILINE)
FEWER = {
    "design": ["--set", "steps=4", "evaluation.self.steps=2"],
    "generate": ["--set", "steps=4"],
    "evaluate": ["--set", "self.steps=2"],
}

pytestmark = [pytest.mark.workflow, pytest.mark.xdist_group("first-designs")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder in which all commands of the page have run, with fewer steps."""
    folder = tmp_path_factory.mktemp("first")
    (folder / "data").symlink_to(ROOT / "data")
    for command in COMMANDS:
        words = shlex.split(command)
        run([sys.executable, "-m", "dplm2", *words, *FEWER.get(words[0], [])], folder)
    return folder


def run(command: list[str], folder: Path) -> None:
    together = {OWNER: str(os.getpid())}  # one start of Python for all, as in a workflow
    done = subprocess.run(
        command, cwd=folder, env={**os.environ, **together}, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, f"{command}\n{done.stderr}"


@pytest.mark.parametrize("name", ["designs", "steps/ranked"])
def test_designs_are_ranked_with_fasta_and_structures(folder, name):
    with (folder / name / "designs.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 10 and all(row["length"] == "80" for row in rows)
    ranked = [row for row in rows if row["rank"]]
    assert ranked and [int(row["rank"]) for row in ranked] == list(range(1, len(ranked) + 1))
    sequences = read_fasta(folder / name / "designs.fasta")
    for row in ranked:
        assert sequences[row["id"]] == row["sequence"]
    for path in (folder / name / "best").glob("*.pdb"):
        atoms = pdb.PDBFile.read(path).get_structure(model=1)
        assert (atoms.atom_name == "CA").sum() == 80


def test_other_tasks_give_what_the_page_says(folder):
    assert len(read_fasta(folder / "redesigned/designs.fasta")) == 4
    assert len(list((folder / "folded/structures").glob("*.pdb"))) == 4
    assert len(list((folder / "scaffolds/structures").glob("*.pdb"))) == 2


def test_the_same_command_runs_by_hub_id(recorded, tmp_path):
    """With a local hub, and tiny weights in the authors' layout; the second time without a connection."""
    words = shlex.split(COMMANDS[0].replace("--model small", "--model airkingbd/dplm2_650m"))
    few = ["--set", "lengths=[20]", "samples=3", "steps=2", "evaluation.self.steps=1"]
    few += ["--filter", "max_repeat=20", "min_sequence_entropy=0"]
    with hub.running_hub() as server:
        files = hub.official_files(recorded)
        server.repositories |= {name: hub.Repository(contents) for name, contents in files.items()}
        first = server.run(tmp_path / "home", "-m", "dplm2", *words, *few, cwd=tmp_path)
        assert first.returncode == 0, first.stderr
        assert "licence: apache-2.0" in first.stderr
        again = [*words, *few, "--out", "again"]
        second = server.run(tmp_path / "home", "-m", "dplm2", *again, cwd=tmp_path, offline=True)
    assert second.returncode == 0, second.stderr
    sequences = [(tmp_path / name / "samples/designs.fasta").read_text() for name in ("designs", "again")]
    assert sequences[0] == sequences[1] and sequences[0].count(">") == 3


def test_notebook_runs_from_the_first_to_the_last_cell(tmp_path):
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    notebook = nbformat.read(ROOT / "docs/tutorial.ipynb", 4)
    assert not any(cell.get("outputs") for cell in notebook.cells)  # committed without outputs
    for cell in notebook.cells:
        cell.source = re.sub(r"steps=30", "steps=3", cell.source)
    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert (tmp_path / "protein.pdb").is_file()
    shown = [output.data for cell in notebook.cells for output in cell.get("outputs", []) if "data" in output]
    assert any(data["text/plain"].startswith("Sample('length-60_0000', co-generation, 60") for data in shown)

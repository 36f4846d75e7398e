"""Every command and example of the README is run."""

import gzip
import re
import shlex
import shutil

import pytest

from tests import hub
from tests.workflow.conftest import DEMO, ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = [line.split("  #")[0].strip() for line in README.splitlines() if line.startswith("    dplm2 ")]


@pytest.mark.parametrize("target", re.findall(r"^    make (\w+)", README, flags=re.MULTILINE))
def test_make_target_exists(target):
    assert f"\n{target}: " in (ROOT / "Makefile").read_text(encoding="utf-8")


@pytest.mark.parametrize("path", re.findall(r"\]\(([^)#:]+)\)", README))
def test_link_resolves(path):
    assert (ROOT / path).exists()


@pytest.fixture
def folder(finished, tmp_path, monkeypatch):
    """A working directory with the inputs of the README's commands: a finished run and structures."""
    for name in ("data", "config"):
        (tmp_path / name).symlink_to(ROOT / name)
    shutil.copytree(finished.folder / "results" / "models" / "tiny", tmp_path / "results" / "models" / "demo")
    shutil.copytree(finished.folder / "results" / "tokenizers", tmp_path / "results" / "tokenizers")
    shutil.copytree(tmp_path / "results" / "tokenizers" / "tiny", tmp_path / "results" / "tokenizers" / "demo")
    (tmp_path / "structures").mkdir()
    for name in ("1shg_A", "1ubq_A"):
        (structure,) = DEMO.rglob(f"{name}.bcif.gz")
        shutil.copy(structure, tmp_path / "structures")
        for file in ("1ubq.pdb", "complex.pdb"):  # the format is recognised by the content
            (tmp_path / file).write_bytes(gzip.decompress(structure.read_bytes()))
    (tmp_path / "proteins.fasta").write_text(">a\nMKTAYIAKQR\n>b\nACDEFGH\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.workflow
@pytest.mark.xdist_group("workflow")
def test_every_command_runs(folder, recorded):
    """The authors' hub ids resolve to a local hub with tiny weights in their layout."""
    assert len(COMMANDS) > 5
    files = hub.official_files(recorded)
    for name, content in files[hub.MODEL].items():
        (folder / "path/to/dplm2_650m").mkdir(parents=True, exist_ok=True)
        (folder / "path/to/dplm2_650m" / name).write_bytes(content)
    with hub.running_hub() as server:
        server.repositories |= {name: hub.Repository(contents) for name, contents in files.items()}
        for command in COMMANDS:
            few = ["--set", "steps=10"] if "generate co-generation" in command else []  # 500 by default
            done = server.run(folder / "home", "-m", "dplm2", *shlex.split(command)[1:], *few, cwd=folder)
            assert done.returncode == 0, f"{command}\n{done.stderr}"
    assert (folder / "models" / "released" / "model.safetensors").is_file()


@pytest.mark.workflow
@pytest.mark.xdist_group("workflow")
def test_python_example_runs_on_a_trained_model(folder):
    (example,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    names: dict = {}
    exec(compile(example, "README.md", "exec"), names)
    assert len(names["protein"].sequence) == 80
    assert (folder / "protein.pdb").stat().st_size > 80 * 4 * 80
    assert names["redesigned"].sequence != ""
    assert len(names["scaffolds"]) == 2
    assert names["backbone"].shape == (80, 4, 3)

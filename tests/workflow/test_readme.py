"""What the README tells people to type works as it stands there."""

import re
import shlex
import shutil

import pytest

from dplm2.cli import build_parser
from tests.workflow.conftest import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = [line.split("  #")[0].strip() for line in README.splitlines() if line.startswith("    dplm2 ")]


@pytest.mark.parametrize("command", COMMANDS)
def test_command_is_understood(command):
    assert callable(build_parser().parse_args(shlex.split(command)[1:]).run)


@pytest.mark.parametrize("target", re.findall(r"^    make (\w+)", README, flags=re.MULTILINE))
def test_make_target_is_there(target):
    assert f"\n{target}: " in (ROOT / "Makefile").read_text(encoding="utf-8")


@pytest.mark.parametrize("path", re.findall(r"\]\(([^)#:]+)\)", README))
def test_link_leads_somewhere(path):
    assert (ROOT / path).exists()


@pytest.mark.workflow
@pytest.mark.xdist_group("workflow")
def test_python_example_runs_on_a_trained_model(finished, tmp_path, monkeypatch):
    (tmp_path / "data").symlink_to(ROOT / "data")
    shutil.copytree(finished.folder / "results" / "models" / "tiny", tmp_path / "results" / "models" / "demo")
    shutil.copytree(finished.folder / "results" / "tokenizers", tmp_path / "results" / "tokenizers")
    monkeypatch.chdir(tmp_path)
    (example,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    names: dict = {}
    exec(compile(example, "README.md", "exec"), names)
    assert len(names["protein"].sequence) == 80
    assert (tmp_path / "protein.pdb").stat().st_size > 80 * 4 * 80
    assert names["redesigned"].sequence != ""
    assert len(names["scaffolds"]) == 2
    assert names["backbone"].shape == (80, 4, 3)

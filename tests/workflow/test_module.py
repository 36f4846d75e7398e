"""The workflow as a module of another one, as the Snakemake workflow catalog describes it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
SNAKEFILE = f"""
configfile: "mine.yaml"

module dplm2:
    snakefile: "{ROOT}/workflow/Snakefile"
    config: config["dplm2"]

use rule * from dplm2 as dplm2_*

onstart:
    shell("touch started")

rule mine:
    default_target: True
    input: rules.dplm2_structures.input
    output: "mine.txt"
    shell: "ls {{input}} > {{output}}.unfinished && mv {{output}}.unfinished {{output}}"
"""


def snakemake(folder: Path, *more: str) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-m", "snakemake", "--cores", "1", *more], cwd=folder, env=environment,
        text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.mark.xdist_group("module")
def test_another_workflow_uses_this_one_as_a_module(tmp_path):
    """Its rules run, those of the other workflow keep their shell, and a second run does nothing."""
    demo = {"demo": {"files": str(ROOT / "data/demo/test")}}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({"dplm2": {"datasets": demo}}))
    (tmp_path / "Snakefile").write_text(SNAKEFILE)
    snakemake(tmp_path)
    listed = (tmp_path / "mine.txt").read_text().split()
    assert "results/structures/demo/part-00000.parquet" in listed
    assert all((tmp_path / name).is_file() for name in listed)
    assert (tmp_path / "started").exists()
    assert "Nothing to be done" in snakemake(tmp_path)

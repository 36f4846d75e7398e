"""What jobs read and write is what their rules declare, from a forced dry run of a finished run."""

import shlex
from dataclasses import dataclass, field
from pathlib import PurePosixPath

import pytest

from tests.workflow.conftest import Workdir

pytestmark = pytest.mark.workflow

MODEL = "results/models/tiny/model.safetensors"
# Of an evaluation, by task and weights: a rule's outputs are the same for all.
NOT_ALWAYS_WRITTEN = {"folded.parquet", "groups.csv", "reconstructed.parquet"}
RESUMED_FROM = "scores"  # of assays; Snakemake would remove a declared folder before a job begins again
WRITTEN = ("--out", "--log", "--manifest", "--state")  # options of what a command writes


@dataclass
class Job:
    rule: str
    files: dict[str, list[str]] = field(default_factory=lambda: {"input": [], "output": [], "log": []})
    command: str = ""


@pytest.fixture(scope="module")
def jobs(finished: Workdir) -> list[Job]:
    said = finished.snakemake("--dry-run", "--forceall", "--printshellcmds").stdout
    found: list[Job] = []
    for line in said.splitlines():
        key, _, rest = line.strip().partition(": ")
        if line.startswith(("rule ", "localrule ")):
            found.append(Job(line.split()[1].rstrip(":")))
        elif line.startswith("Shell command: "):
            found[-1].command = rest
        elif line.startswith("    ") and found and key in found[-1].files:
            found[-1].files[key] = rest.split(", ")
    assert len(found) > 30
    return found


def inside(path: str, folder: str) -> bool:
    return PurePosixPath(path).is_relative_to(folder)


def test_results_on_a_command_line_are_inputs(jobs):
    """A file itself, or something in a folder."""
    for job in jobs:
        words = shlex.split(job.command)
        for option, word in zip(["", *words], words, strict=False):
            declared = job.files["output"] + job.files["log"] if option in WRITTEN else job.files["input"]
            if word.startswith("results/") and (job.rule, option) != ("evaluate_samples", "--model"):
                assert any(inside(path, word) for path in declared), (job.rule, option, word)


def test_the_model_is_an_input_of_an_evaluation_that_folds_or_designs(jobs):
    """Here by the model itself; folded samples are compared with their natives."""
    read = {job.files["log"][0]: MODEL in job.files["input"] for job in jobs if job.rule == "evaluate_samples"}
    tasks = {"co-generation": True, "inverse-folding": True, "scaffolding": True, "folding": False}
    assert read == {f"results/logs/evaluation/tiny-{task}.log": judges for task, judges in tasks.items()}


def test_all_results_are_outputs(finished, jobs):
    declared = {PurePosixPath(path) for job in jobs for path in job.files["output"] + job.files["log"]}
    for path in (finished.folder / "results").rglob("*"):
        name = PurePosixPath(path.relative_to(finished.folder).as_posix())
        if path.is_file() and not (path.name.startswith(".") or path.name in NOT_ALWAYS_WRITTEN):
            assert declared & {name, *name.parents} or path.parent.name == RESUMED_FROM, name


def test_all_parts_of_a_dataset_are_read(jobs):
    """By every job that reads one, and its selection."""
    for job in jobs:
        if job.rule in ("clean_structures", "select_structures", "encode_tokens"):
            continue
        for kind in ("structures/own", "tokens/tiny/own"):
            read = {PurePosixPath(path).name for path in job.files["input"] if inside(path, f"results/{kind}")}
            if any(name.startswith("part-") for name in read):
                assert read >= {"part-00000.parquet", "part-00001.parquet"}, job.rule
                assert any(path.endswith("own/selection.parquet") for path in job.files["input"]), job.rule

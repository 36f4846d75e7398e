"""The workflow on a real Slurm with the profile: an interrupted run has the same results as an uninterrupted one."""

import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.workflow.conftest import ROOT, Workdir, contents
from tests.workflow.slurm import Slurm, missing_programs

EXECUTOR = "snakemake_executor_plugin_slurm"
MISSING = ", ".join(missing_programs() + ([] if find_spec(EXECUTOR) else [EXECUTOR]))
pytestmark = [
    pytest.mark.slurm,
    pytest.mark.workflow,
    pytest.mark.xdist_group("workflow"),
    pytest.mark.skipif(MISSING != "", reason=f"no {MISSING} here; install Slurm and munge (Debian: slurm-wlm, munge)"),
]
STEPS = 40
PARTITIONS = {
    'slurm_partition: "cpu"': "slurm_partition: processors",
    'gpu_partition: "gpu"': "gpu_partition: accelerators",
}
QUICK = ("--slurm-init-seconds-before-status-checks", "3", "--latency-wait", "20")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Slurm]:
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))
    try:
        with pytest.MonkeyPatch.context() as patch, Slurm(folder) as slurm:
            for name, value in slurm.environment.items():
                patch.setenv(name, value)
            yield slurm
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def profile(tmp_path_factory) -> Path:
    """The shipped profile with other partitions."""
    text = (ROOT / "profiles" / "slurm" / "config.yaml").read_text(encoding="utf-8")
    for shipped, here in PARTITIONS.items():
        assert text.count(shipped) == 1
        text = text.replace(shipped, here)
    folder = tmp_path_factory.mktemp("profile")
    (folder / "config.yaml").write_text(text)
    return folder


def prepared(folder: Path) -> Workdir:
    workdir = Workdir(folder)
    training = workdir.configuration["tokenizers"]["tiny"]["training"]
    workdir.configuration["tokenizers"]["tiny"]["training"] = {**training, "steps": STEPS}
    return workdir


def ended_well(process: subprocess.Popen) -> str:
    said = "".join(process.communicate())
    assert process.returncode == 0, said
    return said


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Workdir:
    workdir = prepared(tmp_path_factory.mktemp("undisturbed") / "run")
    ended_well(workdir.start())
    return workdir


def job_of(cluster: Slurm, rule: str) -> str:
    """Id of the running job of a rule."""
    jobs = [line.split() for line in cluster.call("squeue", "--noheader", "--format=%i %T %k").splitlines()]
    (found,) = (number for number, state, comment in jobs if state == "RUNNING" and comment.startswith(f"rule_{rule}"))
    return found


def test_cancelled_training_is_resubmitted_with_the_same_results(undisturbed, cluster, profile, tmp_path):
    workdir = prepared(tmp_path / "run")
    process = workdir.start("--profile", str(profile), *QUICK)
    saved = workdir.folder / "state/tokenizer"
    while not any(len(rows.read_text().splitlines()) > 3 for rows in saved.glob("*/metrics.csv")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    cancelled = job_of(cluster, "train_tokenizer")
    cluster.call("scancel", cancelled)
    said = ended_well(process)
    assert f"SLURM-job '{cancelled}' failed" in said and "CANCELLED" in said, said
    log = (workdir.folder / "results/logs/tokenizers/tiny.log").read_text()
    assert f"of {STEPS} steps" in log and "resumes after step" in log, log
    assert contents(workdir.folder / "results") == contents(undisturbed.folder / "results")


def test_shards_share_a_job_with_the_same_results(undisturbed, cluster, profile, tmp_path):
    workdir = prepared(tmp_path / "run")
    said = ended_well(workdir.start("structures", "--profile", str(profile), *QUICK))
    # Three shards of two datasets in one job, and the choice of chains of each dataset.
    assert said.count("has been submitted with SLURM jobid") == 3, said
    found = contents(workdir.folder / "results")
    assert found == {
        file: digest
        for file, digest in contents(undisturbed.folder / "results").items()
        if file.startswith("structures")
    }
    shutil.copy(workdir.folder / "motifs/1ubq_A.bcif.gz", workdir.files)
    assert workdir.planned("structures", "--profile", str(profile)) == {
        "clean_structures": 1,
        "select_structures": 1,
        "structures": 1,
    }

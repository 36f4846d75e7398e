"""The workflow on a real Slurm with the profile: whatever it loses, the results are those of an undisturbed run.

`make slurm` meets two losses, in a workflow up to its tokenizer; the rest comes once a night (`make nightly`).
docs/cluster.md says what came out.
"""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from dplm2.core.locks import is_held
from tests.conftest import IS_NIGHT
from tests.workflow.conftest import ROOT, Workdir, contents
from tests.workflow.slurm import CONTROLLER, NODE, Slurm, missing_programs

EXECUTOR = "snakemake_executor_plugin_slurm"
MISSING = ", ".join(missing_programs() + ([] if find_spec(EXECUTOR) else [EXECUTOR]))
pytestmark = [
    pytest.mark.slurm,
    pytest.mark.workflow,
    pytest.mark.xdist_group("slurm"),
    pytest.mark.skipif(MISSING != "", reason=f"no {MISSING} here; install Slurm and munge (Debian: slurm-wlm, munge)"),
]
STEPS = 40
PARTITIONS = {
    'slurm_partition: "cpu"': "slurm_partition: processors",
    'gpu_partition: "gpu"': "gpu_partition: accelerators",
}
QUICK = ("--slurm-init-seconds-before-status-checks", "3", "--latency-wait", "20")
SIGNAL_LINE = """  slurm_extra: "'--signal=USR1@300'"\n"""  # as in docs/cluster.md


@pytest.fixture(scope="module")
def cluster() -> Iterator[Slurm]:
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))
    try:
        with pytest.MonkeyPatch.context() as patch, contextlib.ExitStack() as stack:
            try:
                slurm = stack.enter_context(Slurm(folder))
            except TimeoutError as error:
                pytest.skip(f"Slurm is installed and does not start: {str(error).splitlines()[0]}")
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
    ended_well(workdir.start(*([] if IS_NIGHT else ["structures", "tokenizers"])))
    return workdir


class Training:
    """A run of the workflow on Slurm, at the training of its tokenizer."""

    def __init__(self, cluster: Slurm, folder: Path, profile: Path, *arguments: str) -> None:
        self.cluster, self.workdir = cluster, prepared(folder)
        self.arguments = (*arguments, "--profile", str(profile), *QUICK)
        self.start()

    def start(self) -> None:
        self.process = self.workdir.start(*self.arguments)

    def rows(self) -> int:
        """Updates so far."""
        tables = list((self.workdir.folder / "state/tokenizer").glob("*/metrics.csv"))
        return len(tables[0].read_text().splitlines()) - 1 if tables else 0

    def advance(self) -> str:
        """Wait for three updates; returns the job's id."""
        before = self.rows()
        self.until(lambda: before + 3 <= self.rows() < STEPS)
        (job,) = (job for job, state, comment in self.jobs() if state == "RUNNING" and "train_tokenizer" in comment)
        return job

    def until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            assert self.process.poll() is None, self.process.communicate()
            time.sleep(0.01)

    def jobs(self) -> list[list[str]]:
        return [line.split(maxsplit=2) for line in self.cluster.call("squeue", "-h", "-o", "%i %T %k").splitlines()]

    def of_job(self, job: str, field: str) -> str:
        """A field of a job, as squeue has it."""
        return self.cluster.call("squeue", "-h", "--states=all", "-j", job, "-o", field).strip()

    def signal(self, number: int) -> None:
        """Send a signal to the training itself."""
        os.kill(self.pid, number)

    @property
    def lock(self) -> Path:
        (lock,) = (self.workdir.folder / "state/tokenizer").glob("*/lock")
        return lock

    @property
    def pid(self) -> int:
        return int(re.match(r"process (\d+) on", self.lock.read_text())[1])

    def run_again_at_once(self, job: str, is_left: bool = False) -> None:
        """Do not wait the two minutes that Slurm waits before it repeats a job; a node must be rid of its processes."""
        self.until(lambda: self.of_job(job, "%T") == "PENDING" and (is_left or not is_held(self.lock)))
        time.sleep(3)
        self.cluster.call("scontrol", "update", f"JobId={job}", "StartTime=now")

    @property
    def log(self) -> str:
        """What the training has said; Snakemake removes this before another attempt."""
        try:
            return (self.workdir.folder / "results/logs/tokenizers/tiny.log").read_text()
        except FileNotFoundError:
            return ""

    def equals(self, undisturbed: Workdir) -> str:
        """Wait for the end, and compare; returns what Snakemake said."""
        said = ended_well(self.process)
        expected, found = (contents(run.folder / "results") for run in (undisturbed, self.workdir))
        assert "tokenizers/tiny/model.safetensors" in found and found.items() <= expected.items()
        return said


@pytest.fixture
def training(cluster, profile, tmp_path) -> Training:
    return Training(cluster, tmp_path / "run", profile, "tokenizers")


@pytest.mark.parametrize("targets", [("tokenizers",), pytest.param((), marks=pytest.mark.nightly, id="whole workflow")])
def test_killed_snakemake_and_cancelled_training(targets, undisturbed, cluster, profile, tmp_path):
    """The next Snakemake ends the job that is left, and submits a cancelled one again."""
    training = Training(cluster, tmp_path / "run", profile, *targets)
    left = training.advance()
    training.signal(signal.SIGSTOP)  # it would otherwise have ended when Snakemake is back
    training.process.kill()
    training.process.communicate()
    assert training.of_job(left, "%T") == "RUNNING"
    training.start()
    assert "--unlock" in "".join(training.process.communicate()) and training.process.returncode == 1
    assert training.workdir.snakemake("--unlock").returncode == 0
    training.start()
    cancelled = training.advance()
    assert "resumes after step" in training.log
    cluster.call("scancel", cancelled)
    said = training.equals(undisturbed)
    assert f"jobs of an earlier run in this folder: {left} (rule_train_tokenizer_wildcards_tiny)" in said, said
    assert f"SLURM-job '{cancelled}' failed" in said and "CANCELLED" in said, said
    assert "resumes after step" in training.log
    if not targets:
        assert contents(training.workdir.folder / "results").keys() == contents(undisturbed.folder / "results").keys()


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


@pytest.mark.nightly
def test_scheduler_away_for_a_minute(undisturbed, cluster, profile, tmp_path, monkeypatch):
    """When the first jobs are submitted, and during a training; on a site without accounts."""
    monkeypatch.setenv("PATH", str(ROOT / "profiles" / "slurm" / "bin"), prepend=":")
    cluster.kill(CONTROLLER)
    training = Training(cluster, tmp_path / "run", profile, "tokens")
    time.sleep(60)
    cluster.start(CONTROLLER)
    training.advance()
    cluster.kill(CONTROLLER)
    time.sleep(60)
    cluster.start(CONTROLLER)
    assert "Unable to contact slurm controller" in training.equals(undisturbed)


@pytest.mark.nightly
def test_node_down(undisturbed, cluster, training):
    job = training.advance()
    node = training.of_job(job, "%N")
    training.signal(signal.SIGSTOP)
    cluster.call("scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=test")
    training.run_again_at_once(job)
    training.advance()
    cluster.call("scontrol", "update", f"NodeName={node}", "State=RESUME")
    assert "failed" not in training.equals(undisturbed)


@pytest.mark.nightly
def test_node_lost_while_its_training_goes_on(undisturbed, cluster, training):
    """The repeated job waits for the process that nobody can reach."""
    job = training.advance()
    node = training.of_job(job, "%N")
    training.signal(signal.SIGSTOP)
    cluster.kill(NODE, "-N", node)
    training.run_again_at_once(job, is_left=True)
    training.until(lambda: "waiting for its end" in training.log)
    training.signal(signal.SIGCONT)
    assert "failed" not in training.equals(undisturbed)
    cluster.start(NODE, "-N", node)


@pytest.mark.nightly
@pytest.mark.parametrize("grace", [30, 0])
def test_preemption(grace, undisturbed, cluster, training):
    """With a grace period the job ends by itself and is submitted again; without, Slurm puts it back into the queue."""
    cluster.call("scontrol", "update", "PartitionName=processors", f"GraceTime={grace}")
    job = training.advance()
    if not grace:
        training.signal(signal.SIGSTOP)
    cluster.call("sbatch", "--partition=urgent", "--nodes=2", "--exclusive", "--output=/dev/null", "--wrap=sleep 1")
    if grace:
        training.until(lambda: training.of_job(job, "%T") == "FAILED")
    else:
        training.run_again_at_once(job)
    said = training.equals(undisturbed)
    assert (f"SLURM-job '{job}' failed" in said) == bool(grace)


@pytest.mark.nightly
def test_time_limit(undisturbed, cluster, profile, tmp_path):
    longer_with_each_attempt = ("--set-resources", "train_tokenizer:runtime=attempt")
    training = Training(cluster, tmp_path / "run", profile, "tokenizers", *longer_with_each_attempt)
    job = training.advance()
    assert training.of_job(job, "%l") == "1:00"
    training.signal(signal.SIGSTOP)
    training.until(lambda: training.of_job(job, "%T") == "TIMEOUT")
    again = training.advance()
    assert training.of_job(again, "%l") == "2:00" and "resumes after step" in training.log
    assert "TIMEOUT" in training.equals(undisturbed)


@pytest.mark.nightly
def test_warning_before_the_time_limit(undisturbed, cluster, profile, tmp_path):
    """Slurm's SIGUSR1, from the line in the documentation."""
    assert SIGNAL_LINE.strip() in (ROOT / "docs" / "cluster.md").read_text(encoding="utf-8")
    warned = shutil.copytree(profile, tmp_path / "profile") / "config.yaml"
    warned.write_text(warned.read_text().replace("default-resources:\n", f"default-resources:\n{SIGNAL_LINE}"))
    six_minutes = ("--set-resources", "train_tokenizer:runtime=6")
    training = Training(cluster, tmp_path / "run", warned.parent, "tokenizers", *six_minutes)
    job = training.advance()
    training.signal(signal.SIGSTOP)
    training.until(lambda: training.of_job(job, "%T") == "FAILED")
    training.advance()
    assert "resumes after step" in training.log
    said = training.equals(undisturbed)
    assert f"SLURM-job '{job}' failed" in said and "stopped (SIGUSR1); saved" in said


@pytest.mark.nightly
def test_killed_for_memory(undisturbed, cluster, profile, tmp_path):
    """By Slurm, which finds that a job uses more than it asked for; the next attempts ask for more."""
    too_little = ("--set-resources", "train_tokenizer:mem_mb=attempt*300")
    training = Training(cluster, tmp_path / "run", profile, "tokenizers", *too_little)
    said = training.equals(undisturbed)
    assert "OUT_OF_MEMORY" in said or "CANCELLED" in said or "FAILED" in said


@pytest.mark.nightly
def test_killed_by_the_kernel_for_memory(undisturbed, cluster, training):
    """As the kernel does: without a warning."""
    job = training.advance()
    training.signal(signal.SIGKILL)
    training.until(lambda: training.of_job(job, "%T") == "FAILED")
    training.until(lambda: any("train_tokenizer" in comment for _, _, comment in training.jobs()))
    (again,) = (number for number, _, comment in training.jobs() if "train_tokenizer" in comment)
    first, second = (int(training.of_job(number, "%m").rstrip("M")) for number in (job, again))
    assert second == 2 * first
    training.equals(undisturbed)

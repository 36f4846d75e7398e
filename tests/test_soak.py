"""The pieces of `make soak`, on runs of a few processes instead of a workflow."""

import hashlib
import random
import subprocess
import time

import psutil
import pytest

from benchmarks.soak import differences, disturbed, killed_after, one_workflow, prepared, summary
from dplm2.stages import STAGES

# Appends a line each time it is started, and leaves a child behind that would write into a result later.
RUN = """
import pathlib, subprocess, sys, time
results = pathlib.Path("results")
results.mkdir(exist_ok=True)
with open("starts", "a") as stream:
    stream.write("x")
if pathlib.Path("starts").stat().st_size <= KILLS:
    subprocess.Popen([sys.executable, "-c", "import time, os; time.sleep(600)"])
    time.sleep(600)
(results / "one.csv").write_text("1")
(results / "two.csv").write_text("WRITTEN")
"""


class Run:
    """Stands for a working directory: a run does not end before it has been killed some times."""

    def __init__(self, folder, kills: int = 0, written: str = "2") -> None:
        self.folder = folder
        folder.mkdir()
        self._program, self.unlocked = RUN.replace("KILLS", str(kills)).replace("WRITTEN", written), 0

    def start(self, *arguments: str) -> subprocess.Popen:
        self.unlocked += "--unlock" in arguments
        command = ["true"] if arguments else ["python", "-c", self._program]
        pipe = subprocess.PIPE
        return subprocess.Popen(command, cwd=self.folder, stdout=pipe, stderr=pipe, text=True, start_new_session=True)

    def snakemake(self, *arguments: str) -> subprocess.CompletedProcess:
        process = self.start(*arguments)
        return subprocess.CompletedProcess(process.args, process.wait(), *process.communicate())


class Moments:
    """Draws the largest numbers allowed."""

    def randint(self, low: int, high: int) -> int:
        return high

    def uniform(self, low: float, high: float) -> float:
        return high


def alive(folder) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if process.cwd() == str(folder) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def test_whole_process_group_is_killed(tmp_path):
    run = Run(tmp_path / "run", kills=9)
    process = run.start()
    while len(alive(run.folder)) < 2:
        assert process.poll() is None
        time.sleep(0.01)
    assert killed_after(process, 0.01)
    until = time.monotonic() + 10
    while alive(run.folder):
        assert time.monotonic() < until
        time.sleep(0.01)
    assert not killed_after(run.start("ends"), 30)


def test_run_is_killed_unlocked_and_started_again_until_it_ends(tmp_path):
    run = Run(tmp_path / "run", kills=2)
    found = disturbed(run, Moments(), 1.5)
    # More often on a busy machine, where the last run does not end in time either.
    assert len(found["kills"]) == run.unlocked >= 2 and found["status"] == 0
    assert found["files"] == {"one.csv": sha256("1"), "two.csv": sha256("2")}


@pytest.mark.parametrize(("written", "differing"), [("2", []), ("3", ["two.csv"])])
def test_different_files_are_named_and_kept(tmp_path, monkeypatch, written, differing):
    monkeypatch.setattr("benchmarks.soak.prepared", lambda folder: Run(folder, written=written))
    expected = {"one.csv": sha256("1"), "two.csv": sha256("2")}
    found = one_workflow(tmp_path / "run", "0", 5.0, expected)
    assert found["differing"] == differing and (tmp_path / "run").exists() == bool(differing)
    total = summary([found, found], expected, 1.0, "")
    assert (total["workflows"], total["equal"]) == (2, 2 * (not differing))


@pytest.mark.workflow
def test_the_workflow_has_every_stage(tmp_path):
    ran = prepared(tmp_path / "run").planned()
    assert set(ran) - {"all"} == set(STAGES) - {"fetch_structures"}


def test_differences_are_symmetric():
    rng = random.Random(0)
    one, other = ({str(rng.randint(0, 9)): str(rng.randint(0, 1)) for _ in range(8)} for _ in range(2))
    by_hand = sorted(name for name in map(str, range(10)) if one.get(name) != other.get(name))
    assert differences(one, other) == differences(other, one) == by_hand and differences(one, one) == []

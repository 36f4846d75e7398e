"""A preempting queue signals all processes of a job at once: Snakemake, the rule's shell, Python and tee."""

import json
import os
import re
import shutil
import signal
import time

import pytest
from safetensors.torch import load_file

from tests.workflow.conftest import Workdir

pytestmark = pytest.mark.workflow


def signal_all(process, metrics, number):
    """Send the signal to the process group of a Snakemake whose training has just written another row."""
    before = metrics.read_text() if metrics.is_file() else ""
    while not (metrics.is_file() and len(metrics.read_text().splitlines()) > max(1, len(before.splitlines()))):
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    os.killpg(process.pid, number)


def test_signal_to_all_processes_of_a_job_loses_no_step(tmp_path):
    workdir = Workdir(tmp_path / "run")
    training = {"steps": 30, "token_budget": 400, "validate_every": None, "save_every": None, "log_every": 1}
    workdir.configuration["tokenizers"]["tiny"]["training"] = training
    done = workdir.snakemake("tokenizers")
    assert done.returncode == 0, done.stderr
    folder, state = workdir.folder / "results/tokenizers/tiny", workdir.folder / "state/tokenizer"
    straight = load_file(folder / "model.safetensors")
    (fingerprint,) = (path.name for path in state.iterdir())
    metrics, latest = state / fingerprint / "metrics.csv", state / fingerprint / "latest.json"
    shutil.rmtree(state)
    shutil.rmtree(folder)

    process = workdir.start("tokenizers")
    signal_all(process, metrics, signal.SIGTERM)
    said = "".join(process.communicate())
    assert process.returncode == 1 and "returned non-zero exit status 75" in said, said
    step = json.loads(latest.read_text())["step"]
    assert 0 < step < 30
    told = f"stopped (SIGTERM); saved at step {step} of 30"
    assert told in said and told in (workdir.folder / "results/logs/tokenizers/tiny.log").read_text()

    # In the other case Snakemake restarts the job, which resumes.
    process = workdir.start("tokenizers", "--retries", "1")
    signal_all(process, metrics, signal.SIGUSR1)
    said = "".join(process.communicate())
    assert process.returncode == 0, said
    saved = int(re.search(r"stopped \(SIGUSR1\); saved at step (\d+) of 30", said)[1])
    assert saved > step and "exit status 75" in said
    assert f"resumes after step {saved} of 30" in (workdir.folder / "results/logs/tokenizers/tiny.log").read_text()
    again = load_file(folder / "model.safetensors")
    assert again.keys() == straight.keys() and all(again[name].equal(straight[name]) for name in straight)

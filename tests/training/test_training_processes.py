"""Tests with separate processes: kills at any moment, several ranks, exit statuses."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from test_training_fit import SETTINGS, rows
from tiny_task import same, train, weights

from dplm2 import cli
from dplm2.core.errors import ConfigError, DPLM2Error, Preempted
from dplm2.training import srun
from dplm2.training.devices import SHARDS_ON_CPU

SCRIPT = Path(__file__).parent / "tiny_task.py"
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")


def start(*runs, launcher=()):
    command = [sys.executable, *launcher, SCRIPT, json.dumps({"runs": runs}, default=str)]
    return subprocess.Popen(command, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True)


def finish(process, seconds=240):
    _, said = process.communicate(timeout=seconds)
    return process.returncode, said


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_run_killed_at_a_random_moment_resumes_bit_for_bit(tmp_path):
    """Checkpoints are written at every step, so that kills occur during and between them about equally often."""
    settings = {**SETTINGS, "steps": 150, "save_every": None, "validate_every": 40}
    train(tmp_path / "straight", settings)
    out = tmp_path / "killed"
    latest = out / "state/f00d/latest.json"
    process = start({"out": out, "settings": {**settings, "save_every": 1}})
    while not latest.exists():
        assert process.poll() is None
        time.sleep(0.01)
    time.sleep(random.Random(time.time_ns()).uniform(0.02, 0.3))
    process.kill()
    assert finish(process)[0] == -signal.SIGKILL
    killed_at = json.loads(latest.read_text())["step"]
    result = train(out, settings)
    # Pointer and record are two files: a kill between them leaves them one step apart.
    assert result.resumed_from in (killed_at, killed_at + 1) and 0 < killed_at < 150
    assert same(weights(out), weights(tmp_path / "straight"))
    assert rows(out, "seconds") == rows(tmp_path / "straight", "seconds")


@pytest.mark.skipif(torch.__version__ < SHARDS_ON_CPU, reason="older torch does not average sharded gradients on CPUs")
def test_two_processes_equal_one_and_stop_together(tmp_path):
    once = SETTINGS  # two batches per update, one per process
    endless = {**once, "steps": 2000, "save_every": None}
    sharded = {**SETTINGS, "strategy": "fsdp", "ema_decay": 0.9, "gradient_clip": 0.1}
    process = start(
        {"out": tmp_path / "ddp", "settings": once},
        {"out": tmp_path / "ddp-accumulated", "settings": {**SETTINGS, "accumulate": 4}},
        {"out": tmp_path / "fsdp", "settings": {**sharded, "accumulate": 4}, "freeze": ["embedding"]},
        {"out": tmp_path / "stopped", "settings": endless, "trouble": {"kill_at": 5, "signal": "SIGTERM", "rank": "1"}},
        launcher=TORCHRUN,
    )
    train(tmp_path / "one", SETTINGS)
    train(tmp_path / "one-accumulated", {**SETTINGS, "accumulate": 4})
    single = {**sharded, "strategy": "auto", "accumulate": 4}
    train(tmp_path / "whole", single, freeze=["embedding"])
    status, said = finish(process)
    # The last run is stopped by a signal to only the second process; both stop after the same step.
    assert "stopped" in said and "saved at step 6 of 2000" in said, said
    assert status != 0 and "Traceback" not in said.split("saved at step")[0]
    assert "2 processes (ddp)" in said and "2 processes (fsdp)" in said
    for several, one in (("ddp", "one"), ("ddp-accumulated", "one-accumulated"), ("fsdp", "whole")):
        for row, expected in zip(rows(tmp_path / several), rows(tmp_path / one), strict=True):
            for name in ("step", "epoch", "loss", "gradient_norm", "tokens", "validation_loss"):
                if expected[name]:
                    assert float(row[name]) == pytest.approx(float(expected[name]), rel=1e-5), (several, name)
    # The state does not depend on the number of processes: one resumes the run of two.
    (tmp_path / "fsdp/state/f00d/step-00000020.json").unlink()
    result = train(tmp_path / "fsdp", single, freeze=["embedding"])
    assert result.resumed_from == 15
    found, expected = weights(tmp_path / "fsdp"), weights(tmp_path / "whole")
    assert all(torch.allclose(found[name], expected[name], rtol=1e-3, atol=1e-5) for name in found if name != "passes")


def test_two_devices_without_a_launcher_equal_one(tmp_path):
    """``devices: 2`` and nothing else: Fabric starts the second process itself."""
    process = start({"out": tmp_path / "two", "settings": {**SETTINGS, "devices": 2}})
    train(tmp_path / "one", SETTINGS)
    status, said = finish(process)
    assert status == 0 and "2 processes (ddp)" in said, said
    for row, expected in zip(rows(tmp_path / "two"), rows(tmp_path / "one"), strict=True):
        assert float(row["loss"]) == pytest.approx(float(expected["loss"]), rel=1e-5)
    found, expected = weights(tmp_path / "two"), weights(tmp_path / "one")
    assert all(torch.allclose(found[name], expected[name], rtol=1e-3, atol=1e-5) for name in found if name != "passes")


@pytest.mark.parametrize(("tasks", "nodes"), [(2, 2), pytest.param(4, 2, marks=pytest.mark.nightly)])
def test_srun_tasks_on_two_nodes_equal_processes_on_one(tmp_path, tasks, nodes):
    settings = {**SETTINGS, "accumulate": tasks}
    together = start({"out": tmp_path / "one", "settings": {**settings, "devices": tasks}})
    assert finish(together)[0] == 0
    job = os.getpid()  # unique, so that concurrent tests use different ports
    processes = []
    for task in range(tasks):
        slurm = {
            "SLURM_JOB_ID": str(job),
            "SLURM_STEP_ID": "0",
            "SLURM_STEP_NUM_TASKS": str(tasks),
            "SLURM_STEP_NUM_NODES": str(nodes),
            "SLURM_PROCID": str(task),
            "SLURM_LOCALID": str(task % (tasks // nodes)),
            "SLURM_NODEID": str(task // (tasks // nodes)),
        }
        run = {"out": tmp_path / "two", "settings": {**settings, "nodes": nodes}}
        command = [sys.executable, SCRIPT, json.dumps({"runs": [run]}, default=str)]
        told = {**ENVIRONMENT, **srun.environment(slurm, "127.0.0.1")}
        processes.append(subprocess.Popen(command, env=told, stderr=subprocess.PIPE, text=True))
    ends = [finish(process) for process in processes]
    assert [status for status, _ in ends] == [0] * tasks, ends
    assert f"{tasks} processes (ddp)" in ends[0][1]
    assert same(weights(tmp_path / "two"), weights(tmp_path / "one"))
    assert rows(tmp_path / "two", "seconds") == rows(tmp_path / "one", "seconds")


def test_nodes_with_different_numbers_of_tasks_are_refused():
    with pytest.raises(DPLM2Error, match="3 tasks on 2 nodes"):
        srun.environment({"SLURM_STEP_NUM_TASKS": "3", "SLURM_STEP_NUM_NODES": "2"}, "here")


def test_several_nodes_need_a_launcher(tmp_path, monkeypatch):
    settings = {**SETTINGS, "accumulate": 4, "nodes": 2}
    with pytest.raises(ConfigError, match="training.nodes: 2 machines need their processes started"):
        train(tmp_path, settings)
    for name, value in (("TORCHELASTIC_RUN_ID", "x"), ("LOCAL_WORLD_SIZE", "1"), ("WORLD_SIZE", "4")):
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match="on 4 machines, not on 2"):
        train(tmp_path, settings)


def test_dead_process_ends_the_job_which_can_resume(tmp_path):
    settings = {**SETTINGS, "steps": 200, "save_every": 3}
    process = start({"out": tmp_path, "settings": settings, "trouble": {"kill_at": 10, "rank": "1"}}, launcher=TORCHRUN)
    status, said = finish(process)
    died = (tmp_path / "state/f00d/latest.json").stat().st_mtime
    assert status != 0 and time.time() - died < 60
    assert "SIGKILL" in said or "exitcode  : -9" in said
    assert train(tmp_path, settings).resumed_from == 9


def test_preempted_process_exits_with_75(tmp_path):
    process = start({"out": tmp_path, "settings": {**SETTINGS, "steps": 20000, "workers": 1}})
    while not (tmp_path / "state/f00d/latest.json").exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGUSR1)
    status, said = finish(process)
    assert status == Preempted.EXIT_STATUS == 75
    assert "stopped (SIGUSR1); saved at step" in said


def test_run_with_a_closed_pipe_still_saves(tmp_path):
    """The reader of the output, such as tee, may be killed by the same signal, or earlier."""
    settings = {**SETTINGS, "steps": 200, "save_every": None}
    train(tmp_path / "straight", settings)
    for step, number in ((20, "SIGTERM"), (30, "SIGUSR1")):
        reads, writes = os.pipe()
        run = {"out": tmp_path / "cut", "settings": settings, "trouble": {"kill_at": step, "signal": number}}
        command = [sys.executable, SCRIPT, json.dumps({"runs": [run]}, default=str)]
        process = subprocess.Popen(command, env=ENVIRONMENT, stdout=writes, stderr=writes)
        os.close(writes)
        os.close(reads)
        assert process.wait(timeout=240) == Preempted.EXIT_STATUS
        assert json.loads((tmp_path / "cut/state/f00d/latest.json").read_text())["step"] == step + 1
    train(tmp_path / "cut", settings)
    assert same(weights(tmp_path / "cut"), weights(tmp_path / "straight"))


def add_preempted(parser):
    """A command that is asked to stop."""

    def run(options):
        raise Preempted("tokenizer demo: stopped (SIGTERM); saved at step 3 of 10")

    parser.set_defaults(run=run)


def test_preempted_command_exits_with_75(monkeypatch, capsys):
    monkeypatch.setattr(cli, "COMMANDS", {"train": cli.Command("train", (f"{__name__}:add_preempted",))})
    assert cli.main(["train"]) == 75
    assert capsys.readouterr().err.count("\n") == 1

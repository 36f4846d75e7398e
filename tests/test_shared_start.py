"""Commands that share one start of Python: same results, statuses and signals as commands that do not."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from dplm2 import shared_start
from dplm2.shared_start import ONLY_SHARDS, OWNER

DEMO = Path(__file__).parents[1] / "data" / "demo" / "train"
pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="starts are shared on Linux alone")


@pytest.fixture
def owner(tmp_path, monkeypatch) -> Iterator[subprocess.Popen]:
    """The process that the commands' servers live for."""
    with subprocess.Popen(["sleep", "600"]) as process:
        monkeypatch.setenv(OWNER, str(process.pid))
        monkeypatch.setenv("TMPDIR", str(tmp_path))
        yield process
        process.kill()


def start(*arguments: object, **environment: str | None) -> subprocess.Popen:
    command = [sys.executable, "-m", "dplm2", *map(str, arguments)]
    own = {key: value for key, value in (os.environ | environment).items() if value is not None}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=own)


def ended(*arguments: object, **environment: str | None) -> tuple[int, str, str]:
    process = start(*arguments, **environment)
    said = process.communicate()
    return process.returncode, *said


def alone(*arguments: object) -> tuple[int, str, str]:
    """A command with a start of its own."""
    return ended(*arguments, **{OWNER: None})


def servers() -> list[psutil.Process]:
    """The servers of this test's owner."""
    return [
        process
        for process in psutil.process_iter()
        if "--serve" in (said := _command(process)) and said[-2].startswith(os.environ["TMPDIR"])
    ]


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_commands_give_the_same_files_from_one_server(owner, tmp_path):
    files = sorted(DEMO.glob("*.bcif.gz"))[:2]
    plain = alone("structures", "clean", *files, "--workers", 1, "--out", tmp_path / "plain" / "own")
    assert plain[0] == 0, plain
    (manifest,) = (tmp_path / "plain" / "own" / "shards").glob("part-*.tsv")
    running = [
        start("structures", "clean", "--manifest", manifest, "--workers", 1, "--out", folder)
        for folder in (tmp_path / "a" / "own", tmp_path / "b" / "own")
    ]
    for process in running:
        said = process.communicate()
        assert process.returncode == 0, said
        assert "part-00000.parquet" in said[0]
    parts = [(tmp_path / name / "own" / "part-00000.parquet").read_bytes() for name in ("plain", "a", "b")]
    assert parts[0] == parts[1] == parts[2]
    assert len(servers()) == 1


def test_errors_and_wrong_use_end_with_their_statuses(owner, tmp_path):
    arguments = ("tokens", "encode", tmp_path / "nothing", "--tokenizer", "small", "--out", tmp_path / "t.parquet")
    assert ended(*arguments) == alone(*arguments)
    assert ended("tokens", "encode") == alone("tokens", "encode")
    assert ended("--version") == alone("--version")


def test_a_command_does_not_outlive_the_process_that_asked_nor_a_server_its_owner(owner, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        (tmp_path / "list.txt").write_text(f"http://127.0.0.1:{silent.getsockname()[1]}/1abc.cif\n")
        arguments = ("structures", "fetch", tmp_path / "list.txt", "--out", tmp_path / "files")
        for number in (signal.SIGTERM, signal.SIGKILL):
            process = start(*arguments)
            until(lambda: any(server.children() for server in servers()))
            silent.accept()  # it is downloading
            process.send_signal(number)
            process.communicate()
            assert process.returncode != 0
            until(lambda: not any(server.children() for server in servers()))
    (server,) = servers()
    owner.kill()
    owner.wait()
    assert server.wait(10) is None or not server.is_running()
    assert [path.name for path in tmp_path.glob("dplm2-*/*")] == ["lock"]


def test_networks_work_the_same_in_a_fork(owner, tmp_path):
    settings = ["--set", "lengths=[12]", "samples=1", "steps=2", "--device", "cpu", "--model", "small"]
    runs = {name: ["generate", "co-generation", *settings, "--out", tmp_path / name] for name in ("a", "b")}
    assert alone(*runs["a"])[0] == ended(*runs["b"])[0] == 0
    assert (tmp_path / "a" / "designs.csv").read_bytes() == (tmp_path / "b" / "designs.csv").read_bytes()
    assert len(servers()) == 1


def test_commands_with_other_environments_do_not_share(owner, monkeypatch):
    """Libraries read the number of threads when they are imported."""
    before = shared_start._socket_path("networks")
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert shared_start._socket_path("networks") != before


def server_of(*arguments: str) -> str | None:
    return shared_start._server_for(arguments)


def test_on_clusters_and_with_gpus_only_shards_share_a_start(tmp_path, monkeypatch):
    encode, train = ("--log", "x", "tokens", "encode", "y"), ("model", "train", "--name", "structures")
    monkeypatch.setenv(OWNER, "1")
    monkeypatch.setattr(shared_start, "GPU_DRIVER", tmp_path / "none")
    assert (server_of(*encode), server_of(*train)) == ("networks", "networks")
    assert (server_of("structures", "select"), server_of("status")) == ("structures", None)
    monkeypatch.setattr(shared_start, "GPU_DRIVER", tmp_path)
    assert (server_of(*encode), server_of(*train)) == ("networks", None)
    monkeypatch.setattr(shared_start, "GPU_DRIVER", tmp_path / "none")
    monkeypatch.setenv(OWNER, f"1{ONLY_SHARDS}")
    assert (server_of(*encode), server_of(*train)) == ("networks", None)
    monkeypatch.setattr(sys, "platform", "darwin")
    assert server_of(*encode) is None


def test_without_an_owner_a_command_runs_by_itself(tmp_path, monkeypatch):
    monkeypatch.delenv(OWNER, raising=False)
    assert server_of("tokens", "encode") is None
    assert ended("tokens", "encode", "--help")[0] == 0

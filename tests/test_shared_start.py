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

from dplm2.shared_start import OWNER

DEMO = Path(__file__).parents[1] / "data" / "demo" / "train"
pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")


@pytest.fixture
def owner(tmp_path, monkeypatch) -> Iterator[subprocess.Popen]:
    """The process that the commands' servers live for."""
    with subprocess.Popen(["sleep", "600"]) as process:
        monkeypatch.setenv(OWNER, str(process.pid))
        monkeypatch.setenv("TMPDIR", str(tmp_path))
        yield process
        process.kill()


def start(module: str, *arguments: object) -> subprocess.Popen:
    command = [sys.executable, "-m", module, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def ended(module: str, *arguments: object) -> tuple[int, str, str]:
    process = start(module, *arguments)
    said = process.communicate()
    return process.returncode, *said


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
    plain = ended("dplm2", "structures", "clean", *files, "--workers", 1, "--out", tmp_path / "plain" / "own")
    assert plain[0] == 0, plain
    (manifest,) = (tmp_path / "plain" / "own" / "shards").glob("part-*.tsv")
    running = [
        start("dplm2.shared_start", "structures", "clean", "--manifest", manifest, "--workers", 1, "--out", folder)
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
    assert ended("dplm2.shared_start", *arguments) == ended("dplm2", *arguments)
    assert ended("dplm2.shared_start", "tokens", "encode") == ended("dplm2", "tokens", "encode")
    assert ended("dplm2.shared_start", "--version") == ended("dplm2", "--version")


def test_a_command_does_not_outlive_the_process_that_asked_nor_a_server_its_owner(owner, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        (tmp_path / "list.txt").write_text(f"http://127.0.0.1:{silent.getsockname()[1]}/1abc.cif\n")
        arguments = ("structures", "fetch", tmp_path / "list.txt", "--out", tmp_path / "files")
        for number in (signal.SIGTERM, signal.SIGKILL):
            process = start("dplm2.shared_start", *arguments)
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


def test_without_an_owner_a_command_runs_by_itself(tmp_path, monkeypatch):
    monkeypatch.delenv(OWNER, raising=False)
    assert ended("dplm2.shared_start", "tokens", "encode", "--help") == ended("dplm2", "tokens", "encode", "--help")

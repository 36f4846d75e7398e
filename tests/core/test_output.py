"""``dplm2 --log FILE``: the output of a command and its children is also written to the file."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dplm2.core.errors import Preempted
from dplm2.core.output import copied_to

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
COMMAND = """\
import logging, os, subprocess, sys
from dplm2 import cli
from dplm2.core.errors import ConfigError, DPLM2Error, Preempted

def run(options):
    print("out of the command")
    print("err of the command", file=sys.stderr)
    os.write(1, b"past Python\\n")
    subprocess.run(["sh", "-c", "echo out of a child; echo err of a child >&2"], check=True)
    end = {end}
    if isinstance(end, BaseException):
        raise end
    return end

add_work = lambda parser: parser.set_defaults(run=run)
cli.COMMANDS = {"work": cli.Command("work", ("__main__:add_work",))}
sys.exit(cli.main(sys.argv[1:]))
"""


def call(*arguments, end="None", **options) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", COMMAND.replace("{end}", end), *map(str, arguments)]
    return subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, **options)


@pytest.mark.parametrize(
    ("end", "status", "said"),
    [
        ("None", 0, ""),
        ("3", 3, ""),
        ("DPLM2Error('no such thing')", 1, "dplm2: no such thing\n"),
        ("ConfigError('a wrong key')", 2, "dplm2: a wrong key\n"),
        ("Preempted('saved')", Preempted.EXIT_STATUS, "dplm2: saved\n"),
        ("KeyboardInterrupt()", 130, "dplm2: interrupted\n"),
    ],
)
def test_log_contains_all_output_and_keeps_the_exit_status(tmp_path, end, status, said):
    log = tmp_path / "new" / "folder" / "work.log"
    plain, logged = call("work", end=end), call("--log", log, "work", end=end)
    assert (logged.returncode, logged.stdout, logged.stderr) == (plain.returncode, plain.stdout, plain.stderr)
    assert logged.returncode == status and logged.stderr.endswith(said)
    text = log.read_text()
    for line in (logged.stdout + logged.stderr).splitlines():
        assert line in text
    assert len(text) == len(logged.stdout) + len(logged.stderr)
    for line in ("out of the command", "err of the command", "past Python", "out of a child", "err of a child"):
        assert text.count(f"{line}\n") == 1


def test_lines_of_both_streams_are_not_mixed(tmp_path):
    """Without buffering, a line and its newline are written separately."""
    script = (
        "import sys; from dplm2.core.output import copied_to\n"
        "with copied_to(sys.argv[1]):\n"
        "    for number in range(200):\n"
        "        print('out', number)\n"
        "        print('err', number, file=sys.stderr)\n"
        "    print('no end', end='')"
    )
    subprocess.run([sys.executable, "-u", "-c", script, tmp_path / "log"], env=ENVIRONMENT, capture_output=True)
    lines = (tmp_path / "log").read_text().split("\n")
    expected = [f"{stream} {number}" for number in range(200) for stream in ("out", "err")]
    assert sorted(lines) == sorted([*expected, "no end"])
    assert [line for line in lines if line.startswith("out")] == expected[::2]


def test_a_traceback_is_in_the_file(tmp_path):
    done = call("--log", tmp_path / "log", "work", end="ValueError('unforeseen')")
    assert done.returncode == 1 and "ValueError: unforeseen" in done.stderr
    assert "ValueError: unforeseen" in (tmp_path / "log").read_text()


def test_log_contains_only_the_last_run(tmp_path):
    for _ in range(2):
        call("--log", tmp_path / "log", "work")
    assert (tmp_path / "log").read_text().count("out of the command") == 1


def test_without_a_log_nothing_is_written(tmp_path):
    call("work", cwd=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_unwritable_log_raises_a_one_line_error(tmp_path):
    (tmp_path / "file").touch()
    done = call("--log", tmp_path / "file" / "log", "work")
    assert done.returncode == 1
    assert done.stderr.startswith(f"dplm2: --log: {tmp_path / 'file'}: not a folder") and done.stderr.count("\n") == 1


def test_log_continues_after_the_terminal_is_closed(tmp_path):
    reads, writes = os.pipe()
    os.close(reads)
    command = [sys.executable, "-c", COMMAND.replace("{end}", "None"), "--log", str(tmp_path / "log"), "work"]
    done = subprocess.run(command, env=ENVIRONMENT, stdout=writes, stderr=writes)
    os.close(writes)
    assert done.returncode == 0
    text = (tmp_path / "log").read_text()
    assert "out of the command" in text and "err of a child" in text


def test_large_output_is_copied_completely(tmp_path):
    script = "import sys; from dplm2.core.output import copied_to\nwith copied_to(sys.argv[1]):\n    print('x' * 10**7)"
    done = subprocess.run([sys.executable, "-c", script, tmp_path / "log"], env=ENVIRONMENT, capture_output=True)
    assert done.returncode == 0
    assert len(done.stdout) == (tmp_path / "log").stat().st_size == 10**7 + 1


def test_surviving_child_does_not_block_the_command(tmp_path):
    """A daemon that keeps the pipe open, such as a worker server, even if it writes without end."""
    script = (
        "import subprocess, sys, time; from dplm2.core.output import copied_to\n"
        "with copied_to(sys.argv[1]):\n    print('done'); subprocess.Popen(sys.argv[2:]); start = time.monotonic()\n"
        "sys.exit(time.monotonic() > start + 1)"
    )
    for daemon in ("sleep 60", "yes"):
        command = [sys.executable, "-c", script, tmp_path / "log", *daemon.split()]
        with (tmp_path / "out").open("w") as out:
            assert subprocess.run(command, env=ENVIRONMENT, stdout=out, timeout=40).returncode == 0, daemon
        assert (tmp_path / "log").read_text().startswith("done\n")


def test_streams_are_restored_afterwards(tmp_path, capfd):
    with copied_to(tmp_path / "log"):
        os.write(1, b"inside\n")
    os.write(1, b"outside\n")
    assert capfd.readouterr().out == "inside\noutside\n"
    assert (tmp_path / "log").read_text() == "inside\n"

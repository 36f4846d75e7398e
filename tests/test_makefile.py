"""`make install` finds a Python and chooses a build of torch."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CPU_INDEX = "https://download.pytorch.org/whl/cpu"


def program(folder: Path, name: str, text: str) -> str:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def make(folder: Path, *variables: str, dry: bool = True) -> subprocess.CompletedProcess:
    """Run `make install` for an environment in ``folder``, whose programs are found first."""
    path = f"{folder}:{os.environ['PATH']}"
    return subprocess.run(
        ["make", *(["--dry-run"] if dry else []), "install", f"VENV={folder / 'environment'}", *variables],
        cwd=ROOT, env={**os.environ, "PATH": path}, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_first_usable_python_is_taken(tmp_path):
    old = program(tmp_path, "python-old", "exit 1")  # too old, or without venv
    newer = program(tmp_path, "python-newer", f'exec {sys.executable} "$@"')
    done = make(tmp_path, f"PYTHONS={tmp_path}/missing {old} {newer} python3")
    assert f"{newer} -m venv {tmp_path / 'environment'}" in done.stdout
    assert f"{old} -m venv" not in done.stdout


def test_without_a_usable_python_the_message_says_what_to_do(tmp_path):
    old = program(tmp_path, "python-old", "exit 1")
    done = make(tmp_path, f"PYTHONS={old}", dry=False)
    assert done.returncode != 0
    assert "no Python 3.11 or newer" in done.stdout and "make install PYTHON=/path/to/python" in done.stdout
    assert not (tmp_path / "environment").exists()


def test_python_named_by_the_user_is_taken(tmp_path):
    assert f"/my/python -m venv {tmp_path / 'environment'}" in make(tmp_path, "PYTHON=/my/python").stdout


@pytest.mark.skipif(platform.system() != "Linux", reason="elsewhere the package index has builds without CUDA")
def test_build_of_torch_follows_the_machine(tmp_path):
    hidden = ":".join(p for p in os.environ["PATH"].split(":") if not Path(p, "nvidia-smi").exists())
    without = make(tmp_path, f"PATH={hidden}").stdout
    program(tmp_path, "nvidia-smi", "exit 0")
    with_gpu = make(tmp_path).stdout
    assert f"--index-url {CPU_INDEX} torch" in without
    assert CPU_INDEX not in with_gpu
    assert (
        "--index-url https://example.org/cu126 torch" in make(tmp_path, "TORCH_INDEX=https://example.org/cu126").stdout
    )


def test_package_index_serves_where_the_other_cannot_be_reached(tmp_path):
    """The environment's pip fails for the index of torch, as it does without a connection, and works otherwise."""
    log, pip = tmp_path / "log", tmp_path / "pip"
    program(tmp_path, "pip", f'echo "$@" >> {log}; case "$*" in *unreachable*) exit 1;; esac')
    python = program(tmp_path, "python-fake", f"mkdir -p $3/bin && ln -s {pip} $3/bin/python")
    done = make(tmp_path, f"PYTHON={python}", "TORCH_INDEX=https://unreachable.example", dry=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "No build of torch from https://unreachable.example" in done.stdout
    first, second = log.read_text().splitlines()
    assert "--no-deps" in first and first.endswith("torch")
    assert "unreachable" not in second and second.endswith("--editable .[test]")


@pytest.mark.skipif("PYTEST_XDIST_WORKER" not in os.environ, reason="tests run in one process")
@pytest.mark.xdist_group("a group")
def test_tests_of_a_group_run_in_one_process(request):
    """pytest and pytest-xdist work together: otherwise fixtures of a group are made in each process."""
    assert request.node.nodeid.endswith("@a group")

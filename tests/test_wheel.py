"""The wheel, installed outside of the repository, generates proteins with the small model that it contains."""

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pandas as pd
import pytest

ROOT = Path(__file__).parents[1]
VERSIONS = ("3.11", "3.12", "3.13")
COMMAND = ("generate", "co-generation", "--model", "small", "--set", "lengths=[40]", "samples=2", "steps=4")


def run(*words: str | Path, cwd: Path) -> str:
    """Run a program that sees neither the repository nor the hub; returns what it printed."""
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYENV_VERSION")}
    environment["HF_HUB_OFFLINE"] = "1"
    done = subprocess.run(
        words, cwd=cwd, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    pip = (sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation")
    run(*pip, "--wheel-dir", folder, ROOT, cwd=folder)
    (built,) = folder.glob("*.whl")
    return built


def new_environment(python: str | Path, folder: Path) -> Path:
    run(python, "-m", "venv", folder, cwd=folder.parent)
    return folder / "bin"


def check_generation(programs: Path, folder: Path) -> None:
    """The installed command writes two proteins, and is not that of the repository."""
    run(programs / "dplm2", *COMMAND, "--out", "designs", cwd=folder)
    assert pd.read_csv(folder / "designs" / "designs.csv")["sequence"].str.len().tolist() == [40, 40]
    where = run(programs / "python", "-c", "import dplm2; print(dplm2.__file__)", cwd=folder)
    assert Path(where.strip()).is_relative_to(programs.parent)


def test_wheel_has_the_package_alone(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names} == {"dplm2", next(n for n in names if "dist-info" in n).split("/")[0]}
    tracked = run("git", "ls-files", "dplm2", cwd=ROOT).splitlines() if (ROOT / ".git").exists() else []
    assert set(tracked) <= set(names)


def test_wheel_generates_with_the_packages_of_this_environment(wheel, tmp_path):
    programs = new_environment(sys.executable, tmp_path / "environment")
    run(programs / "python", "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", wheel, cwd=tmp_path)
    (packages,) = (tmp_path / "environment").glob("lib/python*/site-packages")
    # Lines of a .pth file add folders, and the .pth files in these (such as that of the repository) are not read.
    (packages / "other_packages.pth").write_text(sysconfig.get_path("purelib") + "\n")
    check_generation(programs, tmp_path)


def interpreter(version: str) -> str | None:
    """A Python of a version that runs: on PATH, or installed by pyenv."""
    found = [shutil.which(f"python{version}"), *Path.home().glob(f".pyenv/versions/{version}.*/bin/python{version}")]
    for path in filter(None, found):
        if subprocess.run([path, "-c", "import ensurepip, venv"], capture_output=True, check=False).returncode == 0:
            return str(path)
    return None


@pytest.mark.nightly
@pytest.mark.parametrize("version", VERSIONS)
def test_wheel_generates_in_a_fresh_environment(version, wheel, tmp_path):
    """With the tested set of versions, from the package index."""
    python = interpreter(version)
    if python is None:
        pytest.skip(f"no Python {version} here")
    programs = new_environment(python, tmp_path / "environment")
    pip = (programs / "python", "-m", "pip", "install", "--quiet", "--constraint", ROOT / "constraints.txt")
    run(*pip, wheel, cwd=tmp_path)
    check_generation(programs, tmp_path)
    shutil.rmtree(tmp_path / "environment")  # some gigabytes

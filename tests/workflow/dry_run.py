"""Dry runs of Snakemake, each in a fork of a process that has imported it: a quarter of the time of the command."""

import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

# What Snakemake and the Snakefile import later.
import smart_open  # noqa: F401
from snakemake.cli import get_argument_parser, main

import dplm2.resources
import dplm2.stages  # noqa: F401

get_argument_parser()  # imports the plugins
_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload([__name__])


def dry_run(words: Sequence[str], folder: Path, environment: Mapping[str, str]) -> subprocess.CompletedProcess:
    """What ``snakemake`` with these words ends with and says on both streams.

    Parameters
    ----------
    words
        The command's arguments, one of which must be ``--dry-run``.
    folder
        Where it runs.
    environment
        All of its environment variables.
    """
    assert "--dry-run" in words, words
    with tempfile.TemporaryDirectory() as temporary:
        said = [Path(temporary) / name for name in ("stdout", "stderr")]
        process = _FORKS.Process(target=_run, args=([*map(str, words)], folder, dict(environment), said))
        process.start()
        process.join()
        texts = [path.read_text(encoding="utf-8") for path in said]
    return subprocess.CompletedProcess(["snakemake", *words], process.exitcode, *texts)


def _run(words: list[str], folder: Path, environment: dict[str, str], said: list[Path]) -> None:
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    for number, path in enumerate(said, start=1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), number)
    sys.argv = ["snakemake", *words]
    main(words)

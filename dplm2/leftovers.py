"""Jobs that a killed Snakemake has left on Slurm.

The next Snakemake does not know them and submits the same work again, which would then run twice, over the same files.
So it first cancels them: a training saves its progress, and resumes when it is submitted again.
"""

import os
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from dplm2.core.errors import DPLM2Error

LOGS = Path(".snakemake", "slurm_logs")  # of the executor; there is none where no job was ever submitted
COMMENT = "rule_"  # with which the executor's comments begin
FIELDS = "%F|%k|%Z"  # job (of an array: its first), comment, working directory
PATIENCE_SECONDS = 300.0
POLL_SECONDS = 1.0


def end_leftover_jobs(folder: Path, say: Callable[[str], object]) -> None:
    """Cancel the jobs that were submitted from a folder by a Snakemake that no longer runs, and wait for their end.

    Parameters
    ----------
    folder
        Working directory of this Snakemake, which must hold its lock.
    say
        Called with a message if there are any.

    Raises
    ------
    DPLM2Error
        If Slurm does not answer, or the jobs do not end.
    """
    if not (folder / LOGS).is_dir() or shutil.which("squeue") is None:
        return
    left = _jobs_of(folder)
    if not left:
        return
    named = ", ".join(f"{number} ({comment})" for number, comment in left.items())
    say(f"Slurm still has jobs of an earlier run in this folder: {named}. They are cancelled and submitted again.")
    _slurm("scancel", *left)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while remaining := sorted(set(left) & set(_jobs_of(folder))):
        if time.monotonic() > deadline:
            raise DPLM2Error(
                f"Slurm jobs {', '.join(remaining)} of an earlier run in this folder were cancelled and do not end; "
                "start Snakemake again when squeue no longer lists them"
            )
        time.sleep(POLL_SECONDS)


def _jobs_of(folder: Path) -> dict[str, str]:
    """Waiting, running and ending jobs of a folder, with their comments."""
    listed = _slurm("squeue", "--noheader", f"--user={os.getuid()}", f"--format={FIELDS}")
    jobs = {}
    for line in listed.splitlines():
        number, comment, place = line.split("|", 2)
        if comment.startswith(COMMENT) and Path(place).resolve() == folder.resolve():
            jobs[number] = comment
    return jobs


def _slurm(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        reason = (getattr(error, "stderr", None) or str(error)).strip()
        raise DPLM2Error(
            f"{command[0]}: {reason}. Jobs of an earlier run in this folder may still be running; "
            "start Snakemake again when Slurm answers"
        ) from error

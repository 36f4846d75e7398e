"""Jobs that a killed Snakemake left, with scripts in place of Slurm; workflow/test_slurm.py does this on a real one."""

from pathlib import Path

import pytest

from dplm2 import leftovers
from dplm2.core.errors import DPLM2Error
from dplm2.leftovers import end_leftover_jobs

QUEUE = """\
10|rule_train_model_wildcards_a|{here}
11|rule_generate|{elsewhere}
12_1|rule_clean_structures_wildcards_a_1|{here}
13||{here}
14|my analysis|{here}
"""


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """A folder from which jobs were submitted; squeue lists the lines of a file, and scancel removes some."""
    here = tmp_path / "here"
    (here / leftovers.LOGS).mkdir(parents=True)
    (tmp_path / "bin").mkdir()
    queue = tmp_path / "queue"
    queue.write_text(QUEUE.format(here=here, elsewhere=tmp_path / "elsewhere"))
    scripts = {"squeue": f"cat {queue}", "scancel": f'for job; do sed -i "/^$job|/d" {queue}; done'}
    for name, line in scripts.items():
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\n{line}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=":")
    monkeypatch.setattr(leftovers, "POLL_SECONDS", 0.01)
    return here


def left(folder: Path) -> list[str]:
    return [line.split("|")[0] for line in (folder.parent / "queue").read_text().splitlines()]


def test_only_jobs_of_this_folder_that_snakemake_submitted_are_cancelled(slurm):
    said = []
    end_leftover_jobs(slurm, said.append)
    assert left(slurm) == ["11", "13", "14"]
    (message,) = said
    assert "10 (rule_train_model_wildcards_a), 12_1 (rule_clean_structures_wildcards_a_1)" in message
    end_leftover_jobs(slurm, said.append)
    assert len(said) == 1


def test_folder_without_jobs_asks_no_slurm(slurm):
    (slurm / leftovers.LOGS).rmdir()
    end_leftover_jobs(slurm, pytest.fail)
    assert len(left(slurm)) == 5


def test_jobs_that_do_not_end_are_named(slurm, monkeypatch):
    (slurm.parent / "bin" / "scancel").write_text("#!/bin/sh\n")
    monkeypatch.setattr(leftovers, "PATIENCE_SECONDS", 0.1)
    with pytest.raises(DPLM2Error, match="jobs 10, 12_1 of an earlier run in this folder .* do not end"):
        end_leftover_jobs(slurm, len)


def test_slurm_that_does_not_answer_is_an_error(slurm):
    (slurm.parent / "bin" / "squeue").write_text("#!/bin/sh\necho connection refused >&2; exit 1\n")
    with pytest.raises(DPLM2Error, match="squeue: connection refused. Jobs of an earlier run"):
        end_leftover_jobs(slurm, len)

"""The comparison of two commits by their benchmarks."""

import subprocess
import sys

import pytest

from benchmarks.run import HERE, ROOT, SCRIPTS, SHORT, THERE, compared, line


def test_ratio_is_the_median_of_the_rounds_with_their_range():
    found = [{THERE: {"a": 2.0}, HERE: {"a": here}} for here in (1.0, 3.0, 2.2)]
    (row,) = compared("x", found)
    assert (row["ratio"], row["lowest"], row["highest"]) == pytest.approx((1.1, 0.5, 1.5))
    assert (row["seconds_there"], row["seconds_here"]) == (2.0, 2.2)
    assert line(row).split()[-5:] == ["2.2", "1.10", "0.50", "to", "1.50"]


def test_every_short_form_has_its_script():
    assert SHORT.keys() == SCRIPTS.keys()
    assert all((ROOT / "benchmarks" / f"{script}.py").is_file() for script in SCRIPTS.values())


def test_an_unknown_commit_is_refused():
    call = [sys.executable, "-m", "benchmarks.run", "--compare", "no-such-commit"]
    refused = subprocess.run(call, cwd=ROOT, capture_output=True, text=True)
    assert refused.returncode == 1
    assert "--compare: no-such-commit is not a commit of this repository" in refused.stderr


def test_every_script_can_be_imported_as_a_module():
    """As it is run, here and for the comparison; a sibling imported without the package's name is not found."""
    modules = ", ".join(f"benchmarks.{path.stem}" for path in sorted((ROOT / "benchmarks").glob("*.py")))
    done = subprocess.run([sys.executable, "-c", f"import {modules}"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr

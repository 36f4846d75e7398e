"""What a command imports before its work begins."""

import resource
import subprocess
import sys

import pytest

SLOW = {"torch", "transformers", "pandas", "biotite", "scipy", "matplotlib", "pyarrow", "lightning", "peft"}
EVERY_PARSER = "import sys; from dplm2.cli import build_parser; build_parser(); print(*sys.modules)"


def imported(code):
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    return {name.split(".")[0] for name in found.split()}


def test_no_help_waits_for_a_large_library():
    assert not imported(EVERY_PARSER) & SLOW


def test_sampling_does_not_wait_for_tables_and_plots():
    assert not imported("import sys, dplm2.generation.run; print(*sys.modules)") & {"pandas", "matplotlib"}


def test_the_end_of_a_command_does_not_search_the_objects_of_libraries():
    program = """
import atexit, gc
atexit.register(lambda: print(gc.get_freeze_count() > 0))
from dplm2.cli import main
main(["--version"])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "True", done.stdout + done.stderr


def test_help_takes_less_than_a_third_of_a_second():
    def seconds():
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-m", "dplm2", "--help"], stdout=subprocess.DEVNULL, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    assert min(seconds() for _ in range(3)) == pytest.approx(0.0, abs=0.3)

"""A run's results and their report, built once."""

import pytest

from dplm2.report.writing import write_report
from dplm2.settings.report import ReportSettings
from tests.report.tree import make_results


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory):
    """The results folder of a complete run; must not be changed."""
    return make_results(tmp_path_factory.mktemp("run") / "results")


@pytest.fixture(scope="session")
def report_folder(run_folder, tmp_path_factory):
    """The report of `run_folder`; must not be changed."""
    out = tmp_path_factory.mktemp("report")
    write_report(run_folder, out, ReportSettings())
    return out

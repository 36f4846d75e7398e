"""All tests check that every metric written by an evaluation is declared."""

import pandas as pd
import pyarrow.parquet as pq
import pytest

from dplm2.evaluation.metrics.registry import declared

# Columns of metrics.parquet that identify a row.
IDENTITY = {
    "sample_id", "model", "task", "dataset", "problem", "split", "backend", "failed", "failure", "network", "track",
    "noising", "positions",
}  # fmt: skip


def undeclared(folder):
    """Undeclared columns of metrics in the evaluations below a folder."""
    names = set()
    for path in folder.rglob("summary.csv"):
        names |= set(pd.read_csv(path, keep_default_na=False)["metric"])
    for path in folder.rglob("metrics.parquet"):
        names |= set(pq.read_schema(path).names) - IDENTITY
    return {name for name in names if declared(name) is None}


@pytest.fixture(autouse=True)
def written_metrics_are_declared(request):
    folder = request.getfixturevalue("tmp_path") if "tmp_path" in request.fixturenames else None
    yield
    assert folder is None or undeclared(folder) == set()
